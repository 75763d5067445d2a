"""What one cycle leaves to the next of work that need not be done again. It never changes an answer.

Everything here follows from immutable parts of a snapshot and is kept beside these very parts, so that it is known by
identity whether it still holds. One memory serves one sequence of cycles, one at a time; after a cycle that failed it
begins anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass
from itertools import count
from operator import attrgetter
from typing import Final

from scheduler.engine.census import Census
from scheduler.engine.fairshare import federation_capacity
from scheduler.engine.roll import Roll
from scheduler.engine.rooms import PoolRoom
from scheduler.model.cluster import Cluster, Node, NodePool
from scheduler.model.ids import ClusterId, Instant, PoolId, PoolRef
from scheduler.model.policy import PolicySet
from scheduler.model.ports import Predictor
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Backoff, Snapshot


@dataclass(frozen=True, slots=True)
class _Member:
    cluster: Cluster
    capacity: Resources
    rooms: tuple[PoolRoom, ...]
    """By name. Only those are used again that no cycle has changed and that time does not."""


_MOST_CLASSES: Final = 10_000
"""Of so many it is remembered for which pools they are; then that begins anew."""


class Memory:
    """Of one sequence of cycles; hand the same one to each."""

    def __init__(self) -> None:
        self._roll: Roll | None = None
        self._census: Census | None = None
        self._members: dict[ClusterId, _Member] = {}
        self._policies: PolicySet | None = None
        self._count = count()
        self._numbers: dict[Hashable, int] = {}

    def take_numbers(self, policies: PolicySet) -> dict[Hashable, int]:
        """Of what the static filters look at of a class, a number for each, under which the rooms keep what these
        filters said. Under other policies no number is used again."""
        if policies is not self._policies or len(self._numbers) > _MOST_CLASSES:
            self._policies, self._numbers = policies, defaultdict(self._count.__next__)
        return self._numbers

    def take_roll(self, snapshot: Snapshot) -> Roll:
        """The roll of this snapshot, out of the memory's hands until `keep`."""
        roll, self._roll = self._roll, None
        if roll is None:
            roll = Roll()
        roll.update(snapshot)
        return roll

    def take_census(self, predictor: Predictor, present: int) -> Census:
        """What is known of equal workloads, `present` of them all being there; out of the memory's hands until `keep`.
        Another predictor knows nothing of what the last one said."""
        census, self._census = self._census, None
        if census is None or census.predictor is not predictor or census.is_crowded(present):
            return Census(predictor)
        return census

    def take_rooms(self, cluster: Cluster, now: Instant, backoffs: dict[PoolRef, Backoff]) -> _Member:
        """The cluster's rooms as nobody has used them yet, and its capacity; out of the memory's hands until `keep`."""
        known = self._members.pop(cluster.id, None)
        if known is not None and known.cluster is cluster:
            rooms = [_room(cluster, room.pool, room.nodes, now, backoffs, room) for room in known.rooms]
            return _Member(cluster, known.capacity, tuple(rooms))
        former = {} if known is None else {room.pool.ref: room for room in known.rooms}
        nodes = _nodes_by_pool(cluster)
        rooms = [
            _room(cluster, pool, tuple(nodes[pool.ref.pool]), now, backoffs, former.get(pool.ref))
            for pool in sorted(cluster.pools, key=lambda pool: pool.ref)
        ]
        return _Member(cluster, federation_capacity((cluster,)), tuple(rooms))

    def keep(self, roll: Roll, census: Census, members: list[_Member]) -> None:
        """At the end of a cycle."""
        self._roll, self._census = roll, census
        self._members = {member.cluster.id: member for member in members}


def _nodes_by_pool(cluster: Cluster) -> dict[PoolId, list[Node]]:
    """By name."""
    found: dict[PoolId, list[Node]] = defaultdict(list)
    for node in sorted(cluster.nodes, key=attrgetter("name")):
        if node.pool is not None:
            found[node.pool].append(node)
    return found


def _room(
    cluster: Cluster,
    pool: NodePool,
    nodes: tuple[Node, ...],
    now: Instant,
    backoffs: dict[PoolRef, Backoff],
    former: PoolRoom | None,
) -> PoolRoom:
    """The one of the last cycle, where nobody has used it and neither what is there nor time has changed it."""
    backoff = backoffs.get(pool.ref) if backoffs else None
    same = former is not None and (former.pool is pool or former.pool == pool) and former.nodes == nodes
    if former is None or not same or former.version or not former.timeless:
        return PoolRoom(cluster, pool, nodes, now, backoff)
    former.begin_again(cluster, now, backoff)
    if len(former.static) > _MOST_CLASSES:
        former.static.clear()
    return former
