"""Prices of nodes as OpenCost reckons them, read from a Prometheus API: `node_total_hourly_cost`, in USD per hour.

OpenCost prices nodes that exist, so only pools with a node now, or one within `windowSeconds`, have a price here. Nodes
belong to a pool by the node label `poolLabel`, as kube-state-metrics exports it (`kube_node_labels`); without it, by
instance type, region and whether they are spot (`kubecost_node_is_spot`). Where a pool's nodes differ, the dearest
counts, so that a price cap or a budget holds for any of them.
Source: opencost.io, "OpenCost Prometheus metrics"; prometheus.io, "HTTP API".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from pydantic import Field

from clusters.prices._order import in_order
from clusters.prices._plausible import plausible
from clusters.prices._reading import Problems
from clusters.prices._rest import JsonApi, base_url, objects, parse_object, read_secret
from clusters.prices._settings import SPOT_MAX_AGE_SECONDS, NearbyPath, PriceSettings
from scheduler.model.cluster import ON_DEMAND, SPOT
from scheduler.model.errors import InvalidObjectError, TransientError
from scheduler.model.ids import Instant
from scheduler.model.money import Usd
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery, PriceQuote

_MOST_BYTES: Final = 16 << 20
_MOST_SERIES: Final = 20_000
_LABEL: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


class Settings(PriceSettings):
    type: Literal["opencost"]
    max_age_seconds: float = Field(default=SPOT_MAX_AGE_SECONDS, gt=0, allow_inf_nan=False)
    url: str
    """Of the Prometheus API, without /api/v1."""
    cluster: str | None = None
    """The member whose nodes it knows; None: every member's, told apart by `poolLabel` or instance type alone."""
    matchers: dict[str, str] = Field(default_factory=dict)
    """Labels that the series must carry, such as cluster: prod."""
    pool_label: str | None = None
    """Node label that names a node's pool, such as eks.amazonaws.com/nodegroup."""
    window_seconds: int = Field(default=900, ge=60, le=86_400)
    bearer_token_file: NearbyPath | None = None
    ca_file: NearbyPath | None = None


@dataclass(frozen=True, slots=True)
class _Node:
    name: str
    instance_type: str
    region: str
    usd_per_hour: Usd
    at: Instant
    spot: bool | None
    """None: not told."""
    pool: str | None


class OpenCostPrices:
    """Answers for every pool that has nodes which OpenCost knows."""

    name: str = "opencost"

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._url = base_url(self.name, settings.url) / "api/v1/query"
        self._api = JsonApi(
            self.name,
            clock=clock,
            connect_seconds=settings.connect_timeout_seconds,
            read_seconds=settings.read_timeout_seconds,
            most_bytes=_MOST_BYTES,
            ca_file=settings.ca_file,
        )
        self._problems = Problems()

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        ours = [one for one in in_order(wanted) if self._settings.cluster in (None, one.cluster)]
        self._problems = Problems()
        if not ours:
            return ()
        nodes = await self._nodes()
        by_pool = self._settings.pool_label is not None
        found = []
        for one in ours:
            fitting = [node for node in nodes if (_of_pool(node, one) if by_pool else _alike(node, one))]
            if fitting:
                dearest = max(fitting, key=lambda node: (node.usd_per_hour, node.at, node.name))
                at = min(dearest.at, self._clock.now())
                found.append(PriceQuote(one, dearest.usd_per_hour, f"opencost {dearest.name}", at))
        return tuple(found)

    def problems(self) -> tuple[str, ...]:
        return self._problems.lines()

    async def close(self) -> None:
        await self._api.close()

    async def _nodes(self) -> list[_Node]:
        """Every node with a plausible price. Raises: ExternalError."""
        costs = await self._newest("node_total_hourly_cost")
        spots = {labels.get("node"): value for labels, _, value in await self._newest("kubecost_node_is_spot")}
        pools = await self._pools()
        nodes = []
        for labels, at, value in costs:
            name, price = labels.get("node", ""), plausible(value)
            if price is None or not name:
                self._problems.add(f"opencost: node {name[:80]!r}: {value[:40]!r} is no price; the node is left out")
                continue
            spot = {"0": False, "1": True}.get(spots.get(name, ""))
            kind, region = labels.get("instance_type", ""), labels.get("region", "")
            nodes.append(_Node(name, kind, region, price, at, spot, pools.get(name)))
        return nodes

    async def _pools(self) -> dict[str, str]:
        """Pool by node, as the pool label says. Raises: ExternalError."""
        if self._settings.pool_label is None:
            return {}
        label = "label_" + re.sub(r"[^a-zA-Z0-9_]", "_", self._settings.pool_label)
        series = await self._newest("kube_node_labels")
        return {labels["node"]: labels[label] for labels, _, _ in series if labels.get("node") and labels.get(label)}

    async def _newest(self, metric: str) -> list[tuple[dict[str, str], Instant, str]]:
        """Labels, time and text of each series' newest sample within the window. Raises: ExternalError.

        A range selector, because an instant one would give the time of asking in place of the sample's own.
        """
        matchers = ",".join(f"{label}={_quoted(value)}" for label, value in sorted(self._settings.matchers.items()))
        query = f"{metric}{{{matchers}}}[{self._settings.window_seconds}s]"
        headers = None
        if self._settings.bearer_token_file is not None:
            headers = {"Authorization": f"Bearer {read_secret(self.name, self._settings.bearer_token_file)}"}
        place = f"{self.name}: {metric}"
        answer = parse_object(await self._api.get(metric, self._url.with_query({"query": query}), headers), place)
        data = answer.get("data")
        if answer.get("status") != "success" or not isinstance(data, dict) or data.get("resultType") != "matrix":
            raise TransientError(f"{place}: the answer is no matrix of a Prometheus API", code="Malformed")
        result = objects(data.get("result"), place)
        if len(result) > _MOST_SERIES:
            raise TransientError(f"{place}: more than {_MOST_SERIES} series; narrow it by matchers", code="TooLarge")
        return [_sample(one, place) for one in result if one.get("values")]


def create(settings: Settings, *, clock: Clock) -> OpenCostPrices:
    """The source. Raises: InvalidObjectError for an unusable URL, matcher or `caFile`; AuthError for its token."""
    for label in settings.matchers:
        if not _LABEL.fullmatch(label):
            raise InvalidObjectError(f"opencost: matchers: {label!r:.80} is no Prometheus label; use [a-zA-Z0-9_]")
    if settings.bearer_token_file is not None:
        read_secret("opencost", settings.bearer_token_file)
    return OpenCostPrices(settings, clock=clock)


def _sample(series: Mapping[str, Any], place: str) -> tuple[dict[str, str], Instant, str]:
    """A series' labels and its newest sample. Raises: TransientError when it is none."""
    labels, values = series.get("metric"), series["values"]
    try:
        at, text = values[-1]
        if not isinstance(labels, dict) or not isinstance(text, str) or not isinstance(at, int | Decimal):
            raise TypeError("no sample")
        return {str(name): str(value) for name, value in labels.items()}, float(at), text
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        raise TransientError(f"{place}: a series without samples that can be read", code="Malformed") from error


def _of_pool(node: _Node, query: PriceQuery) -> bool:
    return node.pool == query.pool


def _alike(node: _Node, query: PriceQuery) -> bool:
    """Whether a node is of the kind that is asked about; what is owned or reserved cannot be told apart by kind."""
    wanted = {ON_DEMAND: False, SPOT: True}.get(query.capacity_type)
    return (
        wanted is not None
        and node.spot is wanted
        and bool(node.instance_type)
        and node.instance_type == query.instance_type
        and (not node.region or not query.region or node.region == query.region)
    )


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
