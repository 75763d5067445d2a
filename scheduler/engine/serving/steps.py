"""The writes that a divided service needs on members, from what is observed of it and how it is divided. Pure.

Each step is one idempotent write. Nothing is remembered: what is to be stands on the hub object, what is there is told
by labels, so that a crash between any two steps loses and doubles nothing. Replicas are alike, so that none needs to
have gone before another comes; that old ones stay until new ones are ready is the division's care (`handover`).
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

from scheduler.engine.serving.parts import parts_of
from scheduler.engine.serving.slots import Slot
from scheduler.model.division import ReplicaTarget
from scheduler.model.ids import ClusterId, Uid
from scheduler.model.workload import Copy, Workload


@dataclass(frozen=True, slots=True)
class MakePart:
    target: ReplicaTarget

    @property
    def cluster(self) -> ClusterId:
        return self.target.pool.cluster


@dataclass(frozen=True, slots=True)
class ScalePart:
    copy: Copy
    target: ReplicaTarget

    @property
    def cluster(self) -> ClusterId:
        return self.copy.cluster


@dataclass(frozen=True, slots=True)
class DeletePart:
    copy: Copy
    why: str

    @property
    def cluster(self) -> ClusterId:
        return self.copy.cluster


@dataclass(frozen=True, slots=True)
class LetGo:
    """Nothing of it is left on any member: its finalizer goes."""


PartStep = MakePart | ScalePart | DeletePart


@dataclass(frozen=True, slots=True)
class PartsView:
    """What is observed of one service; only what is written counts, not what is merely decided."""

    workload: Workload
    copies: tuple[Copy, ...]
    available: Set[ClusterId]
    lost: Set[ClusterId] = frozenset()
    """Given up: what is there is deleted when they come back."""
    off_scale: Mapping[Uid, bool] | None = None
    """By UID of a copy: whether it has another scale than its target says."""


def due(view: PartsView) -> tuple[PartStep, ...]:
    """All that can be done now, in no particular order; what is on members that do not answer waits."""
    intent = view.workload.intent
    if intent is None or view.workload.deleting:
        return tuple(_delete(view, view.copies, "its hub object is being deleted"))
    there = parts_of(view.copies, intent)
    steps: list[PartStep] = []
    for target in intent.targets:
        copy = there.get(Slot(target.pool, target.revision))
        if target.pool.cluster not in view.available:
            continue
        if copy is None:
            steps.append(MakePart(target))
        elif not copy.deleting and (view.off_scale or {}).get(copy.uid):
            steps.append(ScalePart(copy, target))
    kept = {copy.uid for slot, copy in there.items() if intent.target(slot.pool, slot.revision) is not None}
    surplus = [copy for copy in view.copies if copy.uid not in kept]
    # What was silent when this was decided is looked at anew before anything of it goes.
    steps += _delete(view, [copy for copy in surplus if copy.cluster not in intent.silent], "its share is elsewhere")
    return tuple(steps)


def may_let_go(view: PartsView) -> bool:
    """Of one that is being deleted: whether nothing of it can be left where nobody looks any more."""
    if any(copy.cluster not in view.lost for copy in view.copies):
        return False
    intent = view.workload.intent
    clusters = set() if intent is None else {target.pool.cluster for target in intent.targets}
    return all(cluster in view.available or cluster in view.lost for cluster in clusters)


def _delete(view: PartsView, copies: tuple[Copy, ...] | list[Copy], why: str) -> list[PartStep]:
    ordered = sorted(copies, key=lambda copy: (copy.cluster, copy.namespace, copy.name))
    return [DeletePart(copy, why) for copy in ordered if not copy.deleting and copy.cluster in view.available]
