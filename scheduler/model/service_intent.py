"""How a service is divided, as it stands written on its hub object: what is carried out, and what is remembered."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.model.division import ReplicaTarget
from scheduler.model.ids import ClusterId, DecisionId, Instant, PoolId, PoolRef
from scheduler.model.serving import TrafficWeight


@dataclass(frozen=True, slots=True)
class StoredRevision:
    """A revision of the template that is in use, whole: its hub object may say another thing by now."""

    name: str
    created_at: Instant
    content: str
    """As its kind packs it (`DivisibleKind.pack`)."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A copy from before the service was divided: it is the part of that pool and revision, under its own name."""

    cluster: ClusterId
    pool: PoolId
    revision: str
    name: str

    @property
    def pool_ref(self) -> PoolRef:
        return PoolRef(self.cluster, self.pool)


@dataclass(frozen=True, slots=True)
class ServiceIntent:
    """What is to be. Written before it is carried out, so that a crash in between loses and doubles nothing."""

    slo: str
    """Name of the ServingSLO; "": none matches any more, and the service goes back to being placed as a whole."""
    decision: DecisionId
    decided_at: Instant
    targets: tuple[ReplicaTarget, ...]
    """By pool and revision."""
    weights: tuple[TrafficWeight, ...] = ()
    revisions: tuple[StoredRevision, ...] = ()
    adopted: tuple[Adopted, ...] = ()
    silent: tuple[ClusterId, ...] = ()
    """Clusters that did not answer when this was decided: what is found there later is not deleted on its account, but
    looked at anew."""
    memory: str = ""
    """What the division remembers (`scheduler.engine.serving.memory`), as JSON; "": nothing."""

    def target(self, pool: PoolRef, revision: str) -> ReplicaTarget | None:
        return next((one for one in self.targets if one.pool == pool and one.revision == revision), None)

    def revision(self, name: str) -> StoredRevision | None:
        return next((one for one in self.revisions if one.name == name), None)
