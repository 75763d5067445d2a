"""What is remembered of earlier snapshots makes a cycle cheaper, and never another."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.engine.memory import Memory
from scheduler.engine.roll import Roll, changes
from scheduler.model.cluster import Cluster
from scheduler.model.policy import Budget, PolicySet, ValueOfTime
from scheduler.model.resources import Resources, total
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Copy, CopyState, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from tests.property.test_engine_bulk import backlogs, federations, rules
from tests.property.test_engine_properties import CAREFUL
from tests.unit.engine_world import NOW, cluster, copy_of, node, placement, policy_set, pool, snapshot, workload


@st.composite
def placed(draw: st.DrawFn, index: int) -> Workload:
    home = draw(st.sampled_from((("c0", "a", False), ("c0", "od", True), ("c1", "b", False), ("c9", "a", False))))
    state = draw(st.sampled_from((PlacementState.STARTED, *PlacementState)))
    where = placement(home[0], home[1], state, bought=home[2], decided_at=NOW - draw(st.sampled_from((60, 9000))))
    return workload(
        f"r{index:02d}",
        queue=draw(st.sampled_from(("blue", "red"))),
        placement=where,
        suspended=draw(st.integers(0, 6)) == 0,
        deleting=draw(st.integers(0, 6)) == 0,
        finished=draw(st.integers(0, 6)) == 0,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[Snapshot, ...]:
    """Snapshots that share most of their parts, in any order, some of them in another state."""
    homes = list(draw(federations()))
    others = list(draw(federations()))
    people = [*draw(backlogs()), *(draw(placed(index)) for index in range(draw(st.integers(0, 8))))]
    found: list[Snapshot] = []
    now = NOW
    for _ in range(draw(st.integers(1, 5))):
        now += draw(st.sampled_from((0.0, 30.0, 700.0, 1e5, -500.0)))
        who = draw(st.permutations(people))[: draw(st.integers(0, len(people)))]
        changed = draw(st.booleans())
        if who and changed:
            where = placement("c0", draw(st.sampled_from("ab")), decided_at=NOW - 30)
            who[0] = replace(who[0], placement=None if who[0].placement else where)
        copies = tuple(_copy(draw, each) for each in who if each.placement and draw(st.integers(0, 3)))
        clusters = tuple(_cluster(draw, each) for each in (homes if draw(st.integers(0, 3)) else others))
        found.append(snapshot(*clusters, workloads=tuple(who), copies=copies, now=now))
    return tuple(found)


def _copy(draw: st.DrawFn, of: Workload) -> Copy:
    bound, state = draw(st.sampled_from((0, 1, 1, 1))), draw(st.sampled_from((CopyState.RUNNING, CopyState.SUCCEEDED)))
    return replace(copy_of(of), pods_bound=bound, state=state, attempt=draw(st.sampled_from((1, 1, 1, 2))))


def _cluster(draw: st.DrawFn, one: Cluster) -> Cluster:
    """Itself, or with what else may change of it while its nodes stay as they are."""
    match draw(st.integers(0, 9)):
        case 0:
            return replace(one, unreachable_since=NOW - 2000)
        case 1:
            return replace(one, region="elsewhere")
        case 2:
            return replace(one, nodes=one.nodes[1:])
        case 3:
            return replace(one, pools=one.pools[::-1])
    return one


@st.composite
def all_rules(draw: st.DrawFn) -> PolicySet:
    given_rules = draw(rules())
    value = draw(st.sampled_from((None, None, ValueOfTime(usd_per_gpu_hour=Decimal(1)))))
    budgets = draw(st.sampled_from(((), (Budget("all", Decimal(60), "total"),))))
    first = given_rules.policies[0]
    limits = replace(first.constraints, regions=draw(st.sampled_from(((), (), ("region-c0", "elsewhere")))))
    one = replace(first, value_of_time=value, budgets=budgets, constraints=limits)
    return policy_set(one, queues=given_rules.queues)


@given(history=histories(), rules=st.lists(all_rules(), min_size=1, max_size=2))
@CAREFUL
def test_a_memory_of_any_earlier_snapshots_changes_no_plan(
    history: tuple[Snapshot, ...], rules: list[PolicySet]
) -> None:
    memory = Memory()
    for number, snap in enumerate(history):
        how = rules[number % len(rules)]
        assert cycle(snap, how, FirstPredictor(), memory=memory) == cycle(snap, how, FirstPredictor())


@given(history=histories())
@CAREFUL
def test_a_roll_that_is_kept_up_is_one_that_is_new(history: tuple[Snapshot, ...]) -> None:
    kept = Roll()
    for snap in history:
        kept.update(snap)
        new = Roll()
        new.update(snap)
        assert kept.pending == new.pending
        assert kept.restless == new.restless
        assert kept.copies == new.copies
        assert +kept.placed == +new.placed
        assert +kept.waiting == +new.waiting
        for queue in {*kept.used, *new.used}:
            assert kept.used.get(queue, workload("none").requests.times(0)) == new.used.get(
                queue, workload("none").requests.times(0)
            )


def test_a_memory_begins_anew_after_a_cycle_that_failed() -> None:
    class Broken(FirstPredictor):
        def predict(self, *_: object) -> object:  # type: ignore[override]
            raise RuntimeError("broken")

    home = cluster("c0", (pool("c0", "a"),), (node("a", "n1"),))
    snap = snapshot(home, workloads=(workload("w1"),))
    memory = Memory()
    with pytest.raises(RuntimeError):
        cycle(snap, policy_set(), Broken(), memory=memory)  # type: ignore[arg-type]
    assert cycle(snap, policy_set(), FirstPredictor(), memory=memory) == cycle(snap, policy_set(), FirstPredictor())


@given(old=st.lists(st.integers(0, 40), unique=True), new=st.lists(st.integers(0, 40), unique=True))
@CAREFUL
def test_what_differs_between_two_tuples(old: list[int], new: list[int]) -> None:
    things = [workload(f"w{index}") for index in range(41)]
    before, after = tuple(things[each] for each in old), tuple(things[each] for each in new)
    left, came = changes(before, after, {id(each) for each in before})
    names = {each.ref.name for each in before} - {each.ref.name for each in left} | {each.ref.name for each in came}
    assert names == {each.ref.name for each in after}
    if old == new:
        assert not left
        assert not came


AMOUNTS = st.builds(
    Resources,
    st.integers(0, 9000),
    st.integers(0, 2**40),
    st.integers(0, 8),
    st.integers(0, 110),
    st.dictionaries(st.sampled_from(("example.com/fpga", "hugepages-2Mi")), st.integers(1, 9)).map(
        lambda found: tuple(sorted(found.items()))
    ),
)


@given(st.lists(AMOUNTS, max_size=6))
def test_amounts_together_are_what_they_are_one_by_one(amounts: list[Resources]) -> None:
    assert total(amounts) == sum(amounts, Resources())
