"""Gauges of services, read off their last looks just before a scrape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.serving.looking import Looked
from scheduler.model.division import Division
from scheduler.model.ids import Uid
from scheduler.model.serving import WEIGHT_TOTAL


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


def _rates(division: Division) -> dict[str, float | None]:
    return {
        "asked": division.demand_per_second,
        "planned": division.planned_per_second,
        "carried": division.capacity_per_second,
        "ready": division.ready_per_second,
    }
