"""What must hold always, checked from watch events of the hub and the members alone. Pure: events and times in,
violations out; nothing the daemon says of itself is believed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from scheduler.cli.demo.records import (
    CopyRecord,
    HubRecord,
    NodeRecord,
    PodRecord,
    read_copy,
    read_hub,
    read_node,
    read_pod,
    waits,
)
from scheduler.model.ids import Instant
from scheduler.model.policy import QueueSpec
from scheduler.model.ports import RawObject
from scheduler.model.resources import Resources

PARTIAL_GANG: Final = "PartialGang"
NODE_OVERCOMMITTED: Final = "NodeOvercommitted"
QUOTA_EXCEEDED: Final = "QuotaExceeded"
BUDGET_EXCEEDED: Final = "BudgetExceeded"
ORPHAN_COPY: Final = "OrphanCopy"
BOUGHT_NODES_LEFT: Final = "BoughtNodesLeft"
SPEND_MISMATCH: Final = "SpendMismatch"


@dataclass(frozen=True, slots=True)
class Violation:
    """Something that must never be. `subject` is what it is about; the same one is counted once."""

    kind: str
    subject: str
    text: str
    at: Instant


@dataclass(frozen=True, slots=True)
class BoughtPool:
    """How to tell the nodes of a pool that is bought for bursts."""

    cluster: str
    selector: tuple[tuple[str, str], ...]


class Invariants:
    """The state of the whole federation as its APIs tell it, and what was wrong with it so far.

    Streams of different clusters are not ordered against one another: what compares clusters must last longer than
    `grace_seconds` (virtual), or, for two copies at once, be confirmed by reading one again (`suspects`).
    """

    def __init__(
        self, *, queues: Iterable[QueueSpec] = (), bought: Iterable[BoughtPool] = (), grace_seconds: float = 300.0
    ) -> None:
        self.hub: dict[str, HubRecord] = {}
        self.copies: dict[tuple[str, str], CopyRecord] = {}
        self.pods: dict[tuple[str, str], PodRecord] = {}
        self.nodes: dict[tuple[str, str], NodeRecord] = {}
        self.violations: list[Violation] = []
        self.duplicated: set[str] = set()
        """UIDs of hub objects that ran twice at the same time, or succeeded more often than asked."""
        self.running_at: dict[str, Instant] = {}
        """By hub UID: when all its pods ran for the first time."""
        self.waited: set[str] = set()
        """Hub UIDs that were held, or had machines bought for them, before they were placed."""
        self.bought_seen: set[tuple[str, str]] = set()
        self.given_back = 0
        self._queues = {str(queue.id): queue for queue in queues}
        self._bought = tuple(bought)
        self._grace = grace_seconds
        self._used: defaultdict[tuple[str, str], Resources] = defaultdict(Resources)
        self._ran_on: set[tuple[str, str, str]] = set()
        self._pods_of: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
        self._copies_of: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
        self._over_quota_since: dict[str, Instant] = {}
        self._known: set[tuple[str, str]] = set()

    # Events ------------------------------------------------------------------------------------------------------

    def hub_event(self, change: str, obj: RawObject) -> None:
        """A hub Job or FederatedWorkload was ADDED, MODIFIED or DELETED."""
        record = read_hub(obj)
        if record is None:
            return
        record.gone = change == "DELETED"
        self.hub[record.uid] = record
        if not record.gone and waits(obj):
            self.waited.add(record.uid)

    def copy_event(self, cluster: str, plural: str, change: str, obj: RawObject, now: Instant) -> None:
        """A Job or Deployment of a member."""
        record = read_copy(obj, cluster, plural)
        if record is None:
            return
        key = (cluster, record.uid)
        before = self.copies.get(key)
        if before is not None:
            record.was_whole, record.succeeded = before.was_whole, before.succeeded
            record.partial_since, record.orphan_since = before.partial_since, before.orphan_since
        record.gone = change == "DELETED"
        self.copies[key] = record
        self._copies_of[record.origin].add(key)
        self._look_at(record, now)

    def pod_event(self, cluster: str, change: str, obj: RawObject, now: Instant) -> None:
        """A pod of a member, ours or not."""
        pod = read_pod(obj, cluster)
        key = (cluster, pod.uid)
        self._release(self.pods.pop(key, None))
        if change != "DELETED":
            self.pods[key] = pod
            self._occupy(pod, now)
        if not pod.origin:
            return
        if pod.node:
            self._ran_on.add((pod.origin, cluster, pod.node))
        copy_key = (cluster, pod.copy)
        if change == "DELETED":
            self._pods_of[copy_key].discard(pod.uid)
        else:
            self._pods_of[copy_key].add(pod.uid)
        copy = self.copies.get(copy_key)
        if copy is not None:
            self._look_at(copy, now)

    def node_event(self, cluster: str, change: str, obj: RawObject) -> None:
        """A node of a member."""
        node = read_node(obj, cluster)
        key = (cluster, node.name)
        is_bought = self._is_bought(node)
        if is_bought:
            self.bought_seen.add(key)
        if change == "DELETED":
            before = self.nodes.pop(key, None)
            if is_bought and (node.draining or (before is not None and before.draining)):
                self.given_back += 1
        else:
            self.nodes[key] = node

    # Questions ---------------------------------------------------------------------------------------------------

    def suspects(self) -> tuple[CopyRecord, ...]:
        """Copies that seem to be alive together with another copy of the same origin: all but the newest record of
        each. Read each again from its API: when it is still there, alive, call `confirm`; when not, the streams only
        arrived out of order."""
        found: list[CopyRecord] = []
        for origin, keys in self._copies_of.items():
            if len(keys) > 1 and origin not in self.duplicated:
                alive = [one for key, one in self.copies.items() if key in keys and one.alive and not one.part]
                found += alive[:-1]
        return tuple(found)

    def confirm(self, origin: str) -> None:
        """Two copies of `origin` were alive at the same time."""
        self.duplicated.add(origin)

    def bursts(self) -> tuple[str, ...]:
        """UIDs of the hub objects that had a pod on a bought node, sorted."""
        return tuple(sorted({origin for origin, cluster, node in self._ran_on if (cluster, node) in self.bought_seen}))

    def bought_nodes(self) -> int:
        """Bought nodes that exist now."""
        return sum(1 for node in self.nodes.values() if self._is_bought(node))

    def jobs(self) -> tuple[HubRecord, ...]:
        """All hub Jobs that were ever seen."""
        return tuple(record for record in self.hub.values() if record.kind == "job")

    def check(self, now: Instant) -> None:
        """Look for what must not last: partly started gangs, copies that nobody asked for, exceeded quotas."""
        for key, copy in self.copies.items():
            if copy.gone:
                continue
            self._check_gang(key, copy, now)
            self._check_orphan(copy, now)
        self._check_quotas(now)

    def record(self, kind: str, subject: str, text: str, now: Instant) -> None:
        """Note a violation, once for each kind and subject."""
        if (kind, subject) not in self._known:
            self._known.add((kind, subject))
            self.violations.append(Violation(kind, subject, text, now))

    # Parts -------------------------------------------------------------------------------------------------------

    def _occupy(self, pod: PodRecord, now: Instant) -> None:
        if not pod.holds:
            return
        place = (pod.cluster, pod.node)
        self._used[place] = self._used[place] + pod.requests
        node = self.nodes.get(place)
        short = () if node is None else self._used[place].shortfall(node.allocatable)
        if short:
            where = f"{pod.cluster}/{pod.node}"
            text = f"the pods on node {where} ask for more {', '.join(short)} than it has"
            self.record(NODE_OVERCOMMITTED, where, text, now)

    def _release(self, pod: PodRecord | None) -> None:
        if pod is not None and pod.holds:
            place = (pod.cluster, pod.node)
            self._used[place] = self._used[place] - pod.requests

    def _look_at(self, copy: CopyRecord, now: Instant) -> None:
        """Draw from a copy and its pods what may be gone at the next look; either's events may come first."""
        members = self._members(copy)
        copy.succeeded.update(pod.uid for pod in members if pod.phase == "Succeeded")
        if copy.is_job:
            self._count_successes(copy.origin)
        self._note_running(copy, members, now)
        if sum(1 for pod in members if pod.node and pod.phase != "Failed") >= copy.pods_wanted:
            copy.was_whole = True

    def _count_successes(self, origin: str) -> None:
        """Ran twice: a copy with more successes than asked for, or two copies that each succeeded in full."""
        full = 0
        for key in self._copies_of[origin]:
            copy = self.copies[key]
            if not copy.is_job:
                continue
            if len(copy.succeeded) > copy.asked:
                self.duplicated.add(origin)
            full += copy.complete or len(copy.succeeded) >= copy.asked
        if full > 1:
            self.duplicated.add(origin)

    def _members(self, copy: CopyRecord) -> list[PodRecord]:
        own = self._pods_of.get((copy.cluster, copy.uid), ())
        return [self.pods[copy.cluster, uid] for uid in own if (copy.cluster, uid) in self.pods]

    def _note_running(self, copy: CopyRecord, members: list[PodRecord], now: Instant) -> None:
        if copy.origin in self.running_at:
            return
        running = [pod for pod in members if pod.phase in ("Running", "Succeeded")]
        if copy.pods_wanted and len(running) >= copy.pods_wanted:
            self.running_at[copy.origin] = max(pod.started_at or now for pod in running)

    def _check_gang(self, key: tuple[str, str], copy: CopyRecord, now: Instant) -> None:
        if not copy.is_job or not copy.alive or copy.suspended or copy.was_whole:
            copy.partial_since = None
            return
        bound = sum(1 for pod in self._members(copy) if pod.node and pod.phase != "Failed")
        if not bound:
            copy.partial_since = None
        elif copy.partial_since is None:
            copy.partial_since = now
        elif now - copy.partial_since > self._grace:
            self.record(
                PARTIAL_GANG,
                "/".join(key),
                f"{copy.cluster}: {copy.namespace}/{copy.name} runs with {bound} of {copy.pods_wanted} pods",
                now,
            )

    def _check_orphan(self, copy: CopyRecord, now: Instant) -> None:
        origin = self.hub.get(copy.origin)
        if (origin is not None and not origin.gone) or copy.deleting:
            copy.orphan_since = None
        elif copy.orphan_since is None:
            copy.orphan_since = now
        elif now - copy.orphan_since > self._grace:
            text = f"{copy.cluster}: {copy.namespace}/{copy.name} is a copy of a hub object that does not exist"
            self.record(ORPHAN_COPY, f"{copy.cluster}/{copy.uid}", text, now)

    def _check_quotas(self, now: Instant) -> None:
        used: defaultdict[str, Resources] = defaultdict(Resources)
        for pod in self.pods.values():
            owner = self.hub.get(pod.origin)
            if owner is not None and pod.holds:
                used[owner.queue] = used[owner.queue] + pod.requests
        over = set(self._exceeded(used))
        for subject in list(self._over_quota_since):
            if subject not in over:
                del self._over_quota_since[subject]
        for subject in over:
            since = self._over_quota_since.setdefault(subject, now)
            if now - since > self._grace:
                self.record(QUOTA_EXCEEDED, subject, f"{subject} is above its quota", now)

    def _exceeded(self, used: dict[str, Resources]) -> Iterable[str]:
        """Queues above nominal plus borrowing limit (nominal alone outside cohorts), cohorts above their sum."""
        cohorts: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
        for name, queue in sorted(self._queues.items()):
            for quota in queue.quotas:
                amount = used[name].amount(quota.resource) if name in used else 0
                if queue.cohort is None:
                    limit: int | None = quota.nominal
                else:
                    limit = None if quota.borrowing_limit is None else quota.nominal + quota.borrowing_limit
                    both = cohorts[queue.cohort, quota.resource]
                    both[0] += amount
                    both[1] += quota.nominal
                if limit is not None and amount > limit:
                    yield f"queue {name} ({quota.resource})"
        for (cohort, resource), (amount, nominal) in sorted(cohorts.items()):
            if amount > nominal:
                yield f"cohort {cohort} ({resource})"

    def _is_bought(self, node: NodeRecord) -> bool:
        return any(
            pool.cluster == node.cluster and all(node.labels.get(key) == value for key, value in pool.selector)
            for pool in self._bought
        )
