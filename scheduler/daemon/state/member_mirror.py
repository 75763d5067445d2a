"""What is known of one member cluster: nodes, pods by node, copies; kept incrementally as watch events arrive."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from clusters.kubernetes.codec import NodeFacts, PodFacts, parse_node, parse_pod
from clusters.kubernetes.hubobjects import resource_of
from clusters.kubernetes.reclaim import (
    EventNotice,
    Notice,
    event_notice,
    holds,
    most_telling,
    node_notices,
    with_deadline,
)
from scheduler.daemon.config.federation import Member
from scheduler.daemon.gathering.discovery import Discovered
from scheduler.model.cluster import Cluster, Node, NodePool, Reclaim, Route
from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId, PoolRef, Uid
from scheduler.model.money import Price
from scheduler.model.ports import PoolStatus, RawObject, Resource, WorkloadKind
from scheduler.model.resources import Resources
from scheduler.model.workload import Copy

CopyKey = tuple[str, str, str]
"""What it is, as kubectl names it (deployments.apps), namespace, name."""
NODES = "nodes"
PODS = "pods"
POOLS = "pools"
"""Not a Kubernetes resource: what the member's provider says of its node pools."""
NODE_EVENTS = "node-events"
"""Events about nodes: watched beside the rest, and never waited for."""
_EVENT_NOTICES_AT_MOST: Final = 10_000


@dataclass(frozen=True, slots=True)
class CopyEntry:
    copy: Copy
    raw: RawObject
    resource: Resource

    @property
    def key(self) -> CopyKey:
        return (self.resource.key, self.copy.namespace, self.copy.name)


@dataclass(frozen=True, slots=True)
class Usage:
    """What the pods bound to one node ask for."""

    requests: Resources
    workload_pods: int


_NO_USAGE: Final = Usage(Resources(), 0)


class MemberMirror:
    """One member's state. Not thread-safe: it belongs to the event loop."""

    def __init__(
        self,
        member: Member,
        resources: Iterable[str],
        touched: Callable[[Uid], None],
        pod_moved: Callable[[PodFacts, str, bool], None],
    ) -> None:
        """`pod_moved(pod, node UID, bound)` is called when one of our pods begins or ends to use a node."""
        self.member = member
        self._touched = touched
        self._pod_moved = pod_moved
        self._awaiting = set(resources)
        self.unserved: set[str] = set()
        """Resources that its API does not know, as kubectl names them: their definition is not installed there."""
        self._failing: dict[str, str] = {}
        self.unreachable_since: Instant | None = None
        self.routes: tuple[Route, ...] = ()
        self.round_trip_seconds: float | None = None
        self.round_trip_at: Instant | None = None
        """When it was measured or, while it is None, last tried; None: never yet."""
        self.nodes: dict[str, NodeFacts] = {}
        self.pods: dict[str, PodFacts] = {}
        self.copies: dict[CopyKey, CopyEntry] = {}
        self.copies_of: dict[Uid, set[CopyKey]] = {}
        self.bound: dict[Uid, int] = {}
        """Pods on a node by whose they are (`PodFacts.owner`), as in the next two."""
        self._holds: dict[Uid, dict[NodeName, Resources]] = {}
        self._ready: Counter[Uid] = Counter()
        self.pool_status: dict[PoolId, PoolStatus] = {}
        """Of the pools that the federation file names, as far as it is known what the provider aims at."""
        self.discovered = Discovered()
        self.quarantined: frozenset[PoolRef] = frozenset()
        """Pools that take nothing new because of an incident."""
        self.kept_sizes: frozenset[PoolRef] = frozenset()
        """Pools that a remedy has enlarged."""
        self._prices: dict[PoolId, tuple[Price, Instant]] = {}
        """Gathered ones, of pools to which the federation file gives none, each with when it goes stale."""
        self._last_prices: dict[PoolId, Price] = {}
        self._usage: dict[str, Usage] = {}
        self._idle_since: dict[str, Instant] = {}
        self._node_cache: dict[str, Node] = {}
        self.reclaims: dict[str, Reclaim] = {}
        """By node UID."""
        self.on_reclaim: Callable[[Reclaim], Reclaim] = lambda reclaim: reclaim
        """A node is taken back, or more is known of it; gives the reclaim as it is known from now on."""
        self.on_reclaim_withdrawn: Callable[[Reclaim], None] = lambda reclaim: None
        """Its cloud has taken the notice back."""
        self.on_node_gone: Callable[[ClusterId, str], None] = lambda cluster, uid: None
        self.on_copy_gone: Callable[[], None] = lambda: None
        self.on_advice: Callable[[Reclaim], None] = lambda advice: None
        """The cloud says that it may take the node soon; called again and again while it says so."""
        self._node_notices: dict[str, tuple[Notice, ...]] = {}
        self._event_notices: dict[str, EventNotice] = {}
        """The newest about each node name."""

    # -- reachability ------------------------------------------------------------------------------------------

    @property
    def synced(self) -> bool:
        """Whether a complete list of every watched resource has been seen, and the provider was asked once."""
        return not self._awaiting

    @property
    def nodes_known(self) -> bool:
        """Whether its nodes have been listed once."""
        return NODES not in self._awaiting

    @property
    def available(self) -> bool:
        """Whether what is known of it can be acted on."""
        return self.synced and self.unreachable_since is None

    @property
    def error(self) -> str | None:
        """Why it cannot be reached, when that is so."""
        return next(iter(self._failing.values()), None)

    def set_reachable(self, resource: str, reachable: bool, error: str | None, now: Instant) -> None:
        """One of its watches came up or went down."""
        if reachable:
            self._failing.pop(resource, None)
        else:
            self._failing[resource] = error or "unreachable"
        if not self._failing:
            self.unreachable_since = None
        elif self.unreachable_since is None:
            self.unreachable_since = now

    def set_round_trip(self, seconds: float | None, now: Instant) -> None:
        """What a ping took; None: it was not answered."""
        self.round_trip_seconds, self.round_trip_at = seconds, now

    def listed(self, resource: str) -> None:
        """A complete list of `resource` has been applied."""
        self._awaiting.discard(resource)

    # -- nodes -------------------------------------------------------------------------------------------------

    def apply_node(self, raw: RawObject, now: Instant) -> NodeFacts:
        facts = parse_node(raw)
        if (old := self.nodes.get(facts.name)) is not None and old.uid != facts.uid:
            self.drop_node(facts.name)
        self.nodes[facts.name] = facts
        self._node_cache.pop(facts.name, None)
        if facts.name not in self._idle_since and not self._usage.get(facts.name, _NO_USAGE).workload_pods:
            self._idle_since[facts.name] = now
        self._node_notices[facts.name] = node_notices(raw)
        self._weigh_notices(facts, now)
        return facts

    def drop_node(self, name: str) -> NodeFacts | None:
        self._node_cache.pop(name, None)
        self._idle_since.pop(name, None)
        self._node_notices.pop(name, None)
        facts = self.nodes.pop(name, None)
        if facts is not None:
            self.reclaims.pop(facts.uid, None)
            self.on_node_gone(self.member.id, facts.uid)
        return facts

    def apply_event(self, raw: RawObject, now: Instant) -> bool:
        """Take up what an Event says of a node; whether that changed what is known of one."""
        found = event_notice(raw)
        if found is None:
            return False
        self._event_notices.pop(found.node, None)
        self._event_notices[found.node] = found
        while len(self._event_notices) > _EVENT_NOTICES_AT_MOST:
            del self._event_notices[next(iter(self._event_notices))]
        facts = self.nodes.get(found.node)
        return facts is not None and self._weigh_notices(facts, now)

    def _weigh_notices(self, facts: NodeFacts, now: Instant) -> bool:
        """Make one Reclaim, or none, of all that is said of a node; whether it is another than before."""
        notices = list(self._node_notices.get(facts.name, ()))
        said = self._event_notices.get(facts.name)
        if said is not None and holds(said, facts, now):
            notices.append(said.notice)
        old, pool = self.reclaims.get(facts.uid), self.pool_of(facts)
        first = next(iter(most_telling(notices)), None)
        new: Reclaim | None = None
        if first is not None:
            pool_id = pool.ref.pool if pool is not None else None
            found = Reclaim(self.member.id, pool_id, facts.name, facts.uid, now, None, first.source)
            if first.advice:
                self.on_advice(found)
            else:
                new = with_deadline(found, old, first)
        if new == old:
            return False
        self._node_cache.pop(facts.name, None)
        if new is not None:
            self.reclaims[facts.uid] = self.on_reclaim(new)
        elif old is not None:
            del self.reclaims[facts.uid]
            self.on_reclaim_withdrawn(old)
        return True

    def pool_of(self, facts: NodeFacts) -> NodePool | None:
        """The first pool of the federation file whose selector the node's labels satisfy."""
        labels = dict(facts.labels)
        for pool in self.member.pools:
            if all(labels.get(key) == value for key, value in pool.selector):
                return pool
        return None

    # -- pods --------------------------------------------------------------------------------------------------

    def apply_pod(self, raw: RawObject, now: Instant) -> None:
        self._put_pod(parse_pod(raw), now)

    def drop_pod(self, key: str, now: Instant) -> None:
        pod = self.pods.pop(key, None)
        if pod is not None:
            self._account(pod, -1, now)

    def _put_pod(self, pod: PodFacts, now: Instant) -> None:
        key = f"{pod.namespace}/{pod.name}"
        old = self.pods.get(key)
        if old == pod:
            return
        if old is not None and replace(old, ready=pod.ready) == pod:
            # It began or ceased to be ready, and uses its node as before.
            self.pods[key] = pod
            self._count_ready(old, -1)
            self._count_ready(pod, +1)
            return
        if old is not None:
            self._account(old, -1, now)
        self.pods[key] = pod
        self._account(pod, +1, now)

    def _account(self, pod: PodFacts, sign: int, now: Instant) -> None:
        if pod.node is None or pod.terminal:
            return
        usage = self._usage.get(pod.node, _NO_USAGE)
        requests = usage.requests + pod.requests if sign > 0 else usage.requests - pod.requests
        busy = usage.workload_pods + (0 if pod.daemon_or_static else sign)
        self._usage[pod.node] = Usage(requests, busy)
        if busy:
            self._idle_since.pop(pod.node, None)
        else:
            self._idle_since.setdefault(pod.node, now)
        self._node_cache.pop(pod.node, None)
        if pod.owner is not None:
            uid = pod.owner
            self.bound[uid] = self.bound.get(uid, 0) + sign
            if not self.bound[uid]:
                del self.bound[uid]
            self._hold(uid, pod, sign)
            self._count_ready(pod, sign)
            node = self.nodes.get(pod.node)
            self._pod_moved(pod, node.uid if node is not None else "", sign > 0)

    def _count_ready(self, pod: PodFacts, sign: int) -> None:
        if not pod.ready or pod.terminal or pod.node is None or pod.owner is None or pod.origin_uid is None:
            return
        uid = pod.owner
        self._ready[uid] += sign
        if not self._ready[uid]:
            del self._ready[uid]
        if any(self.copies[key].resource.custom for key in self.copies_of.get(pod.origin_uid, ())):
            self._touched(pod.origin_uid)  # Other copies count their ready pods themselves.

    def ready_pods(self, owner: Uid) -> int:
        """How many pods here of the copy with that owner are ready."""
        return self._ready[owner]

    def leaving_pods(self, owner: Uid) -> int:
        """How many of them are on nodes that are being taken back."""
        nodes = {reclaim.node for reclaim in self.reclaims.values()}
        if not nodes or not self._ready[owner]:
            return 0
        here = (pod for pod in self.pods.values() if pod.node in nodes and pod.owner == owner)
        return sum(pod.ready and not pod.terminal for pod in here)

    def pods_bound(self, uid: Uid) -> int:
        """How many pods here of the workload, of whichever of its copies, are bound."""
        return sum(self.bound.get(owner, 0) for owner in self._owners(uid))

    def _owners(self, uid: Uid) -> set[Uid]:
        return {uid, *(self.copies[key].copy.owner for key in self.copies_of.get(uid, ()))}

    def _hold(self, uid: Uid, pod: PodFacts, sign: int) -> None:
        assert pod.node is not None
        mine = self._holds.setdefault(uid, {})
        held = mine.get(pod.node, Resources())
        mine[pod.node] = held + pod.requests if sign > 0 else held - pod.requests
        if mine[pod.node] == Resources():
            del mine[pod.node]
        if not mine:
            del self._holds[uid]

    # -- copies ------------------------------------------------------------------------------------------------

    def apply_copy(self, kind: WorkloadKind, raw: RawObject) -> None:
        resource, meta = resource_of(kind, raw), raw["metadata"]
        kept = {**raw, "metadata": _kept_metadata(meta)}
        old = self.copies.get((resource.key, str(meta.get("namespace")), str(meta.get("name"))))
        if old is not None and is_same(kept, old.raw) and not old.copy.deleting:
            return  # One that is merely marked is read again: its API may say that it stays after all.
        copy = kind.parse_copy(raw, self.member.id)
        key = (resource.key, copy.namespace, copy.name)
        old = self.copies.get(key)
        if old is not None and not is_newer(raw, old.raw):
            return
        if old is not None and old.copy.origin != copy.origin:
            self.drop_copy(key)
        self.copies[key] = CopyEntry(copy, kept, resource)
        self.copies_of.setdefault(copy.origin, set()).add(key)
        self._touched(copy.origin)

    def drop_copy(self, key: CopyKey, uid: str | None = None) -> None:
        """Forget a copy; with `uid`, only that very object."""
        entry = self.copies.get(key)
        if entry is None or (uid is not None and entry.copy.uid != uid):
            return
        del self.copies[key]
        keys = self.copies_of[entry.copy.origin]
        keys.discard(key)
        if not keys:
            del self.copies_of[entry.copy.origin]
        self._touched(entry.copy.origin)
        self.on_copy_gone()

    def mark_deleting(self, key: CopyKey, uid: str) -> None:
        """Its deletion was accepted; the watch will tell when it is gone."""
        entry = self.copies.get(key)
        if entry is not None and entry.copy.uid == uid:
            self.copies[key] = replace(entry, copy=replace(entry.copy, deleting=True))

    def copies_for(self, uid: Uid) -> list[CopyEntry]:
        return [self.copies[key] for key in sorted(self.copies_of.get(uid, ()))]

    def copy_now(self, entry: CopyEntry) -> Copy:
        """The copy with the number of its pods that are bound, and what they hold on which nodes."""
        bound = self.bound.get(entry.copy.owner, 0)
        if not bound:
            return entry.copy
        holds = tuple(sorted(self._holds.get(entry.copy.owner, {}).items()))
        return replace(entry.copy, pods_bound=bound, holds=holds)

    # -- prices ------------------------------------------------------------------------------------------------

    def nodes_of(self, uid: Uid) -> tuple[NodeName, ...]:
        """Those that pods of the workload are bound to."""
        return tuple(sorted({node for owner in self._owners(uid) for node in self._holds.get(owner, ())}))

    def set_prices(self, prices: Mapping[PoolId, tuple[Price, Instant]]) -> None:
        """What the price sources say now, each with when it goes stale; a pool that is missing has no known price."""
        self._prices = dict(prices)
        self._last_prices.update((pool, price) for pool, (price, _) in prices.items())

    def price_expiries(self) -> list[Instant]:
        return [until for _, until in self._prices.values()]

    def expire_prices(self, now: Instant) -> None:
        """Forget what has gone stale. No snapshot holds a stale price, however late the next look at the sources is."""
        self._prices = {pool: found for pool, found in self._prices.items() if found[1] > now}

    def remember_prices(self, prices: Mapping[PoolId, Price]) -> None:
        """Prices that were known once (before a restart), for what runs already."""
        self._last_prices = {**prices, **self._last_prices}

    def pools(self) -> tuple[NodePool, ...]:
        """Its pools with what is known of them by now."""
        return tuple(self._pool(pool) for pool in self.member.pools)

    # -- the frozen view ---------------------------------------------------------------------------------------

    def cluster(self) -> Cluster:
        member = self.member
        return Cluster(
            id=member.id,
            provider=member.provider_type,
            region=member.region,
            labels=member.labels,
            synced=self.synced,
            unreachable_since=self.unreachable_since,
            nodes=tuple(self._node(facts) for facts in self.nodes.values()),
            pools=self.pools(),
            round_trip_seconds=self.round_trip_seconds,
            routes=self.routes,
        )

    def _node(self, facts: NodeFacts) -> Node:
        cached = self._node_cache.get(facts.name)
        if cached is not None:
            return cached
        usage = self._usage.get(facts.name, _NO_USAGE)
        pool = self.pool_of(facts)
        node = Node(
            name=facts.name,
            uid=facts.uid,
            pool=pool.ref.pool if pool else None,
            allocatable=facts.allocatable,
            used=usage.requests,
            workload_pods=usage.workload_pods,
            labels=facts.labels,
            taints=facts.taints,
            ready=facts.ready,
            unschedulable=facts.unschedulable,
            deleting=facts.deleting,
            created_at=facts.created_at,
            idle_since=self._idle_since.get(facts.name),
            do_not_disrupt=facts.do_not_disrupt,
            provider_id=facts.provider_id,
            reclaim=self.reclaims.get(facts.uid),
            closed=facts.closed,
        )
        self._node_cache[facts.name] = node
        return node

    def _pool(self, template: NodePool) -> NodePool:
        pool = template.ref.pool
        if template.price is None and pool in self._last_prices:
            price, _ = self._prices.get(pool, (None, None))
            template = replace(template, price=price, last_price=None if price else self._last_prices[pool])
        if template.ref in self.quarantined:
            template = replace(template, quarantined=True)
        if template.ref in self.kept_sizes:
            template = replace(template, keeps_size=True)
        status = self.pool_status.get(pool)
        if template.scaling == "fixed" or status is None:
            return template
        return replace(
            template,
            desired_nodes=status.desired_nodes,
            max_nodes=min(template.max_nodes, status.max_nodes),
            shortage=status.shortage,
        )


def _kept_metadata(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Of who manages which field only who scales it: that tells an autoscaler."""
    kept = {name: value for name, value in meta.items() if name != "managedFields"}
    fields = meta.get("managedFields")
    entries = [entry for entry in fields if isinstance(entry, Mapping)] if isinstance(fields, list) else []
    scaled = [entry for entry in entries if entry.get("subresource") == "scale"]
    return {**kept, "managedFields": scaled} if scaled else kept


def is_newer(raw: RawObject, old: RawObject) -> bool:
    """Whether `raw` is not older than `old`. Versions are compared as numbers (Kubernetes 1.35 makes that a promise);
    another object of the same name always counts as newer."""
    new_meta, old_meta = raw["metadata"], old["metadata"]
    if new_meta.get("uid") != old_meta.get("uid"):
        return True
    try:
        return int(new_meta["resourceVersion"]) >= int(old_meta["resourceVersion"])
    except (KeyError, ValueError):
        return True


def is_same(kept: RawObject, old: RawObject) -> bool:
    """Whether what would be kept of an object is what is kept of it: the watch tells again what the answer to a write
    told, and that need not be read twice. Compared whole, for one of the two may have been garbled on its way."""
    return kept["metadata"].get("resourceVersion") == old["metadata"].get("resourceVersion") and kept == old


def outranked(raw: RawObject) -> RawObject:
    """The object as one that any version of it replaces."""
    return {**raw, "metadata": {**raw["metadata"], "resourceVersion": "0"}}
