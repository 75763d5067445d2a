"""The live state of the federation, fed by watches and by answers to our own writes; and the Snapshot made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from clusters.kubernetes.annotations import format_placement, parse_placement
from clusters.kubernetes.codec import PodFacts
from scheduler.daemon.config.federation import Federation, Member
from scheduler.daemon.config.routes import routes_between
from scheduler.daemon.state.member_mirror import NODES, PODS, POOLS, CopyEntry, MemberMirror, is_newer, is_same
from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.serving.parts import as_copies, as_workloads
from scheduler.model.cluster import NodePool
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, Instant, PoolRef, Uid
from scheduler.model.ports import Clock, RawObject, WorkloadKind
from scheduler.model.service_intent import ServiceIntent
from scheduler.model.snapshot import Backoff, Explored, Progress, Snapshot, SpendBucket
from scheduler.model.workload import Copy, Placement, Workload

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HubEntry:
    workload: Workload
    raw: RawObject


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A node of a bought pool came, changed or went; the ledger listens to these."""

    cluster: ClusterId
    node_uid: str
    node: str
    pool: PoolRef
    created_at: Instant
    ended_at: Instant | None


class Mirror:
    """Everything known now. Belongs to the event loop; the Snapshot is what leaves it."""

    def __init__(
        self, federation: Federation, kinds: Mapping[str, WorkloadKind], clock: Clock, telemetry: Telemetry
    ) -> None:
        self.federation = federation
        self.kinds = kinds
        self._clock = clock
        self._telemetry = telemetry
        self.hub: dict[Uid, HubEntry] = {}
        self._live: dict[Uid, Workload] = {}
        """Those that have not finished: what a cycle looks at, however many finished ones the hub keeps."""
        self.services: dict[Uid, Workload] = {}
        """Those that are divided over members, as the hub says: a cycle sees their parts instead."""
        self.lasting: set[Uid] = set()
        """Those that run for ever: what may be a service, or become one."""
        self._intents: dict[Uid, ServiceIntent | None] = {}
        """Divisions (None: the end of one) that are decided but not yet read back."""
        self._parts: dict[Uid, tuple[tuple[Workload, ServiceIntent], tuple[Workload, ...]]] = {}
        self.is_service: Callable[[Workload], bool] = lambda workload: workload.intent is not None
        self._hub_awaiting = set(kinds)
        self.hub_served: set[str] = set()
        """Kinds that the hub has really listed; only of these may a missing object be taken for deleted."""
        self._hub_failing: dict[str, str] = {}
        self._assumed: dict[Uid, Placement] = {}
        self._told: dict[Uid, tuple[str, str]] = {}
        self._decided: dict[Uid, tuple[Workload, Placement | None, tuple[str, str] | None, Workload]] = {}
        """What `_as_decided` made last, and of what: the same object as long as that is the same."""
        self.backoffs: dict[PoolRef, Backoff] = {}
        self.on_key: Callable[[Uid], None] = lambda uid: None
        """Called when anything about a workload changed."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when the next cycle could decide otherwise."""
        self.on_node: Callable[[NodeSeen], None] = lambda seen: None
        self.on_pod: Callable[[ClusterId, PodFacts, str, bool], None] = lambda cluster, pod, node_uid, bound: None
        """One of our pods began (or ended) to use the node of that UID."""
        self.progress: Callable[[], tuple[Progress, ...]] = tuple
        """How far workloads are, asked for each snapshot."""
        self.on_nodes_listed: Callable[[ClusterId], None] = lambda cluster: None
        self.members = {member.id: self._member_mirror(member) for member in federation.members}

    # -- hub ---------------------------------------------------------------------------------------------------

    @property
    def hub_synced(self) -> bool:
        return not self._hub_awaiting and not self._hub_failing

    @property
    def ever_synced(self) -> bool:
        """Whether the hub and every member that can be reached have been listed once."""
        return not self._hub_awaiting and all(
            member.synced or member.unreachable_since is not None for member in self.members.values()
        )

    @property
    def hub_error(self) -> str | None:
        return next(iter(self._hub_failing.values()), None)

    def apply_hub(self, kind: WorkloadKind, raw: RawObject) -> None:
        """A hub object as a watch or the answer to our own write tells it; an older version than ours is ignored."""
        meta = raw["metadata"]
        uid = Uid(str(meta["uid"]))
        old = self.hub.get(uid)
        kept = _kept(raw)
        if old is not None and (is_same(kept, old.raw) or not is_newer(raw, old.raw)):
            return
        workload = kind.parse(raw)
        self.hub[uid] = HubEntry(workload, _bare(raw) if workload.finished and not workload.has_finalizer else kept)
        if uid in self._intents and self._intents[uid] == workload.intent:
            del self._intents[uid]
        self._sort_in(uid, workload)
        if self._assumed.get(uid) == workload.placement:
            self._assumed.pop(uid, None)
        if self._told.get(uid) == workload.condition or workload.finished:
            self._told.pop(uid, None)
        if old is None or old.workload != workload:
            self.on_change()
        self.on_key(uid)

    def _sort_in(self, uid: Uid, workload: Workload) -> None:
        """Among those that a cycle sees as they are, those that are divided, or neither."""
        self._live.pop(uid, None)
        self.services.pop(uid, None)
        self.lasting.discard(uid)
        if workload.finished:
            return
        if workload.runs_forever:
            self.lasting.add(uid)
        reached = self._within_reach(workload)
        if self.is_service(self._as_decided(uid, workload)):
            self.services[uid] = reached
        else:
            self._live[uid] = reached

    def sort_services(self) -> None:
        """Other policies are in force: some are services now, and some no longer."""
        for uid in list(self.lasting):
            self._sort_in(uid, self.hub[uid].workload)
            self.on_key(uid)

    def drop_hub(self, uid: Uid) -> None:
        """It is gone from the hub."""
        self._live.pop(uid, None)
        self.services.pop(uid, None)
        self.lasting.discard(uid)
        self._parts.pop(uid, None)
        self._decided.pop(uid, None)
        if self.hub.pop(uid, None) is not None:
            self._assumed.pop(uid, None)
            self._intents.pop(uid, None)
            self._told.pop(uid, None)
            self.on_key(uid)
            self.on_change()

    # -- placements that are decided but not yet read back ------------------------------------------------------

    def assume(self, uid: Uid, placement: Placement) -> None:
        """Count `placement` as written until the hub says so, so that no cycle gives its capacity away meanwhile."""
        # As it will be read back, so that the two compare equal.
        self._assumed[uid] = parse_placement(format_placement(placement))

    def forget(self, uid: Uid) -> None:
        """The write failed: the workload is where the hub says it is."""
        if self._assumed.pop(uid, None) is not None:
            self.on_change()

    def assume_intent(self, uid: Uid, intent: ServiceIntent | None) -> None:
        """Count a division as written (None: as ended) until the hub says so."""
        self._intents[uid] = intent
        self._resort(uid)

    def forget_intent(self, uid: Uid) -> None:
        """The write failed: it is divided as the hub says."""
        if uid in self._intents:
            del self._intents[uid]
            self._resort(uid)

    def _resort(self, uid: Uid) -> None:
        if (entry := self.hub.get(uid)) is not None:
            self._sort_in(uid, entry.workload)
            self.on_change()

    def assume_told(self, uid: Uid, reason: str, message: str) -> None:
        """Count a condition as shown until the hub says so, so that no cycle decides the same thing again meanwhile."""
        self._told[uid] = (reason, message)

    def _within_reach(self, workload: Workload) -> Workload:
        """The workload as the cycle sees it: no pool of a member that does not know what its copy is, is for it."""
        out = [member for member in self.members.values() if workload.runs_as in member.unserved]
        if not out:
            return workload
        pools = {pool.ref for member in out for pool in member.member.pools}
        avoided = tuple(sorted(pools.union(workload.hints.avoided_pools)))
        return replace(workload, hints=replace(workload.hints, avoided_pools=avoided))

    def note(self, workload: Workload) -> str:
        """What the cycle cannot say of where the workload may run; "": nothing."""
        out = sorted(cluster for cluster, member in self.members.items() if workload.runs_as in member.unserved)
        return f"no {workload.runs_as} in {', '.join(out)}: not installed there, or not permitted" if out else ""

    def quarantine(self, pools: frozenset[PoolRef], clusters: frozenset[ClusterId]) -> None:
        """From now on these pools, and all of these clusters', take nothing new."""
        for cluster, member in self.members.items():
            names = {pool.ref for pool in member.member.pools if pool.ref in pools or cluster in clusters}
            if names != member.quarantined:
                member.quarantined = frozenset(names)
                self.on_change()

    def keep_sizes(self, pools: frozenset[PoolRef]) -> None:
        """From now on these pools, and no others, give nothing back that is idle or on its way."""
        for member in self.members.values():
            names = frozenset(pool.ref for pool in member.member.pools if pool.ref in pools)
            if names != member.kept_sizes:
                member.kept_sizes = names
                self.on_change()

    # -- the frozen view ---------------------------------------------------------------------------------------

    def workload(self, uid: Uid) -> Workload | None:
        """With its assumed placement, if it has one."""
        entry = self.hub.get(uid)
        return self._as_decided(uid, entry.workload) if entry is not None else None

    def decision_of(self, uid: Uid) -> str | None:
        """The one that is carried out; None: it is neither placed nor divided."""
        entry = self.hub.get(uid)
        if entry is None:
            return None
        intent = self._intents.get(uid, entry.workload.intent)
        if intent is not None:
            return intent.decision
        placement = None if uid in self._intents else entry.workload.placement
        placement = self._assumed.get(uid) or placement
        return None if placement is None else placement.decision

    def _as_decided(self, uid: Uid, workload: Workload) -> Workload:
        """The workload as it will be once what is decided has been written."""
        assumed, told = self._assumed.get(uid), self._told.get(uid)
        if uid in self._intents:
            intent = self._intents[uid]
            # Who is divided has no placement, and the other way round.
            placement = None if intent is not None else assumed
            return replace(workload, intent=intent, placement=placement, condition=told or workload.condition)
        if assumed is None and told is None:
            self._decided.pop(uid, None)
            return workload
        known = self._decided.get(uid)
        if known is not None and known[0] is workload and known[1] is assumed and known[2] is told:
            return known[3]
        made = replace(workload, placement=assumed or workload.placement, condition=told or workload.condition)
        self._decided[uid] = workload, assumed, told, made
        return made

    def pool(self, ref: PoolRef) -> NodePool | None:
        """As it is known now; None: there is none."""
        member = self.members.get(ref.cluster)
        return None if member is None else next((pool for pool in member.pools() if pool.ref == ref), None)

    def copies(self, uid: Uid) -> list[CopyEntry]:
        """Its copies on all members."""
        return [entry for member in self.members.values() for entry in member.copies_for(uid)]

    def snapshot(
        self,
        spend: tuple[SpendBucket, ...],
        *,
        bursting_paused: bool = False,
        explored: tuple[Explored, ...] = (),
        shadow: bool = False,
    ) -> Snapshot:
        now = self._clock.now()
        for member in self.members.values():
            member.expire_prices(now)
        return Snapshot(
            now=now,
            hub_synced=self.hub_synced,
            clusters=tuple(member.cluster() for member in self.members.values()),
            workloads=(
                *(self._as_decided(uid, workload) for uid, workload in self._live.items()),
                *(part for uid in self.services for part in self._parts_of(uid)),
            ),
            copies=(
                *(
                    member.copy_now(entry)
                    for member in self.members.values()
                    for entry in member.copies.values()
                    if entry.copy.origin in self.hub and entry.copy.origin not in self.services
                ),
                *(copy for uid in self.services for copy in self._copies_of_parts(uid)),
            ),
            spend=spend,
            backoffs=tuple(self.backoffs.values()),
            bursting_paused=bursting_paused,
            progress=self.progress(),
            explored=explored,
            shadow=shadow,
        )

    def _parts_of(self, uid: Uid) -> tuple[Workload, ...]:
        """The same objects as long as nothing has changed, so that a cycle need not look at them again."""
        workload = self.service(uid)
        if workload is None or workload.intent is None or workload.deleting:
            return ()
        known = self._parts.get(uid)
        if known is None or known[0] != (self.services[uid], workload.intent):
            pools = {pool.ref: pool for member in self.members.values() for pool in member.member.pools}
            known = (self.services[uid], workload.intent), as_workloads(workload, workload.intent, pools)
            self._parts[uid] = known
        return known[1]

    def _copies_of_parts(self, uid: Uid) -> tuple[Copy, ...]:
        workload = self.service(uid)
        if workload is None or workload.intent is None:
            return ()
        return as_copies(uid, workload.intent, self.copies_now(uid))

    def copies_now(self, uid: Uid) -> list[Copy]:
        """Its copies with the pods of each that are bound."""
        return [member.copy_now(entry) for member in self.members.values() for entry in member.copies_for(uid)]

    def service(self, uid: Uid) -> Workload | None:
        """One that is divided, as it is decided, and without the pools that it cannot be on; None: it is no service."""
        found = self.services.get(uid)
        return None if found is None else self._as_decided(uid, found)

    def available(self) -> frozenset[ClusterId]:
        return frozenset(cluster for cluster, member in self.members.items() if member.available)

    def listed(self, member: MemberMirror, resource: str, *, there: bool = True) -> None:
        """A complete list of one of its resources has been applied, or (not `there`) it has none to list."""
        before = member.available
        member.listed(resource)
        if there and resource in member.unserved:
            log.info("kind_served", cluster=member.member.id, resource=resource)
            member.unserved.discard(resource)
            self._reach_changed(resource)
        self._availability(member, before)

    def absent(self, member: MemberMirror, resource: str, error: str) -> None:
        """The member's API does not know one of its resources: nothing that needs it is placed there."""
        if resource not in member.unserved:
            log.warning("kind_not_served", cluster=member.member.id, resource=resource, error=error[:300])
            member.unserved.add(resource)
            self._reach_changed(resource)
        self.listed(member, resource, there=False)

    def _reach_changed(self, resource: str) -> None:
        for uid, workload in [*self._live.items(), *self.services.items()]:
            if workload.runs_as == resource:
                self._sort_in(uid, self.hub[uid].workload)
                self.on_key(uid)

    def set_reachable(self, member: MemberMirror, resource: str, reachable: bool, error: str | None) -> None:
        """One of its watches came up or went down."""
        before = member.available
        member.set_reachable(resource, reachable, error, self._clock.now())
        self._availability(member, before)

    def unsettled(self, cluster: ClusterId | None = None) -> set[Uid]:
        """Workloads that a write may be due for: placed or with a copy, on that cluster (None: on any)."""
        placed = {
            uid
            for uid, entry in self.hub.items()
            if (placement := entry.workload.placement) is not None
            and cluster in (None, placement.cluster)
            and (entry.workload.has_finalizer or not entry.workload.finished)
        }
        placed |= {uid for uid in self.services if self.hub[uid].workload.intent is not None}
        members = self.members.values() if cluster is None else (self.members[cluster],)
        return placed.union(*(member.copies_of for member in members))

    def _availability(self, member: MemberMirror, before: bool) -> None:
        """Writes that waited for a member are due once it can be acted on again."""
        if member.available and not before:
            for uid in self.unsettled(member.member.id):
                self.on_key(uid)
        self.on_change()

    def _member_mirror(self, member: Member) -> MemberMirror:
        def pod_moved(pod: PodFacts, node_uid: str, bound: bool) -> None:
            self.on_pod(member.id, pod, node_uid, bound)

        copied = [resource.key for kind in self.kinds.values() for resource in kind.member_resources]
        made = MemberMirror(member, [NODES, PODS, POOLS, *copied], self._touched, pod_moved)
        made.routes = routes_between(self.federation.members)[member.id]
        return made

    def _touched(self, uid: Uid) -> None:
        self.on_key(uid)
        self.on_change()

    # -- what the watches call -----------------------------------------------------------------------------------

    def hub_listed(self, kind: WorkloadKind, objects: Iterable[RawObject]) -> None:
        """A complete list: what it lacks is gone."""
        seen = set()
        for raw in objects:
            with self.tolerating("hub", kind.name, raw):
                uid = Uid(str(raw["metadata"]["uid"]))
                seen.add(uid)
                self.apply_hub(kind, raw)
                # Changed or not: the watch was away, and a look too many costs little.
                self.on_key(uid)
        for uid, entry in list(self.hub.items()):
            ref = entry.workload.ref
            if ref.kind == kind.name and uid not in seen:
                self.drop_hub(uid)
        self._hub_awaiting.discard(kind.name)
        self.hub_served.add(kind.name)
        self.on_change()

    def hub_absent(self, kind: WorkloadKind, error: str) -> None:
        """The hub does not have this kind: there are none of it, and the others must not wait for it."""
        if kind.name in self._hub_awaiting:
            log.warning("kind_not_served", kind=kind.name, error=error)
        self._hub_awaiting.discard(kind.name)
        self.on_change()

    def set_hub_reachable(self, kind: WorkloadKind, reachable: bool, error: str | None) -> None:
        if reachable:
            self._hub_failing.pop(kind.name, None)
        else:
            self._hub_failing[kind.name] = error or "unreachable"
        self.on_change()

    def node_seen(self, member: MemberMirror, raw: RawObject, *, gone: bool) -> None:
        """Apply a node and tell the ledger when it is one of a bought pool."""
        now = self._clock.now()
        facts = member.apply_node(raw, now)
        if gone:
            member.drop_node(facts.name)
        pool = member.pool_of(facts)
        if pool is not None and pool.bought:
            ended_at = facts.deleted_at if facts.deleting else None
            if gone and ended_at is None:
                ended_at = now
            self.on_node(NodeSeen(member.member.id, facts.uid, facts.name, pool.ref, facts.created_at, ended_at))
        self.on_change()

    def tolerating(self, cluster: str, resource: str, raw: object) -> _Tolerating:
        return _Tolerating(self._telemetry, cluster, resource, raw)

    def now(self) -> Instant:
        return self._clock.now()


class _Tolerating:
    """An object that cannot be understood is reported and counted; what was known before stays."""

    def __init__(self, telemetry: Telemetry, cluster: str, resource: str, raw: object) -> None:
        self._telemetry = telemetry
        self._cluster = cluster
        self._resource = resource
        self._raw = raw

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> bool:
        if not isinstance(error, (InvalidObjectError, KeyError, TypeError, ValueError, AttributeError)):
            return False
        self._telemetry.malformed.labels(self._cluster, self._resource).inc()
        meta = self._raw.get("metadata") if isinstance(self._raw, Mapping) else None
        name = meta.get("name") if isinstance(meta, Mapping) else None
        log.warning(
            "malformed_object",
            cluster=self._cluster,
            resource=self._resource,
            name=str(name)[:80],
            error=str(error)[:300],
        )
        return True


def _kept(raw: RawObject) -> RawObject:
    """What need be kept of a hub object: not who manages which field."""
    return {**raw, "metadata": {name: value for name, value in raw["metadata"].items() if name != "managedFields"}}


def _bare(raw: RawObject) -> RawObject:
    """Of one that is done with its name only."""
    meta = raw["metadata"]
    return {"metadata": {name: meta.get(name) for name in ("namespace", "name", "uid", "resourceVersion")}}
