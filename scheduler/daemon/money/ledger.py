"""Meters what bought nodes cost, and bringing data to where it is used: feeds the pure spend ledger from nodes, pods
and prices that come, change and go. Data counts as brought once for each attempt of a workload, when its first pod is
bound.

What is open survives a restart through the history; without it (or with a new one) metering begins anew from the nodes
that are there, each from its own creation.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any, Final

import orjson
import structlog

from clusters.kubernetes.codec import PodFacts
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import NODE_LIFETIMES, TRANSFERS
from scheduler.daemon.state.mirror import Mirror, NodeSeen
from scheduler.engine.spend import (
    BucketKey,
    NodeLifetime,
    NodeUse,
    PriceChange,
    SpendLedger,
    advance,
    by_day,
    charged,
    hour_of,
    paid_for,
    priced,
    repriced,
)
from scheduler.engine.transfer import transfer_by
from scheduler.model.errors import OverspillError
from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId, PoolRef, QueueId, Uid
from scheduler.model.money import Usd
from scheduler.model.ports import Clock
from scheduler.model.snapshot import SpendBucket
from scheduler.model.workload import PlacementState

log = structlog.get_logger(__name__)
_COMPACT_EVERY_SECONDS: Final = 86400.0


class Ledger:
    """Spend so far. Belongs to the event loop."""

    def __init__(self, mirror: Mirror, history: History, clock: Clock) -> None:
        self._mirror = mirror
        self._history = history
        self._clock = clock
        self._spend = SpendLedger()
        self._open: dict[str, NodeLifetime] = {}
        """Lifetimes not yet settled for good, by node UID."""
        self._ended: set[str] = set()
        self._uses: dict[tuple[ClusterId, str], tuple[str, int]] = {}
        """Pod -> (node UID, index of its use)."""
        self._brought: dict[Uid, int] = {}
        """The attempt of each workload for which its data was charged last."""
        self.nodes_ended = 0
        self.unpriced_transfers = 0
        """So many times data was brought from where nobody knows what that costs."""

    # -- what is asked of it -------------------------------------------------------------------------------------

    def buckets(self) -> tuple[SpendBucket, ...]:
        """Spend up to now, for the snapshot."""
        self._advance()
        return self._spend.buckets

    def paid(self, uid: Uid) -> Usd | None:
        """For a workload up to now, on bought nodes that are still there; None: some have no known price."""
        total, now = Usd(0), self._clock.now()
        for lifetime in self._open.values():
            part = paid_for(lifetime, uid, now)
            if part is None:
                return None
            total += part
        return total

    def paid_each(self, uids: Collection[str]) -> dict[str, Usd | None]:
        """The same of several that have been on such nodes, in one pass."""
        total: dict[str, Usd | None] = {}
        now = self._clock.now()
        for lifetime in self._open.values():
            for uid in {use.workload for use in lifetime.uses if use.workload in uids}:
                before, part = total.get(uid, Usd(0)), paid_for(lifetime, uid, now)
                total[uid] = None if before is None or part is None else before + part
        return total

    @property
    def total_usd(self) -> Usd:
        self._advance()
        return self._spend.total_usd

    @property
    def unpriced_seconds(self) -> float:
        return self._spend.unpriced_seconds

    def by_queue(self) -> list[dict[str, Any]]:
        """Spend by queue, cluster and capacity type; dollars as exact strings."""
        total: dict[tuple[str, str, str], Usd] = {}
        for bucket in self.buckets():
            key = (bucket.queue or "", bucket.cluster, bucket.capacity_type)
            total[key] = total.get(key, Usd(0)) + bucket.usd
        return [
            {"queue": queue or None, "cluster": cluster, "capacity_type": kind, "usd": str(usd)}
            for (queue, cluster, kind), usd in sorted(total.items())
        ]

    # -- what it is told -----------------------------------------------------------------------------------------

    def node_seen(self, seen: NodeSeen) -> None:
        """A bought node came, changed or went."""
        uid = seen.node_uid
        if uid in self._ended:
            return
        lifetime = self._open.get(uid)
        if lifetime is None:
            lifetime = self._begin(seen)
        elif lifetime.ended_at == seen.ended_at:
            return
        if seen.ended_at is not None:
            lifetime = replace(lifetime, ended_at=max(seen.ended_at, lifetime.created_at))
            self._ended.add(uid)
            self.nodes_ended += 1
            log.info("node_ended", node=seen.node, pool=str(seen.pool), seconds=seen.ended_at - seen.created_at)
        self._open[uid] = lifetime
        self._save(lifetime)

    def pod_moved(self, cluster: ClusterId, pod: PodFacts, node_uid: str, bound: bool) -> None:
        """One of our pods began to use a node, or ended to."""
        if bound:
            self._bring_data(cluster, pod)
            self._open_use(cluster, pod, node_uid)
        else:
            self._close_use(cluster, pod)

    def _open_use(self, cluster: ClusterId, pod: PodFacts, node_uid: str) -> None:
        lifetime, queue = self._open.get(node_uid), self._queue_of(pod)
        if lifetime is None or queue is None or lifetime.ended_at is not None:
            return
        self._uses[(cluster, pod.uid)] = (node_uid, len(lifetime.uses))
        use = NodeUse(self._clock.now(), None, queue, pod.requests.gpus, str(pod.origin_uid))
        self._open[node_uid] = replace(lifetime, uses=(*lifetime.uses, use))
        self._save(self._open[node_uid])

    def _bring_data(self, cluster: ClusterId, pod: PodFacts) -> None:
        workload = self._mirror.workload(Uid(pod.origin_uid)) if pod.origin_uid is not None else None
        placement = None if workload is None else workload.placement
        if workload is None or placement is None or not workload.hints.data or placement.cluster != cluster:
            return
        if self._brought.get(workload.ref.uid) == placement.attempt:
            return
        now, moved = self._clock.now(), transfer_by(workload.hints.data, cluster, self._mirror.members[cluster].routes)
        row = {
            "workload_uid": workload.ref.uid,
            "attempt": placement.attempt,
            "at": now,
            "cluster": cluster,
            "capacity_type": placement.capacity_type,
            "queue": workload.queue,
            "usd": None if moved.usd is None else str(moved.usd),
        }
        self._charge(row)
        self._history.record(TRANSFERS, row)

    def _charge(self, row: dict[str, Any]) -> None:
        """For data that was brought."""
        self._brought[Uid(row["workload_uid"])] = row["attempt"]
        if row["usd"] is None:
            self.unpriced_transfers += 1
            return
        place = ClusterId(row["cluster"]), row["capacity_type"], QueueId(row["queue"])
        self._spend = charged(self._spend, BucketKey(hour_of(row["at"]), *place), Usd(row["usd"]))

    def _close_use(self, cluster: ClusterId, pod: PodFacts) -> None:
        node_uid, index = self._uses.pop((cluster, pod.uid), ("", 0))
        lifetime = self._open.get(node_uid)
        if lifetime is None:
            return
        uses = list(lifetime.uses)
        uses[index] = uses[index]._replace(ended_at=self._clock.now())
        self._open[node_uid] = replace(lifetime, uses=tuple(uses))
        self._save(self._open[node_uid])

    def nodes_listed(self, cluster: ClusterId) -> None:
        """After a complete list of a member's nodes: what was open there and is not listed has ended unseen. It is
        charged until now, the latest that it can have ended, so that a budget is never overrun by what nobody saw."""
        present = {facts.uid for facts in self._mirror.members[cluster].nodes.values()}
        for lifetime in list(self._open.values()):
            if lifetime.cluster == cluster and lifetime.ended_at is None and lifetime.uid not in present:
                pool = PoolRef(cluster, lifetime.pool)
                ended = NodeSeen(cluster, lifetime.uid, lifetime.name, pool, lifetime.created_at, self._clock.now())
                self.node_seen(ended)

    def prices_changed(self, cluster: ClusterId) -> None:
        """What is known of the prices of a member's pools is other than before: nodes that live are charged by it from
        when it was set. Where it is not known any more the last price stays, as the cloud does not stop charging."""
        now = self._clock.now()
        prices = {pool.ref.pool: pool.price for pool in self._mirror.members[cluster].pools()}
        for uid, lifetime in list(self._open.items()):
            price = prices.get(lifetime.pool)
            if lifetime.cluster != cluster or lifetime.ended_at is not None or price is None:
                continue
            changed = priced(lifetime, price.usd_per_hour, price.as_of, now)
            if changed != lifetime:
                self._spend = repriced(self._spend, lifetime, changed)
                self._open[uid] = changed
                self._save(changed)

    # -- persistence ---------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what the history knows. One that cannot be read costs the past spend, and that is logged."""
        try:
            rows, brought = await self._history.node_lifetimes(), await self._history.transfers()
        except OverspillError as error:
            log.error("spend_not_restored", error=str(error))
            return
        for row in brought:
            self._charge(row)
        now = self._clock.now()
        for row in rows:
            lifetime = _from_row(row, now)
            self._open[lifetime.uid] = lifetime
            if lifetime.ended_at is not None:
                self._ended.add(lifetime.uid)
                self.nodes_ended += 1
        self._advance()
        for cluster in self._mirror.members:
            self.prices_changed(cluster)

    async def run(self) -> None:
        """Keep the ledger small over months."""
        while True:
            await self._clock.sleep(_COMPACT_EVERY_SECONDS)
            self._advance()
            self._spend = by_day(self._spend, self._clock.now())
            self._brought = {uid: attempt for uid, attempt in self._brought.items() if uid in self._mirror.hub}

    def _begin(self, seen: NodeSeen) -> NodeLifetime:
        pool = next(pool for pool in self._mirror.members[seen.cluster].pools() if pool.ref == seen.pool)
        price = pool.reckoned_price
        return NodeLifetime(
            cluster=seen.cluster,
            pool=seen.pool.pool,
            uid=seen.node_uid,
            name=NodeName(seen.node),
            capacity_type=pool.capacity_type,
            usd_per_hour=price.usd_per_hour if price is not None else None,
            created_at=seen.created_at,
            bought_for=self._buyer(seen.pool),
        )

    def _buyer(self, pool: PoolRef) -> QueueId | None:
        """The queue of the oldest reservation on the pool: the node was bought for it."""
        waiting = [
            (placement.decided_at, workload.ref.uid, workload.queue)
            for uid in self._mirror.hub
            if (workload := self._mirror.workload(uid)) is not None
            and (placement := workload.placement) is not None
            and placement.state is PlacementState.RESERVED
            and placement.pool_ref == pool
        ]
        return min(waiting)[2] if waiting else None

    def _queue_of(self, pod: PodFacts) -> QueueId | None:
        workload = self._mirror.workload(Uid(pod.origin_uid)) if pod.origin_uid is not None else None
        return workload.queue if workload is not None else None

    def _advance(self) -> None:
        self._spend = advance(self._spend, self._open.values(), self._clock.now())
        for uid in [uid for uid in self._ended & self._open.keys() if self._spend.is_settled(self._open[uid])]:
            del self._open[uid]

    def _save(self, lifetime: NodeLifetime) -> None:
        self._history.record(NODE_LIFETIMES, _to_row(lifetime))


def _to_row(lifetime: NodeLifetime) -> dict[str, Any]:
    body = {
        "cluster": lifetime.cluster,
        "pool": lifetime.pool,
        "uid": lifetime.uid,
        "name": lifetime.name,
        "capacity_type": lifetime.capacity_type,
        "usd_per_hour": str(lifetime.usd_per_hour) if lifetime.usd_per_hour is not None else None,
        "created_at": lifetime.created_at,
        "ended_at": lifetime.ended_at,
        "bought_for": lifetime.bought_for,
        "uses": [list(use) for use in lifetime.uses],
        "price_changes": [[change.at, str(change.usd_per_hour)] for change in lifetime.price_changes],
    }
    return {
        "cluster": lifetime.cluster,
        "node_uid": lifetime.uid,
        "created_at": lifetime.created_at,
        "ended_at": lifetime.ended_at,
        "body": orjson.dumps(body).decode(),
    }


def _from_row(row: dict[str, Any], now: Instant) -> NodeLifetime:
    """Uses that were open when the daemon stopped end here; pods that are still there open new ones."""
    price = row["usd_per_hour"]
    return NodeLifetime(
        cluster=ClusterId(row["cluster"]),
        pool=PoolId(row["pool"]),
        uid=row["uid"],
        name=NodeName(row["name"]),
        capacity_type=row["capacity_type"],
        usd_per_hour=Usd(price) if price is not None else None,
        created_at=row["created_at"],
        ended_at=row["ended_at"],
        bought_for=QueueId(row["bought_for"]) if row["bought_for"] else None,
        uses=tuple(
            NodeUse(start, now if end is None else end, QueueId(queue), gpus, *who)
            for start, end, queue, gpus, *who in row["uses"]
        ),
        # Rows of earlier versions have none.
        price_changes=tuple(PriceChange(at, Usd(usd)) for at, usd in row.get("price_changes", ())),
    )
