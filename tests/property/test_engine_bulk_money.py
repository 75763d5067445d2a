"""Arrays and runs keep budgets, node limits and deadlines, exactly as weighing one workload after another does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.engine import assignment
from scheduler.engine.assignment import BEHIND, Assignment
from scheduler.engine.bulk import Bulk, runs_of
from scheduler.engine.candidates import Weigher
from scheduler.engine.commitments import Commitments
from scheduler.engine.cycle import cycle
from scheduler.engine.queue_order import Turns
from scheduler.engine.settlement import settle
from scheduler.engine.world import World
from scheduler.model.cluster import ON_DEMAND, SPOT, Cluster
from scheduler.model.ids import ClusterId, QueueId
from scheduler.model.plan import Plan
from scheduler.model.policy import Budget, BurstRule, Constraints, Match, PolicySet, QueueSpec, Quota, ValueOfTime
from scheduler.model.snapshot import Snapshot, SpendBucket
from scheduler.model.workload import Hints, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from tests.property.test_engine_bulk import federations, gangs
from tests.property.test_engine_properties import CAREFUL
from tests.unit.engine_world import (
    NOW,
    bought_pool,
    cluster,
    copy_of,
    placement,
    pods,
    policy,
    policy_set,
    snapshot,
    workload,
)

SOME = settings(CAREFUL, max_examples=25)
QUEUES = ("blue", "red")
HINTS = (
    Hints(),
    Hints(expected_seconds=900.0),
    Hints(expected_seconds=7200.0),
    Hints(expected_seconds=900.0, deadline_at=NOW + 1800),
)
VALUES = (None, None, ValueOfTime(usd_per_gpu_hour=Decimal(1)))


@st.composite
def budgets(draw: st.DrawFn) -> tuple[Budget, ...]:
    def some(*words: str) -> tuple[str, ...]:
        return tuple(sorted(draw(st.sets(st.sampled_from(words), max_size=1))))

    return tuple(
        Budget(
            f"b{number}",
            Decimal(draw(st.integers(0, 90))) / 2,
            draw(st.sampled_from(("day", "total"))),
            some(*QUEUES),
            some("c0", "c1"),
            some(ON_DEMAND, SPOT),
        )
        for number in range(draw(st.integers(0, 2)))
    )


@st.composite
def rules(draw: st.DrawFn) -> PolicySet:
    """A policy for each queue; each queue's budgets may cover the other one too."""
    quotas = draw(st.sampled_from(((), (Quota("gpu", 40),))))
    nodes = st.sampled_from((None, 0, 1, 2, 4))
    both = (
        policy(
            queue,
            match=Match((queue,)),
            objective=draw(st.sampled_from(("cost", "completion_time"))),
            burst=draw(st.sampled_from((BurstRule(), BurstRule(0.0, draw(nodes)), BurstRule(0.0, draw(nodes)), None))),
            budgets=draw(budgets()),
            constraints=Constraints(deadline_seconds=draw(st.sampled_from((None, None, 1500.0, 7500.0)))),
            value_of_time=draw(st.sampled_from(VALUES)),
        )
        for queue in QUEUES
    )
    queues = (QueueSpec(QueueId(name), "all", quotas=quotas, strict_fifo=draw(st.booleans())) for name in QUEUES)
    return policy_set(*both, queues=tuple(queues))


@st.composite
def snapshots(draw: st.DrawFn, most: int = 14) -> Snapshot:
    """Pending workloads of few classes, some that run on bought pools, and some money spent."""
    where: tuple[Cluster, ...] = draw(federations())
    shapes = draw(st.lists(gangs(), min_size=1, max_size=3))
    hints = st.sampled_from(HINTS)

    def one(name: str) -> Workload:
        queue, shape = draw(st.sampled_from(QUEUES)), draw(st.sampled_from(shapes))
        since = NOW - draw(st.sampled_from((0, 200, 900)))
        return workload(name, shape, queue=queue, hints=draw(hints), queued_at=since, created_at=since)

    running = []
    for index in range(draw(st.integers(0, 3))):
        home = draw(st.sampled_from([each.id for each in where])), draw(st.sampled_from(("od", "spot")))
        state = draw(st.sampled_from((PlacementState.STARTED, PlacementState.RESERVED)))
        kind = SPOT if home[1] == "spot" else ON_DEMAND
        there = placement(*home, state, bought=True, capacity_type=kind, decided_at=NOW - 60)
        running.append(replace(one(f"r{index}"), placement=there))
    copies = tuple(
        copy_of(each) for each in running if each.placement and each.placement.state is PlacementState.STARTED
    )
    pending = tuple(one(f"w{index:02d}") for index in range(draw(st.integers(1, most))))
    spend = SpendBucket(NOW - 7200, ClusterId("c0"), ON_DEMAND, QueueId("blue"), Decimal(draw(st.integers(0, 9))))
    return snapshot(*where, workloads=(*running, *pending), copies=copies, spend=(spend,))


def by_arrays(snap: Snapshot, how: PolicySet) -> Plan:
    return cycle(snap, how, FirstPredictor())


@given(snap=snapshots(), how=rules())
@SOME
def test_the_plan_is_that_of_weighing_one_by_one(snap: Snapshot, how: PolicySet) -> None:
    assert by_arrays(snap, how) == cycle(snap, how, FirstPredictor(), one_by_one=True)


def one_after_another(self: Assignment, line: tuple[Workload, ...], bulk: Bulk) -> None:
    """The turn as arrays take it, classes in the order of their first, but each workload weighed by itself."""
    for _, run in runs_of((self._ask_for_bulk(each), each) for each in line):
        for each in run:
            self._consider(each)


def one_after_another_strictly(self: Assignment, line: tuple[Workload, ...], turns: Turns) -> None:
    blocked = False
    for each in line:
        if blocked:
            self._hold(each, self._world.policy_of(each), assignment._Refusal(BEHIND, BEHIND.text, waits=True))
        else:
            blocked = self._consider(each)
    for each in turns.rest_of(line[0].queue) if blocked else ():
        self._hold(each, self._world.policy_of(each), assignment._Refusal(BEHIND, BEHIND.text, waits=True))


@contextmanager
def large_turns() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assignment, "turn_size", lambda pending: 40)
        yield patch


@given(snap=snapshots(40), how=rules())
@SOME
def test_so_it_is_when_a_turn_takes_many(snap: Snapshot, how: PolicySet) -> None:
    """Who goes where and what is held for what reasons; of those placed together the rest is told once."""
    with large_turns() as patch:
        got = by_arrays(snap, how)
        patch.setattr(Assignment, "_consider_together", one_after_another)
        patch.setattr(Assignment, "_consider_strictly", one_after_another_strictly)
        want = by_arrays(snap, how)
    assert got.placements == want.placements
    assert got.scales == want.scales
    assert got.budgets == want.budgets
    assert [each.chosen for each in got.decisions] == [each.chosen for each in want.decisions]
    held = [[each for each in plan.decisions if each.outcome == "held"] for plan in (got, want)]
    assert held[0] == held[1]


@given(snap=snapshots(40), how=rules())
@SOME
def test_no_budget_and_no_limit_is_broken(snap: Snapshot, how: PolicySet) -> None:
    """By the ledgers of a world in which each placement is counted by itself, in the plan's order."""
    with large_turns():
        plan = by_arrays(snap, how)
    world = World(snap, how, FirstPredictor())
    settle(world, Weigher(world))
    workloads = {each.ref: each for each in snap.workloads}
    chosen = {each.workload: each.chosen for each in plan.decisions}
    for change in plan.placements:
        what = workloads[change.workload]
        rule, room = world.policy_of(what), world.room_of(change.placement)
        candidate = chosen[change.workload]
        if what.placement is not None or not change.placement.bought:
            continue
        assert rule is not None
        assert rule.burst is not None
        assert room is not None
        assert candidate is not None
        before = {id(each): each.committed for each in world.budgets.accounts}
        world.commit(what, rule.name, room, world.predict(what, room, candidate.new_nodes))
        for account in world.budgets.covering(what.queue, room.pool):
            assert account.left >= 0, "the budget is overdrawn by a placement"
            assert account.committed >= before[id(account)]
        if rule.burst.max_nodes is not None:
            assert world.commitments.nodes_in_use(rule.name) <= rule.burst.max_nodes
    assert world.budgets.states() == plan.budgets


@given(snap=snapshots(), how=rules(), data=st.data())
@SOME
def test_the_order_of_the_input_does_not_matter(snap: Snapshot, how: PolicySet, data: st.DataObject) -> None:
    mixed = replace(
        snap,
        clusters=tuple(data.draw(st.permutations(snap.clusters))),
        workloads=tuple(data.draw(st.permutations(snap.workloads))),
    )
    other = replace(how, policies=tuple(reversed(how.policies)))
    assert by_arrays(mixed, other) == by_arrays(snap, how)


def imagined(of: Commitments, world: World) -> list[object]:
    nodes = [(room.pool.ref, node) for room in world.rooms.values() for node in of.with_room(room)]
    return [
        (ref, node.bin.gpus, node.bin.cpu_milli, node.bin.memory_bytes, node.bin.pods, node.busy_seconds, node.policies)
        for ref, node in nodes
    ]


@given(snap=snapshots(), how=rules(), gang=gangs(), count=st.integers(1, 40), hints=st.sampled_from(HINTS))
@SOME
def test_a_run_leaves_the_ledgers_as_each_by_itself_would(
    snap: Snapshot, how: PolicySet, gang: object, count: int, hints: Hints
) -> None:
    """Imagined nodes, for how long they are busy and for which policies, and every budget to the nano-dollar."""
    how = replace(how, policies=tuple(replace(each, value_of_time=None) for each in how.policies))
    what = tuple(workload(f"w{index:02d}", gang, queue="blue", hints=hints) for index in range(count))  # type: ignore[arg-type]
    placed = tuple(each for each in snap.workloads if each.placement is not None)
    snap = replace(snap, workloads=(*placed, *what))
    worlds = [World(snap, how, FirstPredictor()) for _ in range(2)]
    slow, fast = worlds
    for world in worlds:
        settle(world, Weigher(world))
    Assignment(slow, Weigher(slow), one_by_one=True).run()
    rule = fast.policy_of(what[0])
    assert rule is not None
    Bulk(fast, Weigher(fast), [], []).place(fast.ask_of(what[0], rule), what)
    assert imagined(fast.commitments, fast) == imagined(slow.commitments, slow)
    assert fast.budgets.states() == slow.budgets.states()
    for each in how.policies:
        assert fast.commitments.nodes_in_use(each.name) == slow.commitments.nodes_in_use(each.name)


def test_a_gang_over_several_nodes_that_is_refused_leaves_no_trace_on_them() -> None:
    """The first takes one node whole and half of another; the second would share that half and need a third node."""
    how = policy_set(policy(burst=BurstRule(0.0, 2)))
    what = tuple(workload(f"w{index}", pods(3, 4)) for index in range(2))
    snap = snapshot(cluster("eks", (bought_pool("eks", "od"),)), workloads=what)
    slow, fast = worlds = [World(snap, how, FirstPredictor()) for _ in range(2)]
    for world in worlds:
        settle(world, Weigher(world))
    Assignment(slow, Weigher(slow), one_by_one=True).run()
    rule = fast.policy_of(what[0])
    assert rule is not None
    assert Bulk(fast, Weigher(fast), [], []).place(fast.ask_of(what[0], rule), what) == 1
    (room,) = fast.rooms.values()
    assert [node.bin.gpus for node in fast.commitments.with_room(room)] == [4]
    assert imagined(fast.commitments, fast) == imagined(slow.commitments, slow)
