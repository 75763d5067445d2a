"""Replicas that start, serve one request at a time and go, and the queues before them. Events on virtual time.

All replicas of one revision on one cluster share a queue, first come first served; a free one that is fastest is taken.
A replica that is given up ends the request it is at; one that is reclaimed, or whose cluster is lost, does not: that
request goes to the head of the queue, or to another cluster.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import numpy as np

from scheduler.engine.serving.slots import Slot
from scheduler.model.cluster import SPOT
from scheduler.model.ids import ClusterId
from scheduler.model.serving import WEIGHT_TOTAL, TrafficWeight
from scheduler.simulate.serving.log import Floats, RequestLog
from scheduler.simulate.serving.site import ServingPool, ServingSite

STARTING: Final = 0
FREE: Final = 1
BUSY: Final = 2
GONE: Final = 3
_READY, _DONE, _RECLAIMED = range(3)
Queue = tuple[ClusterId, str]


@dataclass(slots=True)
class Replica:
    number: int
    slot: Slot
    pool: ServingPool
    asked_at: float
    paid_from: float
    ready_at: float
    state: int = STARTING
    request: int = -1
    leaving: bool = False


@dataclass(slots=True)
class Account:
    """Of one pool: seconds paid for, and what was started."""

    seconds: float = 0.0
    started: int = 0
    reclaimed: int = 0


@dataclass(slots=True)
class Interval:
    """Of one slot since it was last looked at."""

    began: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)


class ServingWorld:
    """Changed in place by `run_until`, `obey` and `lose`. `slower`: by revision, how much longer a request takes."""

    def __init__(
        self, log: RequestLog, site: ServingSite, seed: int, slower: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self.log, self.site, self.now = log, site, 0.0
        self.began: Floats = np.full(len(log), np.nan)
        self.ended: Floats = np.full(len(log), np.nan)
        self.where: list[ClusterId | None] = [None] * len(log)
        self.accounts = {pool.pool: Account() for pool in site.pools}
        self.lost: set[ClusterId] = set()
        self._pools = {pool.pool: pool for pool in site.pools}
        self._slower = dict(slower)
        self._seed = seed
        self._draw = np.random.default_rng([seed, 2]).random(len(log))
        self._lots = {pool.pool: np.random.default_rng([seed, 3, n]) for n, pool in enumerate(site.pools)}
        self._events: list[tuple[float, int, int, Replica]] = []
        self._number = 0
        self._next = 0
        self._at: list[float] = log.at.tolist()
        self._service: list[float] = log.service_seconds.tolist()
        self.replicas: dict[Slot, list[Replica]] = {}
        self._waiting: dict[Queue, deque[int]] = {}
        self._free: dict[Queue, list[tuple[float, int, Replica]]] = {}
        self._held: deque[int] = deque()
        self._ways: list[tuple[float, Queue]] = []
        self.intervals: dict[Slot, Interval] = {}
        self.busy_seconds = 0.0
        """Of workers, since it was last set to 0."""

    # What is looked at.

    @property
    def arrived(self) -> int:
        """Requests so far; they are numbered as they come."""
        return self._next

    def waiting(self) -> int:
        return len(self._held) + sum(map(len, self._waiting.values()))

    def counts(self) -> dict[Slot, tuple[int, int]]:
        """(asked for, ready) by slot."""
        found = {}
        for slot, replicas in self.replicas.items():
            kept = [one for one in replicas if not one.leaving]
            if kept:
                found[slot] = len(kept), sum(1 for one in kept if one.state in (FREE, BUSY))
        return found

    # What is done to it.

    def obey(self, targets: Mapping[Slot, int], weights: Sequence[TrafficWeight]) -> int:
        """Starts and gives up replicas, sets the weights. Returns how many slots changed."""
        changed = 0
        for slot in sorted({*targets, *self.replicas}):
            if slot.pool.cluster in self.lost:
                continue
            there = [one for one in self.replicas.get(slot, []) if not one.leaving]
            wanted = targets.get(slot, 0)
            changed += wanted != len(there)
            for _ in range(wanted - len(there)):
                self._start(slot)
            if wanted < len(there):
                # As a ReplicaSet does: what is not ready first, then what is free.
                order = sorted(there, key=lambda one: (one.state, -one.number))
                for one in order[: len(there) - wanted]:
                    self._give_up(one)
        self._weigh(weights)
        return changed

    def lose(self, cluster: ClusterId) -> None:
        """The cluster is gone with everything on it; its requests come again at once."""
        self.lost.add(cluster)
        again: list[int] = []
        for slot, replicas in self.replicas.items():
            if slot.pool.cluster == cluster:
                for one in replicas:
                    if one.state == BUSY:
                        again.append(one.request)
                    self._end(one)
                replicas.clear()
        for queue in [each for each in self._waiting if each[0] == cluster]:
            again.extend(self._waiting.pop(queue))
            self._free.pop(queue, None)
        self._ways = [(edge, queue) for edge, queue in self._ways if queue[0] != cluster]
        self._ways = _even(self._ways)
        for request in sorted(again):
            self._send(request)

    def run_until(self, until: float) -> None:
        """Everything that happens before `until`."""
        at, events = self._at, self._events
        while True:
            arrival = at[self._next] if self._next < len(at) else np.inf
            event = events[0][0] if events else np.inf
            if min(arrival, event) >= until:
                break
            if arrival <= event:
                self.now = arrival
                self._next += 1
                self._send(self._next - 1)
            else:
                time, _, kind, replica = heapq.heappop(events)
                self.now = time
                self._happen(kind, replica)
        self.now = until

    def close(self) -> None:
        """The end: what is still there has been paid for until now."""
        for replicas in self.replicas.values():
            for one in list(replicas):
                self._end(one)

    # How it works.

    def _start(self, slot: Slot) -> None:
        pool, lots = self._pools[slot.pool], self._lots[slot.pool]
        spread = np.exp(self.site.spread * lots.standard_normal(2))
        up = self.now + pool.provisioning_seconds * float(spread[0])
        ready = up + self.site.load_seconds * float(spread[1])
        self._number += 1
        one = Replica(self._number, slot, pool, self.now, up, ready)
        self.replicas.setdefault(slot, []).append(one)
        self.accounts[slot.pool].started += 1
        self._later(ready, _READY, one)
        rate = self.site.spot_reclaims_per_hour
        life = float(lots.exponential())
        if pool.capacity_type == SPOT and rate > 0:
            self._later(up + 3600.0 * life / rate, _RECLAIMED, one)

    def _later(self, at: float, kind: int, one: Replica) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, kind, one))

    def _happen(self, kind: int, one: Replica) -> None:
        if one.state == GONE:
            return
        if kind == _READY:
            one.state = FREE
            self._take(one)
        elif kind == _DONE:
            request = one.request
            self.ended[request] = self.now
            self._interval(one.slot).ended.append(request)
            one.request = -1
            one.state = FREE
            if one.leaving:
                self._remove(one)
            else:
                self._take(one)
        else:
            self._reclaim(one)

    def _reclaim(self, one: Replica) -> None:
        self.accounts[one.slot.pool].reclaimed += 1
        request = one.request if one.state == BUSY else -1
        self._remove(one)
        if not one.leaving:  # Its controller makes another one.
            self._start(one.slot)
        if request >= 0:
            self._waiting.setdefault(self._queue(one.slot), deque()).appendleft(request)
            self._serve(self._queue(one.slot))

    def _give_up(self, one: Replica) -> None:
        one.leaving = True
        if one.state != BUSY:
            self._remove(one)

    def _remove(self, one: Replica) -> None:
        self.replicas[one.slot].remove(one)
        self._end(one)

    def _end(self, one: Replica) -> None:
        if one.state != GONE:
            self.accounts[one.slot.pool].seconds += max(0.0, self.now - one.paid_from)
            one.state = GONE

    def _queue(self, slot: Slot) -> Queue:
        return slot.pool.cluster, slot.revision

    def _interval(self, slot: Slot) -> Interval:
        return self.intervals.setdefault(slot, Interval())

    def _take(self, one: Replica) -> None:
        """A replica that is free takes the next request, or waits for one."""
        queue = self._queue(one.slot)
        waiting = self._waiting.get(queue)
        if waiting:
            self._begin(one, waiting.popleft())
        else:
            heapq.heappush(self._free.setdefault(queue, []), (-one.pool.speed, one.number, one))

    def _serve(self, queue: Queue) -> None:
        waiting, free = self._waiting.get(queue), self._free.get(queue)
        while waiting and free:
            one = heapq.heappop(free)[2]
            if one.state == FREE and not one.leaving:
                self._begin(one, waiting.popleft())

    def _begin(self, one: Replica, request: int) -> None:
        one.state, one.request = BUSY, request
        self.began[request] = self.now
        self._interval(one.slot).began.append(request)
        seconds = self._service[request] / one.pool.speed * self._slower.get(one.slot.revision, 1.0)
        self.busy_seconds += seconds
        self._later(self.now + seconds, _DONE, one)

    def _send(self, request: int) -> None:
        """To a cluster by the weights; where there are none it is held at the gateway."""
        point = self._draw[request]
        for edge, queue in self._ways:
            if point < edge:
                self.where[request] = queue[0]
                self._waiting.setdefault(queue, deque()).append(request)
                self._serve(queue)
                return
        self._held.append(request)

    def _weigh(self, weights: Sequence[TrafficWeight]) -> None:
        if not weights:
            return
        edge = 0.0
        self._ways = []
        for one in sorted(weights):
            if one.cluster not in self.lost:
                edge += one.weight / WEIGHT_TOTAL
                self._ways.append((edge, (one.cluster, one.revision)))
        self._ways = _even(self._ways)
        self._move_stranded()
        held, self._held = self._held, deque()
        for request in held:
            self._send(request)

    def _move_stranded(self) -> None:
        """What waits where no replica is, or will be, comes again elsewhere."""
        staffed = {
            self._queue(slot) for slot, replicas in self.replicas.items() if any(not one.leaving for one in replicas)
        }
        open_ways = {queue for _, queue in self._ways}
        for queue in [each for each, waiting in self._waiting.items() if waiting and each not in staffed]:
            if open_ways - {queue}:
                stranded, self._waiting[queue] = self._waiting[queue], deque()
                for request in stranded:
                    self._send(request)


def _even(ways: list[tuple[float, Queue]]) -> list[tuple[float, Queue]]:
    """The same with parts that add up to 1 in the same proportions."""
    parts, before = [], 0.0
    for edge, queue in ways:
        parts.append((edge - before, queue))
        before = edge
    whole = sum(part for part, _ in parts)
    found, edge = [], 0.0
    for part, queue in parts:
        edge += part / whole if whole > 0 else 0.0
        found.append((edge if queue != parts[-1][1] else 1.0, queue))
    return found
