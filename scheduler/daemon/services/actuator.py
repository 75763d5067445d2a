"""Carries divisions out: first the division is written on the hub object, then what it asks for is done on members.

Called by the reconciler for one service at a time. What is to be done comes from `scheduler.engine.serving.steps`, from
what is written and what is there alone. Members are worked on side by side, so that one that hangs or refuses holds
nobody else up; what failed is tried again with growing pauses.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from scheduler.daemon.placing.keys import KeyQueue
from scheduler.daemon.placing.writes import Writes
from scheduler.daemon.services.ports import TrafficKeeper
from scheduler.daemon.services.sights import Sights
from scheduler.daemon.services.telling import conditions, refused
from scheduler.daemon.services.traffic_spec import STEERED
from scheduler.daemon.state.member_mirror import CopyEntry
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.serving.parts import parts_of
from scheduler.engine.serving.steps import DeletePart, MakePart, PartStep, PartsView, ScalePart, due, may_let_go
from scheduler.model.contract import CONDITION_PLACED, CONDITION_TRAFFIC
from scheduler.model.division import Division
from scheduler.model.errors import (
    AuthError,
    ConflictError,
    ExternalError,
    FencedError,
    InvalidObjectError,
    NotFoundError,
    OutcomeUnknownError,
    RefusedError,
)
from scheduler.model.ids import ClusterId, DecisionId, Instant, Uid
from scheduler.model.ports import Clock, DivisibleKind, RawObject, Said
from scheduler.model.service_intent import ServiceIntent
from scheduler.model.workload import Placement, Workload

log = structlog.get_logger(__name__)
_ROUNDS: Final = 4
"""More in one go would mean that two rules undo each other."""
_RETELL_SECONDS: Final = 300.0
"""How often a condition is told anew whose figures alone have changed."""
_REFUSING_SECONDS: Final = 600.0
"""How long a member that has refused a part is not asked for others."""
_TOLD_APART_SECONDS: Final = 0.1
"""Counts of replicas are gathered for so long before they are told."""
_REFUSALS: Final = (RefusedError, AuthError, InvalidObjectError)
_REFUSED: Final = "CopyRefused"


class ServiceActuator:
    """The only writer of divided services. Raises the typed errors of the model."""

    def __init__(
        self,
        mirror: Mirror,
        writes: Writes,
        sights: Sights,
        traffic: TrafficKeeper,
        keys: KeyQueue,
        clock: Clock,
        telemetry: Telemetry,
        *,
        fence: Callable[[], None],
        is_lost: Callable[[Workload | None, ClusterId], bool],
        emit: Callable[[Workload, str, str], None],
    ) -> None:
        self._mirror = mirror
        self._writes = writes
        self._sights = sights
        self._traffic = traffic
        self._keys = keys
        self._clock = clock
        self._telemetry = telemetry
        self._fence = fence
        self._is_lost = is_lost
        self._emit = emit
        self._wanted: dict[Uid, ServiceIntent] = {}
        self._ending: dict[Uid, Placement | None] = {}
        self._divisions: dict[Uid, Division] = {}
        self._said: dict[Uid, tuple[Said, ...]] = {}
        self._refused: dict[Uid, str] = {}
        self._unsteered: dict[Uid, str] = {}
        """Why requests do not follow."""
        self._refused_at: dict[tuple[Uid, ClusterId], Instant] = {}
        self._retold_at: dict[Uid, Instant] = {}
        self._wrote_status_at: dict[Uid, float] = {}
        self.on_write: Callable[[Uid, str, Instant, Instant, str], None] | None = None
        """Told of each division written and part made, as `Reconciler.on_write`."""
        self.on_divided: Callable[[Division, DecisionId], None] = lambda division, decision: None
        """A division is written."""

    # -- what the keeper hands over ------------------------------------------------------------------------------

    def want(self, uid: Uid, intent: ServiceIntent, division: Division) -> None:
        """Have a division written and carried out; until it is written the mirror assumes it."""
        self._wanted[uid] = intent
        self._ending.pop(uid, None)
        self._mirror.assume_intent(uid, intent)
        self.tell(uid, division)
        self._keys.add(uid)

    def tell(self, uid: Uid, division: Division) -> None:
        """What was decided without a change: what people are told of it may be new."""
        self._divisions[uid] = division
        workload = self._mirror.services.get(uid)
        self.say(uid, conditions(division, "" if workload is None else self._mirror.note(workload)))

    def say(self, uid: Uid, said: tuple[Said, ...]) -> None:
        before, self._said[uid] = self._said.get(uid), said
        if before is None or [_code(one) for one in before] != [_code(one) for one in said]:
            self._retold_at.pop(uid, None)
        if uid not in self._retold_at or self._clock.now() - self._retold_at[uid] >= _RETELL_SECONDS:
            self._keys.add(uid)

    def refuse(self, uid: Uid, why: str) -> None:
        """It cannot be divided as it stands: what runs is kept."""
        self.say(uid, refused(why))

    def gather(self, uid: Uid, intent: ServiceIntent, said: tuple[Said, ...], *, written: bool) -> None:
        """No ServingSLO matches it any more: have it gathered in one place."""
        if not written:
            self._wanted[uid] = intent
            self._mirror.assume_intent(uid, intent)
            self._keys.add(uid)
        self.say(uid, said)

    def end(self, uid: Uid, placement: Placement | None) -> None:
        """Have it handed back, to be placed as a whole: there, or (None) wherever there is room."""
        self._ending[uid] = placement
        self._keys.add(uid)

    # -- one service ---------------------------------------------------------------------------------------------

    async def reconcile(self, uid: Uid) -> bool:
        """Take it as far as it goes now; False: it is none, or not any more."""
        await self._write_wanted(uid)
        entry = self._mirror.hub.get(uid)
        kind = None if entry is None else self._sights.kind_of(entry.workload)
        if entry is None or kind is None:
            self._forget(uid)
            return False
        if entry.workload.intent is None:
            # One that is to be divided is left as it is until it is; so is one whose division cannot be read.
            waits = uid in self._mirror.services and not entry.workload.deleting
            if waits:
                await self._tell(uid, kind)
            return waits
        unsteered = await self._steer(uid)
        hold = unsteered is not None and self._traffic.astray(entry.workload.ref)
        first = await self._act(uid, kind, hold=hold) or unsteered
        if uid in self._mirror.hub and not self._mirror.hub[uid].workload.deleting:
            await self._tell(uid, kind)
        if first is not None:
            raise first
        return True

    async def _steer(self, uid: Uid) -> Exception | None:
        """Have requests follow what is ready, before anything that they went to is given up; why that failed."""
        entry, division = self._mirror.hub[uid], self._divisions.get(uid)
        if division is None or entry.workload.deleting:
            return None
        try:
            await self._traffic.apply(entry, division)
        except (ExternalError, InvalidObjectError) as error:
            self._unsteered[uid] = str(error)
            self._telemetry.writes.labels("hub", "Steer", type(error).__name__).inc()
            return error
        self._unsteered.pop(uid, None)
        return None

    def _forget(self, uid: Uid) -> None:
        for known in (self._wanted, self._ending, self._divisions, self._said, self._refused, self._retold_at):
            known.pop(uid, None)
        self._unsteered.pop(uid, None)
        self._wrote_status_at.pop(uid, None)
        self._refused_at = {key: at for key, at in self._refused_at.items() if key[0] != uid}

    async def _write_wanted(self, uid: Uid) -> None:
        """Write what was decided, if the hub object still is what that was decided on."""
        entry = self._mirror.hub.get(uid)
        if uid in self._ending and entry is not None:
            await self._end(uid, entry)
            return
        intent = self._wanted.get(uid)
        if intent is None:
            return
        if entry is None or entry.workload.deleting or entry.workload.finished:
            self._dropped(uid)
            return
        self._fence()
        began = self._clock.now()
        try:
            await self._writes.write_intent(entry, intent)
        except (ConflictError, NotFoundError, RefusedError):
            # Someone changed it meanwhile: the next look decides on what it is now.
            self._dropped(uid)
            raise
        except OutcomeUnknownError:
            self._writes.uncertain.add(uid)
            raise
        self._telemetry.writes.labels("hub", "Divide", "ok").inc()
        self._written(uid, "division", began, intent.decision)
        if (division := self._divisions.get(uid)) is not None:
            self.on_divided(division, intent.decision)
        if self._wanted.get(uid) is intent:
            del self._wanted[uid]

    async def _end(self, uid: Uid, entry: HubEntry) -> None:
        placement = self._ending.pop(uid)
        if entry.workload.intent is None or entry.workload.deleting:
            return
        self._fence()
        await self._writes.end_division(entry, placement)
        self._dropped(uid)
        self._forget(uid)
        log.info("handed_back", workload=str(entry.workload.ref), pool=str(placement.pool_ref) if placement else None)

    def _dropped(self, uid: Uid) -> None:
        self._wanted.pop(uid, None)
        self._mirror.forget_intent(uid)

    def _written(self, uid: Uid, what: str, began: Instant, decision: str) -> None:
        if self.on_write is not None:
            self.on_write(uid, what, began, self._clock.now(), decision)

    # -- on members ----------------------------------------------------------------------------------------------

    def _view(self, uid: Uid, kind: DivisibleKind) -> PartsView:
        workload = self._mirror.hub[uid].workload
        entries = {entry.copy.uid: entry for entry in self._mirror.copies(uid)}
        copies = tuple(entry.copy for entry in entries.values())
        clusters = {copy.cluster for copy in copies}
        off: dict[Uid, bool] = {}
        if workload.intent is not None:
            clusters |= {target.pool.cluster for target in workload.intent.targets}
            for slot, copy in parts_of(copies, workload.intent).items():
                target = workload.intent.target(slot.pool, slot.revision)
                if target is not None:
                    off[copy.uid] = kind.scale_part(entries[copy.uid].raw, target) is not None
        return PartsView(
            workload=workload,
            copies=copies,
            available=self._mirror.available(),
            lost=frozenset(cluster for cluster in clusters if self._is_lost(workload, cluster)),
            off_scale=off,
        )

    async def _act(self, uid: Uid, kind: DivisibleKind, *, hold: bool) -> Exception | None:
        """All that is due on members; the first thing that went wrong. `hold`: nothing is given up, for requests may
        still go there."""
        for _ in range(_ROUNDS):
            view = self._view(uid, kind)
            steps = due(view)
            if hold and not view.workload.deleting:
                steps = tuple(step for step in steps if not _gives_up(step))
            if not steps:
                if view.workload.deleting and view.workload.has_finalizer and may_let_go(view):
                    self._fence()
                    await self._writes.remove_finalizer(self._mirror.hub[uid])
                self._refused.pop(uid, None)
                return None
            failed = await self._do_all(uid, kind, steps)
            if failed:
                self._note_refusals(uid, view.workload, failed)
                return next((error for _, error in failed if not _is_refusal(error)), failed[0][1])
            if uid not in self._mirror.hub:
                return None
        self._keys.add_later(uid, 1.0)
        return None

    def _note_refusals(self, uid: Uid, workload: Workload, failed: list[tuple[ClusterId, Exception]]) -> None:
        refusals = {cluster: str(error) for cluster, error in failed if _is_refusal(error)}
        self._refused_at |= {(uid, cluster): self._clock.now() for cluster in refusals}
        told = "; ".join(f"{cluster} refuses it: {text}" for cluster, text in sorted(refusals.items()))[:500]
        if told and self._refused.get(uid) != told:
            self._emit(workload, _REFUSED, told)
        self._refused[uid] = told

    def refusing(self, uid: Uid) -> set[ClusterId]:
        """Members that have refused a part of it a short while ago: nothing is added there."""
        now = self._clock.now()
        return {
            cluster
            for (owner, cluster), at in self._refused_at.items()
            if owner == uid and now - at < _REFUSING_SECONDS
        }

    async def _do_all(
        self, uid: Uid, kind: DivisibleKind, steps: Iterable[PartStep]
    ) -> list[tuple[ClusterId, Exception]]:
        by_cluster: dict[ClusterId, list[PartStep]] = {}
        for step in steps:
            by_cluster.setdefault(step.cluster, []).append(step)
        done = await asyncio.gather(
            *(self._do_on(uid, kind, by_cluster[cluster]) for cluster in sorted(by_cluster)), return_exceptions=True
        )
        failed: list[tuple[ClusterId, Exception]] = []
        for cluster, result in zip(sorted(by_cluster), done, strict=True):
            if isinstance(result, FencedError) or (result is not None and not isinstance(result, Exception)):
                raise result
            if result is not None:
                failed.append((cluster, result))
        return failed

    async def _do_on(self, uid: Uid, kind: DivisibleKind, steps: list[PartStep]) -> None:
        """On one member, one after the other; the first that fails ends it."""
        for step in steps:
            name = type(step).__name__
            self._fence()
            try:
                await self._do(uid, kind, step)
            except OutcomeUnknownError:
                self._writes.uncertain.add(uid)
                self._telemetry.writes.labels(step.cluster, name, "unknown").inc()
                raise
            except (ExternalError, InvalidObjectError) as error:
                self._telemetry.writes.labels(step.cluster, name, type(error).__name__).inc()
                raise
            self._telemetry.writes.labels(step.cluster, name, "ok").inc()

    async def _do(self, uid: Uid, kind: DivisibleKind, step: PartStep) -> None:
        match step:
            case MakePart(target):
                began, entry = self._clock.now(), self._mirror.hub[uid]
                await self._writes.create_part(entry, kind, target)
                self._written(uid, "part", began, entry.workload.intent.decision if entry.workload.intent else "")
            case ScalePart(copy, target):
                there = self._entry(uid, copy.uid)
                await self._writes.patch_copy(there, kind.scale_part(there.raw, target))
            case DeletePart(copy, why):
                await self._writes.delete_copy(uid, self._entry(uid, copy.uid), why)

    def _entry(self, uid: Uid, copy_uid: Uid) -> CopyEntry:
        for entry in self._mirror.copies(uid):
            if entry.copy.uid == copy_uid:
                return entry
        raise ConflictError("the copy went away meanwhile")

    def planned(self, cluster: ClusterId) -> list[tuple[HubEntry, RawObject]]:
        """Parts that are to be there, for what must follow them."""
        found = []
        for uid, workload in list(self._mirror.services.items()):
            entry, kind = self._mirror.hub[uid], self._sights.kind_of(workload)
            intent = entry.workload.intent
            for target in () if intent is None or kind is None else intent.targets:
                if target.pool.cluster != cluster or kind is None:
                    continue
                try:
                    found.append((entry, self._writes.part_body(entry, kind, target)))
                except InvalidObjectError:
                    continue  # Nothing new is made of it; what runs is looked at as it is.
        return found

    # -- on the hub ----------------------------------------------------------------------------------------------

    async def _tell(self, uid: Uid, kind: DivisibleKind) -> None:
        """Status of all parts together, and the conditions."""
        said = self._said.get(uid)
        if said is None:
            return
        loop_time, now = asyncio.get_running_loop().time(), self._clock.now()
        wait = self._wrote_status_at.get(uid, 0.0) + _TOLD_APART_SECONDS - loop_time
        if wait > 0:
            self._keys.add_later(uid, wait)
            return
        entry = self._mirror.hub[uid]
        if refusal := self._refused.get(uid):
            said = (
                *(one for one in said if one.type != CONDITION_PLACED),
                Said(CONDITION_PLACED, "False", _REFUSED, refusal),
            )
        if STEERED in entry.raw["spec"]:
            why = self._unsteered.get(uid)
            told = ("True", "WeightsSet", "requests follow what is ready")
            said = (*said, Said(CONDITION_TRAFFIC, *(told if why is None else ("False", "TrafficNotSet", why))))
        retell = uid not in self._retold_at or now - self._retold_at[uid] >= _RETELL_SECONDS
        parts = [self._sights.seen(each) for each in self._sights.entries(uid, entry.workload.intent).values()]
        patch = kind.service_status(entry.raw, parts, said, now, retell=retell)
        if retell:
            self._retold_at[uid] = now
        if patch is not None:
            self._fence()
            self._wrote_status_at[uid] = loop_time
            await self._writes.patch_hub(self._mirror.hub[uid], patch, subresource="status")


def _code(said: Said) -> tuple[str, str, str]:
    return said.type, said.status, said.reason


def _gives_up(step: PartStep) -> bool:
    match step:
        case DeletePart():
            return True
        case ScalePart(copy, target):
            return target.replicas < copy.pods_wanted
    return False


def _is_refusal(error: Exception) -> bool:
    return isinstance(error, _REFUSALS)
