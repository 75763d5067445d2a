"""Workloads as the hub tells them, the placements written on them, and their copies on members."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId, PoolRef, QueueId, Uid, WorkloadRef, owner_uid
from scheduler.model.money import Usd
from scheduler.model.resources import Resources, total
from scheduler.model.traits import NO_TRAITS, Traits

if TYPE_CHECKING:
    from scheduler.model.service_intent import ServiceIntent


@dataclass(frozen=True, slots=True, order=True)
class Toleration:
    """A pod's toleration; an empty key with Exists tolerates everything."""

    key: str
    operator: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class PodSet:
    """`count` identical pods that a workload runs at the same time."""

    name: str
    count: int
    requests: Resources
    """Of one pod; `requests.pods` is 1."""
    node_selector: tuple[tuple[str, str], ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    gpu_models: tuple[str, ...] = ()
    """Accepted GPU models, any of them; empty: no preference."""
    topology: str = ""
    """A node label: all pods of the workload are to be on nodes with one value of it. "": anywhere in a pool."""
    excluded_nodes: tuple[tuple[ClusterId, NodeName], ...] = ()
    """Where they must not run: a remedy said so."""


@dataclass(frozen=True, slots=True, order=True)
class DataSet:
    """What a run reads, and where it lies."""

    cluster: ClusterId
    bytes: int


@dataclass(frozen=True, slots=True)
class Hints:
    """What the user says of the run in `overspill.dev/*` annotations. None: not said."""

    expected_seconds: float | None = None
    checkpoint_every_seconds: float | None = None
    deadline_at: Instant | None = None
    data: tuple[DataSet, ...] = ()
    """Read whole, once, at its start, by a run that is not where it lies."""
    model: str | None = None
    """What is trained, as its own users call it: runs of one model are alike in speed."""
    batch_size: int | None = None
    """Of one GPU."""
    total_steps: float | None = None
    """The whole work, in the steps that its speed is told in."""
    traits: Traits = NO_TRAITS
    """What a model that was never seen is told by."""
    avoided_pools: tuple[PoolRef, ...] = ()
    """Where it is not to be placed: it did badly there."""


@dataclass(frozen=True, slots=True, order=True)
class Dependent:
    """An object that pods refer to by name, in their own namespace; it follows them to their member."""

    kind: str
    """ConfigMap, Secret, ServiceAccount or PersistentVolumeClaim."""
    name: str
    optional: bool = False
    """The pods start without it."""
    named: bool = False
    """By the workload's user, beside what its pods refer to."""

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


MOVED: Final = "Moved"


NO_HINTS: Final = Hints()


class PlacementState(StrEnum):
    """How far a placement has come. The words are those in the `overspill.dev/placement` annotation."""

    RESERVED = "reserved"
    """Capacity is being bought for it; no copy may exist yet."""
    STARTED = "started"
    """The copy is to exist on the member."""
    PAUSED = "paused"
    """Its user suspended it: the copy is kept, suspended, and its room given up. Once resumed it starts again when the
    whole gang fits."""
    RELEASING = "releasing"
    """The copy is to be deleted; when it is gone for certain the placement is cleared."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The intent, written on the hub object before anything is created elsewhere."""

    cluster: ClusterId
    pool: PoolId
    capacity_type: str
    bought: bool
    """True when the pool is one that is bought for bursts (its nodes go back when idle)."""
    state: PlacementState
    attempt: int
    decided_at: Instant
    decision: str
    reason: str = ""
    """For RELEASING: the code of why. MOVED where it replaced another placement."""
    moved_from: ClusterId | None = None
    """Where its former copy may still be: nothing is created before that is known to be gone."""
    domain: tuple[str, str] | None = None
    """Label and value of the nodes that it is held to, where its pod sets ask for a topology, or where it fits only
    beside room that is kept on one node."""
    kept_off: tuple[NodeName, ...] = ()
    """Nodes of its pool that it must not use: room is kept there for another."""
    exploration_usd: Usd | None = None
    """What it is reckoned at in its policy's budget for exploration; None: it was not placed to learn."""
    part: str = ""
    """Which part of a service that was divided before its copy was made as; "": it never was."""

    @property
    def pool_ref(self) -> PoolRef:
        return PoolRef(self.cluster, self.pool)


@dataclass(frozen=True, slots=True)
class Workload:
    """A hub object that opted in by the queue label, as its kind plugin parsed it."""

    ref: WorkloadRef
    queue: QueueId
    priority: int
    created_at: Instant
    queued_at: Instant
    """When it last began to wait: created, resumed or released, unless from a reservation whose nodes never came."""
    pod_sets: tuple[PodSet, ...]
    labels: tuple[tuple[str, str], ...] = ()
    hints: Hints = Hints()
    runs_forever: bool = False
    """Serving: no end is expected."""
    progress_query: str = ""
    """PromQL that tells how far it is; "": the metrics of common exporters are looked at."""
    speed_query: str = ""
    suspended: bool = False
    """By its user: must not run; keeps its placement but not its capacity."""
    deleting: bool = False
    finished: bool = False
    has_finalizer: bool = False
    placement: Placement | None = None
    condition: tuple[str, str] | None = None
    """(reason, message) of the Overspill condition that the hub object carries now."""
    invalid: str | None = None
    """Why it can never be placed as it stands (one line), when that is so."""
    unmanaged: str | None = None
    """What its user has yet to do to hand it over (one line), when another controller still runs it."""
    runs_as: str = ""
    """What its copy is, as kubectl names it (inferenceservices.serving.kserve.io); "": not told."""
    intent: ServiceIntent | None = None
    """How it is divided over members; None: it is placed as a whole."""
    part: str = ""
    """Set: it stands for one part of a divided service. A cycle reckons with it, and never places or moves it."""

    @property
    def requests(self) -> Resources:
        """Of all its pods together."""
        if len(self.pod_sets) == 1 and not self.pod_sets[0].requests.extended:
            # Nearly all, and it is asked of each of a hundred thousand.
            return self.pod_sets[0].requests.times(self.pod_sets[0].count)
        return total(pod_set.requests.times(pod_set.count) for pod_set in self.pod_sets)


class CopyState(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Copy:
    """A workload's copy on a member, told by its origin annotations."""

    origin: Uid
    """UID of the hub object."""
    cluster: ClusterId
    kind: str
    namespace: str
    name: str
    uid: Uid
    attempt: int
    state: CopyState
    suspended: bool
    deleting: bool
    created_at: Instant
    started_at: Instant | None
    finished_at: Instant | None
    pods_wanted: int
    """Pods that should exist now: min(parallelism, completions left), replicas; 0 when suspended or finished."""
    pods_bound: int = 0
    """Of those, how many are bound to a node and not terminal; filled in by the mirror."""
    origin_cluster: str = ""
    """The hub that it came from (its configured name): one member may serve two hubs."""
    holds: tuple[tuple[NodeName, Resources], ...] = ()
    """What its bound pods ask for on each node (`pods`: how many they are), by node name. Filled in by the mirror;
    empty although pods are bound: not told."""
    part: str = ""
    """Of a divided service: which part it is; "": of none, or it is from before the division."""
    pool: PoolId | None = None
    """Of a part: its pool."""
    revision: str = ""
    """Of a part: the revision of the template that it is made of."""

    @property
    def owner(self) -> Uid:
        """Whose pods are its own (see `ids.owner_uid`)."""
        return owner_uid(self.origin, self.part)

    @property
    def finished(self) -> bool:
        return self.state in (CopyState.SUCCEEDED, CopyState.FAILED)
