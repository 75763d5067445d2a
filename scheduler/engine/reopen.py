"""Nodes that were closed for a move which came to nothing take pods again.

A move and the closing of the node that it empties are two writes; either may fail. Which nodes Overspill has closed is
written on them. Such a node stays closed while somebody on it is to go; once all who are on it stay it is opened. One
that is empty goes back instead (`give_back`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from scheduler.engine.world import World
from scheduler.model.cluster import Node
from scheduler.model.contract import TAINT_DRAINING, TAINT_REMEDIATION
from scheduler.model.ids import ClusterId, NodeName, PoolRef
from scheduler.model.plan import OpenNode
from scheduler.model.workload import Copy, PlacementState, Workload

_HELD: Final = frozenset((TAINT_DRAINING, TAINT_REMEDIATION))
"""Somebody of ours keeps it closed for another reason."""


def openings(world: World, emptied: Collection[tuple[PoolRef, NodeName]]) -> tuple[OpenNode, ...]:
    """In order of their names; `emptied`: nodes that this very cycle moves somebody off."""
    closed = [
        (room.pool.ref, node)
        for room in world.rooms.values()
        for node in room.closed
        if room.cluster.available and _may_open(node) and (room.pool.ref, node.name) not in emptied
    ]
    if not closed:
        return ()
    staying, going = _who_stays(world)
    return tuple(
        OpenNode(ref, node.name, node.uid, "what is on it stays")
        for ref, node in closed
        if (ref.cluster, node.name) in staying and (ref.cluster, node.name) not in going
    )


def _may_open(node: Node) -> bool:
    return not node.deleting and node.reclaim is None and not any(taint.key in _HELD for taint in node.taints)


def _who_stays(world: World) -> tuple[set[tuple[ClusterId, NodeName]], set[tuple[ClusterId, NodeName]]]:
    """(nodes with somebody on them who stays, those with somebody who is to go)."""
    staying: set[tuple[ClusterId, NodeName]] = set()
    going: set[tuple[ClusterId, NodeName]] = set()
    for workload in world.workloads:
        placement = workload.placement
        if placement is None:
            continue
        for name in {placement.cluster, placement.moved_from}:
            copy = None if name is None else world.copies.get((workload.ref.uid, name))
            if copy is not None:
                found = staying if _stays(world, workload, copy) else going
                found.update((copy.cluster, node) for node, _ in copy.holds)
    return staying, going


def _stays(world: World, workload: Workload, copy: Copy) -> bool:
    placement = workload.placement
    return (
        placement is not None
        and placement.state is PlacementState.STARTED
        and (placement.cluster, placement.attempt) == (copy.cluster, copy.attempt)
        and not (workload.deleting or workload.finished or copy.finished or workload.ref.uid in world.released)
    )
