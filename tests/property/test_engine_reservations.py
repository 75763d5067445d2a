"""Nobody starves: whoever has waited gets room kept for it, and whoever uses that room meanwhile ends in time."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.model.ids import Instant, Uid
from scheduler.model.policy import BurstRule, PlacementPolicy, ReservationRule, ValueOfTime
from scheduler.model.workload import Hints, PlacementState, Workload
from scheduler.predict.first import POD_START_SECONDS, FirstPredictor
from tests.property.engine_federation import Federation
from tests.unit.engine_world import (
    NOW,
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

LONGEST = 1800
CAREFUL = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def job(name: str, gpus: int, seconds: float | None, *, at: float = 0.0, count: int = 1, **changes: object) -> Workload:
    base = workload(
        name, pods(count, gpus, cpu=1, memory=1), hints=Hints(seconds), queued_at=NOW + at, created_at=NOW + at
    )
    return replace(base, **changes)  # type: ignore[arg-type]


BOUND_ELSEWHERE = [
    *(job(f"b{index}", 1, 60.0) for index in range(9)),
    job("a", 3, 1060.0),
    job("gang", 2, 1000.0, at=60.0, count=2, queue="blue"),
    job("c", 5, 530.0, at=739.0),
    job("whole", 8, 60.0, at=747.0),
    job("d", 1, 1461.0, at=762.0),
    job("e", 1, 1503.0, at=763.0),
    job("f", 1, 514.0, at=2222.0),
]
"""There is room for `d` that nobody keeps, but a member that fills nodes binds it to the node that is kept for
`whole`."""
STRANDED = [
    job("a", 5, 1500.0),
    job("b", 3, 1500.0),
    job("c", 8, 1500.0),
    *(job(f"d{index}", 1, 1500.0, at=700.0 + index) for index in range(3)),
    *(job(f"e{index}", 1, 1500.0, at=1500.0 + index * 300.0) for index in range(10)),
]
"""`a`, `b` and `c` fill two nodes, but a member that spreads leaves no node whole for `c`."""


def rule(after_wait: float | None, value: ValueOfTime | None = None) -> PlacementPolicy:
    return policy(burst=None, reservation=ReservationRule(after_wait), value_of_time=value)


def stream(gang_nodes: int, rules: PlacementPolicy) -> dict[Uid, Instant]:
    """When each started, where jobs of half a node come faster than they end, and one gang wants every node."""
    small = [job(f"s{index:02d}", 4, 1000.0, at=index * 500.0 / gang_nodes) for index in range(40)]
    gang = job("gang", 8, 600.0, at=700.0, count=gang_nodes)
    nodes = tuple(node("a", f"n{index}") for index in range(gang_nodes))
    home = cluster("onprem", (pool("onprem", "a"),), nodes)
    world = Federation(NOW, [home], policy_set(rules), {}, arrivals=[*small, gang])
    world.now = NOW - 1
    world.run(until=NOW + 86400)
    assert not world.workloads, "everything ends"
    return {uid: at - NOW for uid, at in world.first_started.items()}


@pytest.mark.parametrize("value", [None, ValueOfTime(Decimal(1))])
@pytest.mark.parametrize("nodes", [1, 2, 3])
@pytest.mark.parametrize("after_wait", [0.0, 1200.0])
def test_a_gang_starts_although_small_jobs_keep_coming(
    nodes: int, after_wait: float, value: ValueOfTime | None
) -> None:
    started = stream(nodes, rule(after_wait, value))
    assert started[Uid("uid-gang")] <= 700 + after_wait + 2 * (1000 + POD_START_SECONDS)


@pytest.mark.parametrize("nodes", [1, 2])
def test_without_a_reservation_it_is_the_last_to_start(nodes: int) -> None:
    started = stream(nodes, rule(None))
    assert started[Uid("uid-gang")] == max(started.values())


@st.composite
def jobs(draw: st.DrawFn) -> list[Workload]:
    count = draw(st.integers(5, 30))
    return [
        job(
            f"s{index:02d}",
            draw(st.integers(1, 8)),
            float(draw(st.integers(60, LONGEST))),
            at=float(draw(st.integers(0, 5400))),
            queue=draw(st.sampled_from(("red", "blue"))),
        )
        for index in range(count)
    ]


def check_the_bound(everybody: list[Workload], nodes: int, rules: PlacementPolicy, *, spreads: bool) -> None:
    """Each starts at most `after_wait` and (those before it in the line and still waiting when it joined + 1) longest
    runs after it came. One that a member left without a node, because it had bound others elsewhere than was reckoned,
    costs it one run more at most, when it is bound at last; so does being left so itself."""
    after_wait = rules.reservation.after_wait_seconds
    assert after_wait is not None
    home = cluster("onprem", (pool("onprem", "a"),), tuple(node("a", f"n{index}") for index in range(nodes)))
    world = Federation(NOW - 1, [home], policy_set(rules), {}, arrivals=list(everybody), spreads=spreads)
    world.run(until=NOW + 30 * 86400)
    assert not world.workloads, "everything ends"
    for each in everybody:
        joined = each.queued_at + after_wait
        before = [
            other
            for other in everybody
            if (other.queued_at, other.ref.uid) < (each.queued_at, each.ref.uid)
            and world.first_started[other.ref.uid] > joined
        ]
        runs = 1 + len({other.ref.uid for other in before} | world.stranded)
        bound = joined + runs * (LONGEST + POD_START_SECONDS)
        assert world.first_started[each.ref.uid] <= bound, f"{each.ref} waits beyond the bound"


@given(
    small=jobs(),
    nodes=st.integers(1, 3),
    big=st.lists(st.tuples(st.integers(1, 3), st.integers(2, 8), st.integers(0, 3600)), min_size=1, max_size=3),
    after_wait=st.sampled_from((0.0, 900.0)),
    value=st.sampled_from((None, ValueOfTime(Decimal(1)), ValueOfTime(Decimal(0), Decimal(2)))),
    spreads=st.booleans(),
)
@CAREFUL
def test_the_bound(
    small: list[Workload],
    nodes: int,
    big: list[tuple[int, int, int]],
    after_wait: float,
    value: ValueOfTime | None,
    spreads: bool,
) -> None:
    gangs = [
        job(f"g{index}", gpus, 1000.0, at=float(at), count=min(count, nodes), queue="blue")
        for index, (count, gpus, at) in enumerate(big)
    ]
    check_the_bound([*small, *gangs], nodes, rule(after_wait, value), spreads=spreads)


@pytest.mark.parametrize("spreads", [False, True])
@pytest.mark.parametrize("history", [BOUND_ELSEWHERE, STRANDED], ids=["bound elsewhere", "stranded"])
def test_the_bound_where_members_bind_pods_to_other_nodes_than_was_reckoned(
    history: list[Workload], spreads: bool
) -> None:
    check_the_bound(history, 2, rule(0.0), spreads=spreads)


def reserved_by(name: str, *others: Workload, **changes: object) -> dict[str, PlacementState]:
    """What one cycle does while a gang of both nodes waits for a 4-GPU run of node n0 that ends in 1000 s."""
    running = job("running", 4, 1000.0, placement=placement("onprem", "a"))
    running = replace(running, placement=placement("onprem", "a", decided_at=NOW))
    spot = (("n0", running.requests),)
    nodes = (node("a", "n0", used=running.requests, workload_pods=1), node("a", "n1"))
    gang = job(name, 8, 500.0, count=2, at=-100.0)
    world = snapshot(
        cluster("onprem", (pool("onprem", "a"),), nodes),
        workloads=(running, gang, *others),
        copies=(copy_of(running, started_at=NOW, holds=spot),),
    )
    plan = cycle(world, policy_set(rule(0.0)), FirstPredictor())
    return {change.workload.name: change.placement.state for change in plan.placements}


@pytest.mark.parametrize(
    ("seconds", "gpus", "want_started"),
    [
        (900.0, 8, True),
        (900.0, 4, True),
        (1200.0, 4, False),
        (1200.0, 1, False),
        (None, 4, False),
    ],
)
def test_others_use_the_room_that_is_kept_only_if_they_end_in_time(
    seconds: float | None, gpus: int, want_started: bool
) -> None:
    started = reserved_by("gang", job("other", gpus, seconds))
    assert ("other" in started) is want_started
    assert "gang" not in started


def test_room_that_the_gang_will_not_need_is_anybodys() -> None:
    """Two GPUs a node are left over when the gang takes six of each."""
    running = job("running", 4, 1000.0, placement=placement("onprem", "a", decided_at=NOW))
    nodes = (node("a", "n0", used=running.requests, workload_pods=1), node("a", "n1"))
    gang = job("gang", 6, 500.0, count=2, at=-100.0)
    world = snapshot(
        cluster("onprem", (pool("onprem", "a"),), nodes),
        workloads=(running, gang, job("two", 2, None), job("more", 3, None)),
        copies=(copy_of(running, started_at=NOW, holds=(("n0", running.requests),)),),
    )
    plan = cycle(world, policy_set(rule(0.0)), FirstPredictor())
    assert {change.workload.name for change in plan.placements} == {"two"}
    held = {each.workload.name: each.reason.code for each in plan.decisions if each.outcome == "held"}
    assert held["gang"] == "Reserved"


def test_a_gang_that_only_a_bought_pool_holds_keeps_the_nodes_that_may_still_be_bought() -> None:
    busy = job("busy", 8, 3000.0, placement=placement("eks", "b", decided_at=NOW, bought=True))
    nodes = (node("b", "n0", used=busy.requests, workload_pods=1),)
    gang = job("gang", 8, 500.0, count=3, at=-100.0)
    home = cluster("eks", (bought_pool("eks", "b", max_nodes=3, desired_nodes=1),), nodes)
    world = snapshot(
        home,
        workloads=(busy, gang, job("late", 8, 90000.0), job("soon", 8, 600.0)),
        copies=(copy_of(busy, started_at=NOW, holds=(("n0", busy.requests),)),),
    )
    rules = policy_set(policy(burst=BurstRule(), reservation=ReservationRule(0.0)))
    plan = cycle(world, rules, FirstPredictor())
    assert not plan.placements, "nobody buys the nodes that the gang is to have"
