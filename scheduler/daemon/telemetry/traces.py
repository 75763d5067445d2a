"""What one trace tells of a workload: from when it was queued to when its copy runs, in spans.

Told at once, when the run starts, from what the hub and the members keep (so that a leader that took over meanwhile
tells the same) and from what this process did itself: its decision and its writes. Where spans go is in `otel`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from scheduler.daemon.learning.runs import RunStarted
from scheduler.model.ids import Instant, Uid
from scheduler.model.plan import Decision
from scheduler.model.workload import Copy
from scheduler.predict.bounded import Recent

_MOST: Final = 20_000
_PARTS: Final = 32
"""Most decisions and writes that are kept of one workload until it runs."""
_PLACING: Final = frozenset({"placed", "burst", "started", "moved"})
Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Part:
    """A span. Times in the federation's seconds."""

    name: str
    began: Instant
    ended: Instant
    attributes: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """Of one attempt of a workload. Its attempts share the trace; each has a root of its own."""

    trace_id: int
    root_id: int
    root: Part
    parts: tuple[Part, ...]


def trace_id(uid: Uid) -> int:
    """128 bits, the same whoever leads."""
    return int.from_bytes(hashlib.sha256(uid.encode()).digest()[:16])


class TraceBook:
    """Belongs to the event loop."""

    def __init__(self, copies: Callable[[Uid], Iterable[Copy]], export: Callable[[Trace], None]) -> None:
        self._copies = copies
        self._export = export
        self._done: Recent[Uid, list[Part]] = Recent(_MOST)

    def decided(self, decision: Decision, took_seconds: float) -> None:
        """In a cycle that took so long. That it is held says every cycle: not kept."""
        if decision.outcome not in _PLACING:
            return
        told: dict[str, Value] = {
            "overspill.decision.id": decision.id,
            "overspill.decision.outcome": decision.outcome,
            "overspill.decision.reason": decision.reason.code,
            "overspill.decision.why": decision.sentence[:500],
        }
        if decision.chosen is not None:
            told["overspill.pool"] = str(decision.chosen.pool)
        self._keep(decision.workload.uid, Part("decision", decision.at, decision.at + took_seconds, told))

    def wrote(self, uid: Uid, what: str, began: Instant, ended: Instant, decision: str) -> None:
        """This process did."""
        self._keep(uid, Part(what, began, ended, {"overspill.decision.id": decision}))

    def started(self, started: RunStarted) -> None:
        """It runs: tell its trace."""
        workload, placement, at = started.workload, started.placement, started.at
        uid = workload.ref.uid
        reserved_at = None if started.bought_seconds is None else at - started.bought_seconds
        queued_until = placement.decided_at if reserved_at is None else reserved_at
        parts = [Part("queue wait", workload.queued_at, queued_until, {"overspill.queue": workload.queue})]
        made = next((one for one in self._copies(uid) if one.attempt == placement.attempt), None)
        if reserved_at is not None:
            until = placement.decided_at if placement.decided_at > reserved_at else at
            parts.append(Part("provisioning", reserved_at, until, {"overspill.pool": str(placement.pool_ref)}))
        parts += self._done.pop(uid) or ()
        if made is not None:
            parts.append(Part("start", made.created_at, at, {"overspill.cluster": placement.cluster}))
        root = Part("workload", workload.queued_at, at, _of(started))
        own = hashlib.sha256(f"{uid}/{placement.attempt}".encode()).digest()
        self._export(Trace(trace_id(uid), int.from_bytes(own[:8]), root, tuple(map(_in_order, parts))))

    def _keep(self, uid: Uid, part: Part) -> None:
        kept = self._done.touch(uid, list)
        if len(kept) < _PARTS:
            kept.append(part)


def _in_order(part: Part) -> Part:
    """Clocks of two machines differ: none ends before it began."""
    return part if part.ended >= part.began else Part(part.name, part.began, part.began, part.attributes)


def _of(started: RunStarted) -> dict[str, Value]:
    workload, placement = started.workload, started.placement
    return {
        "overspill.workload.kind": workload.ref.kind,
        "k8s.namespace.name": workload.ref.namespace,
        "overspill.workload.name": workload.ref.name,
        "overspill.workload.uid": workload.ref.uid,
        "overspill.queue": workload.queue,
        "overspill.gpus": workload.requests.gpus,
        "overspill.cluster": placement.cluster,
        "overspill.pool": str(placement.pool_ref),
        "overspill.capacity_type": placement.capacity_type,
        "overspill.attempt": placement.attempt,
        "overspill.decision.id": placement.decision,
    }
