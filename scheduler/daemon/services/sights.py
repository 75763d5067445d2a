"""What is seen of services, gathered on the event loop as frozen values, so that they can be divided in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from scheduler.daemon.services.ports import Canary, ServiceReadings, TrafficKeeper
from scheduler.daemon.state.member_mirror import CopyEntry
from scheduler.daemon.state.mirror import Mirror
from scheduler.engine.serving.looking import PartState, Sight
from scheduler.engine.serving.parts import parts_of
from scheduler.engine.serving.slots import Slot
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import DecisionId, Instant, PoolRef, Uid
from scheduler.model.ports import DivisibleKind, PartSeen, RawObject
from scheduler.model.service_intent import ServiceIntent, StoredRevision
from scheduler.model.workload import Workload
from scheduler.predict.bounded import Recent

_MOST: Final = 10_000
_MOST_CHANGES: Final = 256


@dataclass(slots=True)
class Readiness:
    """How many replicas of a part were ready when, as far back as a warm-up is."""

    changes: deque[tuple[Instant, int]] = field(default_factory=lambda: deque(maxlen=_MOST_CHANGES))

    def saw(self, now: Instant, ready: int) -> None:
        if not self.changes or self.changes[-1][1] != ready:
            self.changes.append((now, ready))

    def warm(self, now: Instant, seconds: float, first: Instant) -> int:
        """Ready for at least so long: the fewest within that time. What was there at the first look of all (`first`)
        is taken to have been there before."""
        least = self.changes[-1][1] if self.changes else 0
        before: int | None = None
        for at, ready in self.changes:
            if at > now - seconds:
                least = min(least, ready)
            else:
                before = ready
        if before is None:
            oldest = self.changes[0] if self.changes else (now, 0)
            before = oldest[1] if oldest[0] <= first else 0
        return min(least, before)


class Sights:
    """Belongs to the event loop."""

    def __init__(self, mirror: Mirror, readings: ServiceReadings, canary: Canary, traffic: TrafficKeeper) -> None:
        self.readings, self.canary, self.traffic = readings, canary, traffic
        self._mirror = mirror
        # Asked once: whether something has all the methods of a protocol takes a tenth of a millisecond.
        self._divisible = {name: kind for name, kind in mirror.kinds.items() if isinstance(kind, DivisibleKind)}
        self._readiness: Recent[tuple[Uid, Slot], Readiness] = Recent(_MOST)
        self._revisions: Recent[Uid, tuple[RawObject, StoredRevision]] = Recent(_MOST)
        self._first: Instant | None = None

    def kind_of(self, workload: Workload) -> DivisibleKind | None:
        return self._divisible.get(workload.ref.kind)

    def revision(self, uid: Uid, now: Instant) -> StoredRevision:
        """The one that is asked for now. Raises: InvalidObjectError for a template that nobody would take."""
        entry = self._mirror.hub[uid]
        known = self._revisions.get(uid)
        if known is not None and known[0] is entry.raw:
            return known[1]
        kind = self.kind_of(entry.workload)
        if kind is None:
            raise InvalidObjectError(f"{entry.workload.ref} cannot be divided")
        name, content = kind.revision(entry.raw)
        found = StoredRevision(name, now if known is not None else entry.workload.created_at, content)
        if known is not None and known[1].name == name:
            found = known[1]
        self._revisions.put(uid, (entry.raw, found))
        return found

    def entries(self, uid: Uid, intent: ServiceIntent | None) -> dict[Slot, CopyEntry]:
        """The copy of each part."""
        entries = {(entry.copy.cluster, entry.copy.uid): entry for entry in self._mirror.copies(uid)}
        found = parts_of((entry.copy for entry in entries.values()), intent or NOTHING)
        return {slot: entries[copy.cluster, copy.uid] for slot, copy in found.items()}

    def seen(self, entry: CopyEntry) -> PartSeen:
        member = self._mirror.members[entry.copy.cluster]
        return PartSeen(entry.copy.cluster, entry.raw, member.ready_pods(entry.copy.owner))

    def bound(self, entries: Mapping[Slot, CopyEntry]) -> dict[PoolRef, int]:
        """Pods on nodes, by pool."""
        found: dict[PoolRef, int] = {}
        for slot, entry in entries.items():
            pods = self._mirror.members[entry.copy.cluster].copy_now(entry).pods_bound
            found[slot.pool] = found.get(slot.pool, 0) + pods
        return found

    def of(self, workload: Workload, entries: Mapping[Slot, CopyEntry], now: Instant, warm_up_seconds: float) -> Sight:
        """Raises: InvalidObjectError for a template, or a copy, that is not understood."""
        uid, ref, kind = workload.ref.uid, workload.ref, self.kind_of(workload)
        if kind is None:
            raise InvalidObjectError(f"{ref} cannot be divided")
        self._first = now if self._first is None else self._first
        raw = self._mirror.hub[uid].raw
        parts = {slot: self._part(kind, uid, slot, entry, now, warm_up_seconds) for slot, entry in entries.items()}
        owner, bounds = kind.scale(raw, [self.seen(entry) for entry in entries.values()])
        revision, told = self.revision(uid, now), self.readings.of(ref)
        return Sight(
            now=now,
            workload=workload,
            revision=revision,
            replicas=kind.replicas(raw),
            parts=parts,
            owner=owner,
            owner_bounds=bounds,
            demand=told.demand,
            latency=told.latency,
            metrics=told.metrics,
            last_request_at=told.last_request_at,
            weights=self.traffic.weights(ref),
            verdict=self.canary.verdict(ref, revision.name),
        )

    def _part(
        self, kind: DivisibleKind, uid: Uid, slot: Slot, entry: CopyEntry, now: Instant, warm_up: float
    ) -> PartState:
        copy, ready = entry.copy, kind.ready_replicas(self.seen(entry))
        leaving = self._mirror.members[copy.cluster].leaving_pods(copy.owner)
        known = self._readiness.touch((uid, slot), Readiness)
        known.saw(now, ready)
        warm = known.warm(now, warm_up, self._first or now) if warm_up > 0 else None
        return PartState(copy.pods_wanted, ready, warm, copy.deleting, min(ready, leaving))


NOTHING: Final = ServiceIntent("", DecisionId(""), 0.0, ())
"""Of a service that was never divided."""
