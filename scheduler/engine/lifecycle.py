"""The one next write that a workload needs, decided from what is observed of it. Pure.

The cycle decides where a workload belongs and says so in its placement (the intent on the hub object); this module
carries the intent out. Each step is one idempotent write, derived from observed state alone, so that a crash between
any two steps heals when the same question is asked again. The rules that keep a workload from being lost or doubled:

- a copy is created only on the cluster that the written placement names, only while no copy is elsewhere;
- a placement is cleared only after its copy is known to be gone;
- one that replaces another names the cluster of that other, and nothing is created before that one is known, too;
- the finalizer leaves the hub object only after that, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass, replace

from scheduler.model.ids import ClusterId
from scheduler.model.workload import Copy, Placement, PlacementState, Workload


@dataclass(frozen=True, slots=True)
class View:
    """What is observed of one workload. `hub` None: its hub object does not exist (and the hub is synced)."""

    hub: Workload | None
    copies: tuple[Copy, ...]
    available: Set[ClusterId]
    """Clusters whose state is known now."""
    lost: Set[ClusterId] = frozenset()
    """Clusters silent for so long that the policy gives them up."""
    status_differs: bool = False
    """The hub object's status does not say yet what its copy (or the lack of one) means."""
    suspension_differs: bool = False
    template_differs: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """Nothing to write now; `why` is for logs and tests."""

    why: str


@dataclass(frozen=True, slots=True)
class CreateCopy:
    placement: Placement


@dataclass(frozen=True, slots=True)
class DeleteCopy:
    copy: Copy
    why: str


@dataclass(frozen=True, slots=True)
class SuspendCopy:
    copy: Copy
    suspend: bool


@dataclass(frozen=True, slots=True)
class RefreshCopy:
    copy: Copy


@dataclass(frozen=True, slots=True)
class MirrorStatus:
    copy: Copy | None
    """None: there is no copy now, and the hub object is to say so."""


@dataclass(frozen=True, slots=True)
class ClearPlacement:
    """The copy is gone (the actuator looks once more, unless the cluster is lost): back into the queue."""

    placement: Placement
    lost: bool


@dataclass(frozen=True, slots=True)
class RemoveFinalizer:
    """Nothing of the workload is left on any member."""


Step = Done | CreateCopy | DeleteCopy | SuspendCopy | RefreshCopy | MirrorStatus | ClearPlacement | RemoveFinalizer


def next_step(view: View) -> Step:
    """The next write for this workload, or `Done`."""
    hub = view.hub
    if hub is None:
        return _delete_any(view, "its hub object is gone") or Done("gone")
    if hub.deleting:
        return _delete_any(view, "its hub object is being deleted") or _let_go(view, hub)
    if hub.finished:
        return _delete_any(view, "it has finished") or _let_go(view, hub)
    placement = hub.placement
    if placement is None:
        return _delete_any(view, "it has no placement") or _without_copy(view, "queued")
    if placement.state in (PlacementState.STARTED, PlacementState.PAUSED):
        return _started(view, hub, placement)
    if placement.state is PlacementState.RELEASING:
        return _releasing(view, placement)
    return _delete_any(view, "its capacity is not there yet") or _without_copy(view, "reserved")


def wants_suspension(workload: Workload) -> bool:
    """Whether its copy is to be suspended: its user says so, or it is resumed but there is no room for it yet."""
    placement = workload.placement
    return workload.suspended or (placement is not None and placement.state is PlacementState.PAUSED)


def ended_before_moved(copies: Iterable[Copy], placement: Placement) -> Copy | None:
    """The copy that ended before it could be moved: to run it again elsewhere would be to run it twice."""
    if placement.moved_from is None:
        return None
    return next((copy for copy in copies if copy.finished and copy.attempt < placement.attempt), None)


def _without_copy(view: View, why: str) -> Step:
    """A hub object that still speaks of pods that are gone (or not of its suspension) is put right."""
    return MirrorStatus(None) if view.status_differs and not _within_reach(view) else Done(why)


def _started(view: View, hub: Workload, placement: Placement) -> Step:
    current = [copy for copy in view.copies if is_current(copy, placement)]
    stale = [copy for copy in _within_reach(view) if not is_current(copy, placement)]
    if not current and (ended := ended_before_moved(view.copies, placement)) is not None and view.status_differs:
        return MirrorStatus(ended)
    if stale:
        return _delete_first(view, stale, "another placement has replaced it")
    if not current:
        if wants_suspension(hub):
            return Done("suspended before it was created")
        if _unknown_at(view, placement):
            return Done("its cluster cannot be reached")
        if placement.moved_from is not None and view.status_differs:
            # The status of a run that goes on may not begin at another time: the former one is ended first.
            return MirrorStatus(None)
        return CreateCopy(placement)
    copy = current[0]
    if copy.deleting:
        return Done("its copy is being deleted")
    if view.status_differs:
        return MirrorStatus(copy)
    if placement.cluster not in view.available:
        return Done("its cluster cannot be reached")
    if view.suspension_differs:
        return SuspendCopy(copy, wants_suspension(hub))
    if view.template_differs:
        return RefreshCopy(copy)
    return Done("running as placed")


def _releasing(view: View, placement: Placement) -> Step:
    for copy in view.copies:
        if copy.finished and view.status_differs and is_current(copy, placement):
            # It ended before it could be stopped: to run it again would be to run it twice.
            return MirrorStatus(copy)
    here = _within_reach(view)
    if here:
        return _delete_first(view, here, placement.reason or "it is moved")
    if _unknown_at(view, placement, unless_lost=True):
        return Done("its cluster cannot be reached")
    return ClearPlacement(placement, lost=placement.cluster in view.lost)


def _let_go(view: View, hub: Workload) -> Step:
    """Drop the finalizer once no copy can be left behind. On a lost member one may be: it is deleted as an orphan when
    that member comes back, so a hub object is not held for ever by a member that never does."""
    if not hub.has_finalizer:
        return Done("finished" if hub.finished else "deleted")
    placement = hub.placement
    if placement is not None and hub.finished:
        placement = replace(placement, moved_from=None)  # It ran where it is placed, so its former copy was gone.
    if placement is not None and _unknown_at(view, placement, unless_lost=True):
        return Done("its cluster cannot be reached")
    return RemoveFinalizer()


def _unknown_at(view: View, placement: Placement, *, unless_lost: bool = False) -> bool:
    """Whether a copy may be where nobody can look: on the cluster that it is placed on, or on the one that it leaves.
    A cluster that is given up is looked for no longer; whether it may be created on, too, is the caller's to say."""
    if placement.cluster not in view.available and not (unless_lost and placement.cluster in view.lost):
        return True
    left = placement.moved_from
    return left is not None and left not in view.available and left not in view.lost


def is_current(copy: Copy, placement: Placement) -> bool:
    here = copy.cluster == placement.cluster and copy.attempt == placement.attempt
    return here and copy.part == placement.part


def _within_reach(view: View) -> list[Copy]:
    """All copies but those on members that are given up: they are deleted when their member comes back."""
    return [copy for copy in view.copies if copy.cluster not in view.lost]


def _delete_any(view: View, why: str) -> Step | None:
    """Delete the copies that are left; None when there are none (on members that are not lost)."""
    copies = _within_reach(view)
    return _delete_first(view, copies, why) if copies else None


def _delete_first(view: View, copies: list[Copy], why: str) -> Step:
    for copy in sorted(copies, key=lambda copy: (copy.cluster, copy.namespace, copy.name)):
        if not copy.deleting and copy.cluster in view.available:
            return DeleteCopy(copy, why)
    return Done("a copy is on its way out")
