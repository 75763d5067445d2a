"""Whose run is stopped so that another can start: those that lose least work, and no more than are needed.

Who may take from whom stands in `entitlement`. Victims are taken in order of the work that they lose (since their last
checkpoint or, without any, their start, times GPUs) until the gang fits the nodes and its quota; then each whose return
still lets it fit is spared, the dearest first, so that no smaller part of them would do. Of the pools and of a few
orders the one that loses least is chosen. Greedy: least in total is not proved.

Until its victims are gone their room and its quota are kept for the gang. The id of a victim's decision is made from
the gang's uid: so a later cycle knows for whom a run is leaving, although nothing else is remembered, and stops nobody
more for it meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import compress
from typing import Final

from scheduler.engine import explain
from scheduler.engine.candidates import Weigher
from scheduler.engine.entitlement import Entitlement, stays
from scheduler.engine.filters import Ask, Offer, duration_text
from scheduler.engine.forecast import Forecast, Holding, shift
from scheduler.engine.packing import Shape, pack, undo
from scheduler.engine.reservations import Reservations
from scheduler.engine.rooms import Fit, PoolRoom, dominant_part
from scheduler.engine.settlement import Move, release
from scheduler.engine.world import World
from scheduler.model.ids import DecisionId, Instant, NodeName, PoolRef
from scheduler.model.policy import PreemptionRule
from scheduler.model.verdict import Reason
from scheduler.model.workload import PlacementState, Workload

MAKING_ROOM: Final = "MakingRoom"
RECLAIMED: Final = "Reclaimed"
PREEMPTED: Final = "Preempted"
MOST_GANGS: Final = 64
"""So many of those who may take are looked at in one cycle, the most urgent ones."""
_GRACE_SECONDS: Final = 120.0
"""How long pods may take to end after their copy is gone: four times what Kubernetes gives them by default."""
_SOON_SECONDS: Final = 120.0
"""Whoever is expected to end so soon is stopped last."""


@dataclass(frozen=True, slots=True)
class _Victims:
    room: PoolRoom
    who: tuple[Holding, ...]
    soon: int
    lost: float
    """GPU-seconds; of runs without GPUs, seconds."""

    @property
    def key(self) -> tuple[int, float, int, PoolRef]:
        return self.soon, self.lost, len(self.who), self.room.pool.ref


class Preemption:
    """One cycle's."""

    def __init__(self, world: World, weigher: Weigher, forecast: Forecast, reservations: Reservations) -> None:
        self._world = world
        self._weigher = weigher
        self._forecast = forecast
        self._reservations = reservations
        self._entitlement = Entitlement(world)
        self._kept: list[Workload] = []
        self._hopeless: set[tuple[int, int]] = set()
        """Classes and priorities for which no room can be made in this cycle."""
        self._leaving = [
            (each, each.placement)
            for each in world.workloads
            if each.placement is not None
            and each.placement.state is PlacementState.RELEASING
            and each.placement.reason in (RECLAIMED, PREEMPTED)
        ]

    def entitled(self, workload: Workload) -> bool:
        return self._entitlement.entitled(workload)

    def promise(self, workload: Workload) -> None:
        """It has been started in this cycle."""
        self._entitlement.add(workload, 1)

    def owed(self, workload: Workload, room: PoolRoom | None = None) -> bool:
        """Whether runs are on their way out (of that pool) for it."""
        return any(
            placement.decision == _decision_for(workload, victim, placement.decided_at)
            for victim, placement in self._leaving
            if room is None or self._world.room_of(placement) is room
        )

    def make_room(self, workload: Workload, ask: Ask, rooms: Sequence[PoolRoom]) -> list[Move]:
        """Keep for it what is on its way out, or stop as little work as possible; the runs that are stopped."""
        if (ask.number, workload.priority) in self._hopeless:
            return []
        rooms = [room for room in rooms if not self._reservations.awaited(room) and self._would_take(ask, room)]
        trials = [_Trial(self._forecast, room, ask.shape, self._world.now) for room in rooms]
        found = self._without_stopping(workload, trials)
        if found is None and not self.owed(workload) and not any(self._awaits_pods(room) for room in rooms):
            line = self._line(workload)
            plans = [plan for trial in trials for plan in self._plans(workload, trial, line)]
            found = min(plans, key=lambda each: each.key, default=None)
        if found is None:
            self._hopeless.add((ask.number, workload.priority))
            return []
        return self._carry_out(workload, ask, found)

    def close(self) -> None:
        """Nothing more is placed in this cycle: quota that was only kept counts as unused again."""
        for workload in self._kept:
            self._world.quotas.add(workload.queue, self._world.shape_of(workload).requests.times(-1))
        self._kept.clear()

    # -- the choice --------------------------------------------------------------------------------------------

    def _without_stopping(self, workload: Workload, trials: Sequence[_Trial]) -> _Victims | None:
        """A pool in which what leaves anyway is enough; one where runs leave for it before others."""
        if not self._entitlement.has_quota(workload, ()):
            return None
        enough = [_Victims(trial.room, (), 0, 0.0) for trial in trials if trial.fits(())]
        return min(enough, key=lambda each: (not self.owed(workload, each.room), each.key), default=None)

    def _plans(self, workload: Workload, trial: _Trial, line: list[Holding]) -> list[_Victims]:
        """What each order of asking comes to; [] where it cannot be."""

        def enough(gone: Sequence[Holding]) -> bool:
            return self._entitlement.has_quota(workload, [each.workload for each in gone]) and trial.fits(gone)

        here = [each for each in line if self._room(each) is trial.room]
        elsewhere = [each for each in line if self._room(each) is not trial.room]
        plans: list[_Victims] = []
        for order in (line, here + elsewhere, self._node_by_node(trial, here) + elsewhere):
            asked = self._allowed(workload, order)
            if enough(asked):
                who = self._needed(_shortest(asked, enough), enough)
                soon = sum(self._ends_soon(each) for each in who)
                plans.append(_Victims(trial.room, tuple(who), soon, sum(self.lost(each) for each in who)))
        return plans

    def _allowed(self, workload: Workload, order: Sequence[Holding]) -> list[Holding]:
        """In that order, as long as no queue loses what is its own."""
        answers = self._entitlement.allowed(workload, (each.workload for each in order))
        return list(compress(order, answers))

    def _needed(self, asked: list[Holding], enough: Callable[[Sequence[Holding]], bool]) -> list[Holding]:
        """Without those who may stay after all."""
        needed = list(asked)
        for holding in sorted(asked, key=self._order, reverse=True):
            fewer = [each for each in needed if each is not holding]
            if enough(fewer):
                needed = fewer
        return needed

    def _line(self, workload: Workload) -> list[Holding]:
        """Everybody who may be stopped as things are, those first that lose least."""
        rule = self._world.quotas.spec(workload.queue).preemption
        found = [
            holding
            for room in self._world.rooms.values()
            if room.cluster.available
            for holding in self._forecast.holdings(room)
            if self._stoppable(holding, rule) and self._entitlement.may_stop(holding.workload, workload)
        ]
        return sorted(found, key=self._order)

    def _stoppable(self, holding: Holding, rule: PreemptionRule) -> bool:
        victim = holding.workload
        if holding.releasing or not stays(victim) or victim.ref.uid in self._world.released:
            return False
        if victim.placement is None or victim.placement.state is not PlacementState.STARTED:
            return False
        return rule.max_lost_seconds is None or self._lost_seconds(victim) <= rule.max_lost_seconds

    def _order(self, holding: Holding) -> tuple[bool, float, int, str]:
        victim = holding.workload
        return self._ends_soon(holding), self.lost(holding), victim.priority, victim.ref.uid

    def _ends_soon(self, holding: Holding) -> bool:
        return holding.ends_at <= self._world.now + _SOON_SECONDS

    def _node_by_node(self, trial: _Trial, here: list[Holding]) -> list[Holding]:
        """First those on the node that costs least to clear, and so on: a gang wants whole nodes."""
        on: dict[NodeName, list[Holding]] = {}
        for holding in here:
            for name, _ in holding.on:
                on.setdefault(name, []).append(holding)
        cost = {name: sum(self.lost(each) for each in line) for name, line in on.items()}
        useful = [name for name in on if trial.takes_a_pod(name, on[name])]
        order = [each for name in sorted(useful, key=lambda name: (cost[name], name)) for each in on[name]]
        return list({each.workload.ref.uid: each for each in (*order, *here)}.values())

    def lost(self, holding: Holding) -> float:
        """GPU-seconds of work (of a run without GPUs: seconds) that stopping it now throws away."""
        return self._lost_seconds(holding.workload) * max(1, self._world.shape_of(holding.workload).gpus)

    def _lost_seconds(self, workload: Workload) -> float:
        """Since its last checkpoint; where it makes none, since its start or, unknown, since its copy was made."""
        placement = workload.placement
        copy = None if placement is None else self._world.copies.get((workload.ref.uid, placement.cluster))
        if copy is None:
            return 0.0
        ran = max(0.0, self._world.now - (copy.created_at if copy.started_at is None else copy.started_at))
        every = workload.hints.checkpoint_every_seconds
        return ran if every is None or every <= 0 else ran % every

    # -- what stands in the way --------------------------------------------------------------------------------

    def _would_take(self, ask: Ask, room: PoolRoom) -> bool:
        """Whether the gang would be let in once it fits: nothing is stopped for one that is too dear there."""
        if room.pool.bought:
            return False
        share = sum((dominant_part(s.requests, room.node_size) * s.count for s in ask.shape.pod_sets), Fraction(0))
        return self._weigher.priced(ask, Offer(room, False, Fit(True, 0, share))).fit is not None

    def _awaits_pods(self, room: PoolRoom) -> bool:
        """Whether something leaves the pool of which nobody knows how much: to stop more might be for nothing."""
        for workload in self._world.workloads:
            placement = workload.placement
            if placement is None or placement.state is not PlacementState.RELEASING:
                continue
            copy = self._world.copies.get((workload.ref.uid, placement.cluster))
            if self._world.room_of(placement) is room and copy is not None and copy.pods_bound and not copy.holds:
                return True
        return self._pods_linger(room)

    def _pods_linger(self, room: PoolRoom) -> bool:
        """Whether pods of a workload that was released a moment ago may still be there: its copy is gone, they end in
        their grace period. Pods that nobody here answers for are waited for no longer than that."""
        told: dict[NodeName, int] = {}
        for holding in self._forecast.holdings(room):
            for name, held in holding.on:
                told[name] = told.get(name, 0) + held.pods
        if all(node.workload_pods <= told.get(node.name, 0) for node in room.nodes):
            return False
        over = [
            each.queued_at + _GRACE_SECONDS
            for each in self._world.workloads
            if each.placement is None and each.queued_at > each.created_at
        ]
        until = max(over, default=self._world.now)
        self._world.wake_at(until)
        return until > self._world.now

    # -- carrying it out ---------------------------------------------------------------------------------------

    def _carry_out(self, workload: Workload, ask: Ask, found: _Victims) -> list[Move]:
        here = tuple(each for each in found.who if self._room(each) is found.room)
        reason = Reason(MAKING_ROOM, f"waits until room that is being freed on {found.room.pool.ref} is its own")
        self._reservations.keep(workload, ask.shape, found.room, self._world.now, reason, here)
        self._entitlement.add(workload, 1)
        # Nor may anybody borrow the quota that it will need.
        self._world.quotas.add(workload.queue, ask.shape.requests)
        self._kept.append(workload)
        return [self._stop(victim, workload) for victim in sorted(found.who, key=lambda each: each.workload.ref.uid)]

    def _stop(self, holding: Holding, taker: Workload) -> Move:
        victim, room = holding.workload, self._room(holding)
        placement = victim.placement
        assert placement is not None
        assert room is not None
        lost = f"{duration_text(self._lost_seconds(victim))} of work is lost"
        if victim.queue == taker.queue:
            reason = Reason(PREEMPTED, f"{taker.ref} has a higher priority and needs the room; {lost}")
        else:
            reason = Reason(RECLAIMED, f"queue {taker.queue} takes back its own for {taker.ref}; {lost}")
        change, decision = release(self._world, victim, placement, reason, self._world.policy_of(victim))
        named = _decision_for(taker, victim, self._world.now)
        self._entitlement.add(victim, -1)
        self._forecast.leaves(holding, room)
        after = replace(change.placement, decision=named)
        return change._replace(placement=after, decision=named), decision._replace(id=named)

    def _room(self, holding: Holding) -> PoolRoom | None:
        placement = holding.workload.placement
        return None if placement is None else self._world.room_of(placement)


class _Trial:
    """Whether a gang fits into a pool when some have gone, tried on copies of its nodes."""

    def __init__(self, forecast: Forecast, room: PoolRoom, shape: Shape, now: Instant) -> None:
        self.room = room
        self._shape = shape
        self._ready, _ = forecast.free_at(room, now)
        self._by_name = {each.key: each for each in self._ready}
        self._there = {each.workload.ref.uid for each in forecast.holdings(room)}

    def fits(self, gone: Iterable[Holding]) -> bool:
        here = [each for each in gone if each.workload.ref.uid in self._there]
        self._shift(here, 1)
        takes = pack(self._shape.pod_sets, (self._ready,))
        if takes is not None:
            undo(takes)
        self._shift(here, -1)
        return takes is not None

    def takes_a_pod(self, name: NodeName, gone: Iterable[Holding]) -> bool:
        """Whether the node holds any pod of the gang when those have gone."""
        bin_ = self._by_name.get(name)
        if bin_ is None:
            return False
        gone = list(gone)
        self._shift(gone, 1)
        found = any(bin_.room_for(each.requests, 1) and bin_.admits(each) for each in self._shape.pod_sets)
        self._shift(gone, -1)
        return found

    def _shift(self, holdings: Iterable[Holding], sign: int) -> None:
        for holding in holdings:
            for name, held in holding.on:
                if name in self._by_name:
                    shift(self._by_name[name], held, sign)


def _shortest(asked: list[Holding], enough: Callable[[Sequence[Holding]], bool]) -> list[Holding]:
    """The first of them that are enough, found by halving; all of them are."""
    low, high = 0, len(asked)
    while low < high:
        middle = (low + high) // 2
        if enough(asked[:middle]):
            high = middle
        else:
            low = middle + 1
    return asked[:low]


def _decision_for(taker: Workload, victim: Workload, at: Instant) -> DecisionId:
    """The id of the decision, made at that instant, to stop the one for the other."""
    return explain.decision_id(victim, f"makes room for {taker.ref.uid}", "", at)
