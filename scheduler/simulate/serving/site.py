"""Where a replayed service can run: pools with prices, leads and speeds, and how far clients are from each cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from scheduler.model.cluster import Cluster, NodePool
from scheduler.model.ids import ClusterId, PoolRef
from scheduler.model.money import Usd


@dataclass(frozen=True, slots=True)
class ServingPool:
    """A node pool as it is; a replica takes `gpus` of a node's GPUs, and its part of the node's price."""

    pool: PoolRef
    provider: str
    region: str
    gpu_model: str | None
    capacity_type: str
    usd_per_replica_hour: Usd | None
    most_replicas: int
    provisioning_seconds: float
    """0: its nodes are there."""
    speed: float
    """Against the workers of the log."""

    @property
    def owned(self) -> bool:
        return self.provisioning_seconds <= 0


@dataclass(frozen=True, slots=True)
class ServingSite:
    pools: tuple[ServingPool, ...]
    """By pool."""
    load_seconds: float = 45.0
    """Image, model load and start-up of a replica, on a node that is there; median."""
    spread: float = 0.25
    """Of provisioning and loading, log-normal."""
    latency: Mapping[tuple[str, ClusterId], float] = field(default_factory=lambda: MappingProxyType({}))
    """Round trip by client region and cluster, seconds; what is not there is 0."""
    spot_reclaims_per_hour: float = 0.03

    def way(self, region: str, cluster: ClusterId) -> float:
        return self.latency.get((region, cluster), 0.0)

    @property
    def clusters(self) -> tuple[ClusterId, ...]:
        return tuple(sorted({pool.pool.cluster for pool in self.pools}))


def serving_pools(
    clusters: tuple[Cluster, ...],
    owned_nodes: Mapping[PoolRef, int],
    speeds: Mapping[str, float],
    gpus: int = 1,
    default_provisioning_seconds: float = 240.0,
) -> tuple[ServingPool, ...]:
    """The pools of a federation that have GPUs. `speeds`: by GPU model; what is not there is 1."""
    found = [
        _serving_pool(cluster, pool, owned_nodes, speeds, gpus, default_provisioning_seconds)
        for cluster in clusters
        for pool in cluster.pools
        if pool.node_resources.gpus >= gpus
    ]
    return tuple(sorted(found, key=lambda one: one.pool))


def _serving_pool(
    cluster: Cluster,
    pool: NodePool,
    owned_nodes: Mapping[PoolRef, int],
    speeds: Mapping[str, float],
    gpus: int,
    provisioning: float,
) -> ServingPool:
    each = pool.node_resources.gpus // gpus
    nodes = pool.max_nodes if pool.bought else owned_nodes.get(pool.ref, pool.min_nodes)
    return ServingPool(
        pool=pool.ref,
        provider=cluster.provider,
        region=cluster.region,
        gpu_model=pool.gpu_model,
        capacity_type=pool.capacity_type,
        usd_per_replica_hour=None if pool.price is None else pool.price.usd_per_hour / each,
        most_replicas=nodes * each,
        provisioning_seconds=0.0
        if not pool.bought
        else (provisioning if pool.provisioning_seconds is None else pool.provisioning_seconds),
        speed=speeds.get(pool.gpu_model or "", 1.0),
    )
