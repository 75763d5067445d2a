"""Many equal gangs put into one pool, one after another, each exactly where `PoolRoom.assume` would put it.

`PoolRoom.assume` looks at every bin for every gang. Here the bins are looked at once and kept in the order in which the
packer would choose them, which placing one gang hardly changes. Only for gangs of one pod set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from scheduler.engine.packing import Bin, Opener
from scheduler.engine.rooms import PoolRoom
from scheduler.model.workload import PodSet


class Way(NamedTuple):
    """How a gang goes into a pool."""

    now: bool
    """On nodes that are there."""
    new_nodes: int
    """To buy."""
    existing: int
    """Pods that go on nodes that are there or on their way."""


class _Line:
    """The bins of one stage that still take a pod, in the order of `packing._fill`."""

    __slots__ = ("_enough", "_gang", "_pod", "_short", "pods")

    def __init__(self, bins: Sequence[Bin], pod_set: PodSet) -> None:
        self._gang = pod_set.count
        self._pod = pod_set.requests
        self._enough: list[tuple[int, int, int, Bin]] = []
        """(-GPUs, -cores, -index): those that take a whole gang, the tightest at the end."""
        self._short: list[tuple[int, int, Bin]] = []
        """(index, pods): those that take a part of one."""
        self.pods = 0
        for index, bin_ in enumerate(bins):
            room = bin_.room_for(self._pod, bin_.pods)
            if room and bin_.admits(pod_set):
                self._add(index, bin_, room)
        self._enough.sort(key=lambda entry: entry[:3])

    def _add(self, index: int, bin_: Bin, room: int) -> None:
        self.pods += room
        if room >= self._gang:
            self._enough.append((-bin_.gpus, -bin_.cpu_milli, -index, bin_))
        else:
            self._short.append((index, room, bin_))

    def append(self, index: int, bin_: Bin) -> None:
        """A bin that has been opened, after all others."""
        room = bin_.room_for(self._pod, bin_.pods)
        if room:
            self._add(index, bin_, room)
            self._enough.sort(key=lambda entry: entry[:3])

    def fill(self, left: int) -> int:
        """Put as many of `left` pods as fit; how many are still left."""
        if left == self._gang and self._enough:
            _, _, index, bin_ = self._enough[-1]
            bin_.take(self._pod, left)
            self.pods -= left
            room = bin_.room_for(self._pod, bin_.pods)
            if room < self._gang:
                self._enough.pop()
                if room:
                    self._short.append((-index, room, bin_))
            else:
                # It has become tighter still, so it stays the first to be chosen.
                self._enough[-1] = (-bin_.gpus, -bin_.cpu_milli, index, bin_)
            return 0
        return self._fill_any(left)

    def _fill_any(self, left: int) -> int:
        entries = [(-index, bin_.room_for(self._pod, bin_.pods), bin_) for _, _, index, bin_ in self._enough]
        entries += self._short
        before = left
        rooms = sorted((min(room, left), bin_.gpus, bin_.cpu_milli, index) for index, room, bin_ in entries)
        bins = {index: bin_ for index, _, bin_ in entries}
        while left and rooms:
            enough = next((entry for entry in rooms if entry[0] >= left), None)
            chosen = enough if enough is not None else rooms[-1]
            rooms.remove(chosen)
            count = min(left, chosen[0])
            bins[chosen[3]].take(self._pod, count)
            left -= count
        if left < before:
            self._enough, self._short, self.pods = [], [], 0
            for index, _, bin_ in entries:
                room = bin_.room_for(self._pod, bin_.pods)
                if room:
                    self._add(index, bin_, room)
            self._enough.sort(key=lambda entry: entry[:3])
        return left


class Filling:
    """Gangs of one pod set on their way into one pool. `close` ends it."""

    def __init__(self, room: PoolRoom, pod_set: PodSet) -> None:
        self._room = room
        self._pod_set = pod_set
        self._ready = _Line(room.ready, pod_set)
        self._coming: _Line | None = None
        self._opened: _Line | None = None
        fresh = Opener(room.node_size, room.pool.labels, 1).open()
        assert fresh is not None
        self._per_new = fresh.room_for(pod_set.requests, pod_set.count) if fresh.admits(pod_set) else 0
        self.placed = 0

    def next_way(self) -> Way | None:
        """How the next gang would fit; None: it does not."""
        gang, room = self._pod_set.count, self._room
        if self._ready.pods >= gang:
            return Way(True, 0, gang)
        if not room.growable:
            return None
        coming, opened = self._more()
        existing = min(gang, self._ready.pods + coming.pods + opened.pods)
        rest = gang - existing
        if rest and not self._per_new:
            return None
        new = -(-rest // self._per_new) if rest else 0
        return Way(False, new, existing) if new <= room.can_open else None

    def place(self, way: Way) -> None:
        """The next gang goes that way."""
        left = self._ready.fill(self._pod_set.count)
        if left and not way.now:
            coming, opened = self._more()
            left = opened.fill(coming.fill(left))
            if left:
                left = self._open(left, opened)
        if left:
            raise AssertionError(f"a gang that was to fit on {self._room.pool.ref} does not")
        self.placed += 1

    def close(self) -> None:
        """The room has changed, if anything was placed."""
        if self.placed:
            self._room.version += 1

    def _more(self) -> tuple[_Line, _Line]:
        if self._coming is None or self._opened is None:
            self._coming = _Line(self._room.coming, self._pod_set)
            self._opened = _Line(self._room.opened, self._pod_set)
        return self._coming, self._opened

    def _open(self, left: int, line: _Line) -> int:
        room = self._room
        opener = Opener(room.node_size, room.pool.labels, room.can_open, len(room.opened))
        while left:
            fresh = opener.open()
            if fresh is None:
                return left
            count = fresh.room_for(self._pod_set.requests, left)
            fresh.take(self._pod_set.requests, count)
            left -= count
            room.opened.append(fresh)
            line.append(len(room.opened) - 1, fresh)
        return 0
