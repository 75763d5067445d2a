"""Watches the fleet: after each round of metrics the rules look at it, and what they find becomes incidents.

The detectors that learn each series (`scheduler.aiops.bank`) are not among them yet: they need a day to learn, and a
memory that outlives the daemon. Rules know from the first round on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import structlog

from scheduler.aiops.findings import Finding, Subject
from scheduler.aiops.incidents import Incident
from scheduler.aiops.monitor import Monitor, View, look, new_monitor, rearranged
from scheduler.aiops.telemetry import Telemetry, rows_of, telemetry_of
from scheduler.daemon.telemetry import Telemetry as Metrics
from scheduler.model.errors import OverspillError
from scheduler.model.metrics import Reading
from scheduler.model.snapshot import Snapshot

log = structlog.get_logger(__name__)
_OFF_LOOP_ROWS: Final = 2000
"""From so many rows on, a round is worth a thread."""


class FleetWatch:
    """Belongs to the event loop; `look` is called after each round of metrics."""

    def __init__(
        self, snapshot: Callable[[], Snapshot], readings: Callable[[], Iterable[Reading]], metrics: Metrics
    ) -> None:
        self._snapshot = snapshot
        self._readings = readings
        self._metrics = metrics
        self._subjects: Mapping[str, tuple[Subject, ...]] = {}
        self._monitor: Monitor | None = None
        self._told: set[str] = set()

    async def look(self) -> None:
        """One round. What goes wrong is logged and counted, and the next round begins anew."""
        snapshot, readings = self._snapshot(), list(self._readings())
        try:
            if sum(len(reading.samples) for reading in readings) > _OFF_LOOP_ROWS:
                found = await asyncio.to_thread(self._round, snapshot, readings)
            else:
                found = self._round(snapshot, readings)
        except (OverspillError, ValueError, ArithmeticError) as error:
            log.error("fleet_not_watched", error=str(error)[:300])
            self._metrics.watch_rounds.labels("failed").inc()
            self._monitor, self._subjects = None, {}
            return
        self._metrics.watch_rounds.labels("ok").inc()
        for finding in found:
            self._metrics.findings.labels(finding.kind).inc()
        self._tell()

    def incidents(self) -> tuple[Incident, ...]:
        """Open ones, and those that were closed lately, those that became part of another among them."""
        if self._monitor is None:
            return ()
        return (*self._monitor.incidents.open, *self._monitor.incidents.closed)

    def _round(self, snapshot: Snapshot, readings: list[Reading]) -> tuple[Finding, ...]:
        now = telemetry_of(snapshot, readings)
        monitor = self._arranged(now)
        view = View(snapshot.now, now.tables, now.subjects)
        self._monitor, found = look(monitor, view, now.fleet)
        self._subjects = now.subjects
        return found

    def _arranged(self, now: Telemetry) -> Monitor:
        """What was remembered of each row, in the rows' new order."""
        if self._monitor is None:
            return new_monitor({scope: len(rows) for scope, rows in now.subjects.items()})
        return rearranged(
            self._monitor, {scope: rows_of(self._subjects[scope], rows) for scope, rows in now.subjects.items()}
        )

    def _tell(self) -> None:
        """Log each incident once, when it opens."""
        opened = [] if self._monitor is None else list(self._monitor.incidents.open)
        for each in opened:
            if each.id not in self._told:
                log.warning(
                    "incident_opened", incident=each.id, kind=each.kind, severity=each.severity,
                    subject=str(each.subject), scope=f"{each.scope.kind} {each.scope.name}",
                )  # fmt: skip
        self._told = {each.id for each in opened}
