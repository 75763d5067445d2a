"""Which other run is on the same GPU: what Kubernetes tells of that, and no more."""

from __future__ import annotations

from scheduler.daemon.state.mirror import Mirror
from scheduler.model.ids import Uid
from scheduler.predict.alike import replicas_of


def only_neighbour(mirror: Mirror, uid: Uid) -> Uid | None:
    """The one other workload of ours on its GPU; None: none, several, or nobody can say.

    Kubernetes names nodes, not GPUs, so it can be said only where a node has one GPU that is handed out several times.
    Pods that are not ours are not seen.
    """
    workload = mirror.workload(uid)
    placement = None if workload is None else workload.placement
    pool = None if placement is None else mirror.pool(placement.pool_ref)
    if pool is None or not pool.node_resources.gpus == replicas_of(pool) > 1:
        return None
    member = mirror.members[pool.ref.cluster]
    nodes_of = {
        entry.copy.origin: {node for node, held in member.copy_now(entry).holds if held.gpus}
        for entry in member.copies.values()
    }
    mine = nodes_of.pop(uid, set())
    others = [other for other, nodes in nodes_of.items() if nodes & mine]
    return others[0] if len(mine) == 1 and len(others) == 1 else None
