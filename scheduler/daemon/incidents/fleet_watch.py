"""Watches the fleet: after each round of metrics rules and detectors look at it, alerts are taken in, and what they all
find becomes incidents. What is remembered outlives the daemon (`watch_store`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog

from scheduler.aiops import fleet_bank, grouping
from scheduler.aiops.false_alarms import LEARN_SECONDS, speaking
from scheduler.aiops.findings import Finding, Subject
from scheduler.aiops.incidents import Incident, Incidents, SignalKey, placed
from scheduler.aiops.keeping import kept, revived
from scheduler.aiops.monitor import Monitor, View, look, new_monitor, rearranged
from scheduler.aiops.rules import GPU
from scheduler.aiops.telemetry import Telemetry, rows_of, telemetry_of
from scheduler.aiops.topology import Topology
from scheduler.aiops.workload_rows import WorkloadFacts
from scheduler.daemon.incidents.alerts import AlertBook
from scheduler.daemon.incidents.incident_log import IncidentLog
from scheduler.daemon.incidents.watch_store import WatchStore
from scheduler.daemon.incidents.workload_facts import Facts
from scheduler.daemon.telemetry import Telemetry as Metrics
from scheduler.model.errors import OverspillError
from scheduler.model.ids import ClusterId, Instant
from scheduler.model.metrics import Reading
from scheduler.model.snapshot import Snapshot

log = structlog.get_logger(__name__)
_SAVE_SECONDS: Final = 600.0
"""Between two times that rows and detectors are saved, in the federation's time."""
_SAVE_AT_LEAST_WALL_SECONDS: Final = 20.0
_SEEN_SECONDS: Final = 300.0
"""How exactly it is saved when an incident was last seen."""
_INCIDENTS_AT_LEAST_WALL_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Beside:
    """What the watch has beside the snapshot and the readings. None: not there."""

    facts: Facts | None = None
    alerts: AlertBook | None = None
    store: WatchStore | None = None
    incidents: IncidentLog | None = None
    may_save: Callable[[], bool] = lambda: True
    """A standby's memory is its own."""
    alarms_per_day: float = fleet_bank.ALARMS_PER_DAY
    learn_seconds: float = LEARN_SECONDS


class FleetWatch:
    """Belongs to the event loop; `look` is called after each round of metrics."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        readings: Callable[[], Iterable[Reading]],
        metrics: Metrics,
        beside: Beside | None = None,
    ) -> None:
        self._snapshot = snapshot
        self._readings = readings
        self._metrics = metrics
        self._beside = beside or Beside()
        self._subjects: Mapping[str, tuple[Subject, ...]] = {}
        self._monitor: Monitor | None = None
        self._fleet = Topology()
        self._turn = asyncio.Lock()
        self._told: set[str] = set()
        self._alert_keys: frozenset[SignalKey] = frozenset()
        self._left_out: tuple[str, ...] = ()
        self._rows_saved: tuple[Instant, float] | None = None
        self._incidents_saved: tuple[object, float] = ((), 0.0)

    # -- rounds ----------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """One round. What goes wrong is logged and counted, and the next round begins anew."""
        async with self._turn:
            clock = asyncio.get_running_loop().time
            began, snapshot, readings = clock(), self._snapshot(), list(self._readings())
            facts = self._beside.facts.gather(snapshot) if self._beside.facts is not None else WorkloadFacts
            told, over = self._alerts(snapshot)
            try:
                now, monitor, found = await asyncio.to_thread(self._round, snapshot, readings, facts, told, over)
            except (OverspillError, ValueError, ArithmeticError) as error:
                log.error("fleet_not_watched", error=str(error)[:300])
                self._metrics.watch_rounds.labels("failed").inc()
                self._begin_anew()
                return
            # Here, not in the thread: what is cut off in a round has never been.
            self._monitor, self._subjects, self._fleet = monitor, now.subjects, now.fleet
            self._metrics.watch_rounds.labels("ok").inc()
            self._metrics.watch_seconds.observe(clock() - began)
            for finding in found[len(told) :]:
                self._metrics.findings.labels(finding.kind).inc()
            self._tell(snapshot.now)
            await self._save(snapshot.now)

    async def run_alerts(self) -> None:
        """Group what Alertmanager tells at once, for ever: its alerts need not wait for the next round."""
        book = self._beside.alerts
        while book is not None:
            await book.changed.wait()
            book.changed.clear()
            async with self._turn:
                snapshot = self._snapshot()
                now = snapshot.now
                told, over = self._alerts(snapshot)
                monitor = self._monitor or self._new()
                incidents = grouping.observe(monitor.incidents, told, self._fleet, now, over=over)
                self._monitor = replace(monitor, incidents=incidents)
                self._tell(now)
                await self._save(now)

    def incidents(self) -> tuple[Incident, ...]:
        """Open ones, and those that were closed lately, those that became part of another among them."""
        if self._monitor is None:
            return ()
        return (*self._monitor.incidents.open, *self._monitor.incidents.closed)

    def is_told(self, incident: object) -> bool:
        """Whether all that is known of an incident came from Alertmanager."""
        signals = getattr(incident, "signals", ())
        return bool(signals) and all(one.key in self._alert_keys for one in signals)

    def _round(
        self,
        snapshot: Snapshot,
        readings: list[Reading],
        facts: Callable[[], WorkloadFacts],
        told: list[Finding],
        over: frozenset[SignalKey],
    ) -> tuple[Telemetry, Monitor, tuple[Finding, ...]]:
        now = telemetry_of(snapshot, readings, facts(), self._subjects.get(GPU, ()))
        view = View(snapshot.now, now.tables, now.subjects, told, over)
        monitor, found = look(self._arranged(now), view, now.fleet)
        return now, monitor, found

    def _arranged(self, now: Telemetry) -> Monitor:
        """What was remembered of each row, in the rows' new order."""
        monitor = self._monitor or self._new()
        rows = {
            scope: rows_of(self._subjects.get(scope, ()), subjects)
            for scope, subjects in now.subjects.items()
            if scope not in monitor.memories or subjects != self._subjects.get(scope)
        }
        return rearranged(monitor, rows)

    def _new(self) -> Monitor:
        return new_monitor({}, self._beside.alarms_per_day, self._beside.learn_seconds)

    def _begin_anew(self) -> None:
        """Rows and detectors are forgotten; incidents are not."""
        if self._monitor is not None:
            self._monitor = replace(self._new(), incidents=self._monitor.incidents)
        self._subjects = {}

    def _alerts(self, snapshot: Snapshot) -> tuple[list[Finding], frozenset[SignalKey]]:
        """What Alertmanager says: alerts that name a node but no cluster are those of the only cluster with such a
        node."""
        if self._beside.alerts is None:
            return [], frozenset()
        told, over = self._beside.alerts.findings(snapshot.now)
        homeless = {
            one.node for one in (*(each.subject for each in told), *(one for _, one in over)) if not one.cluster
        }
        homes = _homes(snapshot, homeless - {None, ""})
        told = [replace(each, subject=_at_home(each.subject, homes)) for each in told]
        over = frozenset((kind, _at_home(subject, homes)) for kind, subject in over)
        self._alert_keys = over | {(each.kind, each.subject) for each in told}
        return told, over

    # -- telling ---------------------------------------------------------------------------------------------------

    def _tell(self, now: Instant) -> None:
        """Log each incident once, when it opens; bring the history and the metrics up to date."""
        assert self._monitor is not None
        incidents, bank = self._monitor.incidents, self._monitor.bank
        for each in incidents.open:
            if each.id not in self._told:
                log.warning(
                    "incident_opened", incident=each.id, kind=each.kind, severity=each.severity,
                    subject=str(each.subject), scope=f"{each.scope.kind} {each.scope.name}",
                )  # fmt: skip
        self._told = {each.id for each in incidents.open}
        if self._beside.incidents is not None and self._beside.may_save():
            self._beside.incidents.look(incidents.open, incidents.closed)
        risks = [each.impact for each in incidents.open]
        self._metrics.gpu_seconds_at_risk.set(3600.0 * sum(each.gpu_hours_at_risk or 0.0 for each in risks))
        self._metrics.usd_at_risk.set(float(sum(each.usd_at_risk or 0 for each in risks)))
        able = speaking(bank.groups)
        self._metrics.detector_series.set(bank.series)
        self._metrics.detector_metrics.labels("speaking").set(able)
        self._metrics.detector_metrics.labels("learning").set(len(bank.groups) - able)
        self._metrics.detector_metrics.labels("left out").set(len(bank.left_out))
        if bank.left_out != self._left_out:
            self._left_out = bank.left_out
            log.warning("detectors_full", most_series=fleet_bank.MOST_SERIES, left_out=list(bank.left_out[:20]))

    # -- keeping ---------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what was remembered when the daemon stopped; what cannot be read is learnt anew."""
        store, beside = self._beside.store, self._beside
        if store is None:
            return
        incidents = await self._taken_up(store)
        self._monitor = replace(self._new(), incidents=incidents)
        rows = await store.load_rows()
        if rows is None:
            return
        try:
            self._monitor, self._subjects = await asyncio.to_thread(
                revived, rows, incidents, beside.alarms_per_day, beside.learn_seconds
            )
        except OverspillError as error:
            log.error("watch_not_restored", error=str(error)[:300])

    async def take_over(self) -> None:
        """A standby that leads from now on goes on with the incidents that the last leader saved, and with those of its
        own that are about something else. What it has learnt is its own already."""
        if self._beside.store is None:
            return
        async with self._turn:
            known = await self._taken_up(self._beside.store)
            monitor = self._monitor or self._new()
            scopes = {each.scope for each in known.open}
            own = [each for each in monitor.incidents.open if each.scope not in scopes and known.find(each.id) is None]
            self._monitor = replace(monitor, incidents=placed(known, own, monitor.incidents.pending))

    async def _taken_up(self, store: WatchStore) -> Incidents:
        """The incidents that were saved last; what was saved beside them goes to whom it belongs."""
        beside = self._beside
        incidents, more = await store.load_incidents()
        incidents = replace(incidents, watched_since=self._snapshot().now)
        self._told = {each.id for each in incidents.open}
        if beside.alerts is not None:
            beside.alerts.take_up(more.get("alerts"))
        if beside.facts is not None:
            beside.facts.take_up(more.get("rollouts"))
        if beside.incidents is not None:
            beside.incidents.take_up(more.get("log"), incidents.open)
        return incidents

    async def close(self) -> None:
        """Save everything, if it is this process's to save."""
        if self._monitor is not None:
            async with self._turn:
                await self._save(self._snapshot().now, at_once=True)

    async def _save(self, now: Instant, *, at_once: bool = False) -> None:
        """Rows seldom, they are large; incidents and alerts when they have changed."""
        store, monitor = self._beside.store, self._monitor
        if store is None or monitor is None or not self._beside.may_save():
            return
        wall = asyncio.get_running_loop().time()
        state = self._more(monitor)
        known, at = self._incidents_saved
        if at_once or (state != known and wall - at >= _INCIDENTS_AT_LEAST_WALL_SECONDS):
            self._incidents_saved = (state, wall)
            await store.save_incidents(monitor.incidents, state, now)
        if self._rows_saved is None:
            self._rows_saved = (now, wall)
        since, at = self._rows_saved
        if at_once or (now - since >= _SAVE_SECONDS and wall - at >= _SAVE_AT_LEAST_WALL_SECONDS):
            self._rows_saved = (now, wall)
            await store.save_rows(kept(monitor, self._subjects), now)

    def _more(self, monitor: Monitor) -> dict[str, Any]:
        """What is saved beside the incidents, and when either has changed so that it is worth a write."""
        beside = self._beside
        return {
            "alerts": beside.alerts.kept() if beside.alerts is not None else [],
            "rollouts": beside.facts.kept() if beside.facts is not None else {},
            "log": beside.incidents.kept() if beside.incidents is not None else {},
            "open": [
                [each.id, each.state, each.severity, len(each.signals), each.last_at // _SEEN_SECONDS]
                for each in monitor.incidents.open
            ],
        }


def _homes(snapshot: Snapshot, nodes: Collection[str | None]) -> dict[str | None, ClusterId]:
    """The cluster of each of these nodes, where but one has a node of that name. As the snapshot knows them, not as the
    last round did: an alert may come before the first one."""
    found: dict[str | None, set[ClusterId]] = {}
    for cluster in snapshot.clusters if nodes else ():
        for node in cluster.nodes:
            if node.name in nodes:
                found.setdefault(node.name, set()).add(cluster.id)
    return {node: next(iter(clusters)) for node, clusters in found.items() if len(clusters) == 1}


def _at_home(subject: Subject, homes: Mapping[str | None, ClusterId]) -> Subject:
    if subject.cluster or subject.node not in homes:
        return subject
    return replace(subject, cluster=homes[subject.node])
