"""Queue waits and how what is said is put right by what came."""

from __future__ import annotations

import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.lines import member_lines, waiting
from scheduler.engine.world import World
from scheduler.model.snapshot import Progress
from scheduler.model.workload import Hints
from scheduler.predict.first import FirstPredictor
from scheduler.predict.learning import Learning
from scheduler.predict.ratios import NOTHING_SEEN, Ratios
from scheduler.predict.waits import Going, Line, Waiting, waits
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

going = st.lists(st.builds(Going, st.integers(1, 8), st.none() | st.floats(0, 1e5)), max_size=12)
anything = st.floats(allow_nan=True, allow_infinity=True)


@given(st.integers(0, 8), going, st.lists(st.integers(1, 8), max_size=8))
def test_those_behind_start_no_earlier_and_looking_changes_nothing(
    free: int, running: list[Going], line: list[int]
) -> None:
    one, last = Line(free, running), 0.0
    for gpus in line:
        said = one.start(gpus)
        assert one.start(gpus) == said
        assert one.take(gpus, 100.0) == said
        if said is not None:
            assert said >= last
            last = said


def test_each_takes_its_place_in_the_shorter_line() -> None:
    lines = {"a": Line(0, [Going(8, 600.0)]), "b": Line(0, [Going(8, 1000.0)])}
    both = frozenset({"a", "b"})
    found = waits(lines, [Waiting("first", 8, 3600.0, both), Waiting("second", 8, 60.0, both)])
    assert found == {"first": {"a": 600.0, "b": 1000.0}, "second": {"a": 4200.0, "b": 1000.0}}
    assert waits({"a": Line(4, [])}, [Waiting("large", 8, 60.0, both)]) == {"large": {}}


@given(st.lists(st.tuples(anything, anything), max_size=60))
def test_whatever_is_told_a_correction_is_finite_and_the_state_comes_back(told: list[tuple[float, float]]) -> None:
    ratios = Ratios()
    for said, actual in told:
        ratios.learn("x", said, actual)
    one = ratios.of("x")
    assert 0 < one.median <= one.p90 < math.inf
    assert 0 <= one.covered <= 1
    again = Ratios.from_state(orjson.loads(orjson.dumps(ratios.state())))
    assert again.of("x") == one


def test_what_is_always_half_is_doubled_and_one_outlier_moves_nothing() -> None:
    ratios = Ratios()
    for index in range(40):
        ratios.learn("x", 100.0, 200.0 * (1.0 + 0.01 * (index % 5)))
    good = ratios.of("x")
    ratios.learn("x", 100.0, 1e9)
    assert good.median == pytest.approx(2.0, rel=0.05)
    assert ratios.of("x").median == pytest.approx(good.median, rel=0.02)
    assert not good.drifting
    for _ in range(20):
        ratios.learn("x", 100.0, 1e5)
    assert ratios.of("x").drifting
    assert ratios.of("unseen") == NOTHING_SEEN


def test_the_line_is_made_of_what_is_owned_and_of_what_is_left_of_the_runs() -> None:
    run = workload("run", pods(1, 8), hints=Hints(3600.0), placement=placement("a", "gpu"))
    first, second = (workload(name, pods(1, 8), priority=rank) for name, rank in (("first", 1), ("second", 0)))
    busy = node("gpu", "n1", used=amount(8, 8, 64, 1), workload_pods=1)
    members = (cluster("a", (pool("a", "gpu"),), (busy,)), cluster("b", (bought_pool("b", "gpu"),)))
    told = Progress(run.ref.uid, 0.0, 0.5, NOW, 0.5 / 600.0)
    seen = snapshot(*members, workloads=(second, run, first), copies=(copy_of(run),), progress=(told,))
    world = World(seen, policy_set(policy()), FirstPredictor())
    (line,) = member_lines(world).values()
    assert line.free_gpus == 0
    ((gpus, left),) = line.going
    assert gpus == 8
    assert left == pytest.approx(600.0)
    assert [each.uid for each in waiting(world, 10)] == [first.ref.uid, second.ref.uid]
    assert [each.members for each in waiting(world, 1)] == [frozenset({"a"})]


def test_waits_teach_by_member_and_are_kept() -> None:
    learning = Learning()
    for _ in range(10):
        learning.waited("a", 540.0, 2340.0)
    again = Learning.from_state(orjson.loads(orjson.dumps(learning.state())))
    assert again.predictor().wait_correction("a").median == pytest.approx(4.0)
    assert again.predictor().wait_correction("b") == NOTHING_SEEN
