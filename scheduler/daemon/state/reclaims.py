"""What clouds take back: each node's notice once, in the log, in the metrics and, with its end, in the history."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import structlog

from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import RECLAIMS
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.cluster import Reclaim
from scheduler.model.errors import OverspillError
from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId
from scheduler.model.ports import Clock

log = structlog.get_logger(__name__)
GONE: Final = "gone"
WITHDRAWN: Final = "withdrawn"
_ADVISED_AT_MOST: Final = 20_000
_Key = tuple[ClusterId, str]


class ReclaimLog:
    """Listens to the members' mirrors. A node is counted once, by its UID, also across restarts."""

    def __init__(self, history: History, clock: Clock, telemetry: Telemetry) -> None:
        self._history = history
        self._clock = clock
        self._telemetry = telemetry
        self.on_reclaim: Callable[[Reclaim], None] = lambda reclaim: None
        """Told of each node once."""
        self._open: dict[_Key, Reclaim] = {}
        self._withdrawn: set[_Key] = set()
        """Counted before: a notice that comes back is not another reclaim."""
        self._advised: dict[_Key, None] = {}

    async def load(self) -> None:
        """Take up the reclaims that were under way when the daemon stopped."""
        try:
            rows = await self._history.open_reclaims()
        except OverspillError as error:
            log.error("reclaims_not_restored", error=str(error))
            return
        for row in rows:
            reclaim = Reclaim(
                cluster=ClusterId(row["cluster"]),
                pool=PoolId(row["pool"]) if row["pool"] is not None else None,
                node=NodeName(row["node"]),
                node_uid=row["node_uid"],
                noticed_at=row["noticed_at"],
                deadline=row["deadline"],
                source=row["source"],
            )
            self._open[reclaim.cluster, reclaim.node_uid] = reclaim

    def noticed(self, reclaim: Reclaim) -> Reclaim:
        """Take note; the reclaim as it is known from now on: of one that was known before, with its own beginning."""
        key = (reclaim.cluster, reclaim.node_uid)
        known = self._open.get(key)
        if known is None:
            self._begin(key, reclaim)
        elif known.noticed_at < reclaim.noticed_at:
            # Read again after a restart: a deadline reckoned from now would be too late.
            reclaim = replace(known, pool=reclaim.pool)
        self._open[key] = reclaim
        if reclaim != known:
            self._save(reclaim)
        return reclaim

    def withdrawn(self, reclaim: Reclaim) -> None:
        """Its cloud has thought better of it."""
        key = (reclaim.cluster, reclaim.node_uid)
        self._withdrawn.add(key)
        self._end(self._open.pop(key, reclaim), WITHDRAWN)

    def node_gone(self, cluster: ClusterId, node_uid: str) -> None:
        """A node, reclaimed or not, is gone."""
        key = (cluster, node_uid)
        self._withdrawn.discard(key)
        self._advised.pop(key, None)
        if (reclaim := self._open.pop(key, None)) is not None:
            self._end(reclaim, GONE)

    def advised(self, advice: Reclaim) -> None:
        """The cloud would rather have the node's workload elsewhere: said, and nothing else done about it."""
        key = (advice.cluster, advice.node_uid)
        if key in self._advised:
            return
        self._advised[key] = None
        while len(self._advised) > _ADVISED_AT_MOST:
            del self._advised[next(iter(self._advised))]
        self._telemetry.reclaim_advice.labels(advice.cluster, advice.pool or "", advice.source).inc()
        log.info("reclaim_advised", cluster=advice.cluster, pool=advice.pool, node=advice.node, source=advice.source)

    def nodes_listed(self, cluster: ClusterId, present: set[str]) -> None:
        """After a complete list of a member's nodes: what was under way there and is not listed has gone unseen."""
        for key in list(self._open):
            if key[0] == cluster and key[1] not in present:
                self.node_gone(*key)

    def _begin(self, key: _Key, reclaim: Reclaim) -> None:
        left = reclaim.deadline - self._clock.now() if reclaim.deadline is not None else None
        log.warning(
            "node_reclaimed",
            cluster=reclaim.cluster,
            pool=reclaim.pool,
            node=reclaim.node,
            source=reclaim.source,
            seconds_left=round(left, 1) if left is not None else None,
        )
        if key not in self._withdrawn:
            self.on_reclaim(reclaim)
            self._telemetry.reclaims.labels(reclaim.cluster, reclaim.pool or "", reclaim.source).inc()

    def _end(self, reclaim: Reclaim, outcome: str) -> None:
        now = self._clock.now()
        log.info(
            "reclaim_over",
            cluster=reclaim.cluster,
            node=reclaim.node,
            outcome=outcome,
            seconds=round(now - reclaim.noticed_at, 1),
        )
        self._save(reclaim, ended_at=now, outcome=outcome)

    def _save(self, reclaim: Reclaim, *, ended_at: Instant | None = None, outcome: str | None = None) -> None:
        self._history.record(
            RECLAIMS,
            {
                "cluster": reclaim.cluster,
                "node_uid": reclaim.node_uid,
                "pool": reclaim.pool,
                "node": reclaim.node,
                "source": reclaim.source,
                "noticed_at": reclaim.noticed_at,
                "deadline": reclaim.deadline,
                "ended_at": ended_at,
                "outcome": outcome,
            },
        )
