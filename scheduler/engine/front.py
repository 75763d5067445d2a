"""Those that go before everybody else: workloads whose queue gets its own capacity back, and such as have waited long.

Each starts where it fits; if it fits nowhere, room is made or kept for it, so that no later decision of this cycle, and
of no other cycle either, can give that room away.

A workload that has waited for as long as its policy's `reservation.afterWait` is taken out of the programme's hands:
the programme weighs sums of money and time, in which one big gang may lose to small ones for ever. For such a
workload only owned capacity is taken or kept, so that patience is not turned into spending; whether to buy for it is
still the programme's answer.

The bound: while its queue has quota and no workload of a higher priority comes, one that some pool could hold starts at
the latest after `afterWait` and one longest run (with its start) for each workload before it in the line and one more,
whatever smaller ones come meanwhile: the first in line has its instant at most one longest run ahead, nobody let in
moves that, and the next is first when it has started. Nobody let in moves it whichever nodes members choose: all are
kept off its nodes but for those that they are reckoned to be on, and who ends later is held to one where there is
enough for both (`rooms`). A workload that is started but finds no node, because its member has bound others of the same
moment elsewhere than was reckoned, has not left the line; it may cost each of the others one longest run more, once,
when it is bound.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

from scheduler.engine.candidates import Weighed, Weigher, in_time
from scheduler.engine.deadlines import has_deadline
from scheduler.engine.filters import Ask
from scheduler.engine.forecast import Forecast
from scheduler.engine.preemption import MOST_GANGS, Preemption
from scheduler.engine.reservations import Reservations
from scheduler.engine.settlement import Move
from scheduler.engine.world import World
from scheduler.model.ids import QueueId, Uid
from scheduler.model.policy import PlacementPolicy
from scheduler.model.resources import Resources
from scheduler.model.verdict import Reason
from scheduler.model.workload import Workload

RESERVED: Final = "Reserved"
_FULL: Final = ("NoRoomNow", "PoolAtMax")
"""What a pool says that would do but for those who are on it."""
MOST_LOOKS: Final = 256
"""So many pools are looked at in one cycle for when they will have room; the first in line is always looked after."""
Place = Callable[[Workload, Ask, Weighed, tuple[Weighed, ...]], None]
Pick = Callable[[Workload, Iterable[Weighed]], Weighed | None]


class Front:
    """Made once a cycle, before the programme is asked; `place` is the assignment's own."""

    def __init__(self, world: World, weigher: Weigher, place: Place, pick: Pick) -> None:
        self._world = world
        self._weigher = weigher
        self._place = place
        self._pick = pick
        self.forecast = Forecast(world)
        self.reservations = Reservations(world, self.forecast)
        self._preemption: Preemption | None = None
        if any(spec.preemption.reclaim or spec.preemption.lower_priority for spec in world.policies.queues):
            self._preemption = Preemption(world, weigher, self.forecast, self.reservations)
        self.placed: set[Uid] = set()
        self.moves: list[Move] = []
        """Of those that are stopped for others."""
        self._strict: dict[QueueId, list[Uid]] = defaultdict(list)
        """Of queues in which nobody overtakes: who is left, the last one first."""
        self._looks = 0

    def run(self, pending: Iterable[Workload]) -> None:
        concerned = pending if self._preemption is not None else self._maybe_concerned(pending)
        waiting = [(each, policy) for each in concerned if (policy := self._world.policy_of(each)) is not None]
        strict = [each for each in waiting if self._world.quotas.spec(each[0].queue).strict_fifo]
        for workload, _ in sorted(strict, key=_urgency, reverse=True):
            self._strict[workload.queue].append(workload.ref.uid)
        if self._preemption is not None:
            self._make_room(self._preemption, waiting)
        self._serve_the_patient([*(each for each in waiting if self._is_patient(*each)), *self._stranded()])

    def _maybe_concerned(self, pending: Iterable[Workload]) -> Iterable[Workload]:
        """Those of strict queues, and those who have waited for as long as the least patient policy says: found without
        asking which policy is whose."""
        rules = (each.reservation.after_wait_seconds for each in self._world.policies.policies)
        patience = min((each for each in rules if each is not None), default=float("inf"))
        strict = {spec.id for spec in self._world.policies.queues if spec.strict_fifo}
        now = self._world.now
        return (each for each in pending if now >= each.queued_at + patience or each.queue in strict)

    def close(self) -> None:
        """After everybody else has had his turn; nothing can start after that."""
        if self._preemption is not None:
            self._preemption.close()
        # They are their owner's, and he holds this: the state of the whole cycle would live on until somebody looks
        # for garbage, and the snapshots of many cycles with it.
        del self._place, self._pick

    @property
    def keeps_room(self) -> bool:
        """Whether some nodes are kept for somebody in this cycle."""
        return bool(self.reservations) or any(room.reserved for room in self._world.rooms.values())

    # -- capacity that a queue gets back -----------------------------------------------------------------------

    def _make_room(self, preemption: Preemption, waiting: list[tuple[Workload, PlacementPolicy]]) -> None:
        """The most urgent first, but before them those for whom others are leaving already."""
        entitled = [each for each in waiting if preemption.entitled(each[0])]
        heads = heapq.nsmallest(MOST_GANGS, entitled, key=_urgency)
        heads.sort(key=lambda each: not preemption.owed(each[0]))
        for workload, policy in heads:
            if preemption.entitled(workload) and self._is_next(workload):
                self._make_room_for(preemption, workload, self._world.ask_of(workload, policy))

    def _make_room_for(self, preemption: Preemption, workload: Workload, ask: Ask) -> None:
        if self._started(workload, ask, self._weigh(workload, ask)):
            preemption.promise(workload)
            return
        weighed = in_time(self._weigher.weigh(ask), workload, ask, self._world.now)
        has_quota = self._world.quotas.refusal(ask.queue, ask.shape.requests) is None
        if has_quota and any(each.fit is not None for each in weighed):
            return  # What can be bought is bought: nobody is stopped.
        rooms = [each.room for each in weighed if _is_full(each) or _fits_now(each)]
        self.moves += preemption.make_room(workload, ask, rooms)

    # -- those that have waited --------------------------------------------------------------------------------

    def _serve_the_patient(self, line: list[tuple[Workload, PlacementPolicy]]) -> None:
        hopeless: set[int] = set()
        for workload, policy in sorted(line, key=_urgency):
            if self._looks > MOST_LOOKS:
                break
            if workload.ref.uid in self.placed or self.reservations.of(workload) is not None:
                continue
            if workload.ref.uid in self._world.stranded:
                self._keep_for_stranded(workload)
                continue
            ask = self._world.ask_of(workload, policy)
            if ask.number in hopeless or not self._is_next(workload):
                continue
            if self._world.quotas.refusal(ask.queue, ask.shape.requests) is not None or not self._serve(workload, ask):
                hopeless.add(ask.number)

    def _serve(self, workload: Workload, ask: Ask) -> bool:
        """Start it, or keep room for it; False: neither is possible in this cycle, for all that are equal to it."""
        weighed = self._weigh(workload, ask)
        if self._started(workload, ask, weighed):
            return True
        full = [each for each in weighed if _is_full(each) and not self.reservations.awaited(each.room)]
        self._looks += len(full)
        found = [
            (at, each.order, each.room)
            for each in full
            if (at := self.reservations.earliest(ask.shape, each.room)) is not None
        ]
        if not found:
            return False
        at, _, room = min(found, key=lambda one: one[:2])
        text = f"has waited longest for {room.pool.ref}, where room is kept for it"
        self.reservations.keep(workload, ask.shape, room, at, Reason(RESERVED, text))
        return True

    def _is_patient(self, workload: Workload, policy: PlacementPolicy) -> bool:
        patience = policy.reservation.after_wait_seconds
        return patience is not None and self._world.now >= workload.queued_at + patience

    def _stranded(self) -> list[tuple[Workload, PlacementPolicy]]:
        """Those that have been started, but have pods left that fit nowhere: their member has bound others where these
        were to go. They go on waiting in the line, or smaller ones could pass them for ever."""
        workloads = (self._world.roll.restless[uid] for uid in self._world.stranded)
        return [(each, policy) for each in workloads if (policy := self._world.policy_of(each)) is not None]

    def _keep_for_stranded(self, workload: Workload) -> None:
        """Keep room for the rest of it; its member binds it there by itself."""
        assert workload.placement is not None
        room = self._world.room_of(workload.placement)
        assert room is not None
        sets = self._world.stranded[workload.ref.uid]
        requests = sum((each.requests.times(each.count) for each in sets), Resources())
        shape = replace(self._world.shape_of(workload), pod_sets=sets, requests=requests)
        self._looks += 1
        at = self.reservations.earliest(shape, room)
        if at is not None:
            self.reservations.keep(workload, shape, room, at, Reason(RESERVED, f"its pods wait on {room.pool.ref}"))

    # -- both --------------------------------------------------------------------------------------------------

    def _weigh(self, workload: Workload, ask: Ask) -> tuple[Weighed, ...]:
        if not _by_programme(ask):
            return tuple(in_time(self._weigher.weigh(ask), workload, ask, self._world.now))
        if not has_deadline(ask):
            return tuple(self._weigher.weigh(ask, owned=True))
        weighed = in_time(self._weigher.weigh(ask), workload, ask, self._world.now)
        return tuple(each for each in weighed if not each.room.pool.bought)

    def _started(self, workload: Workload, ask: Ask, weighed: tuple[Weighed, ...]) -> bool:
        if self._world.quotas.refusal(ask.queue, ask.shape.requests) is not None:
            return False
        chosen = self._pick(workload, weighed)
        if chosen is None:
            return False
        self._place(workload, ask, chosen, weighed)
        self.placed.add(workload.ref.uid)
        self.forecast.note(chosen.room, self.forecast.ends_at(workload, chosen.room))
        line = self._strict.get(workload.queue)
        if line is not None:
            line.pop()
        return True

    def _is_next(self, workload: Workload) -> bool:
        """Whether its queue lets it go now."""
        line = self._strict.get(workload.queue)
        return line is None or (bool(line) and line[-1] == workload.ref.uid)


def _urgency(one: tuple[Workload, PlacementPolicy]) -> tuple[int, float, str]:
    workload = one[0]
    return -workload.priority, workload.queued_at, workload.ref.uid


def _by_programme(ask: Ask) -> bool:
    return ask.policy.value_of_time is not None


def _is_full(weighed: Weighed) -> bool:
    refused = weighed.candidate.refused
    return bool(refused) and refused[0].code in _FULL


def _fits_now(weighed: Weighed) -> bool:
    return weighed.fit is not None and weighed.fit.now
