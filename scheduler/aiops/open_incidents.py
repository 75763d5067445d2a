"""The incidents that are open, while a round's signals come to them: what each holds, and how it changes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.aiops.findings import (
    ANOMALY,
    CRITICAL,
    HARDWARE,
    HIGH,
    INFO,
    INFRASTRUCTURE,
    WARNING,
    family,
    severity_rank,
)
from scheduler.aiops.impact import assess
from scheduler.aiops.incidents import (
    MOST_SIGNALS,
    OPEN,
    RESOLVED,
    SUPPRESSED,
    VERIFYING,
    Event,
    Incident,
    Incidents,
    Signal,
    SignalKey,
    joined,
    with_state,
)
from scheduler.aiops.ranking import rank
from scheduler.aiops.scoping import GPU, PLACES, id_of, named, spot, subject_of
from scheduler.aiops.topology import NODE, WORKLOAD, NodeKey, Scope, Topology
from scheduler.model.ids import Instant

_VERIFY_GRACE_SECONDS: Final = 120.0


@dataclass(frozen=True, slots=True)
class Settings:
    window_seconds: float = 900.0
    """Signals that begin within it may share a cause."""
    quiet_seconds: float = 1800.0
    """Without a finding for so long, an incident is resolved."""
    reopen_seconds: float = 3600.0
    """The same again so soon after it was resolved is the same incident."""
    least_nodes: int = 3
    least_share: float = 0.5
    """Of a place's nodes that must show the same to blame the place; of a workload's nodes, to blame the workload."""


class OpenIncidents:
    """Working memory of one round; nothing of it outlives the call."""

    def __init__(self, incidents: Incidents, fleet: Topology, now: Instant, settings: Settings) -> None:
        self.fleet, self.now, self.settings = fleet, now, settings
        self._closed = incidents.closed
        self.open = {one.id: one for one in incidents.open}
        self.changed: set[str] = set()
        self.merged: dict[str, Incident] = {}
        self.owner = {signal.key: one.id for one in incidents.open for signal in one.signals}
        self.near: dict[NodeKey | str, set[str]] = defaultdict(set)
        """Incidents by node, workload and spot."""
        self._signals: dict[str, dict[SignalKey, Signal]] = {}
        for one in incidents.open:
            self._index(one)

    def members(self, name: str) -> dict[SignalKey, Signal]:
        if name not in self._signals:
            self._signals[name] = {signal.key: signal for signal in self.open[name].signals}
        return self._signals[name]

    def attach(self, name: str, signal: Signal) -> None:
        members, incident = self.members(name), self.open[name]
        known = members.get(signal.key)
        omitted = incident.omitted
        if known is not None or len(members) < MOST_SIGNALS:
            members[signal.key] = signal if known is None else joined(known, signal)
            self.owner[signal.key] = name
        else:
            omitted += signal.count
        supports = signal.kind.startswith(ANOMALY) and not all(kind.startswith(ANOMALY) for kind, _ in members)
        if supports:
            self.changed.add(name)
            self.open[name] = replace(incident, omitted=omitted)
            return
        if incident.state == VERIFYING and signal.last_at > incident.history[-1].at + _VERIFY_GRACE_SECONDS:
            incident = with_state(incident, OPEN, self.now, f"{signal.kind} came back")
        self.open[name] = replace(incident, last_at=max(incident.last_at, signal.last_at), omitted=omitted)
        self.changed.add(name)

    def create(self, scope: Scope, signals: Sequence[Signal]) -> str:
        """An incident of these signals: the one of the scope that is open or was lately, else a new one."""
        kept = sorted(signals, key=lambda one: (severity_rank(one.severity), one.first_at, one.key))
        lead = kept[0]
        known = next((one for _, one in sorted(self.open.items()) if one.scope == scope and one.state != SUPPRESSED
                      and self.now - one.opened_at <= self.settings.window_seconds), None)  # fmt: skip
        again = known or self._resolved(scope, lead)
        if again is None:
            name = id_of(lead.kind, scope, self.now, self.open)
            again = Incident(name, lead.kind, lead.severity, lead.subject, scope, OPEN, self.now, lead.last_at, (),
                             history=(Event(self.now, OPEN, f"{len(kept)} signals"),))  # fmt: skip
        elif known is None:
            again = with_state(again, OPEN, self.now, "it came back")
        self.open[again.id] = again
        for one in kept:
            self.attach(again.id, one)
        self._index(self.open[again.id])
        return again.id

    def _resolved(self, scope: Scope, lead: Signal) -> Incident | None:
        for one in reversed(self._closed):
            soon = self.now - one.last_at <= self.settings.quiet_seconds + self.settings.reopen_seconds
            if one.state == RESOLVED and one.scope == scope and soon and family(one.kind) == family(lead.kind):
                return None if one.id in self.open else one
        return None

    def merge(self, name: str, into: str) -> None:
        if name == into:
            return
        old = self.described(self.open.pop(name))
        self._signals.pop(name, None)
        self.changed.discard(name)
        for names in self.near.values():
            names.discard(name)
        gone = with_state(old, SUPPRESSED, self.now, f"part of {into}")
        self.merged[name] = replace(gone, merged_into=into)

    def _index(self, incident: Incident) -> None:
        keys: set[NodeKey | str] = set(self.fleet.members.get(incident.scope, ()))
        for one in self.members(incident.id).values():
            keys |= self.fleet.nodes_of(one.subject) | self.workloads(one) | {spot(one)}
        if incident.scope.kind == WORKLOAD:
            keys.add(incident.scope.name)
        for key in keys:
            self.near[key].add(incident.id)

    def described(self, incident: Incident) -> Incident:
        """Signals, scope, causes, impact and severity as they are now."""
        members = self.members(incident.id)
        signals = tuple(members[key] for key in sorted(members))
        gpus = {(one.subject.node, one.subject.gpu) for one in signals if one.subject.gpu and one.origin == HARDWARE}
        scope = incident.scope
        if scope.kind == GPU and len(gpus) > 1:
            scope = Scope(NODE, f"{incident.subject.cluster}/{incident.subject.node}")
        causes = rank(signals, scope, self.fleet)
        there = [one.subject for one in signals if not one.subject.path]
        nodes = frozenset[NodeKey]().union(*(self.fleet.nodes_of(subject) for subject in there))
        named_workloads = frozenset(one.subject.workload for one in signals if one.subject.workload)
        impact = assess(nodes, named_workloads, self.fleet, self.now)
        worst = min((one.severity for one in signals), key=severity_rank)
        if worst == INFO:
            worst = WARNING
        named_nodes = len({(one.subject.cluster, one.subject.node) for one in signals if one.subject.node})
        anomaly = causes[0].kind.startswith(ANOMALY)
        if scope.kind in PLACES and named_nodes >= self.settings.least_nodes and not anomaly:
            worst = CRITICAL
        if impact.deadlines and worst == WARNING:
            worst = HIGH
        kind = named(causes[0].kind, scope, named_nodes)
        subject = subject_of(scope, signals, incident.subject)
        return replace(incident, kind=kind, severity=worst, subject=subject, scope=scope, signals=signals,
                       causes=causes, impact=impact)  # fmt: skip

    def workloads(self, signal: Signal) -> frozenset[str]:
        """Whose trouble it may be: of a GPU whoever had it then, of a node whoever is there."""
        subject = signal.subject
        if subject.workload:
            return frozenset({subject.workload})
        if subject.gpu or not subject.node:
            return frozenset()
        return frozenset(self.fleet.workloads_on.get((subject.cluster, subject.node), ()))

    def hit(self, incident: Incident) -> frozenset[str]:
        """Workloads that an incident of the hardware may disturb."""
        found = frozenset[str]()
        for one in self.members(incident.id).values():
            if one.origin in (HARDWARE, INFRASTRUCTURE):
                found |= self.workloads(one)
        return found
