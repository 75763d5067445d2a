"""What a trace tells of a change that requests feel: a rescale, a shift of weights, a rollback.

Each is a root of its own with the decision's id, from when it was decided to when it was done. They share the trace of
their service (`traces.trace_id`), so that its placing and all that came after are found together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final

from scheduler.daemon.telemetry.traces import Part, Trace, Value, trace_id
from scheduler.model.division import ROLLED_BACK, Division
from scheduler.model.ids import DecisionId, Instant, PoolRef, Uid
from scheduler.model.serving import TrafficWeight
from scheduler.predict.bounded import Recent

RESCALE: Final = "rescale"
SHIFT: Final = "shift"
ROLLBACK: Final = "rollback"
_MOST_SERVICES: Final = 10_000
_LONGEST_TEXT: Final = 500
_Counts = Mapping[tuple[PoolRef, str], int]


class ServiceTraces:
    """Belongs to the event loop."""

    def __init__(self, export: Callable[[Trace], None], now: Callable[[], Instant]) -> None:
        self._export = export
        self._now = now
        self._counts: Recent[Uid, dict[tuple[PoolRef, str], int]] = Recent(_MOST_SERVICES)
        self._weights: Recent[Uid, tuple[TrafficWeight, ...]] = Recent(_MOST_SERVICES)
        self._rolled_back: Recent[Uid, str] = Recent(_MOST_SERVICES)

    def decided(self, division: Division, decision: DecisionId) -> None:
        """A division is written. What asks for other replicas than the last one is a rescale; a revision that is newly
        taken back, a rollback, too. The first one of a process tells nothing: what was before is not known."""
        uid = division.service.uid
        counts = {(one.pool, one.revision): one.replicas for one in division.targets if one.replicas > 0}
        before = self._counts.get(uid)
        self._counts.put(uid, counts)
        back = next((one.message for one in division.conditions if one.reason == ROLLED_BACK), "")
        was_back = self._rolled_back.get(uid)
        self._rolled_back.put(uid, back)
        if was_back == "" and back:
            self._tell(division, decision, ROLLBACK, division.decided_at, {"overspill.rollback.why": back})
        if before is not None and before != counts:
            self._tell(division, decision, RESCALE, division.decided_at, _changes(before, counts))

    def shifted(self, division: Division, decision: DecisionId, began: Instant) -> None:
        """Its weights are set, begun then."""
        uid, before = division.service.uid, self._weights.get(division.service.uid)
        weights = tuple(sorted(division.weights))
        self._weights.put(uid, weights)
        if weights and before is not None and before != weights:
            told: dict[str, Value] = {f"overspill.weight.{one.cluster}.{one.revision}": one.weight for one in weights}
            self._tell(division, decision, SHIFT, began, told)

    def forget(self, uid: Uid) -> None:
        """It is gone."""
        for kept in (self._counts, self._weights, self._rolled_back):
            kept.pop(uid)

    def _tell(
        self, division: Division, decision: DecisionId, what: str, began: Instant, more: Mapping[str, Value]
    ) -> None:
        ref, now = division.service, self._now()
        told: dict[str, Value] = {
            "overspill.decision.id": decision,
            "overspill.decision.why": division.sentence[:_LONGEST_TEXT],
            "overspill.workload.kind": ref.kind,
            "overspill.workload.name": ref.name,
            "overspill.workload.uid": ref.uid,
            "k8s.namespace.name": ref.namespace,
            "overspill.solver": division.solver,
            **more,
        }
        for name, value in (
            ("demand", division.demand_per_second),
            ("planned", division.planned_per_second),
            ("ready", division.ready_per_second),
        ):
            if value is not None:
                told[f"overspill.requests_per_second.{name}"] = round(value, 3)
        root = Part(f"service {what}", began, max(began, now), told)
        own = hashlib.sha256(f"{ref.uid}/{decision}/{what}/{began}".encode()).digest()
        self._export(Trace(trace_id(ref.uid), int.from_bytes(own[:8]), root, ()))


def _changes(before: _Counts, after: _Counts) -> dict[str, Value]:
    """By pool and revision, how many more or fewer."""
    found: dict[str, Value] = {}
    for pool, revision in sorted({*before, *after}):
        change = after.get((pool, revision), 0) - before.get((pool, revision), 0)
        if change:
            found[f"overspill.replicas.{pool}.{revision}"] = change
    return found
