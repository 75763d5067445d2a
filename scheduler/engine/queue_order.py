"""In which order pending workloads are considered: between queues by fair share, within one by priority and age."""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable
from operator import attrgetter
from typing import Final

from scheduler.engine.fairshare import dominant_share, weighted_share
from scheduler.engine.quota import QuotaLedger
from scheduler.model.ids import QueueId
from scheduler.model.resources import Resources
from scheduler.model.workload import Workload

_NOTHING: Final = Resources()


class Turns:
    """A heap of queues; each `next` gives the first workloads of the queue with the lowest weighted dominant share.

    The share is that of the ledger at the time when the queue comes back into the heap, so a queue whose workload has
    just been placed steps back.
    """

    def __init__(self, pending: Iterable[Workload], quotas: QuotaLedger, capacity: Resources) -> None:
        self._quotas = quotas
        self._capacity = capacity
        lines: dict[QueueId, list[Workload]] = defaultdict(list)
        for workload in pending:
            lines[workload.queue].append(workload)
        # Last first, so that the next one is popped off the end.
        self._lines = {queue: _last_first(line) for queue, line in lines.items()}
        self._shares: dict[QueueId, tuple[Resources, float]] = {}
        self._heap = [(self._share(queue), queue) for queue in self._lines]
        heapq.heapify(self._heap)
        self._out: QueueId | None = None

    def next(self, most: int = 1) -> tuple[Workload, ...]:
        """The workloads whose turn it is, at most so many; () when all have had theirs.

        With more than one at a time a queue gets ahead of its share by no more than what the last turn gave it: it had
        the lowest share when that began.
        """
        if self._out is not None and self._lines[self._out]:
            heapq.heappush(self._heap, (self._share(self._out), self._out))
        self._out = None
        if not self._heap:
            return ()
        _, self._out = heapq.heappop(self._heap)
        line = self._lines[self._out]
        given = tuple(reversed(line[-most:]))
        del line[-most:]
        return given

    def rest_of(self, queue: QueueId) -> tuple[Workload, ...]:
        """Ends the queue's turns; those still in it, in order."""
        rest = tuple(reversed(self._lines[queue]))
        self._lines[queue] = []
        return rest

    def _share(self, queue: QueueId) -> float:
        used = self._quotas.used.get(queue, _NOTHING)
        known = self._shares.get(queue)
        if known is None or known[0] is not used:
            share = weighted_share(dominant_share(used, self._capacity), self._quotas.spec(queue).weight)
            known = self._shares[queue] = (used, share)
        return known[1]


def _last_first(line: list[Workload]) -> list[Workload]:
    """The highest priority last, of equals the oldest, then the first by UID. One stable sort for each of these is
    cheaper than one by tuples of them, which a large backlog would make by the hundred thousand."""
    line.sort(key=attrgetter("ref.uid"), reverse=True)
    line.sort(key=attrgetter("queued_at"), reverse=True)
    line.sort(key=attrgetter("priority"))
    return line
