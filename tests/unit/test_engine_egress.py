"""What bringing data somewhere costs is metered once, to the nano-dollar, and held against budgets until it is."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from scheduler.engine.cycle import cycle
from scheduler.engine.spend import DAY, BucketKey, SpendLedger, by_day, charged, hour_of
from scheduler.model.cluster import ON_DEMAND, SPOT, NodePool, Route
from scheduler.model.ids import ClusterId, QueueId
from scheduler.model.money import Price
from scheduler.model.plan import Plan
from scheduler.model.policy import Budget, BurstRule
from scheduler.model.snapshot import SpendBucket
from scheduler.model.workload import Copy, DataSet, Hints, Workload
from scheduler.predict.first import FirstPredictor
from scheduler.simulate.driver import TracePredictor
from scheduler.simulate.world import PROFILE_LABEL
from tests.sim.worlds import burst_at_once, job, run, site, trace
from tests.unit.engine_world import (
    NOW,
    bought_pool,
    cluster,
    copy_of,
    node,
    placement,
    policy,
    policy_set,
    pool,
    snapshot,
    workload,
)

GKE = ClusterId("gke")
GIB = 2**30
READS = Hints(expected_seconds=3600.0, data=(DataSet(GKE, 100 * GIB),))
"""100 GiB that lie in gke: 12 USD to anywhere else."""
FROM_GKE = Route(GKE, Decimal("0.12"), 1e8)
FREE_NODE = Price(Decimal(0), "test", NOW)
KEY = BucketKey(hour_of(NOW), ClusterId("eks"), ON_DEMAND, QueueId("team"))


def plan_on(home: NodePool, limit: str, *people: Workload, copies: tuple[Copy, ...] = (), **more: object) -> Plan:
    """On one pool of one node away from the data, under a budget."""
    there = (node(home.ref.pool, "n0"),)
    where = replace(cluster(home.ref.cluster, (home,), there), routes=(FROM_GKE,))
    rules = policy(burst=BurstRule(), budgets=(Budget("data", Decimal(limit), "total"),))
    snap = replace(snapshot(where, workloads=people, copies=copies), **more)  # type: ignore[arg-type]
    return cycle(snap, policy_set(rules), FirstPredictor())


HOMES = [
    pytest.param(pool("onprem", "a"), id="owned"),
    pytest.param(bought_pool("eks", "b", desired_nodes=1, price=FREE_NODE), id="bought"),
]


@pytest.mark.parametrize("home", HOMES)
@pytest.mark.parametrize(("limit", "placed"), [("12", True), ("11.999999999", False)])
def test_a_budget_is_kept_to_the_nano_dollar(home: NodePool, limit: str, *, placed: bool) -> None:
    plan = plan_on(home, limit, workload("w", hints=READS))
    assert bool(plan.placements) is placed
    (budget,) = plan.budgets
    assert budget.committed_usd == (Decimal(12) if placed else 0)
    if not placed:
        (decision,) = plan.decisions
        assert decision.reason.code == "OverBudget"


@pytest.mark.parametrize("home", HOMES)
def test_two_that_bring_data_share_a_budget(home: NodePool) -> None:
    plan = plan_on(home, "20", *(workload(f"w{n}", hints=READS) for n in range(2)))
    assert len(plan.placements) == 1


@pytest.mark.parametrize("home", HOMES)
def test_it_is_committed_until_the_first_pod_is_bound_and_spent_from_then_on(home: NodePool) -> None:
    where = placement(home.ref.cluster, home.ref.pool, bought=home.bought, capacity_type=home.capacity_type)
    starting = workload("w", hints=READS, placement=where)
    waits = plan_on(home, "100", starting, copies=(copy_of(starting, pods_bound=0),))
    assert [budget.committed_usd for budget in waits.budgets] == [12]
    metered = (SpendBucket(*KEY._replace(cluster=home.ref.cluster, capacity_type=home.capacity_type), Decimal(12)),)
    runs = plan_on(home, "100", starting, copies=(copy_of(starting),), spend=metered)
    assert [(budget.committed_usd, budget.spent_usd) for budget in runs.budgets] == [(Decimal(0), Decimal(12))]


def test_without_a_budget_nothing_is_refused_for_it() -> None:
    where = replace(cluster("onprem", (pool("onprem", "a"),), (node("a", "n0"),)), routes=(FROM_GKE,))
    plan = cycle(snapshot(where, workloads=(workload("w", hints=READS),)), policy_set(), FirstPredictor())
    assert len(plan.placements) == 1


def test_what_is_charged_adds_up_exactly_and_stays_when_days_are_added_up() -> None:
    cent = Decimal("0.010000001")
    ledger = SpendLedger()
    for _ in range(3):
        ledger = charged(ledger, KEY, cent)
    assert ledger.buckets == (SpendBucket(*KEY, 3 * cent),)
    later = by_day(ledger, NOW + 3 * DAY)
    assert later.total_usd == 3 * cent
    assert [each.hour_start for each in later.buckets] == [NOW - NOW % DAY]


def test_a_replay_meters_it_by_queue_and_place() -> None:
    where = site(0)
    route = Route(ClusterId("onprem"), Decimal("0.10"), 1e8)
    where = replace(where, clusters=tuple(replace(each, routes=(route,)) for each in where.clusters))
    jobs = trace(job("reads", run=600.0, data=(DataSet(ClusterId("onprem"), 100 * GIB),)))
    without = run(trace(job("reads", run=600.0 + 100 * GIB / 1e8)), where, meters_budgets=True)
    found = run(jobs, where, meters_budgets=True)
    assert sum(each.usd for each in found.spend) - sum(each.usd for each in without.spend) == Decimal(10)
    assert {each.queue for each in found.spend} == {"team"}


def test_a_replay_keeps_a_budget_that_the_data_would_break() -> None:
    where = site(0)
    route = Route(ClusterId("onprem"), Decimal("0.10"), 1e8)
    where = replace(where, clusters=tuple(replace(each, routes=(route,)) for each in where.clusters))
    rules = burst_at_once(budgets=(Budget("all", Decimal(500), "total"),))
    jobs = trace(job("reads", run=600.0, data=(DataSet(ClusterId("onprem"), 10_000 * GIB),)), job("other", run=600.0))
    found = {each.job.name: each for each in run(jobs, where, rules, meters_budgets=True).jobs}
    assert found["other"].finished_at is not None
    assert found["reads"].finished_at is None
    assert "budget" in found["reads"].why


def test_what_reclaims_will_cost_is_foretold_of_a_job_with_measured_speeds_too() -> None:
    """Half as fast: twice as long under the same hazard, so that more than twice as much is lost."""
    spot = bought_pool("eks", "s", capacity_type=SPOT)
    assert spot.gpu_model is not None
    waits = workload("w", hints=Hints(expected_seconds=40_000.0), labels=((PROFILE_LABEL, "lstm"),))
    plain = FirstPredictor().predict(waits, spot, 1)
    slow = TracePredictor({"lstm": {spot.gpu_model: 0.5}}).predict(waits, spot, 1)
    twice = FirstPredictor().predict(replace(waits, hints=Hints(expected_seconds=80_000.0)), spot, 1)
    assert slow == twice
    assert slow.lost_seconds > 2 * plain.lost_seconds > 0
    assert TracePredictor({"lstm": {}}).predict(waits, spot, 1).run_seconds is None
