"""Giving bought nodes back: which idle ones, and after how long."""

from __future__ import annotations

from scheduler.engine.filters import duration_text
from scheduler.engine.world import World
from scheduler.model.plan import RemoveNode


def removals(world: World) -> tuple[RemoveNode, ...]:
    """Bought nodes that have been idle for long enough and that nothing assumed in this cycle needs.

    The pool keeps its minimum; a node marked do-not-disrupt, or with any workload pod, stays. A node that is being
    given back already is named again until it is gone, so that a crash in between heals.
    """
    found: list[RemoveNode] = []
    for room in world.rooms.values():
        pool = room.pool
        if not pool.bought or pool.desired_nodes is None or not room.cluster.available or not room.idle_nodes:
            continue
        idle = world.idle_seconds(room)
        needed = {bin_.key for bin_ in (*room.ready, *room.coming) if bin_.taken}
        spare = pool.desired_nodes - pool.min_nodes
        for node in sorted(room.nodes, key=lambda node: (node.idle_since or 0.0, node.name)):
            if node.deleting or node.workload_pods or node.idle_since is None or node.do_not_disrupt:
                continue
            if node.name in needed or spare <= 0 or (pool.keeps_size and not node.unschedulable):
                continue
            # Nothing can come to a node that is closed: there is nothing to wait for.
            if not node.unschedulable and world.now < node.idle_since + idle:
                world.wake_at(node.idle_since + idle)
                continue
            spare -= 1
            why = "idle and closed" if node.unschedulable else f"idle for {duration_text(idle)}"
            found.append(RemoveNode(pool.ref, node.name, node.uid, why))
    return tuple(found)
