"""Gauges of queues that wait and of single workloads, read off the daemon's state just before a scrape."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from scheduler.daemon.learning.waits import WaitBook
from scheduler.daemon.money.ledger import Ledger
from scheduler.daemon.placing.planning import phase_of
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.ids import Instant, Uid
from scheduler.model.snapshot import Progress
from scheduler.model.workload import Workload

_WAITING = ("pending", "reserved")


@dataclass(frozen=True, slots=True)
class WorkloadGauges:
    """Reads the daemon's parts; changes none."""

    telemetry: Telemetry
    mirror: Mirror
    ledger: Ledger
    waits: WaitBook
    progress: Callable[[Uid], Progress | None]
    most: int
    """Of so many workloads it is told by name."""

    def refresh(self, now: Instant) -> None:
        """What is not true any more is taken away."""
        told = self.telemetry
        for each in (
            told.oldest_wait, told.wait_forecast, told.workload_phase, told.workload_placed, told.workload_gpus,
            told.workload_waiting, told.workload_wait_forecast, told.workload_progress,
            told.workload_spend,
        ):  # fmt: skip
            each.clear()
        workloads = [entry.workload for entry in self.mirror.hub.values()]
        self._queues(workloads, now)
        named = _foremost(workloads, self.most)
        for workload in named:
            self._tell(workload, now)
        paid = self.ledger.paid_each({workload.ref.uid for workload in named})
        for workload in named:
            usd = paid.get(workload.ref.uid)
            if usd is not None:
                told.workload_spend.labels(workload.queue, str(workload.ref)).set(float(usd))

    def _queues(self, workloads: list[Workload], now: Instant) -> None:
        since: dict[str, Instant] = {}
        for workload in workloads:
            first = since.setdefault(workload.queue, now)
            if workload.queued_at < first and phase_of(workload) in _WAITING:
                since[workload.queue] = workload.queued_at
        oldest = {queue: now - first for queue, first in since.items()}
        longest: dict[str, float] = {}
        for uid in self.waits.said():
            found, forecast = self.mirror.workload(uid), _soonest(self.waits.of(uid), "expected_seconds")
            if found is not None and forecast is not None and phase_of(found) in _WAITING:
                longest[found.queue] = max(forecast, longest.get(found.queue, 0.0))
        for gauge, by_queue in ((self.telemetry.oldest_wait, oldest), (self.telemetry.wait_forecast, longest)):
            for queue, seconds in by_queue.items():
                gauge.labels(queue).set(seconds)

    def _tell(self, workload: Workload, now: Instant) -> None:
        told, phase, placement = self.telemetry, phase_of(workload), workload.placement
        name = (workload.queue, str(workload.ref))
        told.workload_phase.labels(*name, phase).set(1)
        told.workload_gpus.labels(*name).set(workload.requests.gpus)
        if placement is not None:
            where = (placement.cluster, placement.pool, placement.capacity_type)
            told.workload_placed.labels(*name, *where).set(1)
        if phase in _WAITING:
            told.workload_waiting.labels(*name).set(max(0.0, now - workload.queued_at))
            waits = self.waits.of(workload.ref.uid)
            for quantile, key in (("0.5", "expected_seconds"), ("0.9", "p90_seconds")):
                seconds = _soonest(waits, key)
                if seconds is not None:
                    told.workload_wait_forecast.labels(*name, quantile).set(seconds)
        progress = self.progress(workload.ref.uid)
        if progress is not None and progress.done is not None:
            told.workload_progress.labels(*name).set(progress.done)


def _foremost(workloads: list[Workload], most: int) -> list[Workload]:
    """What is not finished first, the oldest first; then what is, the youngest first."""
    created = attrgetter("created_at")
    found = heapq.nsmallest(most, (each for each in workloads if not each.finished), key=created)
    if len(found) < most:
        found += heapq.nlargest(most - len(found), (each for each in workloads if each.finished), key=created)
    return found


def _soonest(waits: list[dict[str, Any]], key: str) -> float | None:
    return min((float(each[key]) for each in waits), default=None)
