"""What one cycle sees: everything, frozen, with the time in it."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.model.cluster import Cluster
from scheduler.model.ids import ClusterId, Instant, PoolRef, QueueId, Uid
from scheduler.model.money import Usd
from scheduler.model.workload import NO_HINTS, Copy, Hints, PodSet, Workload


@dataclass(frozen=True, slots=True)
class SpendBucket:
    """Money spent on bought nodes, and on bringing data to where it was used, in one hour, up to `Snapshot.now`."""

    hour_start: Instant
    cluster: ClusterId
    capacity_type: str
    queue: QueueId | None
    """None: nobody's (a node that was bought and never used)."""
    usd: Usd


@dataclass(frozen=True, slots=True)
class Backoff:
    """An offering that failed to deliver is not tried again before `until`."""

    pool: PoolRef
    until: Instant
    failures: int
    text: str


@dataclass(frozen=True, slots=True)
class ExpectedDemand:
    """So many equal workloads that a forecast expects to be submitted."""

    at: Instant
    queue: QueueId
    count: int
    pod_sets: tuple[PodSet, ...]
    kind: str = "job"
    namespace: str = ""
    labels: tuple[tuple[str, str], ...] = ()
    hints: Hints = NO_HINTS


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the work of a workload is. Parts are of its whole work, 0 to 1."""

    workload: Uid
    begun: float = 0.0
    """What was done when its present attempt began; of one that waits, what its next one begins with."""
    done: float | None = None
    """What its own metric said was done at `at`, in the present attempt; None: it says nothing."""
    at: Instant = 0.0
    per_second: float | None = None
    """How fast it goes at present; None: not known."""


@dataclass(frozen=True, slots=True)
class Explored:
    """A placement that was made to learn, and what it counts for in the budget for that."""

    workload: Uid
    attempt: int
    policy: str
    at: Instant
    """When it was decided."""
    usd: Usd


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The world at `now`. Tuples may come in any order: a cycle gives the same plan for every order of its input."""

    now: Instant
    hub_synced: bool
    clusters: tuple[Cluster, ...] = ()
    workloads: tuple[Workload, ...] = ()
    """Not finished, or finished and still with a copy or finalizer."""
    copies: tuple[Copy, ...] = ()
    spend: tuple[SpendBucket, ...] = ()
    backoffs: tuple[Backoff, ...] = ()
    bursting_paused: bool = False
    expected: tuple[ExpectedDemand, ...] = ()
    """By whoever forecasts demand; bought ahead for only where a policy says so."""
    progress: tuple[Progress, ...] = ()
    """Of those of which anything is known; others have their whole work before them."""
    explored: tuple[Explored, ...] = ()
    """Whoever carries plans out remembers these; of workloads that are placed still, their placement tells it, too."""
    shadow: bool = False
    """Nothing of the plan will be carried out, so that it may speak of workloads that others run, too."""
