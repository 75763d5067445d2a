"""From findings to incidents: one cause, one incident.

    findings -> signals (repeats folded) -> joined to an open incident | held together by a scope | alone

Each round, signals first join incidents that they belong to. Of what is left, and of incidents that are still young,
the scope that explains most is taken, again and again: a workload whose nodes mostly show application errors or
symptoms, or a rack, zone, pool, cluster or provider most of whose nodes show the same. Young incidents inside such a
scope become part of the new one. What remains is an incident of its own GPU, node, workload, pool or cluster, unless it
is only `info`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.aiops.findings import (
    ANOMALY,
    APPLICATION,
    CRITICAL,
    HARDWARE,
    HIGH,
    INFO,
    INFRASTRUCTURE,
    SYMPTOM,
    WARNING,
    Finding,
    Subject,
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
    fold,
    joined,
    placed,
    with_state,
)
from scheduler.aiops.ranking import rank
from scheduler.aiops.topology import (
    CLUSTER,
    NETWORK,
    NODE,
    PATH,
    POOL,
    PROVIDER,
    WORKLOAD,
    ZONE,
    NodeKey,
    Scope,
    Topology,
    ends,
)
from scheduler.model.ids import Instant

GPU: Final = "gpu"
_PLACES: Final = ("rack", ZONE, POOL, CLUSTER, PROVIDER)
_SHARED: Final = ("gpu.throttle.power-brake", "gpu.throttle.thermal")
"""Kinds of a GPU that come of power or cooling, which nodes share."""
_CAUSE_SECONDS: Final = 300.0
"""Within which a hardware fault may have been the cause of a crash that was seen first."""
_UNFIT: Final = re.compile(r"[^A-Za-z0-9._-]")
_LONGEST_NAME: Final = 180
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


def observe(
    incidents: Incidents, reported: Sequence[Finding], fleet: Topology, now: Instant, settings: Settings | None = None,
    *, over: frozenset[SignalKey] = frozenset(),
) -> Incidents:  # fmt: skip
    """All incidents after one round. Pure, and the same for any order of the findings and for repeated ones, but for
    their counts. `over`: signals that whoever told of them says are over; an incident of nothing else is resolved."""
    rules = settings or Settings()
    round_ = _Round(incidents, fleet, now, rules, over)
    for signal in fold(reported):
        round_.take(signal)
    round_.group()
    return round_.finish()


class _Round:
    """Working memory of one call of `observe`."""

    def __init__(
        self, incidents: Incidents, fleet: Topology, now: Instant, settings: Settings, over: frozenset[SignalKey]
    ) -> None:
        self._before, self._fleet, self._now, self._settings = incidents, fleet, now, settings
        self._over = over
        self._open = {one.id: one for one in incidents.open}
        self._signals: dict[str, dict[SignalKey, Signal]] = {}
        self._changed: set[str] = set()
        self._merged: dict[str, Incident] = {}
        self._owner = {signal.key: one.id for one in incidents.open for signal in one.signals}
        self._near: dict[NodeKey | str, set[str]] = defaultdict(set)
        self._loose: dict[SignalKey, Signal] = {}
        for one in incidents.open:
            self._index(one)
        for signal in incidents.pending:
            if now - signal.last_at <= settings.window_seconds and signal.key not in over:
                self._loose[signal.key] = signal

    def take(self, signal: Signal) -> None:
        """Into the incident that it is known of or belongs to, else among the loose ones."""
        known = self._loose.pop(signal.key, None)
        whole = signal if known is None else joined(known, signal)
        home = self._owner.get(signal.key) or self._home(whole)
        if home is None:
            self._loose[signal.key] = whole
        else:
            self._attach(home, whole)

    def group(self) -> None:
        """Loose signals and young incidents into places; then single faults of the hardware, so that what follows from
        them joins them; then into workloads; then what is left one by one, and what only supports (info) to it."""
        self._gather((*_PLACES, NETWORK))
        self._split(local=True)
        self._settle()
        self._gather((WORKLOAD,))
        self._split(local=False)
        self._settle()

    def _gather(self, kinds: Sequence[str]) -> None:
        while (found := self._widest(kinds)) is not None:
            scope, keys, parts = found
            signals = [self._loose.pop(key) for key in sorted(keys) if key in self._loose]
            for part in sorted(parts):
                signals.extend(self._members(part).values())
            home = self._create(scope, signals)
            for part in sorted(parts):
                self._merge(part, home)

    def _split(self, *, local: bool) -> None:
        for scope, signals in self._singles(local=local):
            for one in signals:
                self._loose.pop(one.key)
            self._create(scope, signals)

    def _settle(self) -> None:
        for key in sorted(self._loose):
            home = self._home(self._loose[key])
            if home is not None:
                self._attach(home, self._loose.pop(key))

    def finish(self) -> Incidents:
        changed = [*self._merged.values()]
        for name in sorted(self._open):
            incident = self._open[name]
            if name in self._changed:
                incident = self._described(incident)
            if incident.state != RESOLVED and (why := self._ended(incident)):
                incident = with_state(incident, RESOLVED, self._now, why)
            if incident is not self._open[name] or name in self._changed:
                changed.append(incident)
        reopened = {one.id for one in changed}
        closed = tuple(one for one in self._before.closed if one.id not in reopened)
        before = replace(self._before, closed=closed)
        return placed(before, changed, [self._loose[key] for key in sorted(self._loose)])

    def _ended(self, incident: Incident) -> str:
        """Why it is over; "": it is not."""
        told = [key for key in self._members(incident.id) if not key[0].startswith(ANOMALY)]
        if told and self._over.issuperset(told):
            return "whoever told of it says that it is over"
        quiet = self._now - max(incident.last_at, self._before.watched_since) > self._settings.quiet_seconds
        return "nothing more was seen of it" if quiet else ""

    # --- belonging ---------------------------------------------------------------------------------------------------

    def _home(self, signal: Signal) -> str | None:
        """The incident that a signal belongs to: the one that began last before it, else the first after."""
        keys: list[NodeKey | str] = [*self._fleet.nodes_of(signal.subject), *self._workloads(signal), _spot(signal)]
        names = {name for key in keys for name in self._near.get(key, ())}
        fit = [name for name in names if self._belongs(signal, self._open[name])]
        if not fit:
            return None
        return min(fit, key=lambda name: (abs(signal.first_at - self._open[name].opened_at), name))

    def _belongs(self, signal: Signal, incident: Incident) -> bool:
        age = signal.first_at - incident.opened_at
        lately = abs(age) <= self._settings.window_seconds
        kin = (
            lately
            or signal.kind.startswith(ANOMALY)
            or any(_kin(signal.kind, one.kind) for one in self._members(incident.id).values())
        )
        scope, nodes = incident.scope, self._fleet.nodes_of(signal.subject)
        follows = signal.origin in (SYMPTOM, APPLICATION)
        if scope.kind in (GPU, NODE):
            if signal.subject.node and (incident.subject.cluster, incident.subject.node) in nodes:
                same = scope.kind == NODE or signal.subject.gpu in ("", incident.subject.gpu) or lately
                return kin and same
            return follows and lately and bool(self._workloads(signal) & self._hit(incident))
        if scope.kind == WORKLOAD:
            if scope.name not in self._workloads(signal):
                return False
            return kin if follows else abs(age) <= _CAUSE_SECONDS and severity_rank(signal.severity) <= 1
        if scope.kind == NETWORK:
            return kin and bool(signal.subject.path) and scope.name in ends(signal.subject.path)
        if not (signal.subject.node or signal.subject.workload):
            return kin and _scope_of(signal) == scope
        if not any(one.subject.node for one in self._members(incident.id).values()):
            return False
        if signal.subject.node and nodes <= self._fleet.members.get(scope, frozenset()) and kin:
            return True
        return follows and lately and bool(self._workloads(signal) & self._hit(incident))

    def _workloads(self, signal: Signal) -> frozenset[str]:
        """Whose trouble it may be: of a GPU whoever had it then, of a node whoever is there."""
        subject = signal.subject
        if subject.workload:
            return frozenset({subject.workload})
        if subject.gpu or not subject.node:
            return frozenset()
        return frozenset(self._fleet.workloads_on.get((subject.cluster, subject.node), ()))

    def _hit(self, incident: Incident) -> frozenset[str]:
        """Workloads that an incident of the hardware may disturb."""
        found = frozenset[str]()
        for one in self._members(incident.id).values():
            if one.origin in (HARDWARE, INFRASTRUCTURE):
                found |= self._workloads(one)
        return found

    # --- scopes ------------------------------------------------------------------------------------------------------

    def _widest(self, kinds: Sequence[str]) -> tuple[Scope, frozenset[SignalKey], frozenset[str]] | None:
        """The scope that explains the most nodes (the narrowest of such), its loose signals, and the young incidents
        that become part of it. None: no scope explains anything that is not explained already."""
        offers: dict[tuple[Scope, str], dict[NodeKey | str, set[SignalKey]]] = defaultdict(lambda: defaultdict(set))
        part_of: dict[SignalKey, str] = {}
        urgent: set[SignalKey] = set()
        for signal, name in self._candidates():
            if name:
                part_of[signal.key] = name
            # One odd thing is not yet its workload's affair; of two or more nodes it is.
            if signal.severity != INFO and not (signal.kind.startswith(ANOMALY) and signal.subject.node):
                urgent.add(signal.key)
            for scope, reason in self._explanations(signal):
                if scope.kind not in kinds:
                    continue
                for node in self._fleet.nodes_of(signal.subject) or {(signal.subject.cluster, "")}:
                    offers[scope, reason][node].add(signal.key)
        best: tuple[tuple[int, int, Scope, str], tuple[Scope, frozenset[SignalKey], frozenset[str]]] | None = None
        for (scope, reason), nodes in offers.items():
            keys = frozenset[SignalKey]().union(*nodes.values())
            members = self._fleet.members.get(scope, frozenset())
            order = (-len(nodes), len(members), scope, reason)
            if best is not None and order >= best[0]:
                continue
            if not self._explains(scope, len(nodes), len(members), bool(keys & urgent)):
                continue
            parts = frozenset(part_of[key] for key in keys & part_of.keys())
            parts = frozenset(name for name in parts if self._inside(name, scope, members))
            loose = keys - part_of.keys()
            if loose or len(parts) > 1:
                best = order, (scope, loose, parts)
        return best[1] if best else None

    def _candidates(self) -> Iterable[tuple[Signal, str]]:
        for key in sorted(self._loose):
            yield self._loose[key], ""
        for name in sorted(self._open):
            one = self._open[name]
            if one.state == OPEN and self._now - one.opened_at <= self._settings.window_seconds:
                for signal in self._members(name).values():
                    yield signal, name

    def _explanations(self, signal: Signal) -> Iterable[tuple[Scope, str]]:
        """Scopes that could be the cause, with what must be alike."""
        if signal.origin in (APPLICATION, SYMPTOM):
            for workload in self._workloads(signal):
                yield Scope(WORKLOAD, workload), ""
        if signal.subject.path:
            for end in ends(signal.subject.path):
                yield Scope(NETWORK, end), signal.kind
            return
        if signal.kind.startswith(ANOMALY) and signal.subject.node:
            # Half of a cluster at once is the monitor's or the cluster's affair.
            yield Scope(CLUSTER, signal.subject.cluster), signal.kind
        shared = signal.origin == INFRASTRUCTURE or signal.kind.startswith("node.") or signal.kind in _SHARED
        if shared and signal.subject.node and signal.severity != INFO:
            for scope in self._fleet.scopes_of((signal.subject.cluster, signal.subject.node)):
                if scope.kind in _PLACES:
                    yield scope, family(signal.kind)

    def _explains(self, scope: Scope, nodes: int, size: int, urgent: bool) -> bool:
        if scope.kind == WORKLOAD:
            return nodes >= self._settings.least_share * max(size, 1) and (urgent or nodes >= 2)
        return nodes >= self._settings.least_nodes and nodes >= self._settings.least_share * size

    def _inside(self, name: str, scope: Scope, members: frozenset[NodeKey]) -> bool:
        """Whether a young incident is of the scope's members alone, and of the scope's kind of trouble."""
        incident = self._open[name]
        if scope == incident.scope:
            return True
        signals = self._members(name).values()
        if scope.kind == WORKLOAD:
            # A fault of the hardware stays what it is: the workload's symptoms join it.
            return all(one.origin in (APPLICATION, SYMPTOM) for one in signals)
        return all(self._fleet.nodes_of(one.subject) <= members for one in signals)

    def _singles(self, *, local: bool) -> list[tuple[Scope, list[Signal]]]:
        """What no scope explains, by GPU, node or whatever it is about; `local`: only urgent faults of one GPU."""
        groups: dict[Scope, list[Signal]] = defaultdict(list)
        for key in sorted(self._loose):
            signal = self._loose[key]
            subject = signal.subject
            fault = signal.origin == HARDWARE and subject.gpu and signal.kind not in _SHARED
            if local and not (fault and signal.severity in (CRITICAL, HIGH)):
                continue
            node = Scope(NODE, f"{subject.cluster}/{subject.node}") if subject.node else _scope_of(signal)
            groups[node].append(signal)
        found = []
        for scope, signals in sorted(groups.items()):
            if all(one.severity == INFO for one in signals):
                continue
            gpus = {one.subject.gpu for one in signals}
            if scope.kind == NODE and len(gpus) == 1 and "" not in gpus:
                found.append((Scope(GPU, f"{scope.name}/{gpus.pop()}"), signals))
            else:
                found.append((scope, signals))
        return found

    # --- changes -----------------------------------------------------------------------------------------------------

    def _members(self, name: str) -> dict[SignalKey, Signal]:
        if name not in self._signals:
            self._signals[name] = {signal.key: signal for signal in self._open[name].signals}
        return self._signals[name]

    def _attach(self, name: str, signal: Signal) -> None:
        members, incident = self._members(name), self._open[name]
        known = members.get(signal.key)
        omitted = incident.omitted
        if known is not None or len(members) < MOST_SIGNALS:
            members[signal.key] = signal if known is None else joined(known, signal)
            self._owner[signal.key] = name
        else:
            omitted += signal.count
        supports = signal.kind.startswith(ANOMALY) and not all(kind.startswith(ANOMALY) for kind, _ in members)
        if supports:
            self._changed.add(name)
            self._open[name] = replace(incident, omitted=omitted)
            return
        if incident.state == VERIFYING and signal.last_at > incident.history[-1].at + _VERIFY_GRACE_SECONDS:
            incident = with_state(incident, OPEN, self._now, f"{signal.kind} came back")
        self._open[name] = replace(incident, last_at=max(incident.last_at, signal.last_at), omitted=omitted)
        self._changed.add(name)

    def _create(self, scope: Scope, signals: Sequence[Signal]) -> str:
        """An incident of these signals: the one of the scope that is open or was lately, else a new one."""
        kept = sorted(signals, key=lambda one: (severity_rank(one.severity), one.first_at, one.key))
        lead = kept[0]
        known = next((one for _, one in sorted(self._open.items()) if one.scope == scope and one.state != SUPPRESSED
                      and self._now - one.opened_at <= self._settings.window_seconds), None)  # fmt: skip
        again = known or self._resolved(scope, lead)
        if again is None:
            name = _id(lead.kind, scope, self._now, self._open)
            again = Incident(name, lead.kind, lead.severity, lead.subject, scope, OPEN, self._now, lead.last_at, (),
                             history=(Event(self._now, OPEN, f"{len(kept)} signals"),))  # fmt: skip
        elif known is None:
            again = with_state(again, OPEN, self._now, "it came back")
        self._open[again.id] = again
        for one in kept:
            self._attach(again.id, one)
        self._index(self._open[again.id])
        return again.id

    def _resolved(self, scope: Scope, lead: Signal) -> Incident | None:
        for one in reversed(self._before.closed):
            soon = self._now - one.last_at <= self._settings.quiet_seconds + self._settings.reopen_seconds
            if one.state == RESOLVED and one.scope == scope and soon and family(one.kind) == family(lead.kind):
                return None if one.id in self._open else one
        return None

    def _merge(self, name: str, into: str) -> None:
        if name == into:
            return
        old = self._described(self._open.pop(name))
        self._signals.pop(name, None)
        self._changed.discard(name)
        for names in self._near.values():
            names.discard(name)
        gone = with_state(old, SUPPRESSED, self._now, f"part of {into}")
        self._merged[name] = replace(gone, merged_into=into)

    def _index(self, incident: Incident) -> None:
        keys: set[NodeKey | str] = set(self._fleet.members.get(incident.scope, ()))
        for one in self._members(incident.id).values():
            keys |= self._fleet.nodes_of(one.subject) | self._workloads(one) | {_spot(one)}
        if incident.scope.kind == WORKLOAD:
            keys.add(incident.scope.name)
        for key in keys:
            self._near[key].add(incident.id)

    def _described(self, incident: Incident) -> Incident:
        """Signals, scope, causes, impact and severity as they are now."""
        members = self._members(incident.id)
        signals = tuple(members[key] for key in sorted(members))
        gpus = {(one.subject.node, one.subject.gpu) for one in signals if one.subject.gpu and one.origin == HARDWARE}
        scope = incident.scope
        if scope.kind == GPU and len(gpus) > 1:
            scope = Scope(NODE, f"{incident.subject.cluster}/{incident.subject.node}")
        causes = rank(signals, scope, self._fleet)
        there = [one.subject for one in signals if not one.subject.path]
        nodes = frozenset[NodeKey]().union(*(self._fleet.nodes_of(subject) for subject in there))
        named = frozenset(one.subject.workload for one in signals if one.subject.workload)
        impact = assess(nodes, named, self._fleet, self._now)
        worst = min((one.severity for one in signals), key=severity_rank)
        if worst == INFO:
            worst = WARNING
        named_nodes = len({(one.subject.cluster, one.subject.node) for one in signals if one.subject.node})
        anomaly = causes[0].kind.startswith(ANOMALY)
        if scope.kind in _PLACES and named_nodes >= self._settings.least_nodes and not anomaly:
            worst = CRITICAL
        if impact.deadlines and worst == WARNING:
            worst = HIGH
        kind = _named(causes[0].kind, scope, named_nodes)
        subject = _subject(scope, signals, incident.subject)
        return replace(incident, kind=kind, severity=worst, subject=subject, scope=scope, signals=signals,
                       causes=causes, impact=impact)  # fmt: skip


def _named(kind: str, scope: Scope, nodes: int) -> str:
    """The kind of an incident: of a whole place it is the place's, of a workload that fails on many nodes a crash."""
    if scope.kind in _PLACES and nodes > 1 and not kind.startswith(ANOMALY):
        return f"{scope.kind}.outage" if kind == "node.not-ready" else f"{scope.kind}.{kind.split('.', 1)[-1]}"
    if scope.kind == WORKLOAD and kind.startswith("gpu.xid."):
        return "workload.crash"
    return kind


def _subject(scope: Scope, signals: Sequence[Signal], now: Subject) -> Subject:
    """What the incident is about, as narrow as its scope."""
    first = min(signals, key=lambda one: (one.first_at, one.key)).subject
    match scope.kind:
        case "gpu":
            return now
        case "node":
            cluster, _, node = scope.name.partition("/")
            return Subject(cluster=cluster, node=node, pool=now.pool)
        case "workload":
            return Subject(cluster=first.cluster, workload=scope.name)
        case "pool":
            cluster, _, pool = scope.name.partition("/")
            return Subject(cluster=cluster, pool=pool)
        case "rack" | "zone":
            return Subject(cluster=scope.name.partition("/")[0])
        case "cluster" | "network":
            return Subject(cluster=scope.name)
    return now if scope.kind == PATH else Subject()


def _scope_of(signal: Signal) -> Scope:
    """What it is about. Of what is about nothing in particular only the same kind belongs together."""
    subject = signal.subject
    if subject == Subject():
        return Scope("kind", signal.kind)
    match subject.about:
        case "gpu":
            return Scope(GPU, f"{subject.cluster}/{subject.node}/{subject.gpu}")
        case "node":
            return Scope(NODE, f"{subject.cluster}/{subject.node}")
        case "workload":
            return Scope(WORKLOAD, subject.workload)
        case "path":
            return Scope(PATH, subject.path)
        case "pool":
            return Scope(POOL, f"{subject.cluster}/{subject.pool}")
    return Scope(CLUSTER, subject.cluster)


def _spot(signal: Signal) -> str:
    """Where an incident is looked up that is about neither a node nor a workload."""
    scope = _scope_of(signal)
    return f"{scope.kind}:{scope.name}"


def _kin(one: str, other: str) -> bool:
    """Whether two kinds are of the same trouble."""
    return family(one) == family(other) or (one.startswith("node.") and other.startswith("node."))


def _id(kind: str, scope: Scope, now: Instant, taken: Mapping[str, Incident]) -> str:
    # As a key of a ConfigMap (`overspill incidents approve`) and a path of the read API may be.
    said = _UNFIT.sub(".", f"{kind}-{scope.name}")[:_LONGEST_NAME]
    base = f"{said}-{int(now)}"
    name, number = base, 1
    while name in taken:
        number += 1
        name = f"{base}-{number}"
    return name
