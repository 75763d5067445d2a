"""The loop that divides services: whenever something has changed, or a while has passed, every one is looked at.

What is seen is gathered here as frozen values; what follows is reckoned by `scheduler.engine.serving`, off the event
loop; what is to be written goes to the actuator. Nobody is looked at before the hub and its members have been listed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import structlog

from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.services.actuator import ServiceActuator
from scheduler.daemon.services.ports import DemandBook
from scheduler.daemon.services.sights import Sights
from scheduler.daemon.services.telling import Teller, ends
from scheduler.daemon.state.member_mirror import CopyEntry
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.waiting import happened_or_due
from scheduler.engine.memory import Memory as Rooms
from scheduler.engine.serving.cycle import horizons, serve
from scheduler.engine.serving.leaving import Leaving, leave
from scheduler.engine.serving.looking import Looked, PartState, Sight, adopt, look, remembered
from scheduler.engine.serving.matching import slo_of
from scheduler.engine.serving.memory import Memory
from scheduler.engine.serving.offers import Expected, Offered, Offers
from scheduler.engine.serving.rollout import JUDGING
from scheduler.engine.serving.slots import Slot
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant, Uid
from scheduler.model.policy import PolicySet
from scheduler.model.ports import Clock, Predictor
from scheduler.model.serving import ExpectedRate
from scheduler.model.serving_policy import ServingSLO
from scheduler.model.snapshot import Snapshot, SpendBucket
from scheduler.model.workload import Placement, PlacementState, Workload

log = structlog.get_logger(__name__)
LOOK_SECONDS: Final = 15.0
"""Between two looks when nothing happens, in the federation's time."""
_GATHER_WALL_SECONDS: Final = 0.02
"""What comes with the first event is looked at with it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One service in one look."""

    sight: Sight
    slo: ServingSLO | None
    """None: none matches it any more."""
    entries: Mapping[Slot, CopyEntry]
    memory: Memory
    fresh: bool
    """Nothing is written of it yet."""
    placement: Placement | None
    """Of one that runs as a whole until now."""


class ServiceKeeper:
    """Belongs to the event loop. `actuator` None is shadow mode: everything is decided, nothing is written."""

    def __init__(
        self,
        mirror: Mirror,
        policies: LivePolicies,
        predictor: Callable[[], Predictor],
        clock: Clock,
        telemetry: Telemetry,
        *,
        sights: Sights,
        book: DemandBook,
        expected: Callable[[], Expected],
        spend: Callable[[], tuple[SpendBucket, ...]],
        bursting_paused: Callable[[], bool],
        teller: Teller,
        actuator: ServiceActuator | None,
    ) -> None:
        self._mirror = mirror
        self._policies = policies
        self._predictor = predictor
        self._clock = clock
        self._telemetry = telemetry
        self._sights = sights
        self.book = book
        self._expected = expected
        self._spend = spend
        self._bursting_paused = bursting_paused
        self._teller = teller
        self._actuator = actuator
        self._memories: dict[Uid, Memory] = {}
        self._rooms = Rooms()
        self.looked: dict[Uid, Looked] = {}
        """What was decided last."""
        self._changed = asyncio.Event()
        self._looking = False
        self.looks = 0

    def trigger(self) -> None:
        """Something changed that a look could decide otherwise on."""
        self._changed.set()

    @property
    def idle(self) -> bool:
        return not self._looking and not (self._changed.is_set() and bool(self._concerned()))

    async def run(self) -> None:
        """Look for ever."""
        took = 0.0
        while True:
            await happened_or_due(self._changed, self._clock, self._clock.now() + LOOK_SECONDS)
            self._looking = True
            began = asyncio.get_running_loop().time()
            try:
                # Three times as long as the last look took: dividing never has more than a quarter of the process.
                await asyncio.sleep(max(_GATHER_WALL_SECONDS, 3.0 * took))
                self._changed.clear()
                began = asyncio.get_running_loop().time()
                if self._mirror.ever_synced and self._mirror.hub_synced and self._concerned():
                    await self.look()
            finally:
                took = asyncio.get_running_loop().time() - began
                self._looking = False

    def _concerned(self) -> list[Uid]:
        """Services, and what is to become one."""
        if not self._policies.current.serving:
            return list(self._mirror.services)
        return sorted(self._mirror.lasting)

    async def look(self) -> None:
        """At every service, once."""
        policies, now = self._policies.current, self._clock.now()
        cases = [case for uid in self._concerned() if (case := self._case(uid, policies, now)) is not None]
        self._forget(cases)
        if not cases:
            return
        snapshot = self._mirror.snapshot(self._spend(), bursting_paused=self._bursting_paused())
        predictor, expected = self._predictor(), self._expected()
        bound = [self._sights.bound(case.entries) for case in cases]
        wholes = [(case.sight.workload, pods, _about(case)) for case, pods in zip(cases, bound, strict=True)]

        def offer() -> list[Offered]:
            made = Offers(snapshot, policies, predictor, expected, self._rooms)
            found = [made.of(*each) for each in wholes]
            made.close()
            return found

        offered = [self._without_refusing(*each) for each in zip(cases, await asyncio.to_thread(offer), strict=True)]
        forecasts = [self._forecast(case, each) for case, each in zip(cases, offered, strict=True)]
        found = await asyncio.to_thread(
            lambda: [_decide(*each) for each in zip(cases, offered, forecasts, strict=True)]
        )
        self.looks += 1
        for case, each in zip(cases, found, strict=True):
            self._take(case, each, policies, snapshot)

    # -- what is looked at ---------------------------------------------------------------------------------------

    def _case(self, uid: Uid, policies: PolicySet, now: Instant) -> Case | None:
        """None: there is nothing to decide of it now."""
        workload = self._mirror.service(uid) or self._mirror.workload(uid)
        if workload is None or workload.deleting or workload.finished:
            return None
        slo = slo_of(workload, policies)
        if slo is None and workload.intent is None:
            return None
        if workload.invalid is not None:
            self._refuse(workload, workload.invalid)
            return None
        try:
            return self._seen(uid, workload, slo, now)
        except InvalidObjectError as error:
            self._refuse(workload, str(error))
            return None

    def _refuse(self, workload: Workload, why: str) -> None:
        """What runs is kept. One that was never divided is told so by the cycle, as any other."""
        if self._actuator is not None and workload.ref.uid in self._mirror.services:
            self._actuator.refuse(workload.ref.uid, why)

    def _seen(self, uid: Uid, workload: Workload, slo: ServingSLO | None, now: Instant) -> Case | None:
        fresh, placement = workload.intent is None, workload.placement
        warm_up = 0.0 if slo is None else slo.warm_up_seconds
        if workload.placement is not None:
            adopted = None if slo is None else self._adopted(workload, slo, now)
            if adopted is None:
                return None
            workload = adopted
        entries = self._sights.entries(uid, workload.intent)
        sight = self._sights.of(workload, entries, now, warm_up)
        if self._actuator is None and workload.intent is not None:
            sight = replace(sight, parts=_pretended(workload))
        self.book.observe(workload.ref, now, sight.demand)
        memory = self._memories.get(uid)
        if memory is None or fresh:
            memory = remembered(workload.intent)
        return Case(sight, slo, entries, memory, fresh, placement)

    def _adopted(self, workload: Workload, slo: ServingSLO, now: Instant) -> Workload | None:
        """One that runs as a whole, as if it were divided already, into the one part that it is; None: not yet. What is
        being written of it, refreshed or moved comes to its end first."""
        uid, placement = workload.ref.uid, workload.placement
        entry = self._mirror.hub.get(uid)
        kind = self._sights.kind_of(workload)
        if entry is None or placement is None or kind is None or entry.workload.placement != placement:
            return None
        copies = [each for each in self._mirror.copies(uid) if not each.copy.deleting]
        if placement.state is PlacementState.RESERVED and not copies:
            return replace(workload, placement=None)
        current = [one for one in copies if one.copy.cluster == placement.cluster and one.copy.part == placement.part]
        started = placement.state is PlacementState.STARTED
        if not started or len(copies) != 1 or len(current) != 1 or current[0].copy.suspended or workload.suspended:
            return None
        if not kind.is_made_of_present(entry.raw, current[0].raw):
            return None
        copy = current[0].copy
        sight = self._sights.of(workload, {}, now, 0.0)
        intent = adopt(sight, slo.name, placement.pool_ref, copy.name, copy.pods_wanted)
        return replace(workload, placement=None, intent=intent)

    def _without_refusing(self, case: Case, offered: Offered) -> Offered:
        """Nothing is added where a member has just refused it; what runs there stays."""
        uid = case.sight.workload.ref.uid
        refusing = self._actuator.refusing(uid) if self._actuator is not None else set()
        if not refusing:
            return offered
        running = self._sights.bound(case.entries)
        offers = tuple(
            replace(one, most_replicas=running.get(one.pool, 0)) if one.pool.cluster in refusing else one
            for one in offered.offers
        )
        return replace(offered, offers=offers)

    def _forecast(self, case: Case, offered: Offered) -> tuple[ExpectedRate, ...]:
        if case.slo is None:
            return ()
        leads = horizons(offered.offers, case.slo)
        return self.book.forecast(case.sight.workload.ref, leads, case.slo.scaling.confidence)

    def _forget(self, cases: list[Case]) -> None:
        """Those that are no services any more."""
        known = {case.sight.workload.ref.uid for case in cases} | set(self._mirror.services)
        for uid in [uid for uid in self.looked if uid not in known]:
            del self.looked[uid]
            self._memories.pop(uid, None)
            self._teller.forget(uid)

    # -- what follows --------------------------------------------------------------------------------------------

    def _take(self, case: Case, found: Looked | Leaving, policies: PolicySet, snapshot: Snapshot) -> None:
        uid = case.sight.workload.ref.uid
        if not self._is_current(case):
            self.trigger()
            return
        if isinstance(found, Leaving):
            self._leave(case, found)
            return
        self.looked[uid], self._memories[uid] = found, found.memory
        self._telemetry.service_looks.labels(found.division.solver).inc()
        if found.view is not None:
            self._sights.canary.looked(found.view, found.division, _judged_step(found.memory))
        before = None if case.fresh else case.sight.intent
        self._teller.divided(case.sight.workload, found, before, policies.digest)
        if not found.differs and not case.fresh:
            if self._actuator is not None:
                self._actuator.tell(uid, found.division)
            return
        if self._actuator is None:
            self._mirror.assume_intent(uid, found.intent)
        else:
            self._actuator.want(uid, found.intent, found.division)

    def _is_current(self, case: Case) -> bool:
        """While a look went on, its service may have changed."""
        uid = case.sight.workload.ref.uid
        now = self._mirror.service(uid) or self._mirror.workload(uid)
        if now is None or now.deleting:
            return False
        if case.fresh:
            return now.intent is None and now.placement == case.placement
        return now.intent == case.sight.intent

    def _leave(self, case: Case, found: Leaving) -> None:
        uid = case.sight.workload.ref.uid
        self._memories.pop(uid, None)
        self.looked.pop(uid, None)
        if self._actuator is None:
            if found.done:
                self._mirror.assume_intent(uid, None)
            return
        if found.done:
            self._actuator.end(uid, self._placed(case, found))
        else:
            self._actuator.gather(uid, found.intent, ends(found.text), written=found.intent == case.sight.intent)

    def _placed(self, case: Case, found: Leaving) -> Placement | None:
        """Where its home is, as the placement of the whole."""
        entry = None if found.home is None else case.entries.get(found.home)
        pool = None if found.home is None else self._mirror.pool(found.home.pool)
        if entry is None or found.home is None or pool is None:
            return None
        return Placement(
            cluster=found.home.pool.cluster,
            pool=found.home.pool.pool,
            capacity_type=pool.capacity_type,
            bought=pool.bought,
            state=PlacementState.STARTED,
            attempt=entry.copy.attempt,
            decided_at=case.sight.now,
            decision=found.intent.decision,
            part=entry.copy.part,
        )

    async def explained(self, uid: Uid) -> Looked | None:
        """The last look once more, with what binds; None: it is no service, or was never divided."""
        last = self.looked.get(uid)
        if last is None or last.view is None:
            return last
        return await asyncio.to_thread(_explain, last)


def _about(case: Case) -> int:
    """Replicas that the service has in all, or is to have at least."""
    intent = case.sight.intent
    asked = 0 if intent is None else sum(one.replicas for one in intent.targets)
    return max(1, asked, 0 if case.slo is None else case.slo.scaling.min_replicas)


def _decide(case: Case, offered: Offered, forecast: tuple[ExpectedRate, ...]) -> Looked | Leaving:
    if case.slo is None:
        return leave(case.sight, offered.offers)
    return look(case.sight, case.slo, offered, forecast, case.memory)


def _explain(last: Looked) -> Looked:
    assert last.view is not None
    division, _ = serve(last.view, last.memory, explain=True)
    return replace(last, division=replace(last.division, binding=division.binding))


def _pretended(workload: Workload) -> dict[Slot, PartState]:
    """Shadow mode: what was decided counts as done."""
    assert workload.intent is not None
    return {
        Slot(one.pool, one.revision): PartState(one.replicas, one.replicas)
        for one in workload.intent.targets
        if one.replicas > 0
    }


def _judged_step(memory: Memory) -> tuple[str, str, int, int] | None:
    now = memory.rollout
    return None if now is None or now.phase != JUDGING else (now.old, now.new, now.cluster, now.step)
