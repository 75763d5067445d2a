"""The catalogue that comes with Overspill: list prices and facts of usual GPU machines, each row with day and source.

`catalogue.csv` is made by `deploy/catalogue/build.py`; values that its source is not to be trusted with are left empty
there and noted. `as_of` is the earliest day that a row can be of, so it never looks younger than it is. Always the last
of the sources.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Final, Literal

from pydantic import Field

from clusters.prices._clouds import cloud_of
from clusters.prices._order import in_order
from clusters.prices._plausible import instant, plausible
from clusters.prices._settings import PriceSettings
from scheduler.model.cluster import ON_DEMAND, SPOT
from scheduler.model.ids import Instant
from scheduler.model.money import Usd
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery, PriceQuote

_GIB: Final = 1 << 30
_THREE_YEARS: Final = 3 * 366 * 86400.0
_GPU_WORDS: Final = re.compile(r"(nvidia|tesla)[- ]", re.IGNORECASE)


class Settings(PriceSettings):
    type: Literal["catalogue"]
    spot: bool = False
    """true: also quote spot machines, at the lowest price that any zone of the region had on the row's day. Off by
    default: spot prices move by the hour, and the lowest is not what one gets."""
    max_age_seconds: float = Field(default=_THREE_YEARS, gt=0, allow_inf_nan=False)
    """List prices of a machine change about once in its life; the age is shown."""
    refresh_seconds: float = Field(default=86400.0, ge=1, le=7 * 86400.0, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What a machine is made of, in any region."""

    provider: str
    """aws, gcp or azure."""
    instance_type: str
    """As the cloud names it; of Google's machines with attached GPUs, machine+NxGPU, such as n1-standard-8+2xT4."""
    gpu_model: str
    """In the words of policies, such as A100-80GB."""
    gpus: int
    gpu_memory_bytes: int
    """Of one GPU."""
    cpu_milli: int
    """All of the machine's; what Kubernetes can give to pods is less."""
    memory_bytes: int
    source: str


@dataclass(frozen=True, slots=True)
class _Row:
    facts: InstanceFacts
    on_demand: Usd | None
    spot_min: Usd | None
    as_of: Instant


def instance_facts(provider: str, instance_type: str) -> InstanceFacts | None:
    """Facts of that machine; None: not in the catalogue. `provider`: ours (eks, gke, aks) or the cloud's."""
    return _facts().get((cloud_of(provider), instance_type))


class Catalogue:
    """Answers for machines of the clouds, out of the embedded file."""

    name = "catalogue"

    def __init__(self, settings: Settings) -> None:
        self._spot = settings.spot

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        found = (self._quote(query) for query in in_order(wanted))
        return tuple(quote for quote in found if quote is not None)

    def _quote(self, query: PriceQuery) -> PriceQuote | None:
        row = _rows().get((cloud_of(query.provider), query.region, _named(query)))
        if row is None:
            return None
        label = f"catalogue ({row.facts.source})"
        if query.capacity_type == ON_DEMAND and row.on_demand is not None:
            return PriceQuote(query, row.on_demand, label, row.as_of)
        if query.capacity_type == SPOT and self._spot and row.spot_min is not None:
            return PriceQuote(query, row.spot_min, f"{label}, lowest spot price of the region", row.as_of)
        return None

    async def close(self) -> None:
        return None


def create(settings: Settings, *, clock: Clock) -> Catalogue:
    """The source; the file is read when it is first asked."""
    return Catalogue(settings)


def _named(query: PriceQuery) -> str:
    """Google's N1 machines have GPUs attached, which their name does not say."""
    if query.instance_type.startswith("n1-") and query.gpus and query.gpu_model and "+" not in query.instance_type:
        return f"{query.instance_type}+{query.gpus}x{_GPU_WORDS.sub('', query.gpu_model).upper()}"
    return query.instance_type


@cache
def _rows() -> dict[tuple[str, str, str], _Row]:
    text = resources.files("clusters.prices").joinpath("catalogue.csv").read_text(encoding="utf-8")
    found = {}
    for cells in csv.DictReader(text.splitlines()):
        facts = InstanceFacts(
            provider=cells["provider"],
            instance_type=cells["instance_type"],
            gpu_model=cells["gpu_model"],
            gpus=int(cells["gpus"]),
            gpu_memory_bytes=_bytes(cells["gpu_memory_gib"]),
            cpu_milli=int(Fraction(cells["vcpus"]) * 1000),
            memory_bytes=_bytes(cells["memory_gib"]),
            source=cells["source"],
        )
        as_of = instant(cells["as_of"])
        assert as_of is not None, cells
        on_demand, spot_min = (_price(cells[f"{kind}_usd_per_hour"]) for kind in ("on_demand", "spot_min"))
        found[facts.provider, cells["region"], facts.instance_type] = _Row(facts, on_demand, spot_min, as_of)
    return found


@cache
def _facts() -> dict[tuple[str, str], InstanceFacts]:
    return {(row.facts.provider, row.facts.instance_type): row.facts for row in _rows().values()}


def _price(text: str) -> Decimal | None:
    return plausible(text) if text else None


def _bytes(gib: str) -> int:
    return int(Fraction(gib) * _GIB)
