"""Gauges of services, read off their last looks just before a scrape."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.serving.capacity import client_latency
from scheduler.engine.serving.looking import Looked
from scheduler.model.division import Division
from scheduler.model.ids import Uid
from scheduler.model.serving import WEIGHT_TOTAL, ServiceView

_FRESH_SECONDS: Final = 300.0
"""What was measured before that tells nothing of now."""
_SHARE_OF_P95: Final = 0.05
"""What answers less than this cannot put a p95 out by itself."""


@dataclass(frozen=True, slots=True)
class ServiceGauges:
    """`most`: of so many services it is told by name."""

    telemetry: Telemetry
    looked: Mapping[Uid, Looked]
    most: int

    def refresh(self) -> None:
        """What is not true any more is taken away."""
        told = self.telemetry
        for each in (
            told.service_replicas, told.service_weight, told.service_rate, told.service_usd, told.service_condition,
            told.service_slo,
        ):  # fmt: skip
            each.clear()
        named = sorted(self.looked.values(), key=lambda each: each.division.service)
        for looked in named[: self.most]:
            self._tell(looked)

    def _tell(self, looked: Looked) -> None:
        told, division = self.telemetry, looked.division
        service = str(division.service)
        for key, (wanted, ready) in sorted(_replicas(looked).items()):
            told.service_replicas.labels(service, *key, "wanted").set(wanted)
            told.service_replicas.labels(service, *key, "ready").set(ready)
        for weight in looked.intent.weights:
            share = weight.weight / WEIGHT_TOTAL
            told.service_weight.labels(service, weight.cluster, weight.revision).set(share)
        for what, rate in _rates(division).items():
            if rate is not None:
                told.service_rate.labels(service, what).set(rate)
        kept = None if looked.view is None else slo_ratio(looked.view)
        if kept is not None:
            told.service_slo.labels(service).set(kept)
        if division.usd_per_hour is not None:
            told.service_usd.labels(service).set(float(division.usd_per_hour))
        for condition in division.conditions:
            told.service_condition.labels(service, condition.reason).set(1)


def _replicas(looked: Looked) -> dict[tuple[str, str], tuple[int, int]]:
    """(wanted, ready) by cluster and revision."""
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for target in looked.intent.targets:
        key = target.pool.cluster, target.revision
        found[key] = found.get(key, (0, 0))[0] + target.replicas, 0
    for group in looked.view.service.groups if looked.view is not None else ():
        key = group.pool.cluster, group.revision
        wanted, ready = found.get(key, (0, 0))
        found[key] = wanted, ready + group.ready
    return found


def slo_ratio(view: ServiceView) -> float | None:
    """Longest measured p95, of the whole answer or of its first token, by what the SLO allows, each with the way from
    the clients to its cluster. Of places that answer `_SHARE_OF_P95` of the requests at least. None: nothing is
    measured.

    p95s of several places cannot be added up to one of all: the longest says no more than that a part is late.
    """
    slo, service = view.slo, view.service
    fresh = [one for one in service.metrics if view.now - one.at <= _FRESH_SECONDS and (one.requests or 0) > 0]
    whole = sum(one.requests or 0 for one in fresh)
    found: list[float] = []
    for one in fresh:
        if (one.requests or 0) < _SHARE_OF_P95 * whole:
            continue
        way = client_latency(one.cluster, service.demand, service.latency) or 0.0
        for limit, seen in (
            (slo.p95_latency_seconds, one.p95_latency_seconds),
            (slo.p95_first_token_seconds, one.p95_first_token_seconds),
        ):
            if limit is not None and seen is not None and math.isfinite(seen) and seen >= 0:
                found.append((seen + way) / limit)
    return max(found, default=None)


def _rates(division: Division) -> dict[str, float | None]:
    return {
        "asked": division.demand_per_second,
        "planned": division.planned_per_second,
        "carried": division.capacity_per_second,
        "ready": division.ready_per_second,
    }
