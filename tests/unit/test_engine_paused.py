"""A suspended workload gives its room up and keeps its copy; resumed, the whole gang starts again or none of it."""

from __future__ import annotations

from typing import Any

import pytest

from scheduler.engine.cycle import cycle
from scheduler.engine.lifecycle import CreateCopy, Done, SuspendCopy, View, next_step
from scheduler.model.ids import ClusterId
from scheduler.model.workload import CopyState, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from tests.builders import a_copy, a_placement, a_workload
from tests.unit.engine_world import (
    amount,
    cluster,
    copy_of,
    node,
    placement,
    pods,
    policy_set,
    pool,
    snapshot,
    workload,
)

PAUSED, STARTED = PlacementState.PAUSED, PlacementState.STARTED
HERE = frozenset({ClusterId("a")})


def a_gang(state: PlacementState, **changes: Any) -> Workload:
    """Two pods that fill a node each."""
    return workload("gang", pods(2, 8), placement=placement("onprem", "a", state), **changes)


@pytest.mark.parametrize(
    ("gang", "second_node_used", "want"),
    [
        pytest.param(a_gang(STARTED, suspended=True), 0, [PAUSED], id="suspended: paused"),
        pytest.param(a_gang(PAUSED, suspended=True), 0, [], id="stays paused while suspended"),
        pytest.param(a_gang(PAUSED), 0, [STARTED], id="resumed, and all of it fits"),
        pytest.param(a_gang(PAUSED), 8, [], id="resumed, but only one of two pods fits"),
    ],
)
def test_pausing_and_resuming(gang: Workload, second_node_used: int, want: list[PlacementState]) -> None:
    used = node("a", "n2", used=amount(second_node_used), workload_pods=1 if second_node_used else 0)
    here = cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"), used))
    copy = copy_of(gang, state=CopyState.SUSPENDED, suspended=True, pods_wanted=0, pods_bound=0)
    plan = cycle(snapshot(here, workloads=(gang,), copies=(copy,)), policy_set(), FirstPredictor())
    assert [move.placement.state for move in plan.placements] == want
    assert [decision.outcome for decision in plan.decisions] == [state.value for state in want]


def test_a_paused_copy_stays_suspended_until_the_placement_says_started() -> None:
    resumed = a_workload(placement=a_placement(state=PAUSED), has_finalizer=True)
    asleep = a_copy(resumed, suspended=True, state=CopyState.SUSPENDED)
    assert isinstance(next_step(View(resumed, (asleep,), HERE)), Done)
    awake = a_copy(resumed)
    step = next_step(View(resumed, (awake,), HERE, suspension_differs=True))
    assert isinstance(step, SuspendCopy)
    assert step.suspend
    started = a_workload(placement=a_placement(), has_finalizer=True)
    step = next_step(View(started, (asleep,), HERE, suspension_differs=True))
    assert isinstance(step, SuspendCopy)
    assert not step.suspend


def test_a_paused_workload_without_a_copy_gets_none() -> None:
    assert isinstance(next_step(View(a_workload(placement=a_placement(state=PAUSED)), (), HERE)), Done)
    assert isinstance(next_step(View(a_workload(placement=a_placement()), (), HERE)), CreateCopy)
