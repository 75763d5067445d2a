"""Whatever happens, and wherever the actuator stops, one workload never runs in two places and is never lost.

The model plays the hub, two members and the cycle; `next_step` decides, one step is executed at a time, and any other
event may come between any two steps (which is what a crash and a restart look like, since no state is kept).
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from scheduler.engine import lifecycle
from scheduler.engine.lifecycle import View, next_step
from scheduler.model.ids import ClusterId
from scheduler.model.workload import Copy, CopyState, Placement, PlacementState, Workload
from tests.builders import a_copy, a_placement, a_workload

CLUSTERS = ("a", "b")


class OneWorkload(RuleBasedStateMachine):
    """The hub object, its copies by cluster, and which members can be reached."""

    def __init__(self) -> None:
        super().__init__()
        self.hub: Workload | None = a_workload()
        self.copies: dict[str, Copy] = {}
        self.silent: set[str] = set()
        self.blind: set[str] = set()
        """Silent members of whose copies nobody knows: the daemon has been restarted since."""
        self.attempts = 0
        self.completions = 0

    # -- the world -----------------------------------------------------------------------------------------------

    @rule(cluster=st.sampled_from(CLUSTERS))
    def member_falls_silent(self, cluster: str) -> None:
        self.silent.add(cluster)

    @rule(cluster=st.sampled_from(CLUSTERS))
    def member_comes_back(self, cluster: str) -> None:
        self.silent.discard(cluster)
        self.blind.discard(cluster)

    @rule()
    def daemon_restarts(self) -> None:
        self.blind = set(self.silent)

    @rule(cluster=st.sampled_from(CLUSTERS))
    def deletion_completes(self, cluster: str) -> None:
        if cluster in self.copies and self.copies[cluster].deleting:
            del self.copies[cluster]

    @rule(cluster=st.sampled_from(CLUSTERS))
    def copy_is_deleted_behind_our_back(self, cluster: str) -> None:
        copy = self.copies.get(cluster)
        if copy is not None and not copy.finished:
            del self.copies[cluster]

    @rule(cluster=st.sampled_from(CLUSTERS))
    def copy_finishes(self, cluster: str) -> None:
        copy = self.copies.get(cluster)
        if copy is not None and not copy.finished and not copy.deleting:
            # A copy that is being deleted may not finish any more: Kubernetes has stopped its pods.
            self.copies[cluster] = replace(copy, state=CopyState.SUCCEEDED)
            self.completions += 1

    @rule()
    def user_deletes(self) -> None:
        if self.hub is not None:
            self.hub = replace(self.hub, deleting=True)
            self._collect()

    # -- the cycle -----------------------------------------------------------------------------------------------

    @precondition(lambda self: self.hub and not self.hub.finished and not self.hub.deleting)
    @rule(cluster=st.sampled_from(CLUSTERS), buys=st.booleans())
    def cycle_decides(self, cluster: str, buys: bool) -> None:
        assert self.hub is not None
        placement = self.hub.placement
        if placement is None:
            self.attempts += 1
            state = PlacementState.RESERVED if buys else PlacementState.STARTED
            self._place(a_placement(cluster, attempt=self.attempts, state=state))
        elif placement.state is PlacementState.RESERVED:
            self._place(replace(placement, state=PlacementState.STARTED))

    @precondition(lambda self: self.hub and self.hub.placement and not self.hub.finished and not self.hub.deleting)
    @rule(cluster=st.sampled_from(CLUSTERS))
    def cycle_moves(self, cluster: str) -> None:
        """Only what runs as placed, as far as anybody knows, is moved."""
        assert self.hub is not None
        old = self.hub.placement
        assert old is not None
        copy = self.copies.get(old.cluster)
        if old.state is not PlacementState.STARTED or copy is None or copy.attempt != old.attempt:
            return
        if copy.deleting or old.cluster in self.silent or cluster in self.silent:
            return
        self.attempts += 1
        self._place(a_placement(cluster, attempt=self.attempts, moved_from=old.cluster))

    @precondition(lambda self: self.hub and self.hub.placement and not self.hub.finished and not self.hub.deleting)
    @rule()
    def cycle_releases(self) -> None:
        assert self.hub is not None
        assert self.hub.placement is not None
        self._place(replace(self.hub.placement, state=PlacementState.RELEASING))

    def _place(self, placement: Placement) -> None:
        assert self.hub is not None
        self.hub = replace(self.hub, placement=placement, has_finalizer=True)

    # -- the actuator --------------------------------------------------------------------------------------------

    @rule()
    def actuator_makes_one_step(self) -> None:
        self._step()

    def _step(self) -> bool:
        step = next_step(self._view())
        match step:
            case lifecycle.Done():
                return False
            case lifecycle.CreateCopy(placement):
                assert not self.copies, "a copy is created only while none is anywhere"
                assert self.hub is not None
                self.copies[placement.cluster] = a_copy(self.hub, placement.cluster, attempt=placement.attempt)
            case lifecycle.DeleteCopy(copy, _):
                assert copy.cluster not in self.silent
                self.copies[copy.cluster] = replace(copy, deleting=True)
            case lifecycle.MirrorStatus():
                assert self.hub is not None
                self.hub = replace(self.hub, finished=True)
            case lifecycle.ClearPlacement(placement, _):
                assert placement.cluster not in self.copies, "a placement is cleared only once its copy is gone"
                assert self.hub is not None
                self.hub = replace(self.hub, placement=None, has_finalizer=False)
            case lifecycle.RemoveFinalizer():
                assert not self.copies, "the hub object outlives its copies"
                assert self.hub is not None
                self.hub = replace(self.hub, has_finalizer=False)
                self._collect()
            case _:
                raise AssertionError(step)
        return True

    def _view(self) -> View:
        placement = self.hub.placement if self.hub else None
        seen = tuple(copy for name, copy in self.copies.items() if name not in self.blind)
        current = next((c for c in seen if placement and lifecycle.is_current(c, placement)), None)
        if current is None and placement is not None:
            current = lifecycle.ended_before_moved(seen, placement)
        differs = bool(self.hub and not self.hub.finished and current and current.finished)
        available = frozenset(ClusterId(cluster) for cluster in CLUSTERS if cluster not in self.silent)
        return View(self.hub, seen, available, frozenset(), status_differs=differs)

    def _collect(self) -> None:
        if self.hub is not None and self.hub.deleting and not self.hub.has_finalizer:
            self.hub = None

    # -- what must hold ------------------------------------------------------------------------------------------

    @invariant()
    def never_in_two_places(self) -> None:
        assert len(self.copies) <= 1

    @invariant()
    def never_runs_to_its_end_twice(self) -> None:
        assert self.completions <= 1

    def teardown(self) -> None:
        """Left alone with all members in reach, it comes to rest with nothing left behind."""
        self.silent.clear()
        self.blind.clear()
        for _ in range(30):
            for cluster in CLUSTERS:
                self.deletion_completes(cluster)
            if not self._step() and not any(copy.deleting for copy in self.copies.values()):
                break
        else:
            raise AssertionError("it never comes to rest")
        if self.hub is None or self.hub.finished or self.hub.deleting:
            assert not self.copies
            assert self.hub is None or not self.hub.has_finalizer
        elif self.hub.placement is not None and self.hub.placement.state is PlacementState.STARTED:
            assert list(self.copies) == [self.hub.placement.cluster], "placed, so it runs there"
        else:
            assert not self.copies


TestOneWorkload = OneWorkload.TestCase
TestOneWorkload.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
