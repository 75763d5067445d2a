"""How well incidents match planted faults.

A fault is found by the first incident that opens between its beginning and half an hour after its end, is about the
right thing (the node of a GPU's or node's fault; the workload; the rack or zone; the pool) and has a signal of the
right kind. An incident that is about a fault's thing in that time, but is not the first, is a duplicate; one that is
about no fault's is false. Both count against precision. Incidents that became part of others do not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from scheduler.aiops.incidents import Incident
from scheduler.simulate.faults.fault import JOB, POOL, RULE, SERVICE, STATISTICAL, UNNAMED, ZONE, Fault
from scheduler.simulate.faults.fleet import Fleet
from scheduler.simulate.faults.kinds import KINDS
from scheduler.simulate.faults.study import Study
from scheduler.simulate.faults.telemetry import START_SECONDS

GRACE_MINUTES: Final = 30


@dataclass(frozen=True, slots=True)
class Score:
    """Of one or several studies."""

    found: tuple[tuple[Fault, float | None], ...]
    """Each fault with the minutes until it was found; None: it was not."""
    matched: int
    duplicates: int
    false: tuple[Incident, ...]
    days: float

    @property
    def incidents(self) -> int:
        return self.matched + self.duplicates + len(self.false)

    @property
    def precision(self) -> float | None:
        return self.matched / self.incidents if self.incidents else None

    @property
    def false_per_day(self) -> float:
        return len(self.false) / self.days

    def recall(self, shape: str) -> float | None:
        """None: no such fault was planted."""
        of_shape = [delay for fault, delay in self.found if KINDS[fault.kind].shape == shape]
        return sum(delay is not None for delay in of_shape) / len(of_shape) if of_shape else None

    def delay(self, kind: str | None = None) -> float | None:
        """Median minutes, of those that were found."""
        delays = [delay for fault, delay in self.found if delay is not None and kind in (None, fault.kind)]
        return median(delays) if delays else None


def score(study: Study) -> Score:
    """Of one study."""
    incidents = [one for one in study.incidents.values() if not one.merged_into]
    incidents.sort(key=lambda one: (one.opened_at, one.id))
    first: dict[str, bool] = {}
    found: list[tuple[Fault, float | None]] = []
    for fault in study.faults:
        near = [one for one in incidents if _during(fault, one) and _about(fault, one, study.fleet)]
        told = next((one for one in near if _tells(fault, one)), None)
        found.append((fault, None if told is None else (told.opened_at - START_SECONDS) / 60.0 - fault.starts))
        for one in near:
            first[one.id] = first.get(one.id, False) or one is told
    matched = sum(first.values())
    false = tuple(one for one in incidents if one.id not in first)
    return Score(tuple(found), matched, len(first) - matched, false, study.scenario.days)


def together(scores: Sequence[Score]) -> Score:
    """Several as one."""
    return Score(
        tuple(one for score in scores for one in score.found),
        sum(score.matched for score in scores),
        sum(score.duplicates for score in scores),
        tuple(one for score in scores for one in score.false),
        sum(score.days for score in scores),
    )


def described(result: Score) -> dict[str, Any]:
    """For JSON."""
    kinds = sorted({fault.kind for fault, _ in result.found})
    return {
        "faults": len(result.found),
        "incidents": result.incidents,
        "recall_rule": result.recall(RULE),
        "recall_statistical": result.recall(STATISTICAL),
        "recall_unnamed": result.recall(UNNAMED),
        "precision": result.precision,
        "duplicates": result.duplicates,
        "false_per_day": round(result.false_per_day, 3),
        "median_delay_samples": result.delay(),
        "by_kind": {kind: _of_kind(result, kind) for kind in kinds},
        "false_kinds": sorted(one.kind for one in result.false),
    }


def _of_kind(result: Score, kind: str) -> dict[str, Any]:
    delays = [delay for fault, delay in result.found if fault.kind == kind]
    return {
        "planted": len(delays),
        "found": sum(delay is not None for delay in delays),
        "median_delay_samples": result.delay(kind),
    }


def _during(fault: Fault, incident: Incident) -> bool:
    minute = (incident.opened_at - START_SECONDS) / 60.0
    return fault.starts <= minute <= fault.ends + GRACE_MINUTES


def _tells(fault: Fault, incident: Incident) -> bool:
    return any(one.kind.startswith(KINDS[fault.kind].wants) for one in incident.signals)


def _about(fault: Fault, incident: Incident, fleet: Fleet) -> bool:
    about, scope = KINDS[fault.kind].about, incident.scope
    if about == SERVICE:
        return scope.kind == "workload" and scope.name == fault.workload
    if about == POOL:
        return scope.kind == "pool" and scope.name == "/".join(fleet.pools[fault.target])
    if about == ZONE:
        kind, cluster, name = fleet.domains[fault.target]
        return (scope.kind, scope.name) == (kind, f"{cluster}/{name}")
    places = {f"{fleet.places[node].cluster}/{fleet.places[node].node}" for node in fault.nodes}
    on_node = scope.kind in ("gpu", "node") and "/".join(scope.name.split("/")[:2]) in places
    if about == JOB or fault.kind.startswith("memory-leak"):
        return (scope.kind == "workload" and scope.name == fault.workload) or (on_node and len(places) == 1)
    return on_node
