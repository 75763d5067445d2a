"""Small builders for engine tests: a pool, a cluster, a workload in one line each."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from scheduler.model.cluster import ON_DEMAND, OWNED, Cluster, Node, NodePool
from scheduler.model.ids import ClusterId, NodeName, PoolId, PoolRef, QueueId, Uid, WorkloadRef
from scheduler.model.money import Price
from scheduler.model.policy import BurstRule, PlacementPolicy, PolicySet
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Copy, CopyState, Placement, PlacementState, PodSet, Workload

NOW = 1_790_000_000.0
GIB = 2**30


def amount(gpus: int = 0, cpu: int = 0, memory: int = 0, pods: int = 0) -> Resources:
    """GPUs, whole cores, GiB, pods."""
    return Resources(cpu * 1000, memory * GIB, gpus, pods)


NODE_SIZE = amount(8, 96, 960, 110)


def pool(cluster: str, name: str, **changes: Any) -> NodePool:
    """An owned, fixed pool of 8-GPU nodes."""
    base = NodePool(
        ref=PoolRef(ClusterId(cluster), PoolId(name)),
        capacity_type=OWNED,
        scaling="fixed",
        instance_type="hgx",
        min_nodes=0,
        max_nodes=0,
        desired_nodes=None,
        node_resources=NODE_SIZE,
        gpu_model="A100-80GB",
        gpu_memory_bytes=80 * GIB,
        labels=(("pool", name),),
        selector=(("pool", name),),
        taints=(),
        price=Price(Decimal("8"), "test", NOW),
        provisioning_seconds=None,
    )
    return replace(base, **changes)


def bought_pool(cluster: str, name: str, **changes: Any) -> NodePool:
    """An on-demand pool that Overspill resizes, 0..4 nodes, none now, 16 USD an hour, there in 240 s."""
    defaults: dict[str, Any] = {
        "capacity_type": ON_DEMAND,
        "scaling": "managed",
        "max_nodes": 4,
        "desired_nodes": 0,
        "price": Price(Decimal("16"), "test", NOW),
        "provisioning_seconds": 240.0,
    }
    return pool(cluster, name, **(defaults | changes))


def node(pool_name: str, name: str, **changes: Any) -> Node:
    base = Node(
        name=NodeName(name),
        uid=f"uid-{name}",
        pool=PoolId(pool_name),
        allocatable=NODE_SIZE,
        used=Resources(),
        workload_pods=0,
        labels=(("pool", pool_name),),
        taints=(),
        ready=True,
        unschedulable=False,
        deleting=False,
        created_at=NOW - 3600,
    )
    return replace(base, **changes)


def cluster(name: str, pools: tuple[NodePool, ...], nodes: tuple[Node, ...] = (), **changes: Any) -> Cluster:
    base = Cluster(ClusterId(name), "test", f"region-{name}", (), True, None, nodes, pools)
    return replace(base, **changes)


def pods(count: int = 1, gpus: int = 1, cpu: int = 8, memory: int = 64, **changes: Any) -> PodSet:
    return replace(PodSet("main", count, amount(gpus, cpu, memory, 1)), **changes)


def workload(name: str, *pod_sets: PodSet, queue: str = "team", **changes: Any) -> Workload:
    base = Workload(
        ref=WorkloadRef("job", "default", name, Uid(f"uid-{name}")),
        queue=QueueId(queue),
        priority=0,
        created_at=NOW,
        queued_at=NOW,
        pod_sets=pod_sets or (pods(),),
    )
    return replace(base, **changes)


def placement(
    cluster_name: str, pool_name: str, state: PlacementState = PlacementState.STARTED, **changes: Any
) -> Placement:
    base = Placement(
        ClusterId(cluster_name), PoolId(pool_name), OWNED, False, state, attempt=1, decided_at=NOW, decision="d"
    )
    return replace(base, **changes)


def copy_of(of: Workload, **changes: Any) -> Copy:
    """A running copy with all its pods bound."""
    assert of.placement is not None
    wanted = of.requests.pods
    base = Copy(
        origin=of.ref.uid,
        cluster=of.placement.cluster,
        kind="job",
        namespace="default",
        name=of.ref.name,
        uid=Uid(f"copy-{of.ref.name}"),
        attempt=of.placement.attempt,
        state=CopyState.RUNNING,
        suspended=False,
        deleting=False,
        created_at=of.placement.decided_at,
        started_at=of.placement.decided_at,
        finished_at=None,
        pods_wanted=wanted,
        pods_bound=wanted,
    )
    return replace(base, **changes)


def snapshot(*clusters: Cluster, workloads: tuple[Workload, ...] = (), **changes: Any) -> Snapshot:
    return replace(Snapshot(NOW, True, clusters, workloads), **changes)


def policy(name: str = "any", **changes: Any) -> PlacementPolicy:
    """Matches everything, may buy at once."""
    return replace(PlacementPolicy(name, burst=BurstRule()), **changes)


def policy_set(*policies: PlacementPolicy, **changes: Any) -> PolicySet:
    return replace(PolicySet(policies or (policy(),), digest="digest"), **changes)
