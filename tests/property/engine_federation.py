"""A tiny federation that obeys plans: members bind pods, machines arrive after their delay, runs end. Virtual time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from scheduler.engine.cycle import cycle
from scheduler.engine.spend import NodeLifetime, SpendLedger, advance
from scheduler.model.cluster import Cluster, Node, NodePool
from scheduler.model.contract import TOPOLOGY_NODE
from scheduler.model.ids import Instant, NodeName, PoolRef, Uid
from scheduler.model.money import Usd
from scheduler.model.plan import Plan
from scheduler.model.policy import PolicySet
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import MOVED, Copy, Placement, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import copy_of, node

MAX_CYCLES_AT_ONCE = 8


@dataclass
class Federation:
    now: Instant
    clusters: list[Cluster]
    policies: PolicySet
    workloads: dict[Uid, Workload]
    bound: dict[Uid, list[tuple[str, NodeName, Resources]]] = field(default_factory=dict)
    """Pods on nodes: (cluster, node, requests)."""
    ends_at: dict[Uid, Instant] = field(default_factory=dict)
    started_at: dict[Uid, Instant] = field(default_factory=dict)
    machines: list[tuple[Instant, PoolRef]] = field(default_factory=list)
    finished: set[Uid] = field(default_factory=set)
    bursts: int = 0
    returns: int = 0
    made: int = 0
    ledger: SpendLedger = field(default_factory=SpendLedger)
    lifetimes: dict[NodeName, NodeLifetime] = field(default_factory=dict)
    arrivals: list[Workload] = field(default_factory=list)
    """Workloads to come, each when it is `queued_at`."""
    first_started: dict[Uid, Instant] = field(default_factory=dict)
    release_seconds: float = 0.0
    """How long a copy that is told to go stays on its nodes."""
    leaves_at: dict[Uid, Instant] = field(default_factory=dict)
    releases: list[tuple[Instant, Uid, str]] = field(default_factory=list)
    """(when, who, why) of every placement that was released."""
    moves: list[tuple[Instant, Uid]] = field(default_factory=list)
    stranded: set[Uid] = field(default_factory=set)
    """Those that were started at some time and not bound at once: others had been bound where they were to go."""
    spreads: bool = False
    """Whether members bind each pod to the emptiest node that fits (as kube-scheduler does unless it is told
    otherwise), and not to the fullest."""

    def snapshot(self) -> Snapshot:
        self.ledger = advance(self.ledger, self.lifetimes.values(), self.now)
        return Snapshot(
            self.now,
            True,
            tuple(self.clusters),
            tuple(self.workloads.values()),
            tuple(self._copy(each) for each in self.workloads.values() if self._has_copy(each)),
            self.ledger.buckets,
        )

    @property
    def spent_usd(self) -> Usd:
        """Metered node time times price."""
        return advance(self.ledger, self.lifetimes.values(), self.now).total_usd

    def settle(self) -> Plan:
        """Cycles and obeys until nothing changes any more; the last plan. Time stands still."""
        for _ in range(MAX_CYCLES_AT_ONCE):
            plan = cycle(self.snapshot(), self.policies, FirstPredictor())
            check_room(self.snapshot(), plan)
            self.obey(plan)
            if not (plan.placements or plan.scales or plan.removals or plan.decisions):
                return plan
        raise AssertionError(f"no rest after {MAX_CYCLES_AT_ONCE} cycles at one instant: {plan}")

    def run(self, *, until: Instant) -> None:
        """Settle and leap from event to event until nothing is left to happen, or `until`."""
        while True:
            plan = self.settle()
            events = [plan.wake_at] if plan.wake_at is not None else []
            events += [*self.ends_at.values(), *(at for at, _ in self.machines)]
            events += [*self.leaves_at.values(), *(each.queued_at for each in self.arrivals)]
            upcoming = [event for event in events if event > self.now]
            if not upcoming or min(upcoming) > until:
                return
            self.advance(min(upcoming))

    def advance(self, now: Instant) -> None:
        self.now = now
        for uid, end in sorted(self.ends_at.items()):
            if end <= now:
                self._end(uid)
        for uid, at in sorted(self.leaves_at.items()):
            if at <= now:
                self._leave(uid)
        for each in self.arrivals:
            if each.queued_at <= now:
                self.workloads[each.ref.uid] = each
        self.arrivals = [each for each in self.arrivals if each.queued_at > now]
        arrived = [entry for entry in self.machines if entry[0] <= now]
        self.machines = [entry for entry in self.machines if entry[0] > now]
        for _, ref in arrived:
            self._add_node(ref)
        self._bind_all()

    def obey(self, plan: Plan) -> None:
        for change in plan.placements:
            before = self.workloads[change.workload.uid]
            assert before.placement == change.replaces
            state = change.placement.state
            self.bursts += state is PlacementState.RESERVED
            if state is PlacementState.RELEASING:
                self.releases.append((self.now, change.workload.uid, change.placement.reason))
                self.workloads[change.workload.uid] = replace(before, placement=change.placement)
                self.leaves_at[change.workload.uid] = self.now + self.release_seconds
                if not self.release_seconds:
                    self._leave(change.workload.uid)
            else:
                if change.placement.reason == MOVED:
                    assert before.placement is not None
                    assert change.placement.moved_from == before.placement.cluster
                    self.moves.append((self.now, change.workload.uid))
                    before = self._stopped(before)
                self.workloads[change.workload.uid] = replace(before, placement=change.placement)
        for closure in plan.closures:
            self._map_nodes(
                closure.pool.cluster,
                lambda each, name=closure.node: (
                    replace(each, unschedulable=True, closed=True) if each.name == name else each
                ),
            )
        for opening in plan.openings:
            self._map_nodes(
                opening.pool.cluster,
                lambda each, name=opening.node: (
                    replace(each, unschedulable=False, closed=False) if each.name == name else each
                ),
            )
        for decision in plan.decisions:
            workload = self.workloads[decision.workload.uid]
            said = (decision.reason.code, decision.sentence)
            self.workloads[decision.workload.uid] = replace(workload, condition=said)
        for scale in plan.scales:
            pool = self.pool(scale.pool)
            assert pool.min_nodes <= scale.desired_nodes <= pool.max_nodes
            more = scale.desired_nodes - (pool.desired_nodes or 0)
            self._set_pool(replace(pool, desired_nodes=scale.desired_nodes))
            ready_at = self.now + (pool.provisioning_seconds or 0.0)
            self.machines += [(ready_at, scale.pool)] * more
            for _ in range(-more):
                self.machines.remove(max(entry for entry in self.machines if entry[1] == scale.pool))
        for removal in plan.removals:
            self._remove(removal.pool, removal.node)
        self._bind_all()

    def pool(self, ref: PoolRef) -> NodePool:
        return next(pool for cluster in self.clusters for pool in cluster.pools if pool.ref == ref)

    @property
    def bought_nodes(self) -> int:
        bought = {pool.ref for cluster in self.clusters for pool in cluster.pools if pool.bought}
        return sum(PoolRef(c.id, n.pool) in bought for c in self.clusters for n in c.nodes if n.pool is not None)

    def _copy(self, workload: Workload) -> Copy:
        holds: dict[NodeName, Resources] = {}
        for _, name, pod in self.bound.get(workload.ref.uid, []):
            holds[name] = holds.get(name, Resources()) + pod
        return copy_of(
            workload,
            holds=tuple(sorted(holds.items())),
            pods_bound=len(self.bound.get(workload.ref.uid, [])),
            started_at=self.started_at.get(workload.ref.uid),
        )

    @staticmethod
    def _has_copy(workload: Workload) -> bool:
        states = (PlacementState.STARTED, PlacementState.RELEASING)
        return workload.placement is not None and workload.placement.state in states

    def _bind_all(self) -> None:
        """Each member's scheduler: the whole gang, big pods first, on nodes of its pool that it is not kept off."""
        for uid, workload in sorted(self.workloads.items()):
            placement = workload.placement
            if placement is None or placement.state is not PlacementState.STARTED or uid in self.bound:
                continue
            spots = self._spots(workload)
            if spots is None:
                self.stranded.add(uid)
            else:
                self.bound[uid] = spots
                for cluster, name, pod in spots:
                    self._use(cluster, name, pod, 1)
                self.started_at[uid] = self.now
                self.first_started.setdefault(uid, self.now)
                self.ends_at[uid] = self.now + (workload.hints.expected_seconds or 100.0)

    def _spots(self, workload: Workload) -> list[tuple[str, NodeName, Resources]] | None:
        placement = workload.placement
        assert placement is not None
        cluster = next(each for each in self.clusters if each.id == placement.cluster)
        there = [n for n in cluster.nodes if n.pool == placement.pool and n.usable and _lets_in(placement, n)]
        free = {n.name: n.allocatable - n.used for n in there}
        spots: list[tuple[str, NodeName, Resources]] = []
        sign = -1 if self.spreads else 1
        for pod_set in sorted(workload.pod_sets, key=lambda each: each.requests.gpus, reverse=True):
            for _ in range(pod_set.count):
                fitting = [name for name in free if pod_set.requests.fits_in(free[name])]
                if not fitting:
                    return None
                name = min(fitting, key=lambda each: (sign * free[each].gpus, sign * free[each].cpu_milli, each))
                free[name] = free[name] - pod_set.requests
                spots.append((cluster.id, name, pod_set.requests))
        return spots

    def _end(self, uid: Uid) -> None:
        self._free(uid)
        self.finished.add(uid)
        del self.workloads[uid]

    def _leave(self, uid: Uid) -> None:
        """Back into the queue, from its beginning or its last checkpoint."""
        self.workloads[uid] = replace(self._stopped(self.workloads[uid]), placement=None, condition=None)

    def _stopped(self, workload: Workload) -> Workload:
        """Off its nodes, with what is left of its work."""
        uid = workload.ref.uid
        hints, started = workload.hints, self.started_at.get(uid)
        every = hints.checkpoint_every_seconds
        if every is not None and hints.expected_seconds is not None and started is not None:
            ran = self.now - started
            hints = replace(hints, expected_seconds=max(1.0, hints.expected_seconds - (ran - ran % every)))
        self._free(uid)
        return replace(workload, queued_at=self.now, hints=hints)

    def _free(self, uid: Uid) -> None:
        for cluster, name, pod in self.bound.pop(uid, []):
            self._use(cluster, name, pod, -1)
        self.ends_at.pop(uid, None)
        self.leaves_at.pop(uid, None)
        self.started_at.pop(uid, None)

    def _use(self, cluster_id: str, name: NodeName, pod: Resources, sign: int) -> None:
        def change(each: Node) -> Node:
            pods = each.workload_pods + sign
            idle = self.now if pods == 0 else None
            return replace(each, used=each.used + pod.times(sign), workload_pods=pods, idle_since=idle)

        self._map_nodes(cluster_id, lambda each: change(each) if each.name == name else each)

    def _map_nodes(self, cluster_id: str, change: object) -> None:
        assert callable(change)
        for index, cluster in enumerate(self.clusters):
            if cluster.id == cluster_id:
                self.clusters[index] = replace(cluster, nodes=tuple(change(each) for each in cluster.nodes))

    def _add_node(self, ref: PoolRef) -> None:
        self.made += 1
        fresh = node(ref.pool, f"{ref.cluster}-{ref.pool}-{self.made:03d}", created_at=self.now, idle_since=self.now)
        pool = self.pool(ref)
        fresh = replace(fresh, allocatable=pool.node_resources)
        rate = None if pool.price is None else pool.price.usd_per_hour
        self.lifetimes[fresh.name] = NodeLifetime(
            ref.cluster, ref.pool, fresh.uid, fresh.name, pool.capacity_type, rate, self.now
        )
        for index, cluster in enumerate(self.clusters):
            if cluster.id == ref.cluster:
                self.clusters[index] = replace(cluster, nodes=(*cluster.nodes, fresh))

    def _remove(self, ref: PoolRef, name: NodeName) -> None:
        pool = self.pool(ref)
        self.returns += 1
        self.lifetimes[name] = replace(self.lifetimes[name], ended_at=self.now)
        self._set_pool(replace(pool, desired_nodes=(pool.desired_nodes or 0) - 1))
        for index, cluster in enumerate(self.clusters):
            if cluster.id == ref.cluster:
                gone = next(each for each in cluster.nodes if each.name == name)
                assert gone.workload_pods == 0, "a node with workload pods was given back"
                self.clusters[index] = replace(cluster, nodes=tuple(n for n in cluster.nodes if n.name != name))

    def _set_pool(self, pool: NodePool) -> None:
        for index, cluster in enumerate(self.clusters):
            if cluster.id == pool.ref.cluster:
                pools = tuple(pool if each.ref == pool.ref else each for each in cluster.pools)
                self.clusters[index] = replace(cluster, pools=pools)


def _lets_in(placement: Placement, node: Node) -> bool:
    """Whether the placement lets the copy's pods onto the node; one without labels is named by its name."""
    if placement.domain is not None:
        key, value = placement.domain
        if dict(node.labels).get(key, node.name if key == TOPOLOGY_NODE else None) != value:
            return False
    return node.name not in placement.kept_off


def check_room(snapshot: Snapshot, plan: Plan) -> None:
    """What starts now fits, pod by pod, on the free room of its pool's nodes, beside all that started before."""
    workloads = {each.ref.uid: each for each in snapshot.workloads}
    for cluster in snapshot.clusters:
        for pool in cluster.pools:
            free = [n.allocatable - n.used for n in cluster.nodes if n.pool == pool.ref.pool and n.usable]
            total = Resources()
            for room in free:
                total = total + room
            starting = [
                workloads[change.workload.uid]
                for change in plan.placements
                if change.placement.state is PlacementState.STARTED and change.placement.pool_ref == pool.ref
            ]
            wanted = Resources()
            for workload in starting:
                wanted = wanted + workload.requests
                for pod_set in workload.pod_sets:
                    assert any(pod_set.requests.fits_in(room) for room in free), f"{workload.ref} fits no node"
            assert wanted.fits_in(total), f"{pool.ref}: {wanted} assumed onto {total}"
