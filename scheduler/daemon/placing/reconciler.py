"""Carries placements out: for one workload at a time, the next idempotent write, until there is none.

What the write is comes from `scheduler.engine.lifecycle`, how it is made is in `writes.py`; here is when: the queue of
workloads, the fence before each write, retries, and what is told to people on the hub object.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Final

import structlog
from structlog.contextvars import bound_contextvars

from clusters.kubernetes.conditions import with_note
from scheduler.daemon.placing.dependents import REASONS, DependentError, Dependents
from scheduler.daemon.placing.keys import KeyQueue
from scheduler.daemon.placing.turns import Turns
from scheduler.daemon.placing.writes import Writes
from scheduler.daemon.state.member_mirror import CopyEntry
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.engine import lifecycle
from scheduler.engine.lifecycle import Step, View, next_step, wants_suspension
from scheduler.model.errors import (
    AuthError,
    ConflictError,
    ExternalError,
    FencedError,
    InvalidObjectError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
    ThrottledError,
)
from scheduler.model.ids import ClusterId, Instant, Uid
from scheduler.model.plan import Decision, SetPlacement
from scheduler.model.ports import Clock, KubeApi, RawObject, WorkloadKind
from scheduler.model.workload import PlacementState, Workload

log = structlog.get_logger(__name__)
_STEPS_AT_ONCE: Final = 12
"""More in one go would mean that two rules undo each other; the key is then looked at again after a pause."""
_WORKERS: Final = 64
_AT_ONCE_ON_A_MEMBER: Final = 16
"""A member that hangs holds no more workers than this; what else is due there comes back a little later."""
_HELD_TOLD_AFTER_SECONDS: Final = 1.0
"""A workload that is held for no longer than this is not told so: most are placed in the next moment."""
_HELD_RETOLD_AFTER_SECONDS: Final = 3.0
"""One that is told already why it is held, and is now held for the same reason in other words (fewer are before it),
is told the newest of them so much later: under a backlog the words change with each cycle, for everyone in it."""
_PROGRESS_TOLD_AFTER_SECONDS: Final = 0.1
"""Progress of a copy is gathered for so long before it is mirrored; its end is mirrored at once."""


_PLACING: Final = ("placed", "burst", "started", "moved")
_REFUSED: Final = "CopyRefused"
_DIVIDED: Final = "Divided"
"""What stands there of a service until it was handed back."""
_REFUSALS: Final = (RefusedError, AuthError, InvalidObjectError)
"""What does not pass by itself: said on the hub object."""


@dataclass(slots=True)
class _Wanted:
    """What the cycle has decided and the hub object does not say yet."""

    placement: SetPlacement | None = None
    decision: Decision | None = None
    told_at: float = 0.0
    """When the decision is to be shown, by the event loop's clock."""


class Reconciler:
    """The only writer of workloads, on the hub and on members."""

    def __init__(
        self,
        mirror: Mirror,
        hub_api: KubeApi,
        member_apis: Mapping[ClusterId, KubeApi],
        clock: Clock,
        telemetry: Telemetry,
        *,
        fence: Callable[[], None],
        is_lost: Callable[[Workload | None, ClusterId], bool],
        emit: Callable[[Workload, str, str], None],
    ) -> None:
        self._mirror = mirror
        self._writes = Writes(mirror, hub_api, member_apis, clock, telemetry, fence)
        self._clock = clock
        self._telemetry = telemetry
        self._fence = fence
        self._is_lost = is_lost
        self._emit = emit
        self._wanted: dict[Uid, _Wanted] = {}
        self._progress_due: dict[Uid, float] = {}
        self.keys = KeyQueue()
        self._turns = Turns(_AT_ONCE_ON_A_MEMBER, self.keys.add)
        self.divided: Callable[[Uid], Awaitable[bool]] = _nobody
        """Takes a divided service as far as it goes now; False: it is none."""
        self.on_write: Callable[[Uid, str, Instant, Instant, str], None] | None = None
        """Told of each placement written and copy made: what, from when to when, by which decision."""

    @property
    def writes(self) -> Writes:
        return self._writes

    @property
    def dependents(self) -> Dependents:
        """What follows workloads to their members; a loop of its own keeps it up to date."""
        return self._writes.dependents

    # -- what the cycle hands over -------------------------------------------------------------------------------

    def want(self, placement: SetPlacement) -> None:
        """Have a placement written; until then the mirror assumes it."""
        uid = placement.workload.uid
        self._mirror.assume(uid, placement.placement)
        self._wanted.setdefault(uid, _Wanted()).placement = placement
        self.keys.add(uid)

    def tell(self, decision: Decision) -> None:
        """Have a decision shown on the hub object, as its condition and an Event."""
        uid = decision.workload.uid
        wanted = self._wanted.setdefault(uid, _Wanted())
        now = asyncio.get_running_loop().time()
        due = now + self._told_after_seconds(decision)
        # One that is held for another reason each moment is told so all the same.
        wanted.told_at = due if wanted.decision is None else min(due, wanted.told_at)
        wanted.decision = decision
        self.keys.add_later(uid, wanted.told_at - now)

    def _told_after_seconds(self, decision: Decision) -> float:
        if decision.outcome != "held":
            return 0.0
        return _HELD_RETOLD_AFTER_SECONDS if self._only_words(decision) else _HELD_TOLD_AFTER_SECONDS

    def _only_words(self, decision: Decision) -> bool:
        """Whether the hub object gives that reason for its being held already, if not in these words."""
        hub = self._mirror.hub.get(decision.workload.uid)
        said = hub.workload.condition if hub is not None else None
        return decision.outcome == "held" and said is not None and said[0] == decision.reason.code

    @property
    def idle(self) -> bool:
        return not len(self.keys) and not self.keys.later and not self._turns.waiting

    # -- workers -------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_WORKERS):
                group.create_task(self._work())

    async def _work(self) -> None:
        while True:
            uid = Uid(await self.keys.get())
            try:
                self._fence()
                await self.reconcile(uid)
            except ThrottledError as error:
                self._failed(uid, error, error.retry_after_seconds)
            except (ExternalError, InvalidObjectError) as error:
                self._failed(uid, error, None)
            except FencedError:
                raise
            except Exception as error:
                log.exception("reconcile_crashed", workload=uid)
                self._failed(uid, error, None)
            else:
                self.keys.done(uid)
            finally:
                self._turns.let_go(uid)
            self._telemetry.keys.set(len(self.keys))

    def _failed(self, uid: Uid, error: Exception, after_seconds: float | None) -> None:
        pause = self.keys.retry(uid, after_seconds)
        workload = self._mirror.workload(uid)
        name = str(workload.ref) if workload else uid
        log.warning(
            "write_failed",
            workload=name,
            decision=self._mirror.decision_of(uid),
            error=str(error)[:300],
            retry_seconds=round(pause, 3),
        )

    async def reconcile(self, uid: Uid) -> None:
        """Take the workload as far as it goes now."""
        # Every line that is logged meanwhile names the decision that is carried out, as the trace does.
        with bound_contextvars(decision=self._mirror.decision_of(uid)):
            await self._reconcile(uid)

    async def _reconcile(self, uid: Uid) -> None:
        if uid in self._writes.uncertain:
            await self._writes.look(uid)
        if await self.divided(uid):
            return
        await self._write_wanted(uid)
        for _ in range(_STEPS_AT_ONCE):
            step = await self._next_step(uid)
            if isinstance(step, lifecycle.Done) or self._may_wait(uid, step) or self._must_wait(uid, step):
                await self._write_condition(uid)
                return
            await self._execute(uid, step)
        self.keys.retry(uid)

    async def _next_step(self, uid: Uid) -> Step:
        try:
            return next_step(self._view(uid))
        except InvalidObjectError as error:
            await self._report_refusal(uid, str(error))
            raise

    def _may_wait(self, uid: Uid, step: Step) -> bool:
        """Whether the step is news of progress that more such news may follow shortly."""
        if not isinstance(step, lifecycle.MirrorStatus) or step.copy is None or step.copy.finished:
            self._progress_due.pop(uid, None)
            return False
        now = asyncio.get_running_loop().time()
        due = self._progress_due.setdefault(uid, now + _PROGRESS_TOLD_AFTER_SECONDS)
        if now >= due:
            del self._progress_due[uid]
            return False
        self.keys.add_later(uid, due - now)
        return True

    def _must_wait(self, uid: Uid, step: Step) -> bool:
        """Whether the member that the step is for has all the workers that it may have."""
        member = _member_of(step)
        return member is not None and not self._turns.is_open(uid, member)

    def _view(self, uid: Uid) -> View:
        entry = self._mirror.hub.get(uid)
        copies = self._mirror.copies(uid)
        # Only the written placement counts here: one that is merely assumed must not create a copy.
        workload = entry.workload if entry is not None else None
        clusters = {copy.copy.cluster for copy in copies}
        if workload is not None and workload.placement is not None:
            clusters.add(workload.placement.cluster)
            if workload.placement.moved_from is not None:
                clusters.add(workload.placement.moved_from)
        current = _current_copy(workload, copies) or _ended_before_moved(workload, copies)
        return View(
            hub=workload,
            copies=tuple(copy.copy for copy in copies),
            available=self._mirror.available(),
            lost=frozenset(cluster for cluster in clusters if self._is_lost(workload, cluster)),
            **self._differences(entry, current),
        )

    def _differences(self, hub: HubEntry | None, copy: CopyEntry | None) -> dict[str, bool]:
        """What of the hub object and its current copy is out of step."""
        if hub is None or hub.workload.finished or hub.workload.deleting or hub.workload.unmanaged is not None:
            return {}
        kind = self._mirror.kinds[hub.workload.ref.kind]
        status = self._status_patch(kind, hub.raw, copy)
        if copy is None:
            return {"status_differs": status is not None}
        placement = hub.workload.placement
        stays = placement is not None and placement.state is not PlacementState.RELEASING
        return {
            "status_differs": status is not None,
            "suspension_differs": kind.suspend_patch(copy.raw, suspend=wants_suspension(hub.workload)) is not None,
            # Of a copy that is on its way out nobody asks: what cannot be understood must not keep it.
            "template_differs": stays and self._refresh_patch(kind, hub, copy) is not None,
        }

    # -- steps ---------------------------------------------------------------------------------------------------

    async def _execute(self, uid: Uid, step: Step) -> None:
        name = type(step).__name__
        member = _member_of(step)
        cluster = member or "hub"
        self._fence()
        try:
            with self._turns.taken(uid, member) if member is not None else nullcontext():
                await self._perform(uid, step)
        except OutcomeUnknownError:
            self._writes.uncertain.add(uid)
            self._telemetry.writes.labels(cluster, name, "unknown").inc()
            raise
        except (ExternalError, InvalidObjectError) as error:
            self._telemetry.writes.labels(cluster, name, type(error).__name__).inc()
            if isinstance(error, DependentError):
                await self._report_refusal(uid, str(error), error.reason)
            elif isinstance(error, _REFUSALS):
                await self._report_refusal(uid, f"{cluster} refuses it: {error}")
            raise
        self._telemetry.writes.labels(cluster, name, "ok").inc()

    async def _perform(self, uid: Uid, step: Step) -> None:
        match step:
            case lifecycle.CreateCopy(placement):
                began = self._clock.now()
                await self._writes.create_copy(self._mirror.hub[uid], placement)
                self._tell_written(uid, "copy", began, placement.decision)
            case lifecycle.DeleteCopy(copy, why):
                await self._writes.delete_copy(uid, self._entry(uid, copy.uid), why)
            case lifecycle.SuspendCopy(copy, suspend):
                entry = self._entry(uid, copy.uid)
                await self._writes.patch_copy(entry, self._kind(entry).suspend_patch(entry.raw, suspend=suspend))
            case lifecycle.RefreshCopy(copy):
                entry = self._entry(uid, copy.uid)
                await self._writes.bring_dependents(self._mirror.hub[uid], entry)
                await self._writes.patch_copy(
                    entry, self._refresh_patch(self._kind(entry), self._mirror.hub[uid], entry)
                )
            case lifecycle.MirrorStatus(copy):
                await self._mirror_status(uid, self._entry(uid, copy.uid) if copy is not None else None)
            case lifecycle.ClearPlacement(placement, lost):
                await self._writes.clear_placement(self._mirror.hub[uid], placement, lost=lost)
            case lifecycle.RemoveFinalizer():
                await self._writes.remove_finalizer(self._mirror.hub[uid])

    async def _report_refusal(self, uid: Uid, message: str, reason: str = _REFUSED) -> None:
        """Say on the hub object what stands in the way of its copy; it is tried again, with growing pauses."""
        hub = self._mirror.hub.get(uid)
        if hub is None or hub.workload.finished or hub.workload.deleting:
            return
        if await self._say(hub, reason, message[:500], placed=False):
            self._emit(hub.workload, reason, message[:500])

    async def _say(self, hub: HubEntry, reason: str, message: str, *, placed: bool) -> bool:
        """Set the Overspill condition; False when it says that already."""
        kind = self._mirror.kinds[hub.workload.ref.kind]
        patch = kind.condition_patch(hub.raw, reason=reason, message=message, placed=placed, now=self._clock.now())
        if patch is not None:
            await self._writes.patch_hub(hub, patch, subresource="status")
        return patch is not None

    async def _mirror_status(self, uid: Uid, entry: CopyEntry | None) -> None:
        """Status and condition in one write."""
        hub = self._mirror.hub[uid]
        kind = self._mirror.kinds[hub.workload.ref.kind]
        wanted = self._wanted.get(uid)
        decision = wanted.decision if wanted else None
        condition = _condition_patch(kind, hub.raw, decision, self._clock) if decision is not None else None
        raw = _merged(hub.raw, condition) if condition is not None else hub.raw
        status = self._status_patch(kind, raw, entry)
        patch = _merged(condition, status) if condition and status else condition or status
        if patch is not None:
            await self._writes.patch_hub(hub, patch, subresource="status")
        self._told(uid, decision)

    def _status_patch(self, kind: WorkloadKind, raw: RawObject, entry: CopyEntry | None) -> RawObject | None:
        if entry is None:
            return kind.mirror_status(raw, None)
        member = self._mirror.members.get(entry.copy.cluster)
        ready = member.ready_pods(entry.copy.owner) if member is not None else None
        return kind.mirror_status(raw, entry.raw, ready)

    # -- placements and conditions ----------------------------------------------------------------------------------

    async def _write_wanted(self, uid: Uid) -> None:
        """Write the placement that the cycle decided, if the workload still is as the cycle saw it."""
        wanted = self._wanted.get(uid)
        if wanted is None or wanted.placement is None:
            return
        intent, hub = wanted.placement, self._mirror.hub.get(uid)
        if hub is None or not _still_holds(hub.workload, intent):
            wanted.placement = None
            self._mirror.forget(uid)
            return
        self._fence()
        began = self._clock.now()
        try:
            await self._writes.write_placement(hub, intent.placement)
        except (ConflictError, NotFoundError, RefusedError):
            # Someone changed it meanwhile: the next cycle decides on what it is now.
            wanted.placement = None
            self._mirror.forget(uid)
            raise
        except OutcomeUnknownError:
            self._writes.uncertain.add(uid)
            raise
        self._tell_written(uid, "placement", began, intent.placement.decision)
        if wanted.placement is intent:
            wanted.placement = None

    def _tell_written(self, uid: Uid, what: str, began: Instant, decision: str) -> None:
        if self.on_write is not None:
            self.on_write(uid, what, began, self._clock.now(), decision)

    async def _write_condition(self, uid: Uid) -> None:
        wanted, hub = self._wanted.get(uid), self._mirror.hub.get(uid)
        if wanted is None:
            await self._take_back_refusal(hub)
            return
        decision = wanted.decision
        if decision is not None and hub is not None and not hub.workload.finished and not hub.workload.deleting:
            early = wanted.told_at - asyncio.get_running_loop().time()
            if early > 0:
                self.keys.add_later(uid, early)
                return
            if _waits_for_status(decision, hub.workload):
                return
            placing = decision.outcome in _PLACING
            sentence = decision.sentence if placing else with_note(decision.sentence, self._mirror.note(hub.workload))
            only_words = self._only_words(decision)
            await self._say(hub, decision.reason.code, sentence, placed=placing)
            self._told(uid, decision, emit=not only_words)
            return
        self._told(uid, decision)

    async def _take_back_refusal(self, hub: HubEntry | None) -> None:
        """Nothing is left to write: what was refused before has been taken by now."""
        workload = hub.workload if hub is not None else None
        if hub is None or workload is None or workload.condition is None:
            return
        if workload.condition[0] not in (_REFUSED, _DIVIDED, *REASONS):
            return
        placement = workload.placement
        if placement is not None and _current_copy(workload, self._mirror.copies(workload.ref.uid)) is not None:
            await self._say(hub, "Placed", f"on {placement.pool_ref}", placed=True)

    def _told(self, uid: Uid, decision: Decision | None, *, emit: bool = True) -> None:
        """The hub object says so. `emit` False: that is no transition, and no Event tells of it."""
        wanted = self._wanted.get(uid)
        if wanted is None:
            return
        workload = self._mirror.workload(uid)
        if emit and decision is not None and workload is not None:
            self._emit(workload, decision.reason.code, decision.sentence)
        if wanted.decision is decision:
            wanted.decision = None
        if wanted.placement is None and wanted.decision is None:
            del self._wanted[uid]

    def _entry(self, uid: Uid, copy_uid: Uid) -> CopyEntry:
        for entry in self._mirror.copies(uid):
            if entry.copy.uid == copy_uid:
                return entry
        raise ConflictError("the copy went away meanwhile")

    def _kind(self, entry: CopyEntry) -> WorkloadKind:
        return self._mirror.kinds[entry.copy.kind]

    def _refresh_patch(self, kind: WorkloadKind, hub: HubEntry, entry: CopyEntry) -> RawObject | None:
        placement = hub.workload.placement
        member = self._writes.member_facts(placement, hub.raw) if placement is not None else None
        if placement is None or member is None:
            return None
        return kind.refresh_copy(hub.raw, hub.workload, placement, member, entry.raw)


async def _nobody(uid: Uid) -> bool:
    return False


def _current_copy(workload: Workload | None, copies: list[CopyEntry]) -> CopyEntry | None:
    placement = workload.placement if workload is not None else None
    if placement is None:
        return None
    for entry in copies:
        if lifecycle.is_current(entry.copy, placement):
            return entry
    return None


def _ended_before_moved(workload: Workload | None, copies: list[CopyEntry]) -> CopyEntry | None:
    placement = workload.placement if workload is not None else None
    if placement is None:
        return None
    ended = lifecycle.ended_before_moved((entry.copy for entry in copies), placement)
    return next((entry for entry in copies if entry.copy is ended), None)


def _still_holds(workload: Workload, intent: SetPlacement) -> bool:
    """Whether the decision still fits what it was made of (a command is validated again before it is executed)."""
    gone = workload.finished or workload.deleting or workload.intent is not None
    return not gone and workload.placement == intent.replaces


def _waits_for_status(decision: Decision, workload: Workload) -> bool:
    """A placement's condition travels with the first status of its copy: one write instead of two."""
    placement = workload.placement
    return decision.outcome in _PLACING and placement is not None and placement.state == "started"


def _condition_patch(kind: WorkloadKind, raw: RawObject, decision: Decision, clock: Clock) -> RawObject | None:
    placed = decision.outcome in _PLACING
    return kind.condition_patch(
        raw, reason=decision.reason.code, message=decision.sentence, placed=placed, now=clock.now()
    )


def _merged(base: RawObject, patch: RawObject) -> dict[str, Any]:
    """`patch` laid over `base` by RFC 7386, keeping nulls (so that two patches compose into one)."""
    result = dict(base)
    for key, value in patch.items():
        old = result.get(key)
        result[key] = _merged(old, value) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
    return result


def _member_of(step: Step) -> ClusterId | None:
    """The member that the step writes on; None: it writes on the hub."""
    match step:
        case lifecycle.CreateCopy(placement):
            return placement.cluster
        case lifecycle.DeleteCopy(copy, _) | lifecycle.SuspendCopy(copy, _) | lifecycle.RefreshCopy(copy):
            return copy.cluster
    return None
