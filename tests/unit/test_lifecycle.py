"""Tables of the next write for a workload."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace

import pytest

from scheduler.engine.lifecycle import (
    ClearPlacement,
    CreateCopy,
    DeleteCopy,
    Done,
    MirrorStatus,
    RefreshCopy,
    RemoveFinalizer,
    SuspendCopy,
    View,
    next_step,
)
from scheduler.model.ids import ClusterId
from scheduler.model.workload import Copy, CopyState, PlacementState, Workload
from tests.builders import a_copy, a_placement, a_workload


def replace_state(workload: Workload, state: PlacementState) -> Workload:
    assert workload.placement is not None
    return replace(workload, placement=replace(workload.placement, state=state))


BOTH: Set[ClusterId] = frozenset({ClusterId("a"), ClusterId("b")})
ONLY_B: Set[ClusterId] = frozenset({ClusterId("b")})
LOST_A: Set[ClusterId] = frozenset({ClusterId("a")})
MOVED = a_workload(placement=a_placement("b", attempt=2, moved_from=ClusterId("a")), has_finalizer=True)
STARTED = a_workload(placement=a_placement(), has_finalizer=True)
RESERVED = a_workload(placement=a_placement(state=PlacementState.RESERVED), has_finalizer=True)
RELEASING = a_workload(placement=a_placement(state=PlacementState.RELEASING), has_finalizer=True)
FINISHED = a_workload(placement=a_placement(), has_finalizer=True, finished=True)
DELETING = a_workload(placement=a_placement(), has_finalizer=True, deleting=True)
SUSPENDED = a_workload(placement=a_placement(), has_finalizer=True, suspended=True)
ENDED = a_copy(STARTED, state=CopyState.SUCCEEDED)


@pytest.mark.parametrize(
    ("hub", "copies", "available", "want"),
    [
        pytest.param(a_workload(), (), BOTH, Done, id="pending"),
        pytest.param(a_workload(), (a_copy(STARTED),), BOTH, DeleteCopy, id="stray copy of an unplaced workload"),
        pytest.param(RESERVED, (), BOTH, Done, id="reserved waits for its nodes"),
        pytest.param(RESERVED, (a_copy(STARTED),), BOTH, DeleteCopy, id="no copy before its nodes are there"),
        pytest.param(STARTED, (), BOTH, CreateCopy, id="started without a copy"),
        pytest.param(STARTED, (), ONLY_B, Done, id="never created while its cluster is silent"),
        pytest.param(STARTED, (a_copy(STARTED),), BOTH, Done, id="runs as placed"),
        pytest.param(STARTED, (a_copy(STARTED, deleting=True),), BOTH, Done, id="not created anew before it is gone"),
        pytest.param(STARTED, (a_copy(STARTED, "b"),), BOTH, DeleteCopy, id="copy elsewhere goes first"),
        pytest.param(
            STARTED, (a_copy(STARTED, attempt=0),), BOTH, DeleteCopy, id="copy of an older attempt goes first"
        ),
        pytest.param(STARTED, (a_copy(STARTED, "a"), a_copy(STARTED, "b")), BOTH, DeleteCopy, id="the stale one goes"),
        pytest.param(SUSPENDED, (), BOTH, Done, id="suspended before it was created"),
        pytest.param(RELEASING, (a_copy(STARTED),), BOTH, DeleteCopy, id="releasing deletes"),
        pytest.param(RELEASING, (a_copy(STARTED, deleting=True),), BOTH, Done, id="releasing waits for the end"),
        pytest.param(RELEASING, (), BOTH, ClearPlacement, id="released when gone"),
        pytest.param(RELEASING, (), ONLY_B, Done, id="not released while it cannot be known"),
        pytest.param(FINISHED, (ENDED,), BOTH, DeleteCopy, id="finished copy is removed"),
        pytest.param(FINISHED, (), BOTH, RemoveFinalizer, id="finished and clean"),
        pytest.param(a_workload(finished=True), (), BOTH, Done, id="finished and let go"),
        pytest.param(DELETING, (a_copy(STARTED),), BOTH, DeleteCopy, id="deletion takes the copy"),
        pytest.param(DELETING, (a_copy(STARTED, deleting=True),), BOTH, Done, id="deletion waits for the copy"),
        pytest.param(DELETING, (), BOTH, RemoveFinalizer, id="deletion ends"),
        pytest.param(DELETING, (), ONLY_B, Done, id="deletion waits for a silent member"),
        pytest.param(None, (a_copy(STARTED),), BOTH, DeleteCopy, id="orphan"),
        pytest.param(None, (), BOTH, Done, id="gone for good"),
    ],
)
def test_next_step(hub: Workload | None, copies: tuple[Copy, ...], available: Set[ClusterId], want: type) -> None:
    assert isinstance(next_step(View(hub, copies, available)), want)


@pytest.mark.parametrize(
    ("hub", "copies", "want"),
    [
        pytest.param(DELETING, (a_copy(STARTED),), RemoveFinalizer, id="deletion is not held for ever"),
        pytest.param(RELEASING, (a_copy(STARTED),), ClearPlacement, id="released without the lost copy"),
        pytest.param(None, (a_copy(STARTED),), Done, id="an orphan on a lost member waits for it"),
        pytest.param(STARTED, (a_copy(STARTED),), Done, id="the cycle decides to release, not this"),
    ],
)
def test_a_lost_member(hub: Workload | None, copies: tuple[Copy, ...], want: type) -> None:
    assert isinstance(next_step(View(hub, copies, ONLY_B, LOST_A)), want)


def test_differences_are_mended_in_order() -> None:
    copies = (a_copy(STARTED),)
    everything = View(STARTED, copies, BOTH, frozenset(), True, True, True)
    assert isinstance(next_step(everything), MirrorStatus)
    assert isinstance(next_step(View(SUSPENDED, copies, BOTH, frozenset(), False, True, True)), SuspendCopy)
    assert isinstance(next_step(View(STARTED, copies, BOTH, frozenset(), False, False, True)), RefreshCopy)


def test_the_status_of_a_silent_member_is_still_mirrored_but_nothing_is_written_there() -> None:
    copies = (a_copy(STARTED),)
    assert isinstance(next_step(View(STARTED, copies, ONLY_B, frozenset(), True, True, True)), MirrorStatus)
    assert isinstance(next_step(View(STARTED, copies, ONLY_B, frozenset(), False, True, True)), Done)


@pytest.mark.parametrize(
    ("hub", "copies", "available", "differs", "want"),
    [
        pytest.param(MOVED, (a_copy(STARTED),), BOTH, False, DeleteCopy, id="the copy that it leaves goes first"),
        pytest.param(
            MOVED, (a_copy(STARTED, deleting=True),), BOTH, False, Done, id="nothing is made until it is gone"
        ),
        pytest.param(MOVED, (ENDED,), BOTH, True, MirrorStatus, id="it ended before it could be moved"),
        pytest.param(MOVED, (), BOTH, True, MirrorStatus, id="the status of the former run is ended"),
        pytest.param(MOVED, (), BOTH, False, CreateCopy, id="then it is made anew"),
        pytest.param(MOVED, (), ONLY_B, False, Done, id="not while nobody can look where it was"),
        pytest.param(
            MOVED, (a_copy(MOVED, "b", attempt=2),), ONLY_B, False, Done, id="once it runs that matters no more"
        ),
        pytest.param(replace_state(MOVED, PlacementState.RELEASING), (), ONLY_B, False, Done, id="nor is it released"),
        pytest.param(replace(MOVED, deleting=True), (), ONLY_B, False, Done, id="nor let go"),
        pytest.param(
            replace(MOVED, finished=True), (), ONLY_B, False, RemoveFinalizer, id="finished, it ran where it is"
        ),
    ],
)
def test_a_move(hub: Workload, copies: tuple[Copy, ...], available: Set[ClusterId], differs: bool, want: type) -> None:
    assert isinstance(next_step(View(hub, copies, available, status_differs=differs)), want)


def test_a_move_off_a_member_that_is_given_up_does_not_wait_for_it() -> None:
    assert isinstance(next_step(View(MOVED, (), ONLY_B, LOST_A)), CreateCopy)
