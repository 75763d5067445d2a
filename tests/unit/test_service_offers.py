"""Where replicas of a service could be, as the cycle's own rooms and policies have it."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from scheduler.engine.serving.matching import is_divided, slo_of
from scheduler.engine.serving.offers import Expected, Offers, own_first
from scheduler.engine.serving.parts import as_copies, as_workloads
from scheduler.model.cluster import SPOT, Cluster
from scheduler.model.division import ReplicaTarget
from scheduler.model.ids import ClusterId, DecisionId, PoolRef, QueueId
from scheduler.model.policy import Budget, BurstRule, Constraints, Match, PolicySet, QueueSpec, Quota
from scheduler.model.service_intent import ServiceIntent
from scheduler.model.serving import ReplicaSpeed, ServingOffer
from scheduler.model.serving_policy import ServingSLO
from scheduler.model.workload import Copy, Workload
from scheduler.predict.first import FirstPredictor
from tests.builders.serving import a_pool
from tests.unit.engine_world import (
    bought_pool,
    cluster,
    copy_of,
    node,
    placement,
    pods,
    policy,
    policy_set,
    pool,
    snapshot,
    workload,
)

SPEED = ReplicaSpeed(2.0, 0.5)
EXPECTED = Expected(lambda one, where: SPEED, lambda where: 0.05 if where.capacity_type == SPOT else 0.0)
OWN = cluster("own", (pool("own", "hgx"),), (node("hgx", "n1"), node("hgx", "n2")))
CLOUD = cluster("cloud", (bought_pool("cloud", "od"), bought_pool("cloud", "spot", capacity_type=SPOT)))


def a_service(count: int = 1, **changes: Any) -> Workload:
    return replace(workload("chat", pods(count, gpus=2), runs_forever=True), **changes)


def offers(
    policies: PolicySet,
    *clusters: Cluster,
    service: Workload | None = None,
    others: tuple[Workload, ...] = (),
    copies: tuple[Copy, ...] = (),
    bound: dict[PoolRef, int] | None = None,
    about: int = 1,
    **changes: Any,
) -> tuple[dict[str, ServingOffer], int]:
    seen = snapshot(*(clusters or (OWN, CLOUD)), workloads=others, copies=copies, **changes)
    made = Offers(seen, policies, FirstPredictor(), EXPECTED).of(service or a_service(), bound or {}, about)
    return {str(one.pool): one for one in made.offers}, made.more


BURSTING = policy("any", burst=BurstRule())


def test_room_is_what_is_free_and_what_can_be_bought() -> None:
    running = workload("job", pods(1, gpus=4), placement=placement("own", "hgx"))
    busy = replace(OWN, nodes=(replace(OWN.nodes[0], used=running.requests, workload_pods=1), OWN.nodes[1]))
    found, more = offers(policy_set(BURSTING), busy, CLOUD, others=(running,), copies=(copy_of(running),))
    assert found["own/hgx"].most_replicas == 2 + 4
    assert found["cloud/od"].most_replicas == 4 * 4
    assert found["own/hgx"].provisioning_seconds == 0.0
    assert found["cloud/od"].provisioning_seconds == 240.0
    assert found["cloud/od"].load_seconds == found["own/hgx"].load_seconds == 15.0
    assert found["cloud/spot"].reclaims_per_hour == 0.05
    assert all(one.open and one.reachable and one.speed == SPEED for one in found.values())
    assert more > 10_000, "no quota limits it"


def test_jobs_that_are_owed_room_keep_it() -> None:
    owed = workload("job", pods(2, gpus=8), placement=placement("own", "hgx"))
    found, _ = offers(policy_set(BURSTING), others=(owed,))
    assert found["own/hgx"].most_replicas == 0


def test_its_own_pods_count_as_room_that_it_has() -> None:
    whole = a_service()
    intent = ServiceIntent("slo", DecisionId("d"), 0.0, ())
    from_pool = a_pool("own/hgx")
    target = replace(intent, targets=(_target(from_pool, 3),))
    parts = as_workloads(whole, target, {})
    seen = replace(OWN, nodes=(replace(OWN.nodes[0], used=pods(1, gpus=2).requests, workload_pods=1), OWN.nodes[1]))
    found, _ = offers(policy_set(BURSTING), seen, CLOUD, others=parts, bound={from_pool: 1})
    # One runs, two more have been given room, five more fit beside.
    assert found["own/hgx"].most_replicas == 8
    assert as_copies(whole.ref.uid, target, ()) == ()


def _target(where: PoolRef, count: int) -> ReplicaTarget:
    return ReplicaTarget(where, "r1", count)


@pytest.mark.parametrize(
    ("changes", "name", "why"),
    [
        ({"constraints": Constraints(clusters=("cloud",))}, "own/hgx", "in a cluster outside the policy"),
        (
            {"constraints": Constraints(regions=("region-own",))},
            "cloud/od",
            "in region region-cloud outside the policy",
        ),
        ({"constraints": Constraints(capacity_types=("owned", "on-demand"))}, "cloud/spot", "spot not allowed"),
        ({"burst": None}, "cloud/od", "not to be bought by its policy"),
    ],
)
def test_what_a_policy_forbids_is_closed(changes: dict[str, Any], name: str, why: str) -> None:
    found, _ = offers(policy_set(replace(BURSTING, **changes)))
    assert (found[name].open, found[name].why_closed, found[name].most_replicas) == (False, why, 0)
    assert any(one.open for one in found.values())


def test_what_passes_again_adds_nothing_and_moves_nothing() -> None:
    capped = replace(BURSTING, constraints=Constraints(max_usd_per_gpu_hour=Decimal("1.5")))
    found, _ = offers(policy_set(capped), bound={a_pool("cloud/od"): 2})
    assert found["cloud/od"].open, "16 USD for 8 GPUs are over the cap"
    assert found["cloud/od"].most_replicas == 2
    assert found["own/hgx"].most_replicas == 8


def test_lost_and_quarantined_places_are_closed() -> None:
    lost = replace(CLOUD, unreachable_since=5.0)
    ill = replace(OWN, pools=(replace(OWN.pools[0], quarantined=True),))
    found, _ = offers(policy_set(BURSTING), ill, lost)
    assert not any(one.open for one in found.values())
    assert [found[name].reachable for name in ("own/hgx", "cloud/od")] == [True, False]
    assert found["own/hgx"].why_closed == "quarantined because of an incident"
    avoiding = a_service()
    avoiding = replace(avoiding, hints=replace(avoiding.hints, avoided_pools=(a_pool("own/hgx"),)))
    found, _ = offers(policy_set(BURSTING), service=avoiding)
    assert found["own/hgx"].why_closed == "where it did badly"


def test_limits_on_what_is_bought() -> None:
    def most(policies: PolicySet, **changes: Any) -> int:
        return offers(policies, **changes)[0]["cloud/od"].most_replicas

    assert most(policy_set(replace(BURSTING, burst=BurstRule(max_nodes=1)))) == 4
    assert most(policy_set(BURSTING), bursting_paused=True) == 0
    broke = replace(BURSTING, budgets=(Budget("month", Decimal(10), "month"),))
    assert most(policy_set(broke)) == 0, "an hour of a node costs 16 USD"
    unpriced = cluster("cloud", (bought_pool("cloud", "od", price=None),))
    found, _ = offers(policy_set(BURSTING), OWN, unpriced)
    assert found["cloud/od"].usd_per_replica_hour is None
    assert found["cloud/od"].open


def test_a_quota_limits_all_places_together() -> None:
    queue = QueueSpec(QueueId("team"), quotas=(Quota("gpu", 7),))
    _, more = offers(policy_set(BURSTING, queues=(queue,)))
    assert more == 3


def test_no_policy_no_place() -> None:
    found, _ = offers(policy_set(policy("other", match=Match(queues=("other",)))))
    assert {one.why_closed for one in found.values()} == {"not for it: no PlacementPolicy matches it"}


@pytest.mark.parametrize(
    ("about", "want"),
    [(1, "16"), (2, "8"), (4, "4"), (5, "6.4"), (8, "4")],  # whole nodes of four replicas, 16 USD each
)
def test_bought_replicas_cost_whole_nodes(about: int, want: str) -> None:
    found, _ = offers(policy_set(BURSTING), about=about)
    assert found["cloud/od"].usd_per_replica_hour == Decimal(want)
    assert found["own/hgx"].usd_per_replica_hour == Decimal(2), "a quarter of an owned node that costs 8"


def test_an_objective_that_puts_own_capacity_first_is_kept_to() -> None:
    found, _ = offers(policy_set(replace(BURSTING, objective="onprem-first")))
    assert found["own/hgx"].usd_per_replica_hour == Decimal("0.002")
    assert [own_first(name) for name in ("cost", "onprem-first", "completion-time")] == [False, True, False]


@pytest.mark.parametrize(
    ("match", "changes", "want"),
    [
        (Match(), {}, True),
        (Match(labels=(("app", "chat"),)), {}, False),
        (Match(labels=(("app", "chat"),)), {"labels": (("app", "chat"), ("x", "y"))}, True),
        (Match(queues=("other",)), {}, False),
        (Match(kinds=("job",)), {}, True),
        (Match(), {"runs_forever": False}, False),
    ],
)
def test_which_slo_speaks_for_a_workload(match: Match, changes: dict[str, Any], want: bool) -> None:
    policies = policy_set(serving=(ServingSLO("b", match=match), ServingSLO("a", precedence=-1)))
    service = a_service(**changes)
    found = slo_of(service, policies)
    assert (found is not None and found.name == "b") is want
    runs = replace(service, placement=placement("own", "hgx"))
    assert is_divided(service, policies) is service.runs_forever
    assert not is_divided(runs, policies), "what runs as a whole is taken over first"
    assert ClusterId("own") == OWN.id
