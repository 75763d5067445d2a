"""What must hold of every plan: hard limits kept, gangs whole, any input order, rest reached, nothing left over."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.model.cluster import ON_DEMAND, OWNED, SPOT, Cluster
from scheduler.model.ids import QueueId
from scheduler.model.money import Price
from scheduler.model.plan import Plan
from scheduler.model.policy import Budget, BurstRule, Constraints, PolicySet, QueueSpec, Quota
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Hints, PlacementState, PodSet, Workload
from scheduler.predict.first import FirstPredictor
from tests.property.engine_federation import Federation, check_room
from tests.unit.engine_world import (
    NOW,
    amount,
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

QUEUES = ("blue", "red")
CAREFUL = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def pod_sets(draw: st.DrawFn) -> tuple[PodSet, ...]:
    first = pods(draw(st.integers(1, 3)), draw(st.integers(0, 8)), cpu=draw(st.integers(1, 40)))
    if draw(st.booleans()):
        return (first,)
    second = pods(draw(st.integers(1, 2)), draw(st.integers(0, 4)), cpu=draw(st.integers(1, 16)), name="second")
    return (first, second)


@st.composite
def pending(draw: st.DrawFn, index: int) -> Workload:
    seconds = draw(st.one_of(st.none(), st.integers(60, 7200)))
    return workload(
        f"w{index:02d}",
        *draw(pod_sets()),
        queue=draw(st.sampled_from(QUEUES)),
        priority=draw(st.integers(0, 2)),
        queued_at=NOW - draw(st.sampled_from((0, 300, 900))),
        hints=Hints(expected_seconds=None if seconds is None else float(seconds)),
    )


@st.composite
def policies(draw: st.DrawFn) -> PolicySet:
    limits = Constraints(
        excluded_clusters=draw(st.sampled_from(((), ("gke",)))),
        capacity_types=draw(st.sampled_from(((), (OWNED, ON_DEMAND), (OWNED, SPOT)))),
        max_usd_per_gpu_hour=draw(st.sampled_from((None, Decimal("1.50"), Decimal("9")))),
    )
    rule = draw(st.sampled_from((None, BurstRule(), BurstRule(600.0), BurstRule(0.0, 2))))
    budget = draw(st.sampled_from(((), (Budget("day", Decimal("40"), "day"),))))
    quotas = (Quota("gpu", draw(st.integers(4, 24)), draw(st.sampled_from((None, 0, 8)))),)
    queues = tuple(QueueSpec(QueueId(queue), "both", quotas=quotas) for queue in QUEUES)
    objective = draw(st.sampled_from(("cost", "completion_time", "onprem_first")))
    return policy_set(policy(objective=objective, constraints=limits, burst=rule, budgets=budget), queues=queues)


@st.composite
def clusters(draw: st.DrawFn) -> tuple[Cluster, ...]:
    nodes = tuple(
        node("a", f"n{index}", used=amount(used, used * 4, used * 32, used), workload_pods=used)
        for index, used in enumerate(draw(st.lists(st.integers(0, 8), max_size=3)))
    )
    spot_price = Price(draw(st.sampled_from((Decimal("7"), Decimal("30")))), "test", NOW)
    return (
        cluster("onprem", (pool("onprem", "a"),), nodes),
        cluster("eks", (bought_pool("eks", "b"), bought_pool("eks", "s", capacity_type=SPOT, price=spot_price))),
        cluster("gke", (bought_pool("gke", "t", max_nodes=2, provisioning_seconds=60.0),)),
    )


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    count = draw(st.integers(0, 9))
    waiting = [draw(pending(index)) for index in range(count)]
    states = st.sampled_from((PlacementState.STARTED, PlacementState.RESERVED))
    homes = st.sampled_from((("eks", "b", ON_DEMAND), ("gke", "t", ON_DEMAND)))
    placed = []
    for index in range(draw(st.integers(0, 3))):
        home = draw(homes)
        where = placement(home[0], home[1], draw(states), capacity_type=home[2], bought=True, decided_at=NOW - 60)
        placed.append(replace(draw(pending(50 + index)), placement=where))
    copies = tuple(copy_of(each, pods_bound=0) for each in placed if each.placement is not None)
    return snapshot(*draw(clusters()), workloads=(*waiting, *placed), copies=copies)


def plan_of(snap: Snapshot, rules: PolicySet) -> Plan:
    return cycle(snap, rules, FirstPredictor())


@given(snap=snapshots(), rules=policies())
@CAREFUL
def test_new_placements_keep_every_hard_limit(snap: Snapshot, rules: PolicySet) -> None:
    plan = plan_of(snap, rules)
    rule = rules.policies[0]
    pools = {each.ref: each for one in snap.clusters for each in one.pools}
    workloads = {each.ref.uid: each for each in snap.workloads}
    check_room(snap, plan)
    for change in plan.placements:
        if change.replaces is not None:
            continue
        chosen = pools[change.placement.pool_ref]
        assert chosen.ref.cluster not in rule.constraints.excluded_clusters
        assert not rule.constraints.capacity_types or chosen.capacity_type in rule.constraints.capacity_types
        cap = rule.constraints.max_usd_per_gpu_hour
        if cap is not None and workloads[change.workload.uid].requests.gpus:
            assert chosen.price is not None
            assert chosen.price.usd_per_hour <= cap * chosen.node_resources.gpus
        if chosen.bought:
            assert rule.burst is not None
    for scale in plan.scales:
        assert pools[scale.pool].min_nodes <= scale.desired_nodes <= pools[scale.pool].max_nodes


@given(snap=snapshots(), rules=policies())
@CAREFUL
def test_quota_holds_for_all_that_is_newly_placed(snap: Snapshot, rules: PolicySet) -> None:
    plan = plan_of(snap, rules)
    placed_now = {change.workload.uid for change in plan.placements if change.replaces is None}
    used = dict.fromkeys(QUEUES, 0)
    grew = dict.fromkeys(QUEUES, False)
    for each in snap.workloads:
        if each.placement is not None or each.ref.uid in placed_now:
            used[each.queue] += each.requests.gpus
        grew[each.queue] |= each.ref.uid in placed_now and each.requests.gpus > 0
    nominal = sum(spec.quotas[0].nominal for spec in rules.queues)
    if any(grew.values()):
        assert sum(used.values()) <= nominal
    for spec in rules.queues:
        quota = spec.quotas[0]
        if grew[spec.id] and quota.borrowing_limit is not None:
            assert used[spec.id] <= quota.nominal + quota.borrowing_limit


@given(snap=snapshots(), rules=policies())
@CAREFUL
def test_budgets_cover_what_is_newly_bought(snap: Snapshot, rules: PolicySet) -> None:
    plan = plan_of(snap, rules)
    if any(change.replaces is None and change.placement.bought for change in plan.placements):
        for state in plan.budgets:
            assert state.spent_usd + state.committed_usd <= state.limit_usd


@given(snap=snapshots(), rules=policies(), data=st.data())
@CAREFUL
def test_the_plan_is_the_same_for_every_order_of_input(snap: Snapshot, rules: PolicySet, data: st.DataObject) -> None:
    def shuffled(items: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(data.draw(st.permutations(items)))

    mixed_clusters = tuple(
        replace(one, nodes=shuffled(one.nodes), pools=shuffled(one.pools))  # type: ignore[arg-type]
        for one in snap.clusters
    )
    mixed = replace(
        snap,
        clusters=shuffled(mixed_clusters),  # type: ignore[arg-type]
        workloads=shuffled(snap.workloads),  # type: ignore[arg-type]
        copies=shuffled(snap.copies),  # type: ignore[arg-type]
    )
    other_rules = replace(rules, queues=tuple(reversed(rules.queues)))
    assert plan_of(mixed, other_rules) == plan_of(snap, rules)


@given(
    onprem_nodes=st.integers(0, 2),
    waiting=st.integers(0, 8),
    data=st.data(),
    rules=policies(),
)
@CAREFUL
def test_an_obeyed_plan_comes_to_rest_and_gives_all_back(
    onprem_nodes: int, waiting: int, data: st.DataObject, rules: PolicySet
) -> None:
    homes = [
        cluster("onprem", (pool("onprem", "a"),), tuple(node("a", f"n{i}") for i in range(onprem_nodes))),
        cluster("eks", (bought_pool("eks", "b"), bought_pool("eks", "s", capacity_type=SPOT))),
        cluster("gke", (bought_pool("gke", "t", max_nodes=2, provisioning_seconds=60.0),)),
    ]
    jobs = [data.draw(pending(index)) for index in range(waiting)]
    jobs = [
        replace(job, queued_at=NOW, hints=Hints(expected_seconds=job.hints.expected_seconds or 90.0)) for job in jobs
    ]
    world = Federation(NOW, homes, rules, {job.ref.uid: job for job in jobs})
    world.run(until=NOW + 30 * 86400)
    assert world.bought_nodes == 0
    assert not world.machines
    assert all(each.placement is None for each in world.workloads.values()), "a placed workload never ended"
    plan = plan_of(world.snapshot(), rules)
    assert not plan.placements
    for each in world.workloads.values():
        assert each.condition is not None, "a workload waits and nobody said why"
    if rules.policies[0].burst is not None and rules.policies[0].budgets == ():
        nominal = sum(spec.quotas[0].nominal for spec in rules.queues)
        quota = rules.queues[0].quotas[0]
        most = nominal if quota.borrowing_limit is None else min(nominal, quota.nominal + quota.borrowing_limit)
        assert all(
            each.requests.gpus > most or each.condition is None or each.condition[0] != "QuotaExceeded"
            for each in world.workloads.values()
        ), "a workload waits for quota although nobody uses any"


@given(counts=st.lists(st.integers(1, 2), min_size=1, max_size=6), limit=st.integers(5, 60))
@CAREFUL
def test_real_spend_stays_within_the_budget_when_run_times_are_known(counts: list[int], limit: int) -> None:
    rules = policy_set(policy(budgets=(Budget("all", Decimal(limit), "total"),)))
    homes = [cluster("eks", (bought_pool("eks", "b"),))]
    jobs = [
        workload(f"w{index}", pods(count, 8), hints=Hints(expected_seconds=1800.0 * count))
        for index, count in enumerate(counts)
    ]
    world = Federation(NOW, homes, rules, {job.ref.uid: job for job in jobs})
    world.run(until=NOW + 5 * 86400)
    assert world.spent_usd <= limit
    first = Decimal(16) * (1800 + 300 + 255) / 3600
    if counts[0] == 1 and first <= limit:
        assert world.finished


def test_resources_used_by_the_federation_are_given_back_exactly() -> None:
    homes = [cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),))]
    jobs = [workload(f"w{index}", pods(2, 3), hints=Hints(expected_seconds=60.0)) for index in range(4)]
    world = Federation(NOW, homes, policy_set(), {job.ref.uid: job for job in jobs})
    world.run(until=NOW + 3600)
    assert len(world.finished) == 4
    assert [each.used for each in world.clusters[0].nodes] == [Resources()]
