"""What one cycle leaves to the next of work that need not be done again. It never changes an answer.

Everything here follows from immutable parts of a snapshot and is kept beside these very parts, so that it is known by
identity whether it still holds. One memory serves one sequence of cycles, one at a time; after a cycle that failed it
begins anew.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.engine.fairshare import federation_capacity
from scheduler.engine.roll import Roll
from scheduler.engine.rooms import PoolRoom
from scheduler.model.cluster import Cluster
from scheduler.model.ids import ClusterId, Instant, PoolRef
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Backoff, Snapshot


@dataclass(frozen=True, slots=True)
class _Member:
    cluster: Cluster
    capacity: Resources
    rooms: tuple[PoolRoom, ...]
    """By name. Only those are used again that no cycle has changed and that time does not."""


class Memory:
    """Of one sequence of cycles; hand the same one to each."""

    def __init__(self) -> None:
        self._roll: Roll | None = None
        self._members: dict[ClusterId, _Member] = {}

    def take_roll(self, snapshot: Snapshot) -> Roll:
        """The roll of this snapshot, out of the memory's hands until `keep`."""
        roll, self._roll = self._roll, None
        if roll is None:
            roll = Roll()
        roll.update(snapshot)
        return roll

    def take_rooms(self, cluster: Cluster, now: Instant, backoffs: dict[PoolRef, Backoff]) -> _Member:
        """The cluster's rooms as nobody has used them yet, and its capacity; out of the memory's hands until `keep`."""
        known = self._members.pop(cluster.id, None)
        if known is None or known.cluster is not cluster:
            pools = sorted(cluster.pools, key=lambda pool: pool.ref)
            rooms = tuple(PoolRoom(cluster, pool, now, backoffs.get(pool.ref)) for pool in pools)
            return _Member(cluster, federation_capacity((cluster,)), rooms)
        rooms = tuple(_fresh(room, now, backoffs.get(room.pool.ref)) for room in known.rooms)
        return _Member(cluster, known.capacity, rooms)

    def keep(self, roll: Roll, members: list[_Member]) -> None:
        """At the end of a cycle."""
        self._roll = roll
        self._members = {member.cluster.id: member for member in members}


def _fresh(room: PoolRoom, now: Instant, backoff: Backoff | None) -> PoolRoom:
    if room.version or not room.timeless:
        return PoolRoom(room.cluster, room.pool, now, backoff)
    room.begin_again(now, backoff)
    return room
