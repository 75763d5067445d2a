"""How large each managed pool should be: level-triggered from what is assumed on it, so asking twice asks the same."""

from __future__ import annotations

from scheduler.engine.rooms import PoolRoom
from scheduler.engine.world import World
from scheduler.model.plan import ScalePool


def scales(world: World) -> tuple[ScalePool, ...]:
    """Pools to resize, in order of their names."""
    wanted = (_scale(room) for room in world.rooms.values() if room.growable and room.cluster.available)
    return tuple(scale for scale in wanted if scale is not None)


def _scale(room: PoolRoom) -> ScalePool | None:
    """Up by the nodes opened in this cycle; down only by machines that have no node yet and that nothing needs.

    A node that is there is never taken away by size (the provider would choose which): `give_back` names it.
    """
    pool = room.pool
    desired = pool.desired_nodes or 0
    if room.opened:
        target = min(pool.max_nodes, max(pool.min_nodes, room.base + len(room.opened)))
        if target > desired:
            why = f"{len(room.opened)} more for the workloads placed on it"
            return ScalePool(pool.ref, desired, target, why)
        return None
    unneeded = 0 if pool.keeps_size else sum(not bin_.taken for bin_ in room.booked)
    target = max(pool.min_nodes, desired - unneeded)
    if unneeded and target < desired:
        why = f"{desired - target} ordered but not there yet, and nothing needs them any more"
        return ScalePool(pool.ref, desired, target, why)
    return None
