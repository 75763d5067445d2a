"""A service's division as it is decided: replicas or bounds by pool, traffic weights, and why. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.model.ids import ClusterId, Instant, PoolRef, WorkloadRef
from scheduler.model.money import Usd
from scheduler.model.plan import CostPart
from scheduler.model.serving import TrafficWeight

# Reasons of conditions, CamelCase as Kubernetes wants them.
SERVING = "Serving"
"""All is well: the SLO is expected to hold."""
SHORT_OF_CAPACITY = "ShortOfCapacity"
"""Everything that may be used is used, and it is not enough."""
CONTRADICTORY = "ContradictorySLO"
"""No division can keep all that the SLO asks for; what runs is kept."""
NO_METRICS = "NoDemandMetrics"
"""Nobody says how much demand there is; what runs is kept."""
IMPLAUSIBLE_METRICS = "ImplausibleMetrics"
"""Demand is told that cannot be (negative, frozen, absurd); what runs is kept."""
NO_OFFERS = "NoOffers"
"""Nothing is known that could run it."""
NOT_OWNER = "ReplicasOwnedElsewhere"
"""Another autoscaler owns the replicas: only bounds and places are set."""
CLUSTER_LOST = "ClusterLost"
"""A cluster's share is being replaced elsewhere."""
RECLAIMED = "NodesReclaimed"
"""Nodes of some replicas are being taken back; others start beside them."""
SCALED_TO_ZERO = "ScaledToZero"
ROLLED_BACK = "RolledBack"
ROLLING_OUT = "RollingOut"


@dataclass(frozen=True, slots=True)
class ServingCondition:
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ReplicaTarget:
    """What is to be asked for on one pool now. `bounds` set: another autoscaler owns the number, within these; then it
    may be 0: nothing runs there until a request wakes it."""

    pool: PoolRef
    revision: str
    replicas: int
    bounds: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """A limit without which the division would be cheaper, or better."""

    name: str
    """Such as maxReclaimableShare, maxProviderShare/aws, mostReplicas/onprem/a10."""
    meaning: str
    saves_usd_per_hour: float | None
    """What the division would cost less without it, as a linear programme; None: not known."""


@dataclass(frozen=True, slots=True)
class OfferChoice:
    """One offer as the division sees it: chosen, or why not."""

    pool: PoolRef
    gpu_model: str | None
    capacity_type: str
    replicas: int
    """Where the division is heading; `ReplicaTarget` says what is asked for on the way."""
    requests_per_second_each: float | None
    """Within the SLO; None: unknown."""
    usd_per_million_requests: float | None
    latency_seconds: float | None
    """From the clients, weighted by where the requests come from."""
    refused: str = ""
    """Why no replica may be there; "": it may."""


@dataclass(frozen=True, slots=True)
class Division:
    """What is to be done for one service now, and why.

    `targets` leave out what is to be 0, but for what sleeps until a request wakes it. `weights` add up to
    `WEIGHT_TOTAL`, or are empty: nothing is ready, then what is set stays.
    """

    service: WorkloadRef
    decided_at: Instant
    targets: tuple[ReplicaTarget, ...]
    weights: tuple[TrafficWeight, ...]
    conditions: tuple[ServingCondition, ...]
    changed: bool
    """Whether anything differs from what is there."""
    sentence: str
    solver: str
    """milp, greedy, or kept (nothing was decided anew)."""
    demand_per_second: float | None = None
    """As measured."""
    planned_per_second: float | None = None
    """For which capacity is planned: the forecast, with its margin."""
    capacity_per_second: float | None = None
    """Of the division, within the SLO, once all is ready."""
    ready_per_second: float | None = None
    """Of what is ready now."""
    usd_per_hour: Usd | None = None
    cost_parts: tuple[CostPart, ...] = ()
    """capacity, change (loading models), reclaims; USD for an hour."""
    binding: tuple[Binding, ...] = ()
    choices: tuple[OfferChoice, ...] = ()
    leaving: tuple[ClusterId, ...] = ()
    """Clusters whose replicas wait for others to be ready elsewhere."""
    wake_at: Instant | None = None
    """When time alone would change the answer."""
