"""The rooms of a cycle as arrays: how many pods of a shape each pool still takes, for all pools at once.

The bins of `PoolRoom` stay the truth; a room that changes is noted by `touched` and read again when somebody looks.
Only for gangs of one pod set without extended resources: for these the counts say exactly what the packer would do.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from scheduler.engine.packing import Bin, Shape, make_bin
from scheduler.engine.rooms import PoolRoom
from scheduler.model.cluster import NodePool
from scheduler.model.resources import Resources
from scheduler.model.workload import PodSet

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
_READY: Final = 0
_MORE: Final = 1


def countable(shape: Shape) -> bool:
    """Whether arrays can speak for gangs of this shape."""
    first = shape.pod_sets[0] if len(shape.pod_sets) == 1 else None
    return first is not None and not first.requests.extended and not first.topology


@dataclass(frozen=True, slots=True)
class Space:
    """How a shape fits into each of the J rooms now; all arrays (J,)."""

    now: Flags
    """On nodes that are there."""
    fits: Flags
    """Now, or with nodes that come or can be bought."""
    new: Indices
    """Nodes to buy; 0 where it fits without or not at all."""
    existing: Indices
    """Pods that go on nodes that are there or on their way."""
    gangs: Floats
    """So many pods go there by number, in whole gangs: at least as many as fit."""


@dataclass(slots=True, eq=False)
class _Counts:
    """Pods of one shape that go on nodes that are there, and on those that come or are opened; (J,) each."""

    ready: Floats
    more: Floats
    fresh: Floats
    """On one new node."""
    seen: int
    """How far the log of touched rooms has been read."""


class RoomTable:
    """Arrays over the rooms of a world, in the order in which it is given them."""

    def __init__(
        self,
        rooms: Sequence[PoolRoom],
        alike: Callable[[NodePool], Hashable],
        also: Callable[[PoolRoom], Hashable] = lambda room: None,
    ) -> None:
        """`alike`: what predictions look at of a pool; `also`: what else sets a room apart from others of its price and
        size."""
        self.rooms = rooms
        self.index = {room.pool.ref: number for number, room in enumerate(rooms)}
        self.growable = np.array([room.growable for room in rooms], dtype=bool)
        self.managed = np.array([room.pool.scaling == "managed" for room in rooms], dtype=bool)
        self.bought = np.array([room.pool.bought for room in rooms], dtype=bool)
        self.backed_off = np.array([room.backoff is not None for room in rooms], dtype=bool)
        self.kind = coded([(*_kind(room), alike(room.pool), also(room)) for room in rooms])
        self.kinds: list[int] = self.kind.tolist()
        """Rooms of one kind differ in name and room only: what fits equally costs the same there."""
        self.sizes = coded([room.sizes for room in rooms])
        self._of_size: dict[int, PoolRoom] = {}
        for code, room in zip(self.sizes.tolist(), rooms, strict=True):
            self._of_size.setdefault(code, room)
        self._holds: dict[int, Flags] = {}
        both = [_both(room) for room in rooms]
        self._free = ([ready for ready, _, _ in both], [more for _, more, _ in both])
        self._can_open = np.array([room.can_open for room in rooms], dtype=np.float64)
        self._tainted = [tainted for _, _, tainted in both]
        self.versions = np.array([room.version for room in rooms], dtype=np.int64)
        """(J,) of the rooms, as of the last time that each was touched."""
        self._masks: dict[tuple[Hashable, int, int], Floats] = {}
        self._counts: dict[int, _Counts] = {}
        self._log: list[int] = []

    @property
    def changes(self) -> int:
        """How often a room has been touched."""
        return len(self._log)

    def touched(self, room: PoolRoom) -> None:
        """The bins of the room have changed."""
        number = self.index[room.pool.ref]
        self._free[_READY][number], self._free[_MORE][number], _ = _both(room)
        self._can_open[number] = room.can_open
        self.versions[number] = room.version
        self._log.append(number)

    def holds_one(self, shape: Shape) -> Flags:
        """(J,) whether an empty node of each pool holds each single pod of the shape."""
        known = self._holds.get(shape.number)
        if known is None:
            by_code = np.zeros(len(self._of_size), dtype=bool)
            for code, room in self._of_size.items():
                by_code[code] = all(room.holds_one(each.requests) for each in shape.pod_sets)
            known = self._holds[shape.number] = by_code[self.sizes]
        return known

    def space(self, shape: Shape) -> Space:
        """How a countable shape fits into every room as it is now."""
        counts = self._count(shape)
        wanted = float(shape.pod_sets[0].count)
        now = counts.ready >= wanted
        existing = np.minimum(wanted, counts.ready + counts.more)
        rest = wanted - existing
        new = np.ceil(np.divide(rest, counts.fresh, out=np.full(len(rest), np.inf), where=counts.fresh > 0))
        new[rest <= 0] = 0.0
        fits = now | (self.growable & (new <= self._can_open))
        new = np.where(now | ~fits, 0.0, new).astype(np.int64)
        existing = np.where(now, wanted, existing).astype(np.int64)
        pods = counts.ready + np.where(self.growable, counts.more + counts.fresh * self._can_open, 0.0)
        return Space(now, fits, new, existing, np.floor(pods / max(1.0, wanted)))

    def _count(self, shape: Shape) -> _Counts:
        pod_set = shape.pod_sets[0]
        counts = self._counts.get(shape.number)
        if counts is None:
            everywhere = list(range(len(self.rooms)))
            counts = _Counts(
                self._sum(pod_set, everywhere, _READY),
                self._sum(pod_set, everywhere, _MORE),
                self._fresh(pod_set),
                len(self._log),
            )
            self._counts[shape.number] = counts
        elif counts.seen < len(self._log):
            changed = sorted(set(self._log[counts.seen :]))
            counts.ready[changed] = self._sum(pod_set, changed, _READY)
            counts.more[changed] = self._sum(pod_set, changed, _MORE)
            counts.seen = len(self._log)
        return counts

    def _sum(self, pod_set: PodSet, numbers: Sequence[int], stage: int) -> Floats:
        """(numbers,) pods that go on the bins of a stage of each of these rooms."""
        tables = [self._free[stage][number] for number in numbers]
        lengths = np.array([len(table) for table in tables], dtype=np.int64)
        total = np.zeros(len(numbers))
        if not lengths.sum():
            return total
        pods = room_for(np.concatenate(tables), pod_set.requests)
        if pod_set.node_selector or pod_set.excluded_nodes or any(self._tainted[number] for number in numbers):
            pods = pods * np.concatenate([self._mask(pod_set, number, stage) for number in numbers])
        some = np.flatnonzero(lengths)
        starts = np.concatenate([[0], np.cumsum(lengths[some])[:-1]])
        total[some] = np.add.reduceat(pods, starts)
        return total

    def _mask(self, pod_set: PodSet, number: int, stage: int) -> Floats:
        """(bins,) 1 where a bin's labels and taints let the pods in; they never change within a cycle."""
        room = self.rooms[number]
        bins = room.ready if stage == _READY else _more(room)
        key = ((pod_set.node_selector, pod_set.tolerations, pod_set.excluded_nodes), number, stage)
        known = self._masks.get(key)
        if known is None or len(known) != len(bins):
            known = self._masks[key] = np.array([float(bin_.admits(pod_set)) for bin_ in bins], dtype=np.float64)
        return known

    def _fresh(self, pod_set: PodSet) -> Floats:
        """(J,) pods that go on a node that is yet to be bought."""
        found: dict[tuple[int, tuple[tuple[str, str], ...]], float] = {}
        values = np.zeros(len(self.rooms))
        for number in np.flatnonzero(self.growable).tolist():
            room = self.rooms[number]
            labels = room.pool.labels if pod_set.node_selector else ()
            key = (int(self.kind[number]), labels)
            if key not in found:
                fresh = make_bin("fresh", room.node_size, labels)
                found[key] = float(fresh.room_for(pod_set.requests, pod_set.count) if fresh.admits(pod_set) else 0)
            values[number] = found[key]
        return values


def _more(room: PoolRoom) -> list[Bin]:
    return [*room.coming, *room.opened]


def _both(room: PoolRoom) -> tuple[Floats, Floats, bool]:
    """What is free on the bins that are ready, and on the others, and whether any has taints; read once for each
    version of the room."""
    known = room.arrays
    if known is None or known[0] != room.version:
        tainted = any(bin_.taints for bin_ in (*room.ready, *room.coming)) if known is None else known[3]
        known = room.arrays = room.version, _free(room.ready), _free(_more(room)), tainted
    return known[1:]


def _free(bins: Sequence[Bin]) -> Floats:
    """(bins, 4) GPUs, cores in milli, bytes, pods."""
    return np.array(
        [(each.gpus, each.cpu_milli, each.memory_bytes, each.pods) for each in bins], dtype=np.float64
    ).reshape(len(bins), 4)


def room_for(free: Floats, pod: Resources) -> Floats:
    """(bins,) as `Bin.room_for`, without a limit. Exact: amounts below 2**53 divide to the right whole number."""
    found = free[:, 3].copy()
    for column, asked in enumerate((pod.gpus, pod.cpu_milli, pod.memory_bytes)):
        if asked:
            np.minimum(found, np.floor(free[:, column] / asked), out=found)
    return np.maximum(found, 0.0, out=found)


def _kind(room: PoolRoom) -> tuple[Hashable, ...]:
    pool = room.pool
    price = None if pool.price is None else pool.price.usd_per_hour
    return price, pool.capacity_type, pool.bought, room.node_size


def coded(values: Iterable[Hashable]) -> Indices:
    """A number for each, equal for equal ones, in the order in which they first come."""
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(value, len(codes)) for value in values], dtype=np.int64)


def by_value(values: Indices) -> list[tuple[int, Indices]]:
    """Each value with where it is, in order."""
    order = np.argsort(values, kind="stable")
    there = values[order]
    ends = [*(np.flatnonzero(there[1:] != there[:-1]) + 1).tolist(), len(there)] if len(there) else []
    begins = [0, *ends[:-1]]
    return [(int(there[begin]), order[begin:end]) for begin, end in zip(begins, ends, strict=False)]
