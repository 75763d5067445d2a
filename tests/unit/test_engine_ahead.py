"""Nodes are bought for forecast demand when a policy says so, within every limit, and never instead of who waits."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from scheduler.engine.cycle import cycle
from scheduler.model.ids import QueueId
from scheduler.model.plan import Plan
from scheduler.model.policy import Budget, BurstRule, QueueSpec, Quota
from scheduler.model.snapshot import ExpectedDemand, Snapshot
from scheduler.model.workload import Hints
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import (
    NOW,
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

EXPECTED = ExpectedDemand(NOW + 900.0, QueueId("team"), 2, (pods(1, 8),), hints=Hints(expected_seconds=3600.0))


def world(*, owned: int = 0, demand: ExpectedDemand = EXPECTED, **changes: Any) -> Snapshot:
    home = cluster("onprem", (pool("onprem", "a"),), tuple(node("a", f"n{i}") for i in range(owned)))
    return snapshot(home, cluster("eks", (bought_pool("eks", "b"),)), expected=(demand,), **changes)


def plan_for(snap: Snapshot, ahead: float = 1800.0, **changes: Any) -> Plan:
    queues = changes.pop("queues", ())
    rules = policy_set(policy(burst=BurstRule(600.0, ahead_seconds=ahead), **changes), queues=queues)
    return cycle(snap, rules, FirstPredictor())


def bought(plan: Plan) -> int:
    return sum(scale.desired_nodes - scale.current_nodes for scale in plan.scales)


def test_its_nodes_are_bought_before_it_comes() -> None:
    plan = plan_for(world())
    assert bought(plan) == 2
    assert not plan.placements
    assert all(usage.gpus_used == 0 for usage in plan.queues)


def test_it_is_off_by_default_and_waits_for_its_time() -> None:
    assert bought(plan_for(world(), ahead=0.0)) == 0
    early = plan_for(world(), ahead=600.0)
    assert bought(early) == 0
    assert early.wake_at == NOW + 300.0


def test_free_owned_nodes_come_first() -> None:
    assert bought(plan_for(world(owned=1))) == 1
    assert bought(plan_for(world(owned=2))) == 0


def test_who_waits_comes_first_and_the_pool_s_limit_holds() -> None:
    waiting = tuple(workload(f"w{i}", pods(1, 8), queued_at=NOW - 900.0) for i in range(3))
    plan = plan_for(world(workloads=waiting))
    assert len(plan.placements) == 3
    assert bought(plan) == 4


def test_quota_and_budget_hold() -> None:
    queues = (QueueSpec(QueueId("team"), quotas=(Quota("gpu", 8),)),)
    assert bought(plan_for(world(), queues=queues)) == 1
    assert bought(plan_for(world(), budgets=(Budget("day", Decimal(20), "day"),))) == 1


def test_while_it_is_expected_its_nodes_are_not_given_back() -> None:
    idle = tuple(node("b", f"n{i}", idle_since=NOW - 3600.0) for i in range(2))
    snap = snapshot(cluster("eks", (bought_pool("eks", "b", desired_nodes=2),), idle), expected=(EXPECTED,))
    assert not plan_for(snap).removals
    assert len(plan_for(replace(snap, expected=())).removals) == 2
