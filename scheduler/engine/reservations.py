"""Room that is kept for a workload that does not fit yet, and the use that others may make of it until then.

EASY backfilling, on nodes: the workload that has waited longest gets its room at the earliest instant at which enough
will be free, by what is predicted of the runs; others may start in that room only if they are expected to have ended by
then. A run time that nobody knows does not. Source: D. Lifka, "The ANL/IBM SP scheduling system" (JSSPP 1995).

Nothing of it is remembered from one cycle to the next: the same workload is first in line again, and nobody whom it let
in can be in its way, so its instant never moves back while the predictions hold.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from scheduler.engine.filters import Ask
from scheduler.engine.forecast import Forecast, Holding, amount_of, positive, shift
from scheduler.engine.packing import Bin, Opener, Shape, make_bin, pack
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.table import countable
from scheduler.engine.world import World
from scheduler.model.ids import Instant, PoolRef, Uid
from scheduler.model.resources import Resources
from scheduler.model.verdict import Reason
from scheduler.model.workload import PodSet, Workload


@dataclass(slots=True, eq=False)
class Reservation:
    workload: Workload
    room: PoolRoom
    at: Instant
    """When its room is expected to be free."""
    reason: Reason
    kept: list[tuple[Bin, Resources]] = field(default_factory=list)
    """What nobody may take for longer than until `at`, of the nodes that are there or on their way."""
    nodes: list[str] = field(default_factory=list)
    """All that it is to use, those too of which others leave it enough."""
    new_nodes: int = 0
    """Likewise, of those that may still be bought."""


class Reservations:
    """The reservations of one cycle, their room taken off the pools."""

    def __init__(self, world: World, forecast: Forecast) -> None:
        self._world = world
        self._forecast = forecast
        self._by_pool: dict[PoolRef, list[Reservation]] = {}
        self._by_uid: dict[Uid, Reservation] = {}

    def __bool__(self) -> bool:
        return bool(self._by_uid)

    def of(self, workload: Workload) -> Reservation | None:
        return self._by_uid.get(workload.ref.uid)

    def on(self, room: PoolRoom) -> bool:
        return room.pool.ref in self._by_pool

    def awaited(self, room: PoolRoom) -> bool:
        """Whether one of them is for a workload that has not been placed yet."""
        return any(each.workload.placement is None for each in self._by_pool.get(room.pool.ref, ()))

    def earliest(self, shape: Shape, room: PoolRoom) -> Instant | None:
        """When the gang will fit there if nobody else comes; None: not while what never ends is there. Where its pods
        cannot be counted, instants are tried by halving, since room only grows with time."""
        if countable(shape):
            pod_set = shape.pod_sets[0]
            return self._forecast.timeline(room).first(pod_set, _to_come(pod_set, room))
        ends = self._forecast.ends(room)
        if not ends or not self._fits(shape, room, ends[-1]):
            return None
        low, high = 0, len(ends) - 1
        while low < high:
            middle = (low + high) // 2
            if self._fits(shape, room, ends[middle]):
                high = middle
            else:
                low = middle + 1
        return ends[low]

    def keep(
        self, workload: Workload, shape: Shape, room: PoolRoom, at: Instant, reason: Reason,
        without: tuple[Holding, ...] = (),
    ) -> None:  # fmt: skip
        """Keep the room that the gang will have there at `at`, when `without` are gone, too. It must fit then."""
        ready, coming = self._forecast.free_at(room, at, without)
        there = {id(each): amount_of(each) for each in (*ready, *coming)}
        opener = _opener(room)
        if pack(shape.pod_sets, (ready, coming), opener) is None:
            raise AssertionError(f"{workload.ref} was said to fit on {room.pool.ref} but does not")
        made = Reservation(workload, room, at, reason, new_nodes=sum(bool(each.taken) for each in opener.opened))
        for real, later in zip((*room.ready, *room.coming), (*ready, *coming), strict=True):
            if later.taken > real.taken:
                made.nodes.append(real.key)
                # Of what is free now, all that it will need beyond what others leave by then.
                needed = positive(amount_of(real) - amount_of(later))
                self._forecast.claim(room, real.key, positive(there[id(later)] - amount_of(later) - needed))
                if needed != Resources():
                    made.kept.append((real, needed))
        self._by_pool.setdefault(room.pool.ref, []).append(made)
        self._by_uid[workload.ref.uid] = made
        # Even one that ends in time goes only where it is reckoned to: finding no node at once, it might stay longer.
        room.reserved.update(made.nodes)
        _take(made)

    @contextmanager
    def lifted_for(self, ask: Ask) -> Iterator[frozenset[PoolRef]]:
        """Where the class is expected to end before the room is needed, that room is there for it inside the block;
        the pools in which that is so."""
        lifted: list[Reservation] = []
        for line in self._by_pool.values():
            ends_at = self._forecast.ends_at(ask.workload, line[0].room)
            lifted += [each for each in line if ends_at <= each.at]
        for each in lifted:
            _give(each)
        before = {id(bin_): amount_of(bin_) for each in lifted for bin_, _ in each.kept}
        yield frozenset(each.room.pool.ref for each in lifted)
        used = {id(bin_): positive(before[id(bin_)] - amount_of(bin_)) for each in lifted for bin_, _ in each.kept}
        for each in lifted:
            # What has just been taken of it comes back in time; the rest is kept on.
            left: list[tuple[Bin, Resources]] = []
            for bin_, needed in each.kept:
                left.append((bin_, positive(needed - used[id(bin_)])))
                used[id(bin_)] = positive(used[id(bin_)] - needed)
            each.kept = left
        for each in lifted:
            _take(each)

    def _fits(self, shape: Shape, room: PoolRoom, at: Instant) -> bool:
        return pack(shape.pod_sets, self._forecast.free_at(room, at), _opener(room)) is not None


def _to_come(pod_set: PodSet, room: PoolRoom) -> int:
    """Its pods that go on nodes that are on their way or may be bought."""
    pod, count = pod_set.requests, pod_set.count
    pods = sum(each.room_for(pod, count) for each in room.coming if each.admits(pod_set))
    opener = _opener(room)
    if pods < count and opener.limit:
        fresh = make_bin("fresh", opener.template, opener.labels)
        pods += opener.limit * fresh.room_for(pod, count) if fresh.admits(pod_set) else 0
    return pods


def _opener(room: PoolRoom) -> Opener:
    return Opener(room.node_size, room.pool.labels, room.can_open if room.backoff is None else 0, len(room.opened))


def _take(reservation: Reservation) -> None:
    room = reservation.room
    for bin_, needed in reservation.kept:
        shift(bin_, needed, -1)
        bin_.taken += 1
        bin_.kept_for += 1
    room.kept_nodes += reservation.new_nodes
    room.version += 1


def _give(reservation: Reservation) -> None:
    room = reservation.room
    for bin_, needed in reservation.kept:
        shift(bin_, needed, 1)
        bin_.taken -= 1
        bin_.kept_for -= 1
    room.kept_nodes -= reservation.new_nodes
    room.version += 1
