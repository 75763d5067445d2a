"""Services as they are observed: replicas, demand, latency; and the offerings that more replicas could use.

A service is what one hub object (Deployment, InferenceService, ...) runs on several members at once. Rates are requests
per second, times seconds. Unknown is None.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from scheduler.model.cluster import SPOT
from scheduler.model.ids import ClusterId, Instant, PoolId, PoolRef, QueueId, WorkloadRef
from scheduler.model.money import Usd
from scheduler.model.serving_policy import ServingSLO


class ReplicaOwner(StrEnum):
    """Who writes `replicas` on the members. Any but Overspill keeps it: then only bounds and places are set."""

    OVERSPILL = "overspill"
    HPA = "hpa"
    KEDA = "keda"
    KNATIVE = "knative"


@dataclass(frozen=True, slots=True)
class Revision:
    """One version of the service's template."""

    name: str
    """Such as a hash of the template; unique within the service."""
    created_at: Instant


@dataclass(frozen=True, slots=True)
class ReplicaGroup:
    """The replicas of one revision on one node pool of one cluster, as last seen."""

    pool: PoolRef
    revision: str
    wanted: int
    """What is asked for there now (spec.replicas of the copy)."""
    ready: int
    """Passing their readiness probe, warm-up not counted."""
    warm: int | None = None
    """Of those, ready for longer than the SLO's warm-up; None: not known, then all of them are."""
    leaving: int = 0
    """Of those that are ready, on nodes that are being taken back: soon they are not there."""


@dataclass(frozen=True, slots=True)
class ClientDemand:
    """Requests that come from one client region; those that wait or fail count, too."""

    region: str
    requests_per_second: float | None
    at: Instant


@dataclass(frozen=True, slots=True)
class ClientLatency:
    """Network round trip from a client region to a cluster, as measured."""

    region: str
    cluster: ClusterId
    seconds: float | None
    at: Instant


@dataclass(frozen=True, slots=True)
class RevisionMetrics:
    """What one revision did on one cluster in one interval, the last one."""

    cluster: ClusterId
    revision: str
    at: Instant
    interval_seconds: float
    pool: PoolId | None = None
    """Where, if that is known: a canary is compared on one kind of hardware."""
    requests: int | None = None
    """Answered, well or not, within the interval."""
    mean_latency_seconds: float | None = None
    """A histogram's sum by its count."""
    mean_first_token_seconds: float | None = None
    p95_latency_seconds: float | None = None
    p95_first_token_seconds: float | None = None
    errors: int | None = None
    """Of `requests`."""
    replicas: int | None = None
    """That answered them."""
    usd_per_request: float | None = None

    @property
    def load(self) -> float | None:
        """Requests per second and replica; None: not told, or it cannot be."""
        if self.requests is None or not self.replicas or self.interval_seconds <= 0 or self.requests < 0:
            return None
        return self.requests / self.interval_seconds / self.replicas


@dataclass(frozen=True, slots=True)
class ReplicaSpeed:
    """What one replica can do, alone, without the network.

    Two kinds: `pooled` replicas serve one request each, the rest waits in a queue that a cluster's replicas share;
    others slow down together as their load grows, latency = idle / (1 - load / most) (`scheduler.predict.serving`).
    """

    most_per_second: float
    """Requests at which it is saturated."""
    idle_p95_seconds: float
    """p95 of a whole request without load."""
    idle_first_token_seconds: float | None = None
    """p95 until the first token without load; None: not known. 0 for pooled replicas: a free one begins at once."""
    pooled: bool = False
    variation: float = 1.0
    """Squared coefficient of variation of the service time (1: exponential). Of pooled ones."""


@dataclass(frozen=True, slots=True)
class ServingOffer:
    """Replicas of a service on one node pool: what one costs and does there, and how many there could be."""

    pool: PoolRef
    provider: str
    region: str
    gpu_model: str | None
    capacity_type: str
    usd_per_replica_hour: Usd | None
    """None: unknown; then it is kept where it runs but nothing is added."""
    most_replicas: int
    """What fits in all, those of this service that are there included."""
    load_seconds: float
    """From asking for a replica to its being ready on a node that is there: image, model load, start-up."""
    provisioning_seconds: float | None
    """Of a new node before that; 0: nodes are there. None: unknown."""
    speed: ReplicaSpeed | None
    """None: unknown; then it is kept where it runs but nothing is added."""
    reclaims_per_hour: float = 0.0
    """How often the cloud takes one such node back."""
    open: bool = True
    """False: quarantined, or its cluster is lost. Nothing is added, and what runs there is replaced elsewhere."""
    reachable: bool = True
    """False: its cluster does not answer, so that nothing that runs there is known to serve."""
    why_closed: str = ""

    @property
    def reclaimable(self) -> bool:
        return self.capacity_type == SPOT

    @property
    def lead_seconds(self) -> float:
        """From asking to ready, as far as known."""
        return self.load_seconds + (self.provisioning_seconds or 0.0)

    def domain(self, key: str) -> str:
        """Its failure domain: one of `serving_policy.DOMAIN_KEYS`."""
        return {"cluster": self.pool.cluster, "region": self.region, "provider": self.provider}[key]


@dataclass(frozen=True, slots=True)
class Service:
    """One service as it is seen in one cycle. Tuples may come in any order."""

    ref: WorkloadRef
    queue: QueueId
    revision: str
    """The one that its template asks for now."""
    revisions: tuple[Revision, ...] = ()
    groups: tuple[ReplicaGroup, ...] = ()
    demand: tuple[ClientDemand, ...] = ()
    """Empty: nobody measures it."""
    latency: tuple[ClientLatency, ...] = ()
    metrics: tuple[RevisionMetrics, ...] = ()
    owner: ReplicaOwner = ReplicaOwner.OVERSPILL
    owner_bounds: tuple[int | None, int | None] = (None, None)
    """Least and most that the other owner was given by its user, over all clusters."""
    scales_to_zero: bool = False
    """Whether the service can be woken by a request (KEDA, Knative, or a gateway that holds requests)."""
    last_request_at: Instant | None = None
    weights: tuple[TrafficWeight, ...] = ()
    """As they are set now."""
    asked_before: int | None = None
    """Replicas that the last division asked for, all together; None: not known, then what is asked for now counts."""


WEIGHT_TOTAL: Final = 1000
"""What the weights of a service add up to: tenths of a percent. `apportion` makes percent of them for Knative."""


@dataclass(frozen=True, slots=True, order=True)
class TrafficWeight:
    """Part of all requests that go to one revision on one cluster."""

    cluster: ClusterId
    revision: str
    weight: int
    """Of WEIGHT_TOTAL."""


@dataclass(frozen=True, slots=True)
class ExpectedRate:
    """No more requests per second than this, in the SLO's `confidence` of all cases, so long from now."""

    ahead_seconds: float
    per_second: float


@dataclass(frozen=True, slots=True)
class CanaryVerdict:
    """What is thought of a new revision beside the old one at the same load (`scheduler.aiops.canary`)."""

    revision: str
    outcome: str
    """good, bad, or undecided."""
    text: str
    """One line with the figures."""
    requests: int = 0
    """Of the new revision that were judged."""


@dataclass(frozen=True, slots=True)
class ServiceView:
    """All that dividing one service looks at."""

    now: Instant
    service: Service
    slo: ServingSLO
    offers: tuple[ServingOffer, ...]
    forecast: tuple[ExpectedRate, ...] = ()
    """At the leads that `scheduler.engine.serving.horizons` names; empty: nobody forecasts."""
    verdict: CanaryVerdict | None = None


def apportion(weights: Iterable[TrafficWeight], total: int) -> tuple[TrafficWeight, ...]:
    """The same weights in whole parts of `total` (Hamilton's method of largest remainders; ties by order).

    Adds up to `total` exactly, or is empty where all are 0.
    """
    given = sorted(weights)
    whole = sum(one.weight for one in given)
    if whole <= 0:
        return ()
    floors = [one.weight * total // whole for one in given]
    rest = sorted(range(len(given)), key=lambda i: (-(given[i].weight * total % whole), i))
    for index in rest[: total - sum(floors)]:
        floors[index] += 1
    return tuple(TrafficWeight(one.cluster, one.revision, part) for one, part in zip(given, floors, strict=True))
