"""Capacity comes back to its queue: as little work as possible is lost, nobody below his share loses any, and a
federation comes to rest."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal
from itertools import combinations
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.model.ids import QueueId
from scheduler.model.plan import Plan
from scheduler.model.policy import PolicySet, PreemptionRule, QueueSpec, Quota, ReservationRule, ValueOfTime
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Copy, Hints, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from tests.property.engine_federation import Federation, check_room
from tests.unit.engine_world import (
    NOW,
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

RECLAIM = PreemptionRule(reclaim=True)
BOTH = PreemptionRule(reclaim=True, lower_priority=True)
CAREFUL = settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


MANY = settings(CAREFUL, max_examples=40)


def queue(name: str, gpus: int | None, rule: PreemptionRule = RECLAIM, weight: int = 1) -> QueueSpec:
    quotas = () if gpus is None else (Quota("gpu", gpus),)
    return QueueSpec(QueueId(name), "all", Decimal(weight), quotas, preemption=rule)


def rules(*queues: QueueSpec, **changes: Any) -> PolicySet:
    return policy_set(policy(burst=None, reservation=ReservationRule(None), **changes), queues=queues)


def job(name: str, of: str, gpus: int, count: int = 1, **changes: Any) -> Workload:
    return replace(workload(name, pods(count, gpus, cpu=1, memory=1), queue=of), **changes)


def running(
    name: str, of: str, gpus: int, on: str, *, ran: float = 3600.0, every: float | None = None, **changes: Any
) -> tuple[Workload, Copy]:
    """On that node since `ran` seconds."""
    found = job(
        name,
        of,
        gpus,
        placement=placement("onprem", "a", decided_at=NOW - ran),
        hints=Hints(100_000.0, every),
        **changes,
    )
    return found, copy_of(found, started_at=NOW - ran, holds=((on, found.requests),))


def world_of(nodes: int, placed: list[tuple[Workload, Copy]], *pending: Workload) -> Snapshot:
    used: dict[str, Resources] = {}
    for _, copy in placed:
        for name, held in copy.holds:
            used[name] = used.get(name, Resources()) + held
    there = tuple(
        node("a", name, used=used.get(name, Resources()), workload_pods=used.get(name, Resources()).pods)
        for name in (f"n{index}" for index in range(nodes))
    )
    return snapshot(
        cluster("onprem", (pool("onprem", "a"),), there),
        workloads=(*(each for each, _ in placed), *pending),
        copies=tuple(copy for _, copy in placed),
    )


def stopped(plan: Plan) -> dict[str, str]:
    return {
        change.workload.name: change.placement.reason
        for change in plan.placements
        if change.placement.state is PlacementState.RELEASING
    }


FULL = [running(f"v{index}", "red", 4, f"n{index // 2}", ran=1000.0 + index) for index in range(4)]


@pytest.mark.parametrize(
    ("placed", "pending", "queues", "want_stopped"),
    [
        pytest.param(FULL, job("w", "blue", 4), (8, 8), {"v0": "Reclaimed"}, id="the least work"),
        pytest.param(FULL, job("w", "blue", 8), (8, 8), {"v0": "Reclaimed", "v1": "Reclaimed"}, id="one node whole"),
        pytest.param(FULL, job("w", "blue", 6), (12, 4), {}, id="more than its own"),
        pytest.param(FULL, job("w", "blue", 4), (16, 0), {}, id="nobody is over his share"),
        pytest.param(
            [*FULL[:3], running("v3", "red", 4, "n1", ran=5000.0, every=600.0)],
            job("w", "blue", 4),
            (8, 8),
            {"v3": "Reclaimed"},
            id="work since the last checkpoint counts",
        ),
        pytest.param(
            [*FULL[:3], running("v3", "red", 4, "n1", ran=1000.0, priority=-1)],
            job("w", "blue", 4),
            (8, 8),
            {"v3": "Reclaimed"},
            id="of such as lose the same, the lower priority",
        ),
        pytest.param(
            [running("v0", "red", 4, "n0", ran=500.0, priority=3), *FULL[1:]],
            job("w", "blue", 4),
            (8, 8),
            {"v1": "Reclaimed"},
            id="what is borrowed is what has the lowest priority",
        ),
        pytest.param(
            [*FULL[:3], running("own", "blue", 4, "n1", ran=990.0)],
            job("w", "blue", 4, priority=1),
            (8, 8),
            {"own": "Preempted"},
            id="of its own queue, where that loses less",
        ),
        pytest.param(
            [*FULL[:3], running("v3", "red", 4, "n1", ran=100_000.0, every=50.0)],
            job("w", "blue", 4),
            (8, 8),
            {"v0": "Reclaimed"},
            id="one that ends soon is stopped last",
        ),
        pytest.param(
            [*FULL[:3], running("v3", "red", 4, "n1", ran=10.0, runs_forever=True)],
            job("w", "blue", 4),
            (8, 8),
            {"v0": "Reclaimed"},
            id="serving is never stopped",
        ),
        pytest.param(
            [
                running("v0", "red", 1, "n0", ran=100.0),
                running("v1", "red", 8, "n1", ran=500.0),
                running("other", "green", 7, "n0", ran=10.0),
            ],
            job("w", "blue", 8),
            (1, 8),
            {"v1": "Reclaimed"},
            id="one node is cleared, not what is small on another",
        ),
    ],
)
def test_who_makes_room(
    placed: list[tuple[Workload, Copy]], pending: Workload, queues: tuple[int, int], want_stopped: dict[str, str]
) -> None:
    """red's nominal GPUs, then blue's."""
    ruled = rules(queue("red", queues[0]), queue("blue", queues[1], BOTH))
    plan = cycle(world_of(2, placed, pending), ruled, FirstPredictor())
    assert stopped(plan) == want_stopped
    assert all(change.workload.name != "w" for change in plan.placements)


@pytest.mark.parametrize(
    ("rule", "want_stopped"),
    [
        (PreemptionRule(), {}),
        (PreemptionRule(lower_priority=True), {}),
        (PreemptionRule(reclaim=True, max_lost_seconds=900.0), {}),
        (PreemptionRule(reclaim=True, max_lost_seconds=1001.5), {"v0": "Reclaimed"}),
    ],
)
def test_only_as_far_as_the_queue_says(rule: PreemptionRule, want_stopped: dict[str, str]) -> None:
    ruled = rules(queue("red", 8), queue("blue", 8, rule))
    assert stopped(cycle(world_of(2, FULL, job("w", "blue", 4)), ruled, FirstPredictor())) == want_stopped


def test_a_higher_priority_preempts_in_its_own_queue() -> None:
    placed = [running("low", "blue", 8, "n0", priority=1), running("mid", "blue", 8, "n1", priority=2, ran=100.0)]
    ruled = rules(queue("blue", 16, PreemptionRule(lower_priority=True)))
    plan = cycle(world_of(2, placed, job("w", "blue", 8, priority=2)), ruled, FirstPredictor())
    assert stopped(plan) == {"low": "Preempted"}
    said = {each.workload.name: each for each in plan.decisions}
    assert said["low"].outcome == "released"
    assert "higher priority" in said["low"].sentence
    assert said["w"].reason.code == "MakingRoom"


def test_what_is_on_its_way_out_is_enough() -> None:
    """The next cycle sees the victim leaving: nobody else is stopped, and nobody takes the room."""
    leaving, copy = FULL[0]
    assert leaving.placement is not None
    leaving = replace(leaving, placement=replace(leaving.placement, state=PlacementState.RELEASING))
    ruled = rules(queue("red", 8), queue("blue", 8))
    placed = [(leaving, copy), *FULL[1:]]
    plan = cycle(world_of(2, placed, job("w", "blue", 4)), ruled, FirstPredictor())
    assert not plan.placements
    gone = world_of(2, FULL[1:], job("w", "blue", 4), job("v0", "red", 4, queued_at=NOW - 900), job("x", "red", 4))
    plan = cycle(gone, ruled, FirstPredictor())
    assert [(c.workload.name, c.placement.state) for c in plan.placements] == [("w", PlacementState.STARTED)]


@pytest.mark.parametrize(("ago", "want_stopped"), [(30.0, {}), (600.0, {"v1": "Reclaimed"})])
def test_pods_that_linger_when_their_copy_is_gone_are_waited_for(ago: float, want_stopped: dict[str, str]) -> None:
    gone = replace(FULL[0][0], placement=None, queued_at=NOW - ago, created_at=NOW - 9000)
    snap = world_of(2, FULL, job("w", "blue", 4))
    others = tuple(each for each in snap.workloads if each.ref.name != "v0")
    snap = replace(snap, workloads=(*others, gone), copies=snap.copies[1:])
    plan = cycle(snap, rules(queue("red", 4), queue("blue", 8)), FirstPredictor())
    assert stopped(plan) == want_stopped
    assert ago > 60 or (plan.wake_at is not None and plan.wake_at <= NOW + 120)


def test_a_queue_that_waits_only_for_quota_stops_those_who_borrowed_it() -> None:
    """There is room on the third node, but red uses all the quota of the cohort."""
    ruled = rules(queue("red", 8), queue("blue", 8))
    plan = cycle(world_of(3, FULL, job("w", "blue", 4)), ruled, FirstPredictor())
    assert stopped(plan) == {"v0": "Reclaimed"}


def test_nobody_borrows_the_quota_of_one_for_whom_room_is_made() -> None:
    """16 GPUs of quota, 24 there: the borrower would fit on the third node, but then blue could not start."""
    borrower = job("x", "red", 4, queued_at=NOW - 900, priority=3)
    ruled = rules(queue("red", 4), queue("blue", 12))
    plan = cycle(world_of(3, FULL[:3], job("w", "blue", 8, queued_at=NOW - 5), borrower), ruled, FirstPredictor())
    assert stopped(plan) == {"v0": "Reclaimed"}
    assert not [change for change in plan.placements if change.workload.name == "x"]
    assert {usage.queue: usage.gpus_used for usage in plan.queues} == {"red": 12, "blue": 0}


@st.composite
def jobs(draw: st.DrawFn) -> list[Workload]:
    found = []
    for index in range(draw(st.integers(2, 8))):
        at = NOW + draw(st.sampled_from((0, 500, 2000)))
        checkpoints = draw(st.sampled_from((None, 300.0)))
        found.append(
            job(
                f"w{index:02d}",
                draw(st.sampled_from(NAMES)),
                draw(st.integers(0, 8)),
                draw(st.integers(1, 2)),
                priority=draw(st.integers(0, 2)),
                queued_at=at,
                created_at=at,
                hints=Hints(float(draw(st.integers(100, 4000))), checkpoints),
            )
        )
    return found


NAMES = ("red", "blue", "green")
NOMINALS = st.tuples(*[st.one_of(st.none(), st.integers(0, 16))] * 3)
RULES = st.tuples(*[st.sampled_from((PreemptionRule(), RECLAIM, BOTH, PreemptionRule(lower_priority=True)))] * 3)


def queues_of(nominal: tuple[int | None, ...], said: tuple[PreemptionRule, ...]) -> tuple[QueueSpec, ...]:
    return tuple(queue(name, nominal[index], said[index]) for index, name in enumerate(NAMES))


@given(
    arrivals=jobs(),
    nominal=NOMINALS,
    said=RULES,
    grace=st.sampled_from((0.0, 45.0)),
    waiting=st.sampled_from(((None, None), (600.0, None), (600.0, ValueOfTime(Decimal(1))))),
)
@CAREFUL
def test_a_federation_with_preemption_ends_all_that_can_end(
    arrivals: list[Workload],
    nominal: tuple[int | None, ...],
    said: tuple[PreemptionRule, ...],
    grace: float,
    waiting: tuple[float | None, ValueOfTime | None],
) -> None:
    after_wait, value = waiting
    rule = policy(burst=None, reservation=ReservationRule(after_wait), value_of_time=value)
    home = cluster("onprem", (pool("onprem", "a"),), (node("a", "n0"), node("a", "n1")))
    specs = queues_of(nominal, said)
    world = Federation(NOW - 1, [home], policy_set(rule, queues=specs), {}, arrivals=list(arrivals))
    world.release_seconds = grace
    world.run(until=NOW + 86400)
    total = sum(each or 0 for each in nominal)
    for each in world.workloads.values():
        own = nominal[NAMES.index(each.queue)]
        assert own is not None, f"{each.ref} never ends"
        assert each.requests.gpus > total, f"{each.ref} never ends"


@given(
    arrivals=jobs(),
    nominal=NOMINALS,
    said=RULES,
    grace=st.sampled_from((0.0, 45.0)),
    pools=st.integers(1, 2),
    value=st.sampled_from((None, ValueOfTime(Decimal(1)))),
)
@CAREFUL
def test_where_nothing_ends_it_comes_to_rest(
    arrivals: list[Workload],
    nominal: tuple[int | None, ...],
    said: tuple[PreemptionRule, ...],
    grace: float,
    pools: int,
    value: ValueOfTime | None,
) -> None:
    """Nobody is stopped for one who was stopped for him: what is stopped is soon at an end, for good."""
    rule = policy(burst=None, reservation=ReservationRule(None), value_of_time=value)
    names = ("a", "b")[:pools]
    home = cluster(
        "onprem", tuple(pool("onprem", name) for name in names), tuple(node(name, f"n-{name}") for name in names)
    )
    endless = [replace(each, hints=Hints(1e9, each.hints.checkpoint_every_seconds)) for each in arrivals]
    specs = queues_of(nominal, said)
    world = Federation(NOW - 1, [home], policy_set(rule, queues=specs), {}, arrivals=endless)
    world.release_seconds = grace
    for at in sorted({each.queued_at for each in arrivals}):
        world.advance(max(at, world.now))
        before = len(world.releases)
        quiet = 0
        for _ in range(10 * len(arrivals) + 20):
            plan = cycle(world.snapshot(), world.policies, FirstPredictor())
            check_room(world.snapshot(), plan)
            world.obey(plan)
            check_quotas(world, specs)
            quiet = 0 if plan.placements else quiet + 1
            if quiet == 10:  # All grace is over.
                break
            world.advance(world.now + 15.0)
        assert quiet == 10, "no rest"
        assert len(world.releases) - before <= len(arrivals), "more is stopped than there is"


def check_quotas(world: Federation, specs: tuple[QueueSpec, ...]) -> None:
    """Those that have a quota together use no more than it, with what is on its way out."""
    limited = {each.id: each.quotas[0].nominal for each in specs if each.quotas}
    placed = [each for each in world.workloads.values() if each.placement is not None and each.queue in limited]
    assert sum(each.requests.gpus for each in placed) <= sum(limited.values())


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Snapshot, PolicySet]:
    """Three nodes with what fits of what is drawn, and one or two who want in."""
    free = {"n0": 8, "n1": 8, "n2": 8}
    there: list[tuple[Workload, Copy]] = []
    drawn = st.tuples(st.sampled_from(NAMES), st.integers(1, 8), st.integers(0, 2), st.integers(0, 9000))
    for index, (name, gpus, priority, ran) in enumerate(draw(st.lists(drawn, max_size=10))):
        on = next((each for each in sorted(free) if free[each] >= gpus), None)
        if on is not None:
            free[on] -= gpus
            every = draw(st.sampled_from((None, 600.0)))
            there.append(running(f"v{index}", name, gpus, on, ran=float(ran), every=every, priority=priority))
    wanted = draw(st.tuples(st.integers(1, 8), st.integers(1, 3), st.integers(0, 2)))
    asker = job("w", "blue", wanted[0], wanted[1], priority=wanted[2])
    limits = draw(st.tuples(*[st.integers(0, 16)] * 3))
    said = draw(st.sampled_from((RECLAIM, BOTH, PreemptionRule(lower_priority=True))))
    return world_of(3, there, asker), rules(*queues_of(limits, (said,) * 3))


def without(snap: Snapshot, gone: Collection[str]) -> Snapshot:
    """The same, those having left."""
    copies = {each.origin: each for each in snap.copies}
    placed = [(each, copies[each.ref.uid]) for each in snap.workloads if each.ref.uid in copies]
    pending = [each for each in snap.workloads if each.ref.uid not in copies]
    return world_of(3, [one for one in placed if one[0].ref.name not in gone], *pending)


def starts(snap: Snapshot, ruled: PolicySet) -> bool:
    plan = cycle(snap, ruled, FirstPredictor())
    return any(change.workload.name == "w" for change in plan.placements)


@given(crowds())
@MANY
def test_only_borrowers_and_lower_priorities_lose(drawn: tuple[Snapshot, PolicySet]) -> None:
    snap, ruled = drawn
    victims = [each for each in snap.workloads if each.ref.name in stopped(cycle(snap, ruled, FirstPredictor()))]
    share = {each.id: each.quotas[0].nominal for each in ruled.queues}
    asker = next(each for each in snap.workloads if each.ref.name == "w")
    left = [each for each in snap.workloads if each.placement is not None and each not in victims]
    for each in victims:
        if each.queue == asker.queue:
            assert each.priority < asker.priority
            continue
        same = [other for other in left if other.queue == each.queue and other.priority >= each.priority]
        assert sum(other.requests.gpus for other in same) >= share[each.queue], "a queue lost what is its own"
    if victims:
        mine = [each for each in left if each.queue == asker.queue and each.priority >= asker.priority]
        used = sum(each.requests.gpus for each in (*mine, asker))
        assert used <= share[asker.queue], "a queue took more than its own"
        assert sum(each.requests.gpus for each in (*left, asker)) <= sum(share.values()), "a quota is broken"


@given(crowds())
@MANY
def test_no_smaller_part_of_the_stopped_would_have_done(drawn: tuple[Snapshot, PolicySet]) -> None:
    snap, ruled = drawn
    victims = sorted(stopped(cycle(snap, ruled, FirstPredictor())))
    for size in range(len(victims) + 1):
        for gone in combinations(victims, size):
            assert starts(without(snap, gone), ruled) is (size == len(victims)) or not victims


@given(crowds(), st.randoms(use_true_random=False))
@CAREFUL
def test_the_order_of_the_input_does_not_matter(drawn: tuple[Snapshot, PolicySet], dice: random.Random) -> None:
    snap, ruled = drawn
    mixed = replace(
        snap,
        workloads=tuple(dice.sample(snap.workloads, len(snap.workloads))),
        copies=tuple(dice.sample(snap.copies, len(snap.copies))),
    )
    assert cycle(mixed, ruled, FirstPredictor()) == cycle(snap, ruled, FirstPredictor())


@given(crowds())
@CAREFUL
def test_nobody_is_stopped_unless_a_queue_says_so(drawn: tuple[Snapshot, PolicySet]) -> None:
    snap, ruled = drawn
    silent = replace(ruled, queues=tuple(replace(each, preemption=PreemptionRule()) for each in ruled.queues))
    assert not stopped(cycle(snap, silent, FirstPredictor()))
