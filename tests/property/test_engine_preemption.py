"""Capacity comes back to its queue: as little work as possible is lost, nobody below his share loses any, and a
federation comes to rest."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.engine.fairshare import dominant_share, federation_capacity
from scheduler.model.ids import QueueId
from scheduler.model.plan import Plan
from scheduler.model.policy import PolicySet, PreemptionRule, QueueSpec, Quota, ReservationRule, ValueOfTime
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Copy, Hints, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from tests.property.engine_federation import Federation
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
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


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
            [*FULL[:3], running("v3", "red", 4, "n1", ran=1010.0, priority=-1)],
            job("w", "blue", 4),
            (8, 8),
            {"v3": "Reclaimed"},
            id="of such as lose about the same, the lower priority",
        ),
        pytest.param(
            [*FULL[:3], running("own", "blue", 4, "n1", ran=990.0)],
            job("w", "blue", 4, priority=1),
            (8, 8),
            {"v0": "Reclaimed"},
            id="of equals, the borrowed before its own",
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


def test_by_weight_where_there_is_no_quota() -> None:
    """blue may have a quarter of 16 GPUs: its second job of 4 stops nobody."""
    ruled = rules(queue("red", None, weight=3), queue("blue", None))
    pending = (job("w1", "blue", 4, queued_at=NOW - 5), job("w2", "blue", 4))
    plan = cycle(world_of(2, FULL, *pending), ruled, FirstPredictor())
    assert stopped(plan) == {"v0": "Reclaimed"}
    assert federation_capacity(world_of(2, FULL).clusters).gpus == 16
    assert dominant_share(FULL[0][0].requests, federation_capacity(world_of(2, FULL).clusters)) == 0.25


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
    for index in range(draw(st.integers(2, 14))):
        at = NOW + draw(st.integers(0, 4000))
        checkpoints = draw(st.sampled_from((None, 300.0)))
        found.append(
            job(
                f"w{index:02d}",
                draw(st.sampled_from(("red", "blue", "green"))),
                draw(st.integers(1, 8)),
                draw(st.integers(1, 2)),
                priority=draw(st.integers(0, 2)),
                queued_at=at,
                created_at=at,
                hints=Hints(float(draw(st.integers(100, 4000))), checkpoints),
            )
        )
    return found


@given(
    arrivals=jobs(),
    nominal=st.one_of(st.none(), st.tuples(*[st.integers(0, 12)] * 3)),
    grace=st.sampled_from((0.0, 45.0)),
    waiting=st.sampled_from(((None, None), (600.0, None), (600.0, ValueOfTime(Decimal(1))))),
)
@CAREFUL
def test_a_federation_with_preemption_comes_to_rest(
    arrivals: list[Workload],
    nominal: tuple[int, int, int] | None,
    grace: float,
    waiting: tuple[float | None, ValueOfTime | None],
) -> None:
    after_wait, value = waiting
    names = ("red", "blue", "green")
    queues = [queue(name, None if nominal is None else nominal[index], BOTH) for index, name in enumerate(names)]
    rule = policy(burst=None, reservation=ReservationRule(after_wait), value_of_time=value)
    home = cluster("onprem", (pool("onprem", "a"),), (node("a", "n0"), node("a", "n1")))
    world = Federation(NOW - 1, [home], policy_set(rule, queues=tuple(queues)), {}, arrivals=list(arrivals))
    world.release_seconds = grace
    world.run(until=NOW + 30 * 86400)
    total = None if nominal is None else sum(nominal)
    for each in world.workloads.values():
        assert total is not None, f"{each.ref} never ends"
        assert each.requests.gpus > total, f"{each.ref} never ends"
    # Nobody is stopped more often than others can have asked for it: no ping-pong.
    times = Counter(uid for _, uid, why in world.releases if why in ("Reclaimed", "Preempted"))
    assert all(count < len(arrivals) for count in times.values())
    assert len(world.releases) <= len(arrivals) ** 2


@given(placed=st.lists(st.tuples(st.sampled_from(("red", "blue", "green")), st.integers(1, 8), st.integers(0, 2)),
                       max_size=10),
       wanted=st.tuples(st.integers(1, 8), st.integers(1, 2), st.integers(0, 2)),
       nominal=st.tuples(*[st.integers(0, 16)] * 3))  # fmt: skip
@CAREFUL
def test_only_borrowers_and_lower_priorities_lose_and_no_more_than_is_needed(
    placed: list[tuple[str, int, int]], wanted: tuple[int, int, int], nominal: tuple[int, int, int]
) -> None:
    free = {"n0": 8, "n1": 8, "n2": 8}
    there: list[tuple[Workload, Copy]] = []
    for index, (name, gpus, priority) in enumerate(placed):
        on = next((each for each in sorted(free) if free[each] >= gpus), None)
        if on is not None:
            free[on] -= gpus
            there.append(running(f"v{index}", name, gpus, on, ran=60.0 * (index + 1), priority=priority))
    names = ("red", "blue", "green")
    queues = tuple(queue(name, nominal[index], BOTH) for index, name in enumerate(names))
    gpus, count, priority = wanted
    asker = job("w", "blue", gpus, count, priority=priority)
    snap = world_of(3, there, asker)
    plan = cycle(snap, rules(*queues), FirstPredictor())
    victims = [each for each, _ in there if each.ref.name in stopped(plan)]
    used = Counter[str]()
    for each, _ in there:
        used[each.queue] += each.requests.gpus
    share = dict(zip(names, nominal, strict=True))
    for each in victims:
        if each.queue == "blue":
            assert each.priority < priority
        else:
            assert used[each.queue] > share[each.queue], "a queue within its share lost a run"
            assert used["blue"] + asker.requests.gpus <= share["blue"], "a queue took more than its own"
    # With the victims gone it starts at once, and with one of them left it does not.
    for left in ([], *([each] for each in victims)):
        stay = [one for one in there if one[0] not in victims or one[0] in left]
        after = cycle(world_of(3, stay, asker), rules(*queues), FirstPredictor())
        starts = any(change.workload.name == "w" for change in after.placements)
        if victims:
            assert starts is not bool(left)
