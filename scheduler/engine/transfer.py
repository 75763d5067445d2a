"""Data gravity: what bringing a run's data to where it would run takes, in time and money."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from scheduler.model.cluster import Cluster, Route
from scheduler.model.ids import ClusterId
from scheduler.model.money import NANO, Usd
from scheduler.model.ports import Prediction
from scheduler.model.workload import DataSet

DEFAULT_BYTES_PER_SECOND: Final = 125e6
"""1 Gbit/s, taken where the federation file does not say."""
_GIB: Final = 2**30


@dataclass(frozen=True, slots=True)
class Transfer:
    seconds: float
    """One data set after the other."""
    usd: Usd | None
    """None: nobody knows what one of them costs."""


def transfer(data: Iterable[DataSet], to: Cluster) -> Transfer:
    """Of everything that does not lie there already: bytes over the route's speed, GiB times the price of egress."""
    return transfer_by(data, to.id, to.routes)


def transfer_by(data: Iterable[DataSet], to: ClusterId, ways: Iterable[Route]) -> Transfer:
    """The same, to a cluster of which no more is needed than the routes that lead to it."""
    routes = {route.source: route for route in ways}
    seconds, usd = 0.0, Decimal(0)
    known = True
    for each in data:
        if each.cluster == to:
            continue
        route = routes.get(each.cluster, Route(each.cluster, None, None))
        seconds += each.bytes / (route.bytes_per_second or DEFAULT_BYTES_PER_SECOND)
        if route.usd_per_gib is None:
            known = False
        else:
            usd += route.usd_per_gib * each.bytes / _GIB
    return Transfer(seconds, usd.quantize(NANO) if known else None)


def with_transfer(prediction: Prediction, moved: Transfer) -> Prediction:
    """The run starts later by it, and costs more."""
    start = prediction.start_seconds
    return replace(
        prediction,
        start_seconds=None if start is None else start + moved.seconds,
        transfer_seconds=moved.seconds,
        transfer_usd=moved.usd,
    )
