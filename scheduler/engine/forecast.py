"""Room over time, node by node: who holds what until when, and what would be free at an instant.

Used where a gang has to be told when it can start: `reservations` and `preemption`. The programme's own, coarser view
of time (amounts, not nodes) is in `outlook`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from scheduler.engine.commitments import UNKNOWN_RUN_SECONDS
from scheduler.engine.packing import Bin
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.timeline import Freed, Timeline
from scheduler.engine.world import World
from scheduler.model.ids import Instant, NodeName, PoolRef
from scheduler.model.resources import Resources
from scheduler.model.workload import Placement, PlacementState, Workload

NEVER: Final = math.inf
_OVERDUE_SECONDS: Final = 60.0
"""A run that goes on for longer than predicted is expected to end so soon, or after as long again as it has run."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What one placed workload holds on nodes of its pool."""

    workload: Workload
    ends_at: Instant
    """When it is expected to be off them; infinity: never."""
    on: tuple[tuple[NodeName, Resources], ...]
    """Empty: nobody knows on which nodes (yet)."""
    releasing: bool


class Forecast:
    """Made once a cycle, after settlement; `note` tells it of what is placed since."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._holdings: dict[PoolRef, list[Holding]] = defaultdict(list)
        self._unplaced: dict[PoolRef, Instant] = defaultdict(lambda: -math.inf)
        """When the last of those will have ended of which nobody knows on which nodes they are."""
        self._claims: dict[PoolRef, list[tuple[str, Resources]]] = defaultdict(list)
        self._unknown: dict[PoolRef, tuple[int, list[tuple[str, Resources]]]] = {}
        """By pool, the version of its room for which it was reckoned."""
        self._timelines: dict[PoolRef, tuple[tuple[int, int], Timeline]] = {}
        self._changes = 0
        self._loaded = False

    def note(self, room: PoolRoom, ends_at: Instant) -> None:
        """A workload was assumed onto the pool in this cycle."""
        self._changes += 1
        self._unplaced[room.pool.ref] = max(self._unplaced[room.pool.ref], ends_at)

    def leaves(self, holding: Holding, room: PoolRoom) -> None:
        """It was told in this cycle to leave."""
        self._changes += 1
        line = self.holdings(room)
        line.remove(holding)
        line.insert(0, replace(holding, ends_at=self._world.now, releasing=True))

    def claim(self, room: PoolRoom, node: str, amount: Resources) -> None:
        """What others leave on the node is spoken for: so much of it."""
        self._changes += 1
        self._claims[room.pool.ref].append((node, amount))

    def holdings(self, room: PoolRoom) -> list[Holding]:
        """Of the workloads whose nodes are known, the first to end first."""
        self._load()
        return self._holdings[room.pool.ref]

    def ends(self, room: PoolRoom) -> list[Instant]:
        """The instants at which the pool will have more room, in order, the present first."""
        self._load()
        found = {self._world.now, self._unplaced[room.pool.ref], *(h.ends_at for h in self.holdings(room))}
        return sorted(end for end in found if self._world.now <= end < NEVER)

    def free_at(self, room: PoolRoom, at: Instant, without: Iterable[Holding] = ()) -> tuple[list[Bin], list[Bin]]:
        """(ready nodes, nodes on their way) with the room that they will have when all that ends by `at` has ended,
        and `without` too; in the order of the room's own."""
        self._load()
        ready = [each.copy() for each in room.ready]
        coming = [each.copy() for each in room.coming]
        by_name: dict[str, Bin] = {each.key: each for each in ready}
        gone = {each.workload.ref.uid: each for each in self.holdings(room) if each.ends_at <= at}
        gone.update((each.workload.ref.uid, each) for each in without)
        for holding in gone.values():
            for name, held in holding.on:
                if name in by_name:
                    shift(by_name[name], held, 1)
        for node, amount in self._claims[room.pool.ref]:
            if node in by_name:
                shift(by_name[node], amount, -1)
        if self._unplaced[room.pool.ref] <= at:
            for node_name, amount in self._unknown_on(room):
                shift(by_name[node_name], amount, 1)
        return ready, coming

    def timeline(self, room: PoolRoom) -> Timeline:
        """`free_at` of all `ends` at once, for gangs that can be counted; made again only when something has
        changed."""
        self._load()
        stamp = room.version, self._changes
        known = self._timelines.get(room.pool.ref)
        if known is None or known[0] != stamp:
            ends = self.ends(room)
            known = self._timelines[room.pool.ref] = stamp, Timeline(ends, room.ready, self._freed(room, ends))
        return known[1]

    def _freed(self, room: PoolRoom, ends: list[Instant]) -> Iterable[Freed]:
        for holding in self.holdings(room):
            if holding.ends_at < NEVER:
                at = bisect_left(ends, holding.ends_at)
                yield from ((name, at, held) for name, held in holding.on)
        yield from ((node, 0, amount.times(-1)) for node, amount in self._claims[room.pool.ref])
        unplaced = self._unplaced[room.pool.ref]
        if unplaced < NEVER:
            at = bisect_left(ends, unplaced)
            yield from ((node, at, amount) for node, amount in self._unknown_on(room))

    def ends_at(self, workload: Workload, room: PoolRoom) -> Instant:
        """When the workload, placed there now on nodes that are there, would end; infinity: nobody knows."""
        prediction = self._world.predict(workload, room, 0)
        if prediction.run_seconds is None or prediction.start_seconds is None:
            return NEVER
        return self._world.now + prediction.start_seconds + prediction.run_seconds + prediction.lost_seconds

    # -- who holds what ----------------------------------------------------------------------------------------

    def _load(self) -> None:
        """Only when somebody asks: most cycles keep no room for anybody."""
        if self._loaded:
            return
        self._loaded = True
        for workload in self._world.placed:
            if workload.placement is not None:
                self._note_placed(workload, workload.placement)
        for line in self._holdings.values():
            line.sort(key=lambda each: (each.ends_at, each.workload.ref.uid))

    def _note_placed(self, workload: Workload, placement: Placement) -> None:
        room = self._world.room_of(placement)
        if room is None or placement.state is PlacementState.PAUSED:
            return
        releasing = placement.state is PlacementState.RELEASING or workload.deleting
        end = self._world.now if releasing else self._expected_end(workload, placement, room)
        copy = self._world.copies.get((workload.ref.uid, placement.cluster))
        on = () if copy is None else copy.holds
        if copy is not None and copy.pods_bound > sum(held.pods for _, held in on):
            on = ()
        if on:
            self._holdings[room.pool.ref].append(Holding(workload, end, on, releasing))
        if not on or (copy is not None and copy.pods_bound < copy.pods_wanted):
            self.note(room, end)

    def _expected_end(self, workload: Workload, placement: Placement, room: PoolRoom) -> Instant:
        if workload.runs_forever:
            return NEVER
        now = self._world.now
        copy = self._world.copies.get((workload.ref.uid, placement.cluster))
        if copy is not None and copy.finished:
            return now
        prediction = self._world.predict(workload, room, 0)
        started = now if copy is None or copy.started_at is None else copy.started_at
        if prediction.run_seconds is None:
            return now + max(now - started, UNKNOWN_RUN_SECONDS)
        left = self._world.seconds_left(workload, room)
        return now + (max(now - started, _OVERDUE_SECONDS) if left is None or left <= 0 else left)

    def _unknown_on(self, room: PoolRoom) -> list[tuple[str, Resources]]:
        """By node, what was assumed in this cycle, and on nodes where pods are that nobody tells of, all but theirs of
        whom it is known. Reckoned again only when the room has changed."""
        known = self._unknown.get(room.pool.ref)
        if known is None or known[0] != room.version:
            known = self._unknown[room.pool.ref] = (room.version, self._find_unknown(room))
        return known[1]

    def _find_unknown(self, room: PoolRoom) -> list[tuple[str, Resources]]:
        told: dict[str, list[Resources]] = defaultdict(list)
        for holding in self.holdings(room):
            for name, held in holding.on:
                told[name].append(held)
        real = {each.key: each for each in room.ready}
        found: list[tuple[str, Resources]] = []
        for node in room.nodes:
            bin_ = real.get(node.name)
            if bin_ is None:
                continue
            if bin_.taken:
                found.append((node.name, node.allocatable - node.used - amount_of(bin_)))
            known = told.get(node.name, ())
            if node.workload_pods > sum(held.pods for held in known):
                others = node.used - sum(known, Resources()) - (node.allocatable - room.node_size)
                found.append((node.name, positive(others)))
        return [(name, amount) for name, amount in found if amount != Resources()]


def shift(bin_: Bin, by: Resources, sign: int) -> None:
    """Add (or with -1 take away) room, in place, without counting pods as assumed."""
    bin_.gpus += sign * by.gpus
    bin_.cpu_milli += sign * by.cpu_milli
    bin_.memory_bytes += sign * by.memory_bytes
    bin_.pods += sign * by.pods
    for name, amount in by.extended:
        bin_.extended[name] = bin_.extended.get(name, 0) + sign * amount


def amount_of(bin_: Bin) -> Resources:
    extended = tuple(sorted((name, amount) for name, amount in bin_.extended.items() if amount))
    return Resources(bin_.cpu_milli, bin_.memory_bytes, bin_.gpus, bin_.pods, extended)


def positive(amount: Resources) -> Resources:
    """Without what is negative of it."""
    extended = tuple((name, each) for name, each in amount.extended if each > 0)
    return Resources(
        max(0, amount.cpu_milli), max(0, amount.memory_bytes), max(0, amount.gpus), max(0, amount.pods), extended
    )
