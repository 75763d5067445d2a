"""One round of looking at the fleet: rules and detectors over its telemetry, their findings grouped into incidents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from scheduler.aiops import fleet_bank
from scheduler.aiops.false_alarms import LEARN_SECONDS
from scheduler.aiops.findings import Finding, Subject, Table, findings
from scheduler.aiops.fleet_bank import ALARMS_PER_DAY, FleetBank
from scheduler.aiops.grouping import Settings, observe
from scheduler.aiops.incidents import Incidents, SignalKey
from scheduler.aiops.rules import Memory, check, new_memory, rearrange
from scheduler.aiops.topology import Topology
from scheduler.model.ids import Instant


@dataclass(frozen=True, slots=True)
class View:
    """The fleet's telemetry in one round, and what others tell of it."""

    at: Instant
    tables: Mapping[str, Table]
    """By scope."""
    subjects: Mapping[str, Sequence[Subject]]
    """By scope, of each row."""
    told: Sequence[Finding] = ()
    """Findings of others (alerts that fire)."""
    over: frozenset[SignalKey] = frozenset()
    """What others told of, and now say is over."""


@dataclass(frozen=True, slots=True)
class Monitor:
    """All that is remembered between rounds."""

    memories: Mapping[str, Memory]
    bank: FleetBank
    incidents: Incidents


def new_monitor(
    rows: Mapping[str, int], alarms_per_day: float = ALARMS_PER_DAY, learn_seconds: float = LEARN_SECONDS
) -> Monitor:
    """One that knows nothing yet. `rows`: by scope. `alarms_per_day`: false ones of the detectors, whole fleet; 0: no
    detectors. `learn_seconds`: how long a metric is learnt before the detectors speak of it."""
    memories = {scope: new_memory(scope, count) for scope, count in sorted(rows.items())}
    return Monitor(memories, FleetBank(alarms_per_day, learn_seconds), Incidents())


def rearranged(monitor: Monitor, rows: Mapping[str, Sequence[int]]) -> Monitor:
    """The monitor of a fleet that has changed: row i of a scope is the old row `rows[scope][i]`, or a new one where
    that is negative; scopes may be new. Incidents stay: they know their subjects by name."""
    memories = dict(monitor.memories)
    for scope, chosen in sorted(rows.items()):
        known = memories.get(scope)
        memories[scope] = rearrange(known, chosen) if known is not None else new_memory(scope, len(chosen))
    return replace(monitor, memories=memories, bank=fleet_bank.rearranged(monitor.bank, rows))


def look(
    monitor: Monitor, view: View, fleet: Topology, settings: Settings | None = None
) -> tuple[Monitor, tuple[Finding, ...]]:
    """The monitor after one round, and what was found in it. Raises: InvalidObjectError when rows do not match."""
    memories = dict(monitor.memories)
    found: list[Finding] = list(view.told)
    for scope, table in sorted(view.tables.items()):
        memories[scope], hits = check(memories[scope], table)
        found.extend(findings(hits, view.subjects[scope], view.at))
    bank, alarms = fleet_bank.observe(monitor.bank, view.tables, view.subjects, _explained(monitor.incidents, found))
    found.extend(alarms)
    incidents = observe(monitor.incidents, found, fleet, view.at, settings, over=view.over)
    return Monitor(memories, bank, incidents), tuple(found)


def _explained(incidents: Incidents, found: Sequence[Finding]) -> Callable[[Subject], bool]:
    """Whether a thing is in an incident that is open, or has just been found at fault: not what a clean one is."""
    subjects = [signal.subject for one in incidents.open for signal in one.signals]
    subjects += [one.subject for one in found]
    nodes = {(one.cluster, one.node) for one in subjects if one.node}
    workloads = {one.workload for one in subjects if one.workload}
    pools = {(one.cluster, one.pool) for one in subjects if one.about == "pool"}

    def explained(subject: Subject) -> bool:
        if subject.workload in workloads or (subject.cluster, subject.node) in nodes:
            return True
        return subject.about == "pool" and (subject.cluster, subject.pool) in pools

    return explained
