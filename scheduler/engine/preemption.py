"""Whose run is stopped so that another can start: capacity reclaimed by its queue, and priority within a queue.

A queue may reclaim while it stays within its share with the newcomer counted in: its nominal quota, or, where it has no
quota, its part by weight of the dominant resource among the queues of its cohort that want anything. Victims come from
queues of the cohort that use more than their share at that moment, or (where the rule allows it) from the queue itself
with a lower priority, if it is within its share when they are gone. So nobody who is within his share is stopped for
another queue, and whoever was stopped cannot stop the one that he made room for.

Chosen are, gang by gang, those that lose least: work since the last checkpoint, times GPUs, in steps of a factor of
two of a minute; then lower priority, borrowed before own, the exact loss, the name. What turns out not to be needed is
spared again, the dearest first.

Until its victims are gone their room is kept for the workload (a reservation for now), and what is on its way out is
counted as free before anybody is stopped; so nobody is stopped twice for one gang, although nothing is remembered.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final

from scheduler.engine.fairshare import dominant_share
from scheduler.engine.filters import Ask
from scheduler.engine.forecast import Forecast, Holding
from scheduler.engine.packing import Opener, pack
from scheduler.engine.reservations import Reservations
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.settlement import Move, release
from scheduler.engine.world import World
from scheduler.model.ids import NodeName, QueueId
from scheduler.model.policy import Quota
from scheduler.model.resources import Resources
from scheduler.model.verdict import Reason
from scheduler.model.workload import PlacementState, Workload

MAKING_ROOM: Final = "MakingRoom"
_SLACK: Final = 1e-9
_GRACE_SECONDS: Final = 120.0
"""How long pods may take to end after their copy is gone: four times what Kubernetes gives them by default."""


class Preemption:
    """One cycle's. What queues use is counted without what is on its way out, and with all that is promised room."""

    def __init__(self, world: World, forecast: Forecast, reservations: Reservations) -> None:
        self._world = world
        self._forecast = forecast
        self._reservations = reservations
        self.possible = any(spec.preemption.reclaim or spec.preemption.lower_priority for spec in world.policies.queues)
        self._used: dict[QueueId, Resources] = {}
        self._kept_quota: list[tuple[QueueId, Resources]] = []
        self._running: dict[QueueId, list[Workload]] = {}
        self._weights: dict[str, float] = {}
        self._hopeless: set[tuple[int, int]] = set()
        """Classes and priorities for which no room can be made as things are."""
        if self.possible:
            self._look()

    def entitled(self, workload: Workload) -> bool:
        """Whether others may be stopped for it: its queue stays within its share, if need be without runs of its own
        that have a lower priority."""
        rule = self._world.quotas.spec(workload.queue).preemption
        if self.within_share(workload):
            return rule.reclaim or rule.lower_priority
        if not rule.lower_priority:
            return False
        lower = [each for each in self._running.get(workload.queue, ()) if each.priority < workload.priority]
        used = self._used.get(workload.queue, Resources())
        for each in lower:
            used = used - self._world.shape_of(each).requests
        return self.within_share(workload, used)

    def within_share(self, workload: Workload, used: Resources | None = None) -> bool:
        """Whether its queue, which uses that much without it (None: as things are), stays within its share with it."""
        asked = self._world.shape_of(workload).requests
        used = self._used.get(workload.queue, Resources()) if used is None else used
        return not self._over(workload.queue, used + asked, asked, asked)

    def promise(self, workload: Workload) -> None:
        """It has room, or is getting it."""
        self._add(workload, 1)

    def make_room(self, workload: Workload, ask: Ask, rooms: Sequence[PoolRoom]) -> list[Move]:
        """Keep for it what is on its way out, or stop as little work as possible; what is stopped."""
        if (ask.number, workload.priority) in self._hopeless:
            return []
        line = self._line(workload, ask.shape.requests)
        found: list[tuple[float, str, PoolRoom, list[Holding]]] = []
        for room in rooms:
            victims = self._victims(workload, ask, room, line)
            if victims is not None:
                found.append((sum(self.lost(each) for each in victims), str(room.pool.ref), room, victims))
        if not found:
            self._hopeless.add((ask.number, workload.priority))
            return []
        self._hopeless.clear()
        _, _, room, victims = min(found, key=lambda one: one[:2])
        here = tuple(each for each in victims if self._room(each) is room)
        reason = Reason(MAKING_ROOM, f"waits until room that is being freed on {room.pool.ref} is its own")
        self._reservations.keep(workload, ask.shape, room, self._world.now, reason, here)
        self.promise(workload)
        # Nor may anybody borrow the quota that it will need.
        self._world.quotas.add(workload.queue, ask.shape.requests)
        self._kept_quota.append((workload.queue, ask.shape.requests))
        moves = [self._stop(victim, workload) for victim in victims]
        for victim in victims:
            self._add(victim.workload, -1)
            place = self._room(victim)
            assert place is not None
            self._forecast.leaves(victim, place)
        return moves

    def close(self) -> None:
        """Nothing more is placed in this cycle: quota that was only kept counts as unused again."""
        for queue, asked in self._kept_quota:
            self._world.quotas.used[queue] -= asked
        self._kept_quota.clear()

    def lost(self, holding: Holding) -> float:
        """GPU-seconds of work (of a run without GPUs: seconds) that stopping it now throws away."""
        return self._lost_seconds(holding.workload) * max(1, self._world.shape_of(holding.workload).gpus)

    # -- shares ------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        world = self._world
        wanting: set[QueueId] = set()
        for workload in world.workloads:
            if workload.finished or workload.deleting or workload.suspended:
                continue
            wanting.add(workload.queue)
            placement = workload.placement
            if placement is not None and placement.state is not PlacementState.RELEASING:
                self._add(workload, 1)
                self._running.setdefault(workload.queue, []).append(workload)
        for queue in sorted(wanting):
            spec = world.quotas.spec(queue)
            if spec.cohort is not None:
                self._weights[spec.cohort] = self._weights.get(spec.cohort, 0.0) + float(spec.weight)

    def _add(self, workload: Workload, sign: int) -> None:
        before = self._used.get(workload.queue, Resources())
        asked = self._world.shape_of(workload).requests
        self._used[workload.queue] = before + asked if sign > 0 else before - asked

    def _over(self, queue: QueueId, used: Resources, wanted: Resources, held: Resources) -> bool:
        """Whether the queue uses more than its share of something that is both wanted and held."""
        spec = self._world.quotas.spec(queue)
        if spec.cohort is None:
            return False
        if spec.quotas:
            return any(used.amount(q.resource) > q.nominal for q in _both(spec.quotas, wanted, held))
        weights = self._weights.get(spec.cohort, 0.0)
        part = float(spec.weight) / weights if weights > 0 else 0.0
        return dominant_share(used, self._world.capacity) > part + _SLACK

    # -- victims -----------------------------------------------------------------------------------------------

    def _victims(self, workload: Workload, ask: Ask, room: PoolRoom, line: list[Holding]) -> list[Holding] | None:
        """Whom to stop so that it fits there; []: nobody, what is on its way out is enough. None: it cannot be."""
        if self._unknown_releases(room):
            return None
        chosen: list[Holding] = []
        used = dict(self._used)
        for holding in (each for each in line if self._room(each) is room):
            if self._fits(ask, room, chosen):
                break
            self._choose(holding, workload, ask, chosen, used)
        for holding in line:
            if not self._refuses(workload, ask, used):
                break
            if holding not in chosen:
                self._choose(holding, workload, ask, chosen, used)
        if not self._fits(ask, room, chosen) or self._refuses(workload, ask, used):
            return None
        return self._spare(workload, ask, room, chosen, used)

    def _choose(
        self, holding: Holding, workload: Workload, ask: Ask, chosen: list[Holding], used: dict[QueueId, Resources]
    ) -> None:
        if self._may_stop(holding.workload, workload, ask.shape.requests, used):
            chosen.append(holding)
            used[holding.workload.queue] = self._without(holding, used)

    def _spare(
        self, workload: Workload, ask: Ask, room: PoolRoom, chosen: list[Holding], used: dict[QueueId, Resources]
    ) -> list[Holding]:
        """Without those that are not needed after all, the dearest spared first."""
        needed = list(chosen)
        for holding in sorted(chosen, key=lambda each: (-self.lost(each), each.workload.ref.uid)):
            fewer = [each for each in needed if each is not holding]
            queue = holding.workload.queue
            back = {**used, queue: used[queue] + self._world.shape_of(holding.workload).requests}
            if self._fits(ask, room, fewer) and not self._refuses(workload, ask, back):
                needed, used = fewer, back
        return needed

    def _line(self, workload: Workload, asked: Resources) -> list[Holding]:
        """Everybody who may be stopped as things are, those first that lose least."""
        found = [
            holding
            for room in self._world.rooms.values()
            for holding in self._forecast.holdings(room)
            if not holding.releasing
            and holding.workload.placement is not None
            and holding.workload.placement.state is PlacementState.STARTED
            and self._may_stop(holding.workload, workload, asked, self._used)
        ]
        return sorted(found, key=lambda each: self._order(each, workload))

    def _order(self, holding: Holding, workload: Workload) -> tuple[int, int, bool, float, str]:
        lost = self.lost(holding)
        victim = holding.workload
        own = victim.queue == workload.queue
        return math.floor(math.log2(1.0 + lost / 60.0)), victim.priority, own, lost, victim.ref.uid

    def _may_stop(self, victim: Workload, workload: Workload, asked: Resources, used: dict[QueueId, Resources]) -> bool:
        rule = self._world.quotas.spec(workload.queue).preemption
        if rule.max_lost_seconds is not None and self._lost_seconds(victim) > rule.max_lost_seconds:
            return False
        if victim.queue == workload.queue:
            return rule.lower_priority and victim.priority < workload.priority
        cohort = self._world.quotas.spec(workload.queue).cohort
        if not rule.reclaim or cohort is None or self._world.quotas.spec(victim.queue).cohort != cohort:
            return False
        held = self._world.shape_of(victim).requests
        over = self._over(victim.queue, used.get(victim.queue, Resources()), asked, held)
        return over and self.within_share(workload, used.get(workload.queue, Resources()))

    def _lost_seconds(self, workload: Workload) -> float:
        placement = workload.placement
        copy = None if placement is None else self._world.copies.get((workload.ref.uid, placement.cluster))
        if copy is None or copy.started_at is None:
            return 0.0
        ran = max(0.0, self._world.now - copy.started_at)
        every = workload.hints.checkpoint_every_seconds
        return ran if every is None or every <= 0 else ran % every

    def _without(self, holding: Holding, used: dict[QueueId, Resources]) -> Resources:
        return used.get(holding.workload.queue, Resources()) - self._world.shape_of(holding.workload).requests

    def _fits(self, ask: Ask, room: PoolRoom, gone: Iterable[Holding]) -> bool:
        here = [each for each in gone if self._room(each) is room]
        ready, _ = self._forecast.free_at(room, self._world.now, here)
        return pack(ask.shape.pod_sets, (ready,), Opener(room.node_size, room.pool.labels, 0)) is not None

    def _refuses(self, workload: Workload, ask: Ask, used: dict[QueueId, Resources]) -> bool:
        """Whether its share or its quota does not let it start beside those."""
        if not self.within_share(workload, used.get(workload.queue, Resources())):
            return True
        quotas = self._world.quotas
        real, quotas.used = quotas.used, used
        try:
            return quotas.refusal(ask.queue, ask.shape.requests) is not None
        finally:
            quotas.used = real

    def _unknown_releases(self, room: PoolRoom) -> bool:
        """Whether something leaves the pool of which nobody knows how much: to stop more might be for nothing."""
        for workload in self._world.workloads:
            placement = workload.placement
            if placement is None or placement.state is not PlacementState.RELEASING:
                continue
            if self._world.room_of(placement) is room:
                copy = self._world.copies.get((workload.ref.uid, placement.cluster))
                if copy is not None and copy.pods_bound and not copy.holds:
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

    def _room(self, holding: Holding) -> PoolRoom | None:
        placement = holding.workload.placement
        return None if placement is None else self._world.room_of(placement)

    def _stop(self, holding: Holding, workload: Workload) -> Move:
        victim = holding.workload
        placement = victim.placement
        assert placement is not None
        if victim.queue == workload.queue:
            reason = Reason("Preempted", f"{workload.ref} has a higher priority and needs the room")
        else:
            reason = Reason("Reclaimed", f"queue {workload.queue} takes back its own for {workload.ref}")
        return release(self._world, victim, placement, reason, self._world.policy_of(victim))


def _both(quotas: Iterable[Quota], wanted: Resources, held: Resources) -> list[Quota]:
    return [each for each in quotas if wanted.amount(each.resource) > 0 and held.amount(each.resource) > 0]
