"""Services and offerings with sensible defaults, for tests of their division."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from scheduler.model.cluster import ON_DEMAND, OWNED, SPOT
from scheduler.model.ids import ClusterId, PoolId, PoolRef, QueueId, Uid, WorkloadRef
from scheduler.model.serving import (
    ClientDemand,
    ExpectedRate,
    ReplicaGroup,
    ReplicaSpeed,
    Revision,
    Service,
    ServiceView,
    ServingOffer,
)
from scheduler.model.serving_policy import ServingSLO

NOW = 1_790_000_000.0
POOLED = ReplicaSpeed(most_per_second=1.0, idle_p95_seconds=2.0, idle_first_token_seconds=0.0, pooled=True)
BATCHED = ReplicaSpeed(most_per_second=10.0, idle_p95_seconds=0.5, idle_first_token_seconds=0.2)


def a_pool(name: str) -> PoolRef:
    cluster, pool = name.split("/")
    return PoolRef(ClusterId(cluster), PoolId(pool))


def an_offer(name: str = "onprem/a10", **changes: Any) -> ServingOffer:
    """An offer whose names tell its kind: onprem/..., and .../...-spot."""
    pool = a_pool(name)
    owned, spot = pool.cluster == "onprem", pool.pool.endswith("spot")
    offer = ServingOffer(
        pool=pool,
        provider=str(pool.cluster),
        region=f"{pool.cluster}-1",
        gpu_model="A10G",
        capacity_type=OWNED if owned else SPOT if spot else ON_DEMAND,
        usd_per_replica_hour=Decimal("0.5") if owned else Decimal("0.4") if spot else Decimal("1.0"),
        most_replicas=10 if owned else 100,
        load_seconds=40.0,
        provisioning_seconds=0.0 if owned else 180.0,
        speed=POOLED,
    )
    return replace(offer, **changes)


def a_group(pool: str, wanted: int, ready: int | None = None, revision: str = "r1") -> ReplicaGroup:
    return ReplicaGroup(a_pool(pool), revision, wanted, wanted if ready is None else ready)


def a_service(*groups: ReplicaGroup, demand: float | None = 5.0, **changes: Any) -> Service:
    service = Service(
        ref=WorkloadRef("deployment", "default", "chat", Uid("u1")),
        queue=QueueId("serving"),
        revision="r1",
        revisions=(Revision("r1", NOW - 86400),),
        groups=groups,
        demand=(ClientDemand("eu", demand, NOW),),
    )
    return replace(service, **changes)


def an_slo(**changes: Any) -> ServingSLO:
    return replace(ServingSLO("chat", p95_first_token_seconds=1.0), **changes)


def a_view(service: Service, *offers: ServingOffer, slo: ServingSLO | None = None, **changes: Any) -> ServiceView:
    rate = sum(one.requests_per_second or 0.0 for one in service.demand)
    view = ServiceView(
        NOW,
        service,
        an_slo() if slo is None else slo,
        offers or (an_offer(), an_offer("aws/g5"), an_offer("aws/g5-spot"), an_offer("gcp/l4")),
        (ExpectedRate(100.0, rate), ExpectedRate(300.0, rate)),
    )
    return replace(view, **changes)
