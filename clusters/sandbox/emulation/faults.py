"""Faults that can be made to strike an emulated cluster, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from clusters.sandbox.emulation.kubelet import Kubelets
from clusters.sandbox.emulation.node_lifecycle import NodeLifecycle
from clusters.sandbox.emulation.pools import NodePools
from clusters.sandbox.emulation.timers import Timers
from clusters.sandbox.scenario import FaultPlan
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ports import Clock

NODE_NOT_READY: Final = "node-not-ready"
NODE_LOST: Final = "node-lost"
NODE_RESTORED: Final = "node-restored"
API_SILENT: Final = "api-silent"
CAPACITY_SHORTAGE: Final = "capacity-shortage"
CAPACITY_RESTORED: Final = "capacity-restored"
SPOT_RECLAIM: Final = "spot-reclaim"
SLOW_PROVISIONING: Final = "slow-provisioning"
GPU_XID: Final = "gpu-xid"
"""The node's first GPU reports the error `code`, and goes on reporting it: the exporter's gauge holds the last one."""
KINDS: Final = (
    NODE_NOT_READY, NODE_LOST, NODE_RESTORED, API_SILENT, CAPACITY_SHORTAGE, CAPACITY_RESTORED, SPOT_RECLAIM,
    SLOW_PROVISIONING, GPU_XID,
)  # fmt: skip


class Afflicted(Protocol):
    """The parts of a cluster that faults act upon."""

    name: str
    kubelets: Kubelets
    lifecycle: NodeLifecycle
    pools: NodePools
    xids: dict[str, int]

    def knows_node(self, node: str) -> bool: ...


def strike(
    cluster: Afflicted, fault: FaultPlan, clock: Clock, timers: Timers, silence_api: Callable[[float], None]
) -> None:
    """Make `fault` happen now; one with `seconds` ends by itself after so much virtual time.

    Raises: InvalidObjectError for an unknown kind, node or pool.
    """
    if fault.kind not in KINDS:
        raise InvalidObjectError(f"fault kind {fault.kind!r} is not known; known: {', '.join(KINDS)}")
    if fault.kind == API_SILENT:
        if fault.seconds is None:
            raise InvalidObjectError("fault api-silent needs `seconds`: for how long the API gives no answer")
        silence_api(fault.seconds)
    elif fault.kind in (NODE_NOT_READY, NODE_LOST, NODE_RESTORED, SPOT_RECLAIM, GPU_XID):
        _strike_node(cluster, fault, clock, timers)
    else:
        _strike_pool(cluster, fault)


def _strike_node(cluster: Afflicted, fault: FaultPlan, clock: Clock, timers: Timers) -> None:
    node = fault.node
    if not cluster.knows_node(node):
        raise InvalidObjectError(f"fault {fault.kind}: cluster {cluster.name} has no node {node!r}")

    if fault.kind == GPU_XID:
        cluster.xids[node] = fault.code
        return

    def restore(_: float) -> None:
        cluster.kubelets.restore(node)
        cluster.lifecycle.mark_ready(node)

    if fault.kind == NODE_RESTORED:
        restore(clock.now())
        return
    try:
        if fault.kind == SPOT_RECLAIM:
            cluster.pools.reclaim(node)
            return
        if fault.kind == NODE_LOST and cluster.pools.lose(node):
            return
    except KeyError as error:
        raise InvalidObjectError(f"fault {fault.kind}: node {node!r} belongs to no emulated pool") from error
    cluster.kubelets.silence(node)
    cluster.lifecycle.mark_not_ready(node)
    if fault.seconds is not None:
        timers.at(clock.now() + fault.seconds, restore)


def _strike_pool(cluster: Afflicted, fault: FaultPlan) -> None:
    try:
        if fault.kind == CAPACITY_SHORTAGE:
            cluster.pools.run_dry(fault.pool, fault.seconds)
        elif fault.kind == CAPACITY_RESTORED:
            cluster.pools.refill(fault.pool)
        else:
            cluster.pools.slow_down(fault.pool, fault.factor)
    except KeyError as error:
        raise InvalidObjectError(f"fault {fault.kind}: cluster {cluster.name} has no pool {fault.pool!r}") from error
