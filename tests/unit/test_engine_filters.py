"""Each filter, by a pool and a policy that it refuses, and one that it lets pass."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from scheduler.engine.cycle import cycle
from scheduler.engine.filters import duration_text, same_model
from scheduler.engine.packing import tolerated
from scheduler.model.cluster import SPOT, Node, NodePool, Taint
from scheduler.model.contract import LABEL_RESIDENCY, TAINT_DRAINING
from scheduler.model.ids import PoolRef
from scheduler.model.plan import Plan
from scheduler.model.policy import Budget, BurstRule, Constraints
from scheduler.model.snapshot import Backoff
from scheduler.model.workload import Hints, PodSet, Toleration, Workload
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import (
    GIB,
    NOW,
    amount,
    bought_pool,
    cluster,
    node,
    pods,
    policy,
    policy_set,
    pool,
    snapshot,
    workload,
)

OWNED_POOL = pool("eu", "a")
CLOUD_POOL = bought_pool("eu", "a")


def plan_for(
    one: NodePool,
    job: Workload,
    *,
    limits: Constraints | None = None,
    rule: BurstRule | None = None,
    nodes: tuple[Node, ...] | None = None,
    paused: bool = False,
    backoff: bool = False,
    budgets: tuple[Budget, ...] = (),
    **member: Any,
) -> Plan:
    here = (node("a", "n1"),) if nodes is None else nodes
    if one.bought and nodes is None:
        here = ()
    changes: dict[str, Any] = {"region": "eu-1", "labels": ((LABEL_RESIDENCY, "eu"),)} | member
    backoffs = (Backoff(PoolRef(one.ref.cluster, one.ref.pool), NOW + 60, 1, "no capacity"),) if backoff else ()
    snap = snapshot(cluster("eu", (one,), here, **changes), workloads=(job,), bursting_paused=paused, backoffs=backoffs)
    rules = policy_set(policy(constraints=limits or Constraints(), burst=rule, budgets=budgets))
    return cycle(snap, rules, FirstPredictor())


def refusal(plan: Plan) -> str | None:
    """The code with which the only offering was refused; None when it was taken."""
    (decision,) = plan.decisions
    assert decision.sentence
    if decision.outcome != "held":
        return None
    assert decision.sentence.startswith("0/1 offerings: 1 ")
    return decision.alternatives[0].refused[0].code


JOB = workload("w")
TIMED = workload("w", hints=Hints(expected_seconds=7200.0))


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, None),
        ({"synced": False}, "ClusterUnavailable"),
        ({"unreachable_since": NOW - 5}, "ClusterUnavailable"),
        ({"limits": Constraints(clusters=("us",))}, "ClusterNotAllowed"),
        ({"limits": Constraints(clusters=("eu",))}, None),
        ({"limits": Constraints(excluded_clusters=("eu",))}, "ClusterNotAllowed"),
        ({"limits": Constraints(providers=("eks",))}, "ClusterNotAllowed"),
        ({"limits": Constraints(regions=("us-1",))}, "RegionNotAllowed"),
        ({"limits": Constraints(residency=("us",))}, "OutsideResidency"),
        ({"limits": Constraints(residency=("eu",))}, None),
        ({"limits": Constraints(residency=("eu",)), "labels": ()}, "OutsideResidency"),
        ({"limits": Constraints(capacity_types=("spot",))}, "CapacityTypeNotAllowed"),
        ({"limits": Constraints(gpu_models=("H100",))}, "WrongGpu"),
        ({"limits": Constraints(gpu_models=("A100",))}, None),
        ({"job": workload("w", pods(gpu_models=("H100", "L4")))}, "WrongGpu"),
        ({"job": workload("w", pods(gpus=0, gpu_models=("H100",)))}, None),
        ({"pool": pool("eu", "a", gpu_model=None), "limits": Constraints(gpu_models=("A100",))}, "WrongGpu"),
        ({"limits": Constraints(min_gpu_memory_bytes=141 * GIB)}, "GpuMemoryTooSmall"),
        ({"limits": Constraints(min_gpu_memory_bytes=80 * GIB)}, None),
        (
            {"pool": pool("eu", "a", gpu_memory_bytes=None), "limits": Constraints(min_gpu_memory_bytes=1)},
            "GpuMemoryTooSmall",
        ),
        ({"job": workload("w", pods(node_selector=(("zone", "b"),)))}, "SelectorMismatch"),
        ({"job": workload("w", pods(node_selector=(("pool", "a"),)))}, None),
        ({"job": workload("w", pods(gpus=9))}, "PodTooLarge"),
        ({"limits": Constraints(max_usd_per_gpu_hour=Decimal("0.99"))}, "OverPriceCap"),
        ({"limits": Constraints(max_usd_per_gpu_hour=Decimal("1"))}, None),
        ({"pool": pool("eu", "a", price=None), "limits": Constraints(max_usd_per_gpu_hour=Decimal(9))}, "PriceUnknown"),
        ({"pool": pool("eu", "a", price=None)}, None),
        ({"pool": bought_pool("eu", "a", price=None), "rule": BurstRule()}, "PriceUnknown"),
        ({"limits": Constraints(max_usd_per_run=Decimal(9))}, "DurationUnknown"),
        ({"limits": Constraints(max_usd_per_run=Decimal("1.99")), "job": TIMED}, "OverRunCost"),
        ({"limits": Constraints(max_usd_per_run=Decimal("2")), "job": TIMED}, None),
        ({"limits": Constraints(max_round_trip_seconds=0.1)}, "RoundTripTooHigh"),
        ({"limits": Constraints(max_round_trip_seconds=0.1), "round_trip_seconds": 0.2}, "RoundTripTooHigh"),
        ({"limits": Constraints(max_round_trip_seconds=0.1), "round_trip_seconds": 0.1}, None),
        ({"job": workload("w", pods(2, 8))}, "NoRoomNow"),
        ({"nodes": (node("a", "n1", ready=False),)}, "NoRoomNow"),
        ({"nodes": (node("a", "n1", unschedulable=True),)}, "NoRoomNow"),
        ({"nodes": (node("a", "n1", deleting=True),)}, "NoRoomNow"),
        ({"nodes": (node("a", "n1", taints=(Taint("x", "y", "NoSchedule"),)),)}, "NoRoomNow"),
        ({"nodes": (node("a", "n1", taints=(Taint("x", "y", "PreferNoSchedule"),)),)}, None),
        ({"nodes": (node("a", "n1", taints=(Taint(TAINT_DRAINING, "", "NoSchedule"),)),)}, "NoRoomNow"),
        ({"nodes": (node("a", "n1", used=amount(8), workload_pods=1),)}, "NoRoomNow"),
        ({"nodes": (node("b", "n1"),)}, "NoRoomNow"),
        ({"pool": CLOUD_POOL}, "BurstNotAllowed"),
        ({"pool": CLOUD_POOL, "rule": BurstRule()}, None),
        ({"pool": CLOUD_POOL, "rule": BurstRule(), "paused": True}, "BurstPaused"),
        ({"pool": CLOUD_POOL, "rule": BurstRule(), "backoff": True}, "BackedOff"),
        ({"pool": CLOUD_POOL, "rule": BurstRule(60.0)}, "BurstWaiting"),
        ({"pool": CLOUD_POOL, "rule": BurstRule(max_nodes=0)}, "BurstLimit"),
        ({"pool": CLOUD_POOL, "rule": BurstRule(), "job": workload("w", pods(5, 8))}, "PoolAtMax"),
        ({"pool": bought_pool("eu", "a", desired_nodes=None), "rule": BurstRule()}, "PoolNotResizable"),
        (
            {"pool": bought_pool("eu", "a", scaling="external", capacity_type=SPOT), "nodes": (), "rule": BurstRule()},
            "NoRoomNow",
        ),
        # 16 USD/h for 7200 s of run, 255 s of start and 300 s idle: 34.47 USD.
        (
            {
                "pool": CLOUD_POOL,
                "rule": BurstRule(),
                "job": TIMED,
                "budgets": (Budget("b", Decimal("34.46"), "total"),),
            },
            "OverBudget",
        ),
        (
            {
                "pool": CLOUD_POOL,
                "rule": BurstRule(),
                "job": TIMED,
                "budgets": (Budget("b", Decimal("34.47"), "total"),),
            },
            None,
        ),
    ],
)
def test_an_offering_is_refused_for_the_right_reason(changes: dict[str, Any], want: str | None) -> None:
    given = dict(changes)
    plan = plan_for(given.pop("pool", OWNED_POOL), given.pop("job", JOB), **given)
    assert refusal(plan) == want
    assert len(plan.placements) == (want is None)


def test_bought_nodes_that_are_there_and_free_need_no_wait() -> None:
    idle = plan_for(
        bought_pool("eu", "a", desired_nodes=1), JOB, rule=BurstRule(600.0), nodes=(node("a", "n1", idle_since=NOW),)
    )
    assert refusal(idle) is None
    assert not idle.scales
    assert (
        plan_for(bought_pool("eu", "a", desired_nodes=1), JOB, nodes=(node("a", "n1"),)).decisions[0].outcome == "held"
    )


def test_declared_taints_do_not_refuse_and_others_do() -> None:
    declared = Taint("nvidia.com/gpu", "present", "NoSchedule")
    tainted = (node("a", "n1", taints=(declared,)),)
    assert refusal(plan_for(pool("eu", "a", taints=(declared,)), JOB, nodes=tainted)) is None
    assert refusal(plan_for(OWNED_POOL, JOB, nodes=tainted)) == "NoRoomNow"
    tolerant = workload("w", pods(tolerations=(Toleration("nvidia.com/gpu", "Exists", "", ""),)))
    assert refusal(plan_for(OWNED_POOL, tolerant, nodes=tainted)) is None


@pytest.mark.parametrize(
    ("toleration", "want"),
    [
        (Toleration("", "Exists", "", ""), True),
        (Toleration("k", "Exists", "", ""), True),
        (Toleration("k", "Equal", "v", "NoSchedule"), True),
        (Toleration("k", "", "v", ""), True),
        (Toleration("k", "Equal", "other", ""), False),
        (Toleration("k", "Exists", "", "NoExecute"), False),
        (Toleration("other", "Exists", "", ""), False),
    ],
)
def test_tolerations_are_read_as_kubernetes_reads_them(toleration: Toleration, want: bool) -> None:
    assert tolerated(Taint("k", "v", "NoSchedule"), (toleration,)) is want


@pytest.mark.parametrize(
    ("late_pool_fits", "want"),
    [pytest.param(True, "fast", id="another can"), pytest.param(False, "slow", id="none can")],
)
def test_a_missed_deadline_refuses_only_while_another_offering_meets_it(late_pool_fits: bool, want: str) -> None:
    job = workload("w", hints=Hints(expected_seconds=600.0, deadline_at=NOW + 700))
    slow = cluster("slow", (bought_pool("slow", "p", price=OWNED_POOL.price),))
    fast = cluster("fast", (pool("fast", "p"),), (node("p", "n1", ready=late_pool_fits),))
    rules = policy_set(policy(objective="cost", burst=BurstRule()))
    plan = cycle(snapshot(slow, fast, workloads=(job,)), rules, FirstPredictor())
    assert plan.placements[0].placement.cluster == want
    late = [each for each in plan.decisions[0].refused if each[0].code == "DeadlineMissed"]
    assert bool(late) is late_pool_fits


@pytest.mark.parametrize(
    ("sets", "want_placed"),
    [
        pytest.param((pods(2, 4),), True, id="two halves on one node"),
        pytest.param((pods(1, 8), pods(1, 0, name="driver")), True, id="a driver beside a full node of GPUs"),
        pytest.param((pods(3, 4),), False, id="never a part of a gang"),
        pytest.param((pods(1, 4, cpu=90), pods(1, 4, cpu=90, name="b")), False, id="short of CPU together"),
    ],
)
def test_a_gang_is_placed_whole_or_not_at_all(sets: tuple[PodSet, ...], want_placed: bool) -> None:
    assert bool(plan_for(OWNED_POOL, workload("w", *sets)).placements) is want_placed


@pytest.mark.parametrize(
    ("model", "wanted", "want"),
    [
        ("A100-80GB", "A100", True),
        ("A100-80GB", "a100-80gb", True),
        ("A100-80GB", "A10", False),
        ("A100", "A100-80GB", False),
        (None, "A100", False),
    ],
)
def test_a_gpu_family_accepts_its_members(model: str | None, wanted: str, want: bool) -> None:
    assert same_model(model, wanted) is want


@pytest.mark.parametrize(
    ("seconds", "want"),
    [(0, "0s"), (45, "45s"), (90, "90s"), (60, "1m"), (600, "10m"), (3600, "1h"), (9000, "2h30m"), (3725, "1h2m5s")],
)
def test_durations_read_as_people_write_them(seconds: float, want: str) -> None:
    assert duration_text(seconds) == want
