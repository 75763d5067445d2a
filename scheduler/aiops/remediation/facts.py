"""What the choice of a remedy looks at: incidents, and the fleet as it can be seen now. Frozen; whoever makes it has
left out what is not certain."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Protocol

from scheduler.model.ids import ClusterId, Instant, NodeName, PoolRef, Uid
from scheduler.model.remediation import Mark

RESOLVED: Final = "resolved"
SUPPRESSED: Final = "suppressed"
SEVERITIES: Final = ("critical", "high", "warning", "info")
"""Most urgent first; another word counts as the last."""


class SubjectLike(Protocol):
    """What an incident is about, as far as it is known."""

    @property
    def cluster(self) -> str | None: ...
    @property
    def pool(self) -> str | None: ...
    @property
    def node(self) -> str | None: ...
    @property
    def gpu(self) -> str | None: ...
    @property
    def workload(self) -> str | None:
        """UID of the hub object."""
        ...


class IncidentLike(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def severity(self) -> str: ...
    @property
    def subject(self) -> SubjectLike: ...
    @property
    def opened_at(self) -> Instant: ...
    @property
    def state(self) -> str:
        """resolved and suppressed are told apart from all others, which are open."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    cluster: str | None = None
    pool: str | None = None
    node: str | None = None
    gpu: str | None = None
    workload: str | None = None


@dataclass(frozen=True, slots=True)
class Incident:
    id: str
    kind: str
    severity: str
    subject: Subject
    opened_at: Instant
    state: str = "open"


@dataclass(frozen=True, slots=True)
class NodeFact:
    """A node, with who has a hand on it."""

    cluster: ClusterId
    pool: PoolRef | None
    name: NodeName
    uid: str
    created_at: Instant
    usable: bool = True
    """Ready, and neither cordoned nor on its way out."""
    mark: Mark | None = None
    """Ours, or another federation's."""
    held: bool = False
    """Whether it carries our taint: closed by a remedy."""
    owner: str = ""
    """Another controller or person that is changing it (one of its markers); empty: nobody."""
    do_not_disrupt: bool = False
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class PoolFact:
    ref: PoolRef
    provider: str = ""
    region: str = ""
    capacity_type: str = ""
    replaceable: bool = False
    """Whether its provider can take a node back and send another."""
    growable: bool = False
    missing: int = 0
    """Machines that its provider aims at and that have no node yet."""


@dataclass(frozen=True, slots=True)
class WorkloadFact:
    uid: Uid
    name: str
    """kind/namespace/name."""
    queue: str
    pool: PoolRef | None
    """Where it runs; None: it does not."""
    serving: bool = False
    gpus: int = 0
    interrupted_at: Instant | None = None
    """When it was last put back into its queue after it had run, by whomever; None: never."""


@dataclass(frozen=True)
class Fleet:
    """The federation as the choice sees it."""

    nodes: tuple[NodeFact, ...] = ()
    pools: tuple[PoolFact, ...] = ()
    workloads: tuple[WorkloadFact, ...] = ()
    available: frozenset[ClusterId] = frozenset()
    """Clusters that are synced and answer: only about these is anything decided."""
    name: str = ""
    """The federation's, as its marks say it."""
    paused: bool = False
    """The fleet-wide switch, or not knowing how it stands."""
    approved: frozenset[str] = field(default_factory=frozenset)
    """Ids of incidents whose next action a person has approved."""

    @cached_property
    def node_of(self) -> dict[tuple[str, str], NodeFact]:
        return {(node.cluster, node.name): node for node in self.nodes}

    @cached_property
    def pool_of(self) -> dict[PoolRef, PoolFact]:
        return {pool.ref: pool for pool in self.pools}

    @cached_property
    def workload_of(self) -> dict[str, WorkloadFact]:
        return {workload.uid: workload for workload in self.workloads}

    @cached_property
    def nodes_in(self) -> dict[PoolRef, tuple[NodeFact, ...]]:
        found: dict[PoolRef, list[NodeFact]] = {}
        for node in self.nodes:
            if node.pool is not None:
                found.setdefault(node.pool, []).append(node)
        return {ref: tuple(nodes) for ref, nodes in found.items()}


def subject_key(subject: SubjectLike) -> str:
    """What is counted as one thing: a node whatever of it is in trouble, else a workload, a pool, a cluster."""
    if subject.node:
        return f"node/{subject.cluster or ''}/{subject.node}"
    if subject.workload:
        return f"workload/{subject.workload}"
    if subject.pool:
        return f"pool/{subject.cluster or ''}/{subject.pool}"
    return f"cluster/{subject.cluster or ''}"


def family(kind: str) -> str:
    """The first two parts of a signal's name: gpu.xid of gpu.xid.79."""
    return ".".join(kind.split(".")[:2])


def severity_rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)
