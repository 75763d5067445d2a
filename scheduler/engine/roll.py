"""Who is there: workloads by what a cycle has to do with them, kept up from one snapshot to the next.

A workload that runs as placed with all its pods bound is at rest: nothing follows from it but the quota that it uses.
Updating touches only what differs between two snapshots, and leaves exactly what starting anew would.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Final, TypeVar

from scheduler.model.cluster import Cluster
from scheduler.model.ids import ClusterId, QueueId, Uid
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Copy, PlacementState, PodSet, Workload

_CHUNK: Final = 4096
_Thing = TypeVar("_Thing", Workload, Copy)


class Roll:
    """Changed in place by `update`; empty at first."""

    def __init__(self) -> None:
        self.pending: dict[Uid, Workload] = {}
        self.restless: dict[Uid, Workload] = {}
        """Placed, and something may follow from it."""
        self.placed: Counter[QueueId] = Counter()
        """Of each queue, workloads that have a placement and have not finished."""
        self.waiting: Counter[QueueId] = Counter()
        """Of each queue, those pending."""
        self.used: dict[QueueId, Resources] = {}
        """Of each queue, what counts against its quota."""
        self.copies: dict[tuple[Uid, ClusterId], Copy] = {}
        self._copies_of: dict[tuple[Uid, ClusterId], list[Copy]] = {}
        self._workloads: tuple[Workload, ...] = ()
        self._copies: tuple[Copy, ...] = ()
        self._seen: set[int] = set()
        """Only a hint to what is new: of objects that are no more it may say wrong things."""
        self._at: dict[ClusterId, dict[Uid, Workload]] = defaultdict(dict)
        self._homes: dict[ClusterId, tuple[bool, frozenset[str]]] = {}
        """Of each cluster: whether it is available, and the names of its pools."""
        self._clusters: dict[ClusterId, Cluster] = {}
        self._requests: dict[int, tuple[tuple[PodSet, ...], Resources]] = {}

    def update(self, snapshot: Snapshot) -> None:
        """From whatever it was to the state of this snapshot."""
        left, came = changes(self._workloads, snapshot.workloads, self._seen)
        lost, got = changes(self._copies, snapshot.copies, self._seen)
        homes = {cluster.id: self._home(cluster) for cluster in snapshot.clusters}
        self._workloads, self._copies = snapshot.workloads, snapshot.copies
        self._clusters = {cluster.id: cluster for cluster in snapshot.clusters}
        keys = self._change_copies(lost, got)
        for workload in left:
            self._drop(workload)
        moved = [name for name in {*homes, *self._homes} if homes.get(name) != self._homes.get(name)]
        self._homes = homes
        for name in moved:
            for workload in list(self._at[name].values()):
                self._sort_out(workload)
        for uid, name in keys:
            known = self._at[name].get(uid)
            if known is not None:
                self._sort_out(known)
        for workload in came:
            self._enter(workload)

    def holders(self) -> Iterator[Workload]:
        """All that have a placement and have not finished, in no order."""
        return (workload for there in self._at.values() for workload in there.values())

    def _home(self, cluster: Cluster) -> tuple[bool, frozenset[str]]:
        if self._clusters.get(cluster.id) is cluster:
            return self._homes[cluster.id]
        return cluster.available, frozenset(pool.ref.pool for pool in cluster.pools)

    def _change_copies(self, lost: Iterable[Copy], got: Iterable[Copy]) -> list[tuple[Uid, ClusterId]]:
        keys: dict[tuple[Uid, ClusterId], None] = {}
        for copy in lost:
            key = copy.origin, copy.cluster
            self._copies_of[key].remove(copy)
            self._seen.discard(id(copy))
            keys[key] = None
        for copy in got:
            key = copy.origin, copy.cluster
            self._copies_of.setdefault(key, []).append(copy)
            self._seen.add(id(copy))
            keys[key] = None
        for key in keys:
            there = self._copies_of[key]
            if there:
                self.copies[key] = (
                    there[0] if len(there) == 1 else max(there, key=lambda each: (each.attempt, each.uid))
                )
            else:
                self.copies.pop(key, None)
                del self._copies_of[key]
        return list(keys)

    def _enter(self, workload: Workload) -> None:
        uid, placement = workload.ref.uid, workload.placement
        self._seen.add(id(workload))
        if workload.finished:
            return
        if placement is None:
            if not (workload.suspended or workload.deleting):
                self.pending[uid] = workload
                self.waiting[workload.queue] += 1
            return
        self.placed[workload.queue] += 1
        if not workload.suspended:
            used = self.used.get(workload.queue)
            requests = self._requests_of(workload)
            self.used[workload.queue] = requests if used is None else used + requests
        self._at[placement.cluster][uid] = workload
        self._sort_out(workload)

    def _drop(self, workload: Workload) -> None:
        uid, placement = workload.ref.uid, workload.placement
        self._seen.discard(id(workload))
        if workload.finished:
            return
        if placement is None:
            if self.pending.pop(uid, None) is not None:
                self.waiting[workload.queue] -= 1
            return
        self.placed[workload.queue] -= 1
        if not workload.suspended:
            self.used[workload.queue] = self.used[workload.queue] - self._requests_of(workload)
        self._at[placement.cluster].pop(uid, None)
        self.restless.pop(uid, None)

    def _sort_out(self, workload: Workload) -> None:
        """Whether something may follow from a workload that has a placement."""
        if workload.deleting or self._rests(workload):
            self.restless.pop(workload.ref.uid, None)
        else:
            self.restless[workload.ref.uid] = workload

    def _rests(self, workload: Workload) -> bool:
        placement = workload.placement
        if placement is None or placement.state is not PlacementState.STARTED or workload.suspended:
            return False
        available, pools = self._homes.get(placement.cluster, (False, frozenset()))
        copy = self.copies.get((workload.ref.uid, placement.cluster))
        if not available or placement.pool not in pools or copy is None or copy.attempt != placement.attempt:
            return False
        return copy.finished or (not copy.suspended and copy.pods_bound >= copy.pods_wanted)

    def _requests_of(self, workload: Workload) -> Resources:
        """Of objects that are kept, so that no two have one id."""
        known = self._requests.get(id(workload.pod_sets))
        if known is None:
            known = self._requests[id(workload.pod_sets)] = workload.pod_sets, workload.requests
        return known[1]


def changes(old: tuple[_Thing, ...], new: tuple[_Thing, ...], seen: set[int]) -> tuple[list[_Thing], list[_Thing]]:
    """What is to be taken away and what to be added to get from one to the other; `seen`: ids of what is in `old`.

    Fast where most stay in their order: an object is equal to itself without a look into it. What changes its place
    may be in both.
    """
    left: list[_Thing] = []
    came: list[_Thing] = []
    here = there = 0
    while here < len(old) and there < len(new):
        size = 1
        while size and here < len(old) and there < len(new):
            if old[here : here + size] == new[there : there + size]:
                here, there = here + size, there + size
                size = min(8 * size, _CHUNK)
            else:
                size //= 8
        if here >= len(old) or there >= len(new):
            break
        if id(new[there]) not in seen:
            came.append(new[there])
            there += 1
        else:
            left.append(old[here])
            here += 1
    return left + list(old[here:]), came + list(new[there:])
