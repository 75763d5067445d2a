"""Member clusters, their node pools and nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId, PoolRef
from scheduler.model.money import Price, Usd
from scheduler.model.resources import Resources

OWNED: Final = "owned"
RESERVED: Final = "reserved"
ON_DEMAND: Final = "on-demand"
SPOT: Final = "spot"


@dataclass(frozen=True, slots=True, order=True)
class Taint:
    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class Reclaim:
    """A cloud's notice that it takes a node back."""

    cluster: ClusterId
    pool: PoolId | None
    node: NodeName
    node_uid: str
    noticed_at: Instant
    deadline: Instant | None
    """When the machine goes; None: not told."""
    source: str
    """The taint, condition or Event that said so."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as its cluster reports it, with what the pods bound to it use."""

    name: NodeName
    uid: str
    pool: PoolId | None
    """None: of no pool that the federation file names; it is shown but never placed on."""
    allocatable: Resources
    used: Resources
    """Requests of all bound pods that are not terminal, whoever owns them."""
    workload_pods: int
    """Bound, non-terminal pods other than DaemonSet and static ones; 0 means idle."""
    labels: tuple[tuple[str, str], ...]
    taints: tuple[Taint, ...]
    ready: bool
    unschedulable: bool
    deleting: bool
    created_at: Instant
    idle_since: Instant | None = None
    """Since when `workload_pods` has been 0; None when it is not, or was never seen."""
    do_not_disrupt: bool = False
    provider_id: str = ""
    reclaim: Reclaim | None = None
    """Set once its cloud has said that it takes the machine back."""
    closed: bool = False
    """Made unschedulable by Overspill, because what was on it was to be moved off."""

    @property
    def usable(self) -> bool:
        """Whether new pods may be put on it."""
        return self.ready and not self.leaving

    @property
    def leaving(self) -> bool:
        """Whether it is on its way out, or closed to new pods."""
        return self.deleting or self.unschedulable or self.reclaim is not None


@dataclass(frozen=True, slots=True)
class Shortage:
    """The provider could not deliver nodes of this pool. `kind`: capacity, quota, or error."""

    kind: str
    text: str
    since: Instant


@dataclass(frozen=True, slots=True)
class NodePool:
    """A group of identical nodes, and (when it can grow) the offering of more of them."""

    ref: PoolRef
    capacity_type: str
    """owned, reserved, on-demand or spot."""
    scaling: str
    """fixed: never resized; managed: Overspill resizes it; external: another autoscaler owns its size."""
    instance_type: str
    min_nodes: int
    max_nodes: int
    desired_nodes: int | None
    """What the provider was last known to aim at; None: not known, so it is not resized."""
    node_resources: Resources
    """Allocatable of one node of it, from the federation file or its provider."""
    gpu_model: str | None
    gpu_memory_bytes: int | None
    labels: tuple[tuple[str, str], ...]
    """Labels that its nodes carry; `selector` is the part that tells them from other pools' nodes."""
    selector: tuple[tuple[str, str], ...]
    taints: tuple[Taint, ...]
    price: Price | None
    """Of one node; None: unknown."""
    provisioning_seconds: float | None
    shortage: Shortage | None = None
    last_price: Price | None = None
    """The last that was known while `price` is not (its source fell silent). Nothing is bought at it; what runs there
    already is reckoned at it, so that a budget does not take running nodes for free."""

    quarantined: bool = False
    """Closed to new placements because of an incident."""
    keeps_size: bool = False
    """A remedy has enlarged it ahead of demand: what is idle or on its way is not given back meanwhile."""

    @property
    def reckoned_price(self) -> Price | None:
        """What nodes that are there already are reckoned at."""
        return self.price if self.price is not None else self.last_price

    @property
    def bought(self) -> bool:
        """Whether its nodes are bought for bursts and given back when idle."""
        return self.scaling == "managed" and self.capacity_type in (ON_DEMAND, SPOT)


@dataclass(frozen=True, slots=True)
class Route:
    """The way from another member to this one, for data."""

    source: ClusterId
    usd_per_gib: Usd | None
    """What the source's provider takes for letting it out; None: unknown."""
    bytes_per_second: float | None
    """None: unknown."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A member. `synced` is False until its first complete list; `unreachable_since` is set while its API is silent."""

    id: ClusterId
    provider: str
    region: str
    labels: tuple[tuple[str, str], ...]
    synced: bool
    unreachable_since: Instant | None
    nodes: tuple[Node, ...]
    pools: tuple[NodePool, ...]
    round_trip_seconds: float | None = None
    routes: tuple[Route, ...] = ()
    """From members without one nobody knows what bringing data here takes."""

    @property
    def available(self) -> bool:
        """Whether decisions may rest on what is known of it."""
        return self.synced and self.unreachable_since is None
