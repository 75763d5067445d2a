"""The seams between the pure core, the daemon and the adapters. Nothing here does anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol, runtime_checkable

from scheduler.model.cloud import AccessCheck, CloudCluster, ClusterLogin
from scheduler.model.cluster import NodePool, Shortage, Taint
from scheduler.model.division import ReplicaTarget
from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId
from scheduler.model.money import Usd
from scheduler.model.service_intent import StoredRevision
from scheduler.model.serving import ReplicaOwner
from scheduler.model.workload import Copy, Dependent, Placement, Workload

RawObject = Mapping[str, Any]
"""A Kubernetes object as JSON, parsed but not typed. Never mutated: copies are made of what changes."""


class Clock(Protocol):
    """The time of the federation. Virtual in the sandbox, the system's elsewhere; nobody downstream knows which."""

    def now(self) -> Instant: ...

    async def sleep(self, seconds: float) -> None:
        """Return after `seconds` of this clock."""
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """For one workload on one pool; None: unknown. Times in seconds, medians."""

    run_seconds: float | None
    start_seconds: float | None
    """From placing to running: provisioning (when nodes are bought; with what is expected to be lost on scale-ups that
    fail), image pull, start-up."""
    lost_seconds: float = 0.0
    """Expected to be spent beyond `run_seconds` on work that is lost to reclaims and done again."""
    run_log_sd: float | None = None
    """Standard deviation of the natural logarithm of `run_seconds`; None: the predictor does not say how sure it is."""
    availability: float | None = None
    """Chance that nodes come when they are asked for, where new ones are needed; None: it was never seen."""
    run_shape: tuple[float, ...] = ()
    """Logarithms of `run_seconds` at the levels of `scheduler.model.spread`, less that of the median; empty: no more is
    known than `run_log_sd`, and it is taken for log-normal."""
    transfer_seconds: float = 0.0
    """Part of `start_seconds`: bringing the run's data there. A predictor leaves it alone: the engine adds it."""
    transfer_usd: Usd | None = Decimal(0)
    """What that costs; None: unknown."""


class Predictor(Protocol):
    """Pure: the same arguments give the same answer."""

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction: ...


@runtime_checkable
class GroupingPredictor(Predictor, Protocol):
    """A predictor that says which pools are alike to it, so that one prediction serves all of them."""

    def alike(self, pool: NodePool) -> Hashable:
        """Pools with equal answers have equal predictions, whatever the workload and the number of new nodes."""
        ...


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """A node pool as its provider reports it."""

    pool: PoolId
    """The provider's own name for it."""
    instance_type: str
    capacity_type: str
    min_nodes: int
    max_nodes: int
    desired_nodes: int
    labels: tuple[tuple[str, str], ...]
    """Labels the provider puts on the pool's nodes, the one that names the pool included."""
    busy: bool
    """A resize is under way; most clouds refuse another one meanwhile."""
    shortage: Shortage | None = None
    gpu_model: str | None = None
    """The cloud's own word for it; None: not told (the nodes' labels may say)."""
    gpus: int | None = None
    """Of one node; None: not told."""
    taints: tuple[Taint, ...] = ()
    zones: tuple[str, ...] = ()
    """Empty: not told."""
    version: str | None = None
    """Kubernetes version of its nodes; None: not told."""
    health: tuple[str, ...] = ()
    """Troubles that the cloud reports, a line each; empty: none."""
    autoscaled: bool = False
    """Another autoscaler of the cloud owns its size: it is never resized by us."""


@runtime_checkable
class NodePoolProvider(Protocol):
    """Node pools of one member cluster. Async at this face; blocking SDKs run in their own bounded thread pool.

    All raise the typed errors of `scheduler.model.errors`. Every call may be repeated: sizes are absolute, removing a
    node that is gone succeeds.
    """

    async def list_pools(self) -> tuple[PoolStatus, ...]: ...

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        """Ask for that many nodes. Returns when the provider has accepted it, not when the nodes are there;
        CapacityError and QuotaError when it says so at once, otherwise `PoolStatus.shortage` tells later."""
        ...

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        """Give back this very node and lower the desired size by one."""
        ...

    async def list_clusters(self) -> tuple[CloudCluster, ...]:
        """The clusters that the account can see in the configured place, sorted by name; () where there is no cloud."""
        ...

    async def log_in(self) -> ClusterLogin:
        """A fresh short-lived way into the configured cluster's Kubernetes API. RefusedError where there is none."""
        ...

    async def check_access(self) -> tuple[AccessCheck, ...]:
        """What the identity may do, asked without changing anything: by the cloud's dry run or policy simulation where
        there is one, else by harmless reads; writes that cannot be asked about have `allowed` None. Raises only when
        nothing at all can be asked (no credentials, no answer)."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of Kubernetes object by its REST path."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> str:
        """As kubectl names it: deployments.apps, pods."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def custom(self) -> bool:
        """Whether a CRD defines it: Kubernetes' own groups have no dot, or end in .k8s.io."""
        return "." in self.group and not self.group.endswith(".k8s.io")


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """`type`: ADDED, MODIFIED, DELETED or BOOKMARK (whose object carries only a resourceVersion)."""

    type: str
    object: RawObject


@dataclass(frozen=True, slots=True)
class ObjectList:
    items: tuple[RawObject, ...]
    resource_version: str


class KubeApi(Protocol):
    """One cluster's Kubernetes API on raw JSON objects. Raises the typed errors of `scheduler.model.errors`.

    Two implementations: over HTTP by the official client (`clusters.kubernetes.client`), and in process inside the
    sandbox for its own controllers. `namespace` is "" for cluster-scoped resources and for all namespaces in lists.
    """

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        """All of them (pages followed), consistent; the version to watch from."""
        ...

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        """Events after `resource_version`; ends when the server closes the stream; GoneError when too old."""
        ...

    async def get(self, resource: Resource, namespace: str, name: str) -> RawObject: ...

    async def create(self, resource: Resource, namespace: str, body: RawObject) -> RawObject: ...

    async def update(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        """Replace; refused with ConflictError when `metadata.resourceVersion` is stale."""
        ...

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        """JSON merge patch; with `metadata.resourceVersion` or `metadata.uid` inside, a precondition."""
        ...

    async def create_subresource(
        self, resource: Resource, namespace: str, name: str, subresource: str, body: RawObject
    ) -> RawObject:
        """POST to a subresource: `pods/binding`, `pods/eviction`."""
        ...

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        propagation: str = "Background",
        grace_period_seconds: int | None = None,
    ) -> None:
        """Ask for deletion (`uid` as a precondition); NotFoundError when it is not there."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class MemberFacts:
    """What a kind needs of the chosen member to write its copy."""

    cluster: ClusterId
    hub: str
    """The hub's configured name, for the origin annotations."""
    pool_selector: tuple[tuple[str, str], ...]
    """Node labels that tell the chosen pool's nodes, and the topology domain that it is held to; the copy's pods are
    pinned to them."""
    pool_taints: tuple[tuple[str, str, str], ...] = ()
    """(key, value, effect) of taints that the pool's nodes carry because they are Overspill's."""
    excluded_nodes: tuple[str, ...] = ()
    """Nodes of the cluster on which this workload must not run."""
    labels: tuple[tuple[str, str], ...] = ()
    """Of the member, as the federation file gives them."""
    pod_labels: tuple[tuple[str, str], ...] = ()
    """That the copy's pods carry besides, and are selected by: those of a part of a divided service."""


@dataclass(frozen=True, slots=True)
class PartSeen:
    """A copy of a divided service as its member tells."""

    cluster: ClusterId
    raw: RawObject
    ready_pods: int
    """As the pods tell, for kinds whose own status does not."""


@dataclass(frozen=True, slots=True)
class Said:
    """A condition to be shown on a hub object."""

    type: str
    status: str
    """True, False or Unknown."""
    reason: str
    message: str


class WorkloadKind(Protocol):
    """One kind of workload, one module in `clusters/kinds/`; pure functions of JSON. Raises InvalidObjectError."""

    name: str
    hub_resource: Resource
    member_resources: tuple[Resource, ...]
    """What its copies may be; those that are custom need not be installed on every member."""

    def parse(self, obj: RawObject) -> Workload:
        """The workload that a hub object stands for; `invalid` set when it can never be placed."""
        ...

    def make_copy(self, obj: RawObject, workload: Workload, placement: Placement, member: MemberFacts) -> RawObject:
        """The object to create on the member."""
        ...

    def refresh_copy(
        self, obj: RawObject, workload: Workload, placement: Placement, member: MemberFacts, copy: RawObject
    ) -> RawObject | None:
        """Merge patch for the copy that brings it up to what the hub object asks for now (a Deployment's template and
        replicas, a Job's parallelism); None when it is, or when it cannot be changed any more. Never suspends or
        resumes: that is `suspend_patch`."""
        ...

    def parse_copy(self, obj: RawObject, cluster: ClusterId) -> Copy: ...

    def dependents(self, obj: RawObject, copy: RawObject) -> tuple[Dependent, ...]:
        """What must be in the copy's namespace for its pods to start: `copy` as it is made of the hub object `obj`."""
        ...

    def suspend_patch(self, obj: RawObject, *, suspend: bool) -> RawObject | None:
        """Merge patch for the copy that stops or starts its pods; None when there is nothing to change."""
        ...

    def mirror_status(self, obj: RawObject, copy: RawObject | None, ready_pods: int | None = None) -> RawObject | None:
        """Merge patch for the hub object's status subresource that makes it say what the copy's status says (None:
        it does already). `copy` None: there is no copy now. `ready_pods`: of the copy, as its member's pods tell, for
        kinds whose own status does not (None: not known)."""
        ...

    def condition_patch(
        self, obj: RawObject, *, reason: str, message: str, placed: bool, now: Instant
    ) -> RawObject | None:
        """Merge patch for the status subresource that sets the Overspill condition; None when it says that already."""
        ...


@runtime_checkable
class DivisibleKind(WorkloadKind, Protocol):
    """A kind whose workloads may run on several members at once, a copy (a part) for each pool and revision."""

    def revision(self, obj: RawObject) -> tuple[str, str]:
        """Name and packed content of the revision that the hub object asks for now. How many replicas it says changes
        neither the name nor anything that follows from it."""
        ...

    def scale(self, obj: RawObject, parts: Sequence[PartSeen]) -> tuple[ReplicaOwner, tuple[int | None, int | None]]:
        """Who sets the replicas, and the bounds that its user gave to another owner (None: none)."""
        ...

    def replicas(self, obj: RawObject) -> int:
        """That the hub object asks for, of a service that is not divided."""
        ...

    def make_part(
        self,
        workload: Workload,
        target: ReplicaTarget,
        revision: StoredRevision,
        placement: Placement,
        member: MemberFacts,
    ) -> RawObject:
        """The object to create for one pool and revision. Raises InvalidObjectError also for a revision that cannot be
        unpacked."""
        ...

    def scale_part(self, copy: RawObject, target: ReplicaTarget) -> RawObject | None:
        """Merge patch that gives the copy its replicas or bounds; None: it has them."""
        ...

    def is_made_of_present(self, obj: RawObject, copy: RawObject) -> bool:
        """Whether a copy of the undivided workload is made of what the hub object says now."""
        ...

    def ready_replicas(self, part: PartSeen) -> int: ...

    def service_status(
        self, obj: RawObject, parts: Sequence[PartSeen], said: Sequence[Said], now: Instant, *, retell: bool
    ) -> RawObject | None:
        """Merge patch for the hub object's status that tells of all parts together, and these conditions; None: it says
        so already. Without `retell` a condition stays that differs in its message only."""
        ...
