"""A small fleet for tests of remediation: what actions do to it, at once and exactly."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scheduler.aiops.remediation.facts import Fleet, Incident, NodeFact, PoolFact, Subject, WorkloadFact
from scheduler.model.ids import ClusterId, NodeName, PoolId, PoolRef, Uid
from scheduler.model.remediation import (
    CORDON,
    DRAIN,
    NOTIFY,
    REPLACE,
    UNDO,
    Action,
    ActionRule,
    Guards,
    Limit,
    Mark,
    RemediationPolicy,
)

FEDERATION = "test"
CLUSTER = ClusterId("onprem")
XID = "gpu.xid.79"


def ref(pool: str = "a100", cluster: ClusterId = CLUSTER) -> PoolRef:
    return PoolRef(cluster, PoolId(pool))


def a_policy(name: str = "gpu", *actions: str | ActionRule, **guards: object) -> RemediationPolicy:
    """A live policy; its guards let one after another pass unless told otherwise."""
    rules = tuple(ActionRule(each) if isinstance(each, str) else each for each in actions)
    wide: dict[str, object] = {
        "dry_run": False,
        "max_unavailable": Limit(count=1),
        "rate": 100,
        "alike": 1000,
        "cool_down_seconds": 3600.0,
        "healthy_seconds": 600.0,
    }
    return RemediationPolicy(name, actions=rules, guards=Guards(**(wide | guards)))  # type: ignore[arg-type]


def an_incident(node: str = "n0", kind: str = XID, *, at: float = 0.0, name: str = "", state: str = "open") -> Incident:
    return Incident(name or f"{kind}-{node}", kind, "critical", Subject(str(CLUSTER), None, node), at, state)


@dataclass
class Emulated:
    """Nodes of some pools. `act` does what an action says; `started` keeps every first disruption of a node."""

    now: float = 0.0
    nodes: dict[str, NodeFact] = field(default_factory=dict)
    missing: dict[PoolRef, int] = field(default_factory=dict)
    workloads: tuple[WorkloadFact, ...] = ()
    replaceable: bool = True
    available: bool = True
    paused: bool = False
    approved: set[str] = field(default_factory=set)
    started: list[tuple[PoolRef, str, float]] = field(default_factory=list)
    done: list[Action] = field(default_factory=list)
    born: int = 0

    def add(self, count: int, pool: str = "a100", *, created_at: float = -1e9) -> Emulated:
        for _ in range(count):
            name = f"n{self.born}"
            node = NodeFact(CLUSTER, ref(pool), NodeName(name), f"uid-{self.born}", created_at, gpus=8)
            self.nodes[name] = node
            self.missing.setdefault(ref(pool), 0)
            self.born += 1
        return self

    def change(self, name: str, **what: object) -> None:
        self.nodes[name] = replace(self.nodes[name], **what)  # type: ignore[arg-type]

    def fleet(self) -> Fleet:
        pools = tuple(
            PoolFact(pool, "onprem", "eu", "owned", replaceable=self.replaceable, growable=True, missing=missing)
            for pool, missing in self.missing.items()
        )
        return Fleet(
            nodes=tuple(self.nodes.values()),
            pools=pools,
            workloads=self.workloads,
            available=frozenset({CLUSTER}) if self.available else frozenset(),
            name=FEDERATION,
            paused=self.paused,
            approved=frozenset(self.approved),
        )

    def away(self, pool: PoolRef) -> set[str]:
        """Nodes of the pool that cannot be used, machines that are missing included."""
        gone = {f"missing-{number}" for number in range(self.missing[pool])}
        return gone | {n.uid for n in self.nodes.values() if n.pool == pool and (n.held or not n.usable)}

    def size(self, pool: PoolRef) -> int:
        return sum(node.pool == pool for node in self.nodes.values()) + self.missing[pool]

    def act(self, action: Action) -> None:
        """Carry it out."""
        self.done.append(action)
        node = self.nodes.get(action.target.node or "")
        if action.action == NOTIFY or node is None or node.uid != action.target.node_uid:
            return
        assert node.pool is not None
        if action.action == UNDO:
            self.change(node.name, held=False, usable=True)
            return
        if not node.held:
            self.started.append((node.pool, node.name, self.now))
        if action.action == REPLACE:
            del self.nodes[node.name]
            self.missing[node.pool] += 1
            return
        mark = Mark(FEDERATION, action.incident, action.signal, action.action, action.since)
        self.change(node.name, held=True, usable=False, mark=mark)

    def deliver(self, pool: PoolRef) -> None:
        """A missing machine comes."""
        if self.missing[pool]:
            self.missing[pool] -= 1
            self.add(1, pool.pool, created_at=self.now)


def a_workload(uid: str = "w1", pool: str | None = "a100", **more: object) -> WorkloadFact:
    where = None if pool is None else ref(pool)
    return WorkloadFact(Uid(uid), f"job/default/{uid}", "research", where, **more)  # type: ignore[arg-type]


CONTAIN = (CORDON, DRAIN)
