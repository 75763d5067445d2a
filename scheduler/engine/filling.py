"""Many equal gangs put into one pool, one after another, each exactly where `PoolRoom.assume` would put it.

`PoolRoom.assume` looks at every bin for every gang. Here the bins are looked at once and kept in the order in which the
packer would choose them, which placing one gang hardly changes. Only for gangs of one pod set.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

from scheduler.engine.packing import Bin, Opener, make_bin
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


class Line:
    """The bins of one stage that still take a pod, in the order in which `packing._fill` chooses them."""

    __slots__ = ("_bins", "_enough", "_gang", "_pod", "_short", "_takes", "pods")

    def __init__(self, bins: Sequence[Bin], pod_set: PodSet, takes: list[tuple[int, int]] | None = None) -> None:
        """`takes`: where it is noted which bin (its index) has taken how many pods."""
        self._takes = takes
        self._gang = pod_set.count
        self._pod = pod_set.requests
        self._bins: dict[int, Bin] = {}
        self._enough: list[tuple[int, int, int]] = []
        """(-GPUs, -cores, -index) of those that take a whole gang: the tightest at the end."""
        self._short: list[tuple[int, int, int, int]] = []
        """(pods, GPUs, cores, index) of those that take a part of one: the roomiest at the end."""
        self.pods = 0
        for index, bin_ in enumerate(bins):
            room = bin_.room_for(self._pod, bin_.pods)
            if room and bin_.admits(pod_set):
                self._bins[index] = bin_
                self._add(index, bin_, room)
        self._enough.sort()
        self._short.sort()

    def _add(self, index: int, bin_: Bin, room: int) -> None:
        self.pods += room
        if room >= self._gang:
            self._enough.append((-bin_.gpus, -bin_.cpu_milli, -index))
        else:
            self._short.append((room, bin_.gpus, bin_.cpu_milli, index))

    def append(self, index: int, bin_: Bin) -> None:
        """A bin that has been opened, after all others."""
        room = bin_.room_for(self._pod, bin_.pods)
        if room:
            self._bins[index] = bin_
            self._add(index, bin_, room)
            self._enough.sort()
            self._short.sort()

    def fill(self, left: int) -> int:
        """Put as many of `left` pods as fit; how many are still left."""
        if not self.pods:
            return left
        if left != self._gang:
            return self._fill_part(left)
        if not self._enough:
            return self._fill_several(left)
        self.fill_whole(1)
        return 0

    def fill_whole(self, most: int) -> int:
        """Whole gangs on the tightest bin that takes one, which stays the tightest for as long as it does; how many,
        at most `most`; 0: there is no such bin."""
        if not self._enough:
            return 0
        index = -self._enough[-1][2]
        bin_ = self._bins[index]
        count = min(most, bin_.room_for(self._pod, bin_.pods) // self._gang)
        self._take(index, bin_, count * self._gang)
        room = bin_.room_for(self._pod, bin_.pods)
        if room >= self._gang:
            self._enough[-1] = (-bin_.gpus, -bin_.cpu_milli, -index)
        else:
            self._enough.pop()
            self._put_back(index, bin_, room)
        return count

    def _fill_several(self, left: int) -> int:
        """No bin takes a whole gang: the roomiest ones until what is left fits on one, then the tightest such."""
        while left and self._short:
            place = bisect_left(self._short, (left,))
            room, _, _, index = self._short.pop(place if place < len(self._short) else -1)
            count = min(left, room)
            self._take(index, self._bins[index], count)
            left -= count
            if count < room:
                self._put_back(index, self._bins[index], room - count)
        return left

    def next_whole(self) -> tuple[int, int] | None:
        """The bin (its index) that `fill_whole` fills next, and how many gangs it takes."""
        if not self._enough:
            return None
        index = -self._enough[-1][2]
        bin_ = self._bins[index]
        return index, bin_.room_for(self._pod, bin_.pods) // self._gang

    def _take(self, index: int, bin_: Bin, pods: int) -> None:
        bin_.take(self._pod, pods)
        self.pods -= pods
        if self._takes is not None:
            self._takes.append((index, pods))

    def _put_back(self, index: int, bin_: Bin, room: int) -> None:
        if room:
            insort(self._short, (room, bin_.gpus, bin_.cpu_milli, index))
        else:
            del self._bins[index]

    def _fill_part(self, left: int) -> int:
        """The rest of a gang, for which a bin may be enough that does not take a whole one."""
        rooms = sorted(
            (bin_.room_for(self._pod, left), bin_.gpus, bin_.cpu_milli, index) for index, bin_ in self._bins.items()
        )
        while left and rooms:
            enough = next((entry for entry in rooms if entry[0] >= left), None)
            chosen = enough if enough is not None else rooms[-1]
            rooms.remove(chosen)
            count = min(left, chosen[0])
            self._take(chosen[3], self._bins[chosen[3]], count)
            left -= count
        self._sort_again()
        return left

    def _sort_again(self) -> None:
        bins, self._bins = self._bins, {}
        self._enough, self._short, self.pods = [], [], 0
        for index, bin_ in bins.items():
            room = bin_.room_for(self._pod, bin_.pods)
            if room:
                self._bins[index] = bin_
                self._add(index, bin_, room)
        self._enough.sort()
        self._short.sort()


class Filling:
    """Gangs of one pod set on their way into one pool. `close` ends it."""

    def __init__(self, room: PoolRoom, pod_set: PodSet) -> None:
        self._room = room
        self._pod_set = pod_set
        self._ready = Line(room.ready, pod_set)
        self._coming: Line | None = None
        self._opened: Line | None = None
        self._opener = Opener(room.node_size, room.pool.labels, room.can_open, len(room.opened))
        fresh = make_bin("fresh", room.node_size, room.pool.labels)
        self._per_new = fresh.room_for(pod_set.requests, pod_set.count) if fresh.admits(pod_set) else 0
        self._at_once = Way(True, 0, pod_set.count)
        self.placed = 0

    def next_way(self) -> Way | None:
        """How the next gang would fit; None: it does not."""
        gang, room = self._pod_set.count, self._room
        if self._ready.pods >= gang:
            return self._at_once
        if not room.growable:
            return None
        coming, opened = self._more()
        existing = min(gang, self._ready.pods + coming.pods + opened.pods)
        rest = gang - existing
        if rest and not self._per_new:
            return None
        new = -(-rest // self._per_new) if rest else 0
        return Way(False, new, existing) if new <= room.can_open else None

    def place(self, way: Way, most: int) -> int:
        """The next gang goes that way, and of those after it as many as follow it onto the same node, `most` in all;
        how many that was."""
        count = self._fill_whole(way, most)
        if not count:
            self._place_one(way)
            count = 1
        self.placed += count
        return count

    def _fill_whole(self, way: Way, most: int) -> int:
        """For as long as one node takes whole gangs nothing else changes, so each goes the same way as the one before;
        0: this one is spread, or needs a new node."""
        if self._ready.pods or way.now:
            return self._ready.fill_whole(most) if way.now else 0
        if way.new_nodes:
            return 0
        coming, opened = self._more()
        return (coming if coming.pods else opened).fill_whole(most)

    def _place_one(self, way: Way) -> None:
        left = self._ready.fill(self._pod_set.count)
        if left and not way.now:
            coming, opened = self._more()
            left = opened.fill(coming.fill(left))
            if left:
                left = self._open(left, opened)
        if left:
            raise AssertionError(f"a gang that was to fit on {self._room.pool.ref} does not")

    def close(self) -> None:
        """The room has changed, if anything was placed."""
        if self.placed:
            self._room.version += 1

    def _more(self) -> tuple[Line, Line]:
        if self._coming is None or self._opened is None:
            self._coming = Line(self._room.coming, self._pod_set)
            self._opened = Line(self._room.opened, self._pod_set)
        return self._coming, self._opened

    def _open(self, left: int, line: Line) -> int:
        room = self._room
        while left:
            fresh = self._opener.open()
            if fresh is None:
                return left
            count = fresh.room_for(self._pod_set.requests, left)
            fresh.take(self._pod_set.requests, count)
            left -= count
            room.opened.append(fresh)
            line.append(len(room.opened) - 1, fresh)
        return 0
