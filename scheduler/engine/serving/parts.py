"""A divided service as a cycle reckons with it: each part a workload that is placed already, with its own copy.

So its pods take room, count against quota and budgets, and have nodes bought for them like those of any other placed
workload; and nobody places, moves or releases them but the division.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from scheduler.engine.serving.slots import Slot
from scheduler.model.cluster import NodePool
from scheduler.model.contract import part_of
from scheduler.model.ids import PoolRef, Uid, owner_uid
from scheduler.model.service_intent import ServiceIntent
from scheduler.model.workload import Copy, Placement, PlacementState, PodSet, Workload


class Part(NamedTuple):
    """What a copy of a service is for."""

    slot: Slot
    copy: Copy


def slot_of(copy: Copy, intent: ServiceIntent) -> Slot | None:
    """What the copy is for; None: for nothing that the intent knows of."""
    if copy.part and copy.pool is not None:
        return Slot(PoolRef(copy.cluster, copy.pool), copy.revision)
    for one in intent.adopted:
        if (one.cluster, one.name) == (copy.cluster, copy.name):
            return Slot(one.pool_ref, one.revision)
    return None


def parts_of(copies: Iterable[Copy], intent: ServiceIntent) -> dict[Slot, Copy]:
    """The copy of each part. Of two that claim to be one, the adopted one counts, else the first by name."""
    found: dict[Slot, Copy] = {}
    for copy in sorted(copies, key=lambda each: (each.deleting, bool(each.part), each.cluster, each.name)):
        slot = slot_of(copy, intent)
        if slot is not None:
            found.setdefault(slot, copy)
    return found


def part_uid(uid: Uid, slot: Slot) -> Uid:
    return owner_uid(uid, part_of(slot.pool.pool, slot.revision) + "@" + slot.pool.cluster)


def placement_of(intent: ServiceIntent, slot: Slot, pool: NodePool | None) -> Placement:
    """As if the part were a workload that is placed there."""
    return Placement(
        cluster=slot.pool.cluster,
        pool=slot.pool.pool,
        capacity_type="" if pool is None else pool.capacity_type,
        bought=pool is not None and pool.bought,
        state=PlacementState.STARTED,
        attempt=0,
        decided_at=intent.decided_at,
        decision=intent.decision,
        part=part_of(slot.pool.pool, slot.revision),
    )


def pod_sets(whole: Workload, replicas: int) -> tuple[PodSet, ...]:
    """Of a part with so many replicas: what a replica is comes first, what each copy has besides stays as it is."""
    first, *others = whole.pod_sets
    return (replace(first, count=replicas), *others)


def as_workloads(whole: Workload, intent: ServiceIntent, pools: Mapping[PoolRef, NodePool]) -> tuple[Workload, ...]:
    """The service's parts that are to be, for a snapshot."""
    if not whole.pod_sets:
        return ()
    return tuple(
        replace(
            whole,
            ref=replace(whole.ref, uid=part_uid(whole.ref.uid, slot)),
            placement=placement_of(intent, slot, pools.get(slot.pool)),
            pod_sets=pod_sets(whole, target.replicas),
            suspended=False,
            intent=None,
            part=part_of(slot.pool.pool, slot.revision),
        )
        for target in intent.targets
        if target.replicas > 0
        for slot in (Slot(target.pool, target.revision),)
    )


def as_copies(uid: Uid, intent: ServiceIntent, copies: Iterable[Copy]) -> tuple[Copy, ...]:
    """Their copies, each as that of its own part. What is asked for but not yet said there counts as wanted."""
    found = []
    for slot, copy in parts_of(copies, intent).items():
        target = intent.target(slot.pool, slot.revision)
        if target is None or copy.deleting:
            continue
        wanted = max(copy.pods_wanted, target.replicas)
        found.append(replace(copy, origin=part_uid(uid, slot), attempt=0, pods_wanted=wanted))
    return tuple(found)
