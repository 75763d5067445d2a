"""What a cycle makes of placements that are there already, of time that passes, and of nodes that come and go."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from scheduler.engine.assignment import attempt_number
from scheduler.engine.budgets import window_bounds
from scheduler.engine.cycle import cycle
from scheduler.model.cluster import ON_DEMAND, SPOT, Shortage, Taint
from scheduler.model.contract import TAINT_DRAINING
from scheduler.model.ids import ClusterId, PoolId, PoolRef, QueueId
from scheduler.model.plan import Plan
from scheduler.model.policy import (
    Budget,
    BurstRule,
    Constraints,
    DisruptionRule,
    Match,
    PlacementPolicy,
    PolicySet,
    ReturnRule,
)
from scheduler.model.snapshot import Backoff, Snapshot, SpendBucket
from scheduler.model.workload import CopyState, Hints, Placement, PlacementState, Workload
from scheduler.predict.first import POD_START_SECONDS, FirstPredictor
from tests.property.engine_federation import Federation
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

BOUGHT = PoolRef(ClusterId("eks"), PoolId("b"))
RESERVED = PlacementState.RESERVED
STARTED = PlacementState.STARTED
FULL = node("b", "n1", used=amount(8), workload_pods=1)


def run(snap: Snapshot, rules: PolicySet | None = None) -> Plan:
    return cycle(snap, rules or policy_set(), FirstPredictor())


def eks(*nodes: Any, desired: int | None = 0, **changes: Any) -> Any:
    return cluster("eks", (bought_pool("eks", "b", desired_nodes=desired, **changes),), nodes)


def on_eks(state: PlacementState = RESERVED, **changes: Any) -> Placement:
    return placement("eks", "b", state, capacity_type=ON_DEMAND, bought=True, **changes)


def placed_on_eks(name: str, state: PlacementState = RESERVED, gpus: int = 8, **changes: Any) -> Workload:
    return workload(name, pods(1, gpus), placement=on_eks(state), **changes)


def test_nothing_is_decided_before_the_hub_has_synced() -> None:
    plan = run(snapshot(cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),)), workloads=(workload("w"),)))
    assert plan.placements
    unsynced = snapshot(
        cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),)), workloads=(workload("w"),), hub_synced=False
    )
    assert run(unsynced) == Plan(at=NOW)


@pytest.mark.parametrize("flag", ["suspended", "finished", "deleting"])
def test_workloads_that_must_not_run_are_left_alone(flag: str) -> None:
    flags: dict[str, Any] = {flag: True}
    job = workload("w", **flags)
    plan = run(snapshot(cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),)), workloads=(job,)))
    assert plan.placements == ()
    assert plan.decisions == ()


@pytest.mark.parametrize(
    ("job", "rules", "want"),
    [
        (workload("w", invalid="needs parallelism"), None, ("InvalidWorkload", "needs parallelism")),
        (
            workload("w"),
            policy_set(policy(match=Match(queues=("x",)))),
            ("NoPolicy", "no placement policy matches it; add one that matches queue team"),
        ),
    ],
)
def test_what_can_never_be_placed_says_why(job: Workload, rules: PolicySet | None, want: tuple[str, str]) -> None:
    plan = run(snapshot(workloads=(job,)), rules)
    assert [(each.reason.code, each.sentence) for each in plan.decisions] == [want]


def test_a_held_workload_is_told_once() -> None:
    snap = snapshot(cluster("onprem", (pool("onprem", "a"),)), workloads=(workload("w"),))
    (said,) = run(snap).decisions
    assert said.sentence == "0/1 offerings: 1 without room now"
    told = replace(snap.workloads[0], condition=(said.reason.code, said.sentence))
    assert run(replace(snap, workloads=(told,), now=NOW + 999)).decisions == ()


@pytest.mark.parametrize(
    ("case", "want_state", "want_code"),
    [
        pytest.param({"nodes": (node("b", "n1"),)}, STARTED, "Started", id="its node is there"),
        pytest.param({"desired": 1}, None, None, id="its node is on its way"),
        pytest.param({"nodes": (node("b", "n1", ready=False, created_at=NOW - 10),)}, None, None, id="it boots"),
        pytest.param(
            {"shortage": Shortage("capacity", "none", NOW + 1)}, PlacementState.RELEASING, "Shortage", id="shortage"
        ),
        pytest.param(
            {"nodes": (node("b", "n1", allocatable=amount(0, 96, 960, 110), created_at=NOW),)},
            None,
            None,
            id="its GPUs do not show yet",
        ),
        pytest.param(
            {"nodes": (node("b", "n1", taints=(Taint("agent-not-ready", "", "NoSchedule"),), created_at=NOW),)},
            None,
            None,
            id="its agents do not run yet",
        ),
        pytest.param(
            {"nodes": (node("b", "n1", used=amount(0, 90), created_at=NOW),)},
            PlacementState.RELEASING,
            "PolicyForbids",
            id="real nodes turn out to be too small",
        ),
        pytest.param({"shortage": Shortage("capacity", "none", NOW - 1)}, None, None, id="an older shortage"),
        pytest.param({"backoff": True}, PlacementState.RELEASING, "Shortage", id="refused and backed off"),
        pytest.param({"backoff": True, "desired": 1}, None, None, id="backed off, but its node is on its way"),
        pytest.param({"suspended": True}, PlacementState.RELEASING, "Suspended", id="suspended"),
        pytest.param({"finished": True}, None, None, id="finished"),
        pytest.param({"deleting": True}, None, None, id="deleting"),
        pytest.param({"now": NOW + 719}, None, None, id="just in time"),
        pytest.param({"now": NOW + 720}, PlacementState.RELEASING, "ReservedTooLong", id="three times its time"),
        pytest.param({"now": NOW + 720, "nodes": (node("b", "n1"),)}, STARTED, "Started", id="late but there"),
        pytest.param({"pool": "gone"}, PlacementState.RELEASING, "PoolVanished", id="pool gone"),
        pytest.param(
            {"limits": Constraints(capacity_types=(SPOT,))}, PlacementState.RELEASING, "PolicyForbids", id="forbidden"
        ),
        pytest.param({"rule": None}, PlacementState.RELEASING, "PolicyForbids", id="no burst rule any more"),
        pytest.param({"unreachable": True}, None, None, id="its cluster is silent"),
    ],
)
def test_a_reservation_starts_waits_or_is_released(
    case: dict[str, Any], want_state: PlacementState | None, want_code: str | None
) -> None:
    flags: dict[str, Any] = {name: True for name in ("suspended", "finished", "deleting") if case.get(name)}
    job = placed_on_eks("w", **flags)
    member = cluster(
        "eks",
        (
            bought_pool(
                "eks", case.get("pool", "b"), desired_nodes=case.get("desired", 0), shortage=case.get("shortage")
            ),
        ),
        case.get("nodes", ()),
        unreachable_since=NOW if case.get("unreachable") else None,
    )
    backoffs = (Backoff(BOUGHT, NOW + 9999, 1, "no capacity"),) if case.get("backoff") else ()
    snap = snapshot(member, workloads=(job,), backoffs=backoffs, now=case.get("now", NOW))
    rules = policy_set(policy(burst=case.get("rule", BurstRule()), constraints=case.get("limits", Constraints())))
    plan = run(snap, rules)
    assert [change.placement.state for change in plan.placements] == ([want_state] if want_state else [])
    assert [decision.reason.code for decision in plan.decisions] == ([want_code] if want_code else [])
    for change in plan.placements:
        assert change.replaces == job.placement
        assert change.placement.attempt == on_eks().attempt
        # Nodes that are there, or ordered, are not bought again.
        assert not plan.scales
        assert change.placement.reason == ("" if want_state is STARTED else want_code)


@pytest.mark.parametrize(
    ("lost_for", "patience", "copy_state", "want"),
    [
        (899.0, 900.0, CopyState.RUNNING, []),
        (900.0, 900.0, CopyState.RUNNING, ["MemberLost"]),
        (900.0, 900.0, CopyState.SUCCEEDED, []),
        (10.0**6, None, CopyState.RUNNING, []),
    ],
)
def test_a_lost_member_loses_its_workloads_after_the_policys_patience(
    lost_for: float, patience: float | None, copy_state: CopyState, want: list[str]
) -> None:
    job = placed_on_eks("w", STARTED)
    member = replace(eks(node("b", "n1")), unreachable_since=NOW - lost_for)
    rules = policy_set(policy(disruption=DisruptionRule(patience)))
    plan = run(snapshot(member, workloads=(job,), copies=(copy_of(job, state=copy_state),)), rules)
    assert [decision.reason.code for decision in plan.decisions] == want
    if want or patience is None or copy_state is CopyState.SUCCEEDED:
        assert plan.wake_at is None
    else:
        assert plan.wake_at == NOW + 1


@pytest.mark.parametrize(
    ("changes", "copy_changes", "want_room"),
    [
        pytest.param({}, None, False, id="no copy yet: all pods assumed"),
        pytest.param({}, {"pods_bound": 0}, False, id="no pod bound yet"),
        pytest.param({}, {}, True, id="bound pods are in the node's use already"),
        pytest.param({}, {"attempt": 99, "pods_bound": 1}, False, id="another attempt's copy does not count"),
        pytest.param({}, {"state": CopyState.SUCCEEDED, "pods_bound": 0}, True, id="finished"),
        pytest.param({"suspended": True}, {"suspended": True, "pods_wanted": 0, "pods_bound": 0}, True, id="suspended"),
        pytest.param({}, {"suspended": True, "pods_wanted": 0, "pods_bound": 0}, False, id="resumed, copy not yet"),
        pytest.param({"deleting": True}, {"pods_bound": 0}, True, id="deleting"),
    ],
)
def test_room_is_kept_for_the_pods_of_started_workloads(
    changes: dict[str, Any], copy_changes: dict[str, Any] | None, want_room: bool
) -> None:
    started = workload("old", pods(1, 8), placement=placement("onprem", "a"), **changes)
    copies = () if copy_changes is None else (copy_of(started, **copy_changes),)
    member = cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),))
    plan = run(snapshot(member, workloads=(started, workload("new", pods(1, 8))), copies=copies))
    placed = [change.workload.name for change in plan.placements if change.replaces is None]
    assert placed == (["new"] if want_room else [])


@pytest.mark.parametrize(
    ("desired", "nodes", "jobs", "want"),
    [
        pytest.param(0, (), (placed_on_eks("w"),), 1, id="a reservation wants its node"),
        pytest.param(1, (), (placed_on_eks("w"),), None, id="which is ordered already"),
        pytest.param(1, (node("b", "n1", ready=False, created_at=NOW),), (placed_on_eks("w"),), None, id="and boots"),
        pytest.param(0, (), (placed_on_eks("v", gpus=4), placed_on_eks("w", gpus=4)), 1, id="two share a node"),
        pytest.param(
            1,
            (node("b", "n1", used=amount(8), workload_pods=1),),
            (placed_on_eks("w"),),
            2,
            id="a full node does not help",
        ),
        pytest.param(0, (), tuple(placed_on_eks(f"w{i}") for i in range(9)), 4, id="never above the maximum"),
        pytest.param(3, (), (placed_on_eks("w"),), 1, id="too many ordered"),
        pytest.param(2, (), (), 0, id="nobody needs what is ordered"),
        pytest.param(2, (node("b", "n1"), node("b", "n2")), (), None, id="nodes that are there are never sized away"),
        pytest.param(0, (), (placed_on_eks("w", STARTED),), 1, id="a started workload lost its node"),
        pytest.param(None, (), (placed_on_eks("w"),), None, id="size unknown"),
        pytest.param(
            1,
            (node("b", "n1", taints=(Taint(TAINT_DRAINING, "", "NoSchedule"),)),),
            (placed_on_eks("w"),),
            2,
            id="a node on its way out is counted but not used",
        ),
        pytest.param(
            1, (node("b", "n1", unschedulable=True),), (placed_on_eks("w"),), 2, id="so is one that is cordoned"
        ),
        pytest.param(
            0,
            (node("b", "n1", unschedulable=True, ready=False),),
            (placed_on_eks("w"),),
            1,
            id="one whose machine is given back already is not counted",
        ),
        pytest.param(
            1,
            (node("b", "n1", unschedulable=True, ready=False),),
            (placed_on_eks("w"),),
            None,
            id="nor when the next one is ordered",
        ),
    ],
)
def test_pools_grow_to_what_is_placed_on_them(
    desired: int | None, nodes: tuple[Any, ...], jobs: tuple[Workload, ...], want: int | None
) -> None:
    plan = run(snapshot(eks(*nodes, desired=desired), workloads=jobs))
    assert [scale.desired_nodes for scale in plan.scales] == ([] if want is None else [want])
    for scale in plan.scales:
        assert (scale.pool, scale.current_nodes) == (BOUGHT, desired)


def test_a_pause_stops_buying_at_once() -> None:
    snap = snapshot(eks(), workloads=(placed_on_eks("w"),), bursting_paused=True)
    assert run(snap).scales == ()
    assert run(replace(snap, bursting_paused=False)).scales


def test_the_pools_minimum_is_kept_when_orders_are_taken_back() -> None:
    (scale,) = run(snapshot(eks(desired=3, min_nodes=2))).scales
    assert scale.desired_nodes == 2


@pytest.mark.parametrize(
    ("node_changes", "pool_changes", "want_removed", "want_wake"),
    [
        pytest.param({"idle_since": NOW - 300}, {}, True, None, id="idle for long enough"),
        pytest.param({"idle_since": NOW - 299}, {}, False, NOW + 1, id="one second short"),
        pytest.param({"idle_since": None}, {}, False, None, id="never seen idle"),
        pytest.param({"idle_since": NOW - 300, "workload_pods": 1}, {}, False, None, id="a pod is on it"),
        pytest.param({"idle_since": NOW - 300, "do_not_disrupt": True}, {}, False, None, id="do not disrupt"),
        pytest.param({"idle_since": NOW - 300, "deleting": True}, {}, False, None, id="going already"),
        pytest.param({"idle_since": NOW - 300, "ready": False}, {}, True, None, id="broken and idle"),
        pytest.param({"idle_since": NOW - 300}, {"min_nodes": 1}, False, None, id="the minimum"),
        pytest.param({"idle_since": NOW - 300}, {"keeps_size": True}, False, None, id="scaled up by a remedy"),
        pytest.param(
            {"idle_since": NOW - 300, "unschedulable": True}, {"keeps_size": True}, True, None, id="closed all the same"
        ),
        pytest.param({"idle_since": NOW - 300}, {"scaling": "external"}, False, None, id="another's pool"),
        pytest.param({"idle_since": NOW - 300}, {"capacity_type": "owned"}, False, None, id="owned"),
        pytest.param(
            {"idle_since": NOW - 300, "unschedulable": True, "taints": (Taint(TAINT_DRAINING, "", "NoSchedule"),)},
            {},
            True,
            None,
            id="cordoned by us, then we crashed",
        ),
    ],
)
def test_idle_bought_nodes_go_back(
    node_changes: dict[str, Any], pool_changes: dict[str, Any], want_removed: bool, want_wake: float | None
) -> None:
    plan = run(snapshot(eks(node("b", "n1", **node_changes), desired=1, **pool_changes)))
    assert [removal.node for removal in plan.removals] == (["n1"] if want_removed else [])
    assert plan.wake_at == want_wake


def test_machines_on_their_way_are_cancelled_unless_a_remedy_wants_them() -> None:
    for keeps, want in ((False, [(2, 0)]), (True, [])):
        plan = run(snapshot(eks(desired=2, keeps_size=keeps)))
        assert [(scale.current_nodes, scale.desired_nodes) for scale in plan.scales] == want


def test_a_node_that_somebody_needs_stays_and_the_other_goes() -> None:
    idle = {"idle_since": NOW - 400}
    plan = run(snapshot(eks(node("b", "n1", **idle), node("b", "n2", **idle), desired=2), workloads=(workload("w"),)))
    assert [change.placement.state for change in plan.placements] == [STARTED]
    assert [(removal.node, removal.node_uid) for removal in plan.removals] == [("n2", "uid-n2")]


@pytest.mark.parametrize(
    ("rules", "want"),
    [
        ((policy("a", give_back=ReturnRule(60.0)), policy("b", give_back=ReturnRule(600.0))), 60.0),
        ((policy("a", give_back=ReturnRule(60.0), burst=None), policy("b", give_back=ReturnRule(600.0))), 600.0),
        ((policy("a", give_back=ReturnRule(60.0), constraints=Constraints(regions=("x",))),), 300.0),
    ],
)
def test_the_shortest_idle_time_of_those_who_can_buy_there_counts(
    rules: tuple[PlacementPolicy, ...], want: float
) -> None:
    plan = run(snapshot(eks(node("b", "n1", idle_since=NOW), desired=1)), policy_set(*rules))
    assert plan.wake_at == NOW + want


@pytest.mark.parametrize(
    ("queued_before", "want", "want_wake"),
    [(599.0, "BurstWaiting", NOW + 1), (600.0, None, NOW + 720), (0.0, "BurstWaiting", NOW + 600)],
)
def test_bursting_waits_for_its_time(queued_before: float, want: str | None, want_wake: float) -> None:
    job = workload("w", queued_at=NOW - queued_before)
    snap = snapshot(eks(), workloads=(job,))
    plan = run(snap, policy_set(policy(burst=BurstRule(600.0))))
    (decision,) = plan.decisions
    if want is not None:
        assert (decision.outcome, decision.reason.code) == ("held", want)
        assert decision.sentence == "0/1 offerings: 1 to be bought after 10m in the queue"
        assert plan.wake_at == want_wake
        assert not plan.scales
        return
    (change,) = plan.placements
    assert (decision.outcome, change.placement.state, change.placement.bought) == ("burst", RESERVED, True)
    assert [scale.desired_nodes for scale in plan.scales] == [1]
    # The next cycle, with the placement written, waits for the nodes and knows until when.
    written = replace(job, placement=change.placement)
    after = run(replace(snap, workloads=(written,), clusters=(eks(desired=1),)), policy_set(policy()))
    assert (after.placements, after.scales, after.wake_at) == ((), (), want_wake)


def test_a_backed_off_pool_is_looked_at_again_when_that_ends() -> None:
    backoffs = (Backoff(BOUGHT, NOW + 77, 2, "no capacity"),)
    plan = run(snapshot(eks(), workloads=(workload("w"),), backoffs=backoffs))
    assert plan.decisions[0].reason.code == "BackedOff"
    assert plan.wake_at == NOW + 77
    over = run(snapshot(eks(), workloads=(workload("w"),), backoffs=backoffs, now=NOW + 77))
    assert over.placements


@pytest.mark.parametrize(
    ("window", "want_start", "want_end"),
    [
        ("day", 1_790_000_000 // 86400 * 86400, 1_790_000_000 // 86400 * 86400 + 86400),
        ("week", 1_789_948_800, 1_790_553_600),
        ("month", 1_788_220_800, 1_790_812_800),
        ("total", None, None),
    ],
)
def test_budget_windows_are_calendar_ones(window: str, want_start: float | None, want_end: float | None) -> None:
    assert window_bounds(window, NOW) == (want_start, want_end)


@pytest.mark.parametrize(
    ("spent_at", "queue", "limit", "want"),
    [
        pytest.param(NOW - 60, "team", "30", "OverBudget", id="spent today"),
        pytest.param(NOW - 60, "team", "31", None, id="and enough left"),
        pytest.param(NOW - 86400, "team", "30", None, id="spent yesterday"),
        pytest.param(NOW - 60, "other", "30", None, id="spent by another queue"),
        pytest.param(NOW - 60, None, "30", None, id="spent by nobody"),
    ],
)
def test_a_budget_counts_what_was_spent_in_its_window(
    spent_at: float, queue: str | None, limit: str, want: str | None
) -> None:
    # An hour of 16 USD, with 255 s to start and 300 s idle after it: 18.47 USD.
    job = workload("w", hints=Hints(expected_seconds=3600.0))
    bucket = SpendBucket(
        spent_at - spent_at % 3600, ClusterId("eks"), ON_DEMAND, None if queue is None else QueueId(queue), Decimal(12)
    )
    budget = Budget("daily", Decimal(limit), "day", queues=("team",))
    plan = run(snapshot(eks(), workloads=(job,), spend=(bucket,)), policy_set(policy(budgets=(budget,))))
    (decision,) = plan.decisions
    assert (decision.reason.code if decision.outcome == "held" else None) == want
    (state,) = plan.budgets
    assert state.committed_usd == (0 if want else Decimal("18.466666667"))
    if want:
        assert plan.wake_at == state.window_ends_at


def test_a_started_runs_remainder_is_committed() -> None:
    job = placed_on_eks("w", STARTED, hints=Hints(expected_seconds=3600.0))
    copy = copy_of(job, started_at=NOW - 1800)
    nodes = (node("b", "n1", used=amount(8), workload_pods=1), node("b", "n2", idle_since=NOW))
    rules = policy_set(policy(budgets=(Budget("all", Decimal(1000), "total"),)))
    plan = run(snapshot(eks(*nodes, desired=2), workloads=(job,), copies=(copy,)), rules)
    # (1815 s left, its start-up among them, and 300 s idle) and 300 s of the idle node, at 16 USD an hour.
    assert plan.budgets[0].committed_usd == Decimal("9.4") + Decimal("1.333333333")


def test_bought_nodes_of_a_policy_are_limited_but_shared_ones_count_once() -> None:
    jobs = tuple(workload(f"w{index}", pods(1, 4)) for index in range(6))
    plan = run(snapshot(eks(), workloads=jobs), policy_set(policy(burst=BurstRule(max_nodes=2))))
    assert len(plan.placements) == 4
    assert [scale.desired_nodes for scale in plan.scales] == [2]
    held = [decision for decision in plan.decisions if decision.outcome == "held"]
    assert {decision.reason.code for decision in held} == {"BurstLimit"}


def test_attempts_grow_with_every_later_placement() -> None:
    numbers = [attempt_number(NOW, index) for index in (0, 1, 999, 5000)]
    assert numbers == sorted(numbers)
    assert attempt_number(NOW + 0.001, 0) > numbers[-1]
    assert numbers[-1] < 2**53


def test_a_placement_says_what_it_was_weighed_against() -> None:
    cheap = cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),))
    plan = run(snapshot(cheap, eks(), workloads=(workload("w"),)))
    (decision,) = plan.decisions
    assert decision.chosen is not None
    assert str(decision.chosen.pool) == "onprem/a"
    assert decision.chosen.usd_per_hour == Decimal(1)
    assert decision.sentence == "on onprem/a: best of 2 of 2 offerings by cost"
    assert [(str(other.pool), other.usd_per_hour, other.new_nodes) for other in decision.alternatives] == [
        ("eks/b", Decimal(16), 1)
    ]
    assert decision.alternatives[0].expected_start_seconds == 240 + POD_START_SECONDS
    assert plan.placements[0].decision == plan.placements[0].placement.decision == decision.id


def test_a_burst_runs_its_whole_course() -> None:
    homes = [cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),)), eks()]
    jobs = [workload(f"w{i}", pods(1, 8), hints=Hints(expected_seconds=1000.0)) for i in range(3)]
    world = Federation(NOW, homes, policy_set(policy(burst=BurstRule(120.0))), {job.ref.uid: job for job in jobs})
    world.run(until=NOW + 86400)
    assert len(world.finished) == 3
    assert (world.bursts, world.returns, world.bought_nodes) == (2, 2, 0)
    # Bought after 120 s, there 240 s later, busy for 1000 s, idle for 300 s.
    assert world.now == NOW + 120 + 240 + 1000 + 300
    assert world.spent_usd == 2 * Decimal("5.777777778")
