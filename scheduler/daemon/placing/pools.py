"""Node pools: what providers say of them, and the buying and giving back that the plan asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import structlog

from clusters.kubernetes.codec import parse_pod
from scheduler.daemon.state.member_mirror import POOLS, MemberMirror
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.waiting import happened_or_due
from scheduler.model.cluster import Shortage
from scheduler.model.contract import ANNOTATION_CLOSED, NODES, PODS
from scheduler.model.errors import (
    CapacityError,
    ExternalError,
    InvalidObjectError,
    NotFoundError,
    QuotaError,
    TransientError,
)
from scheduler.model.ids import Instant, NodeName, PoolId, PoolRef
from scheduler.model.plan import CloseNode, OpenNode, RemoveNode, ScalePool
from scheduler.model.ports import Clock, KubeApi, NodePoolProvider
from scheduler.model.snapshot import Backoff

log = structlog.get_logger(__name__)
_POLL_SECONDS: Final = 15.0
"""Between two looks at a provider, in the federation's time."""
_POLL_AT_LEAST_WALL_SECONDS: Final = 0.1
_CALL_SECONDS: Final = 60.0
_DISCOVER_SECONDS: Final = 600.0
"""Between two looks at the cloud's clusters, in the federation's time."""
_DISCOVER_AT_LEAST_WALL_SECONDS: Final = 30.0
_CLUSTERS: Final = 1000
"""Most of them that are kept."""
_FIRST_BACKOFF_SECONDS: Final = 300.0
_LONGEST_BACKOFF_SECONDS: Final = 3600.0
_REMOVAL_RETRY_SECONDS: Final = 300.0
_HELD_SECONDS: Final = 600.0
"""A remedy says every few seconds that it is at work on a node, as long as it is."""


class PoolKeeper:
    """Looks after the pools of one member. The only caller of its provider, logins apart."""

    def __init__(
        self,
        mirror: Mirror,
        member: MemberMirror,
        provider: NodePoolProvider,
        api: KubeApi,
        clock: Clock,
        telemetry: Telemetry,
        fence: Callable[[], None],
    ) -> None:
        self._mirror = mirror
        self._member = member
        self._provider = provider
        self._api = api
        self._clock = clock
        self._telemetry = telemetry
        self._fence = fence
        self._scales: dict[PoolId, ScalePool] = {}
        self._removals: dict[str, RemoveNode] = {}
        self._closures: dict[str, CloseNode] = {}
        self._openings: dict[str, OpenNode] = {}
        self._removed_at: dict[str, float] = {}
        self._held: dict[str, Instant] = {}
        """By node UID, when a remedy last said that it is at work on the node: it is not just given back meanwhile."""
        self._turn = asyncio.Lock()
        """Sizes are absolute: who read one writes before another reads it."""
        self._wakeup = asyncio.Event()
        self._working = False

    @property
    def idle(self) -> bool:
        return not self._has_orders and not self._working

    @property
    def _has_orders(self) -> bool:
        return bool(self._scales or self._removals or self._closures or self._openings)

    def want(
        self,
        scales: list[ScalePool],
        removals: list[RemoveNode],
        closures: list[CloseNode],
        openings: list[OpenNode],
    ) -> None:
        """What the latest plan asks of these pools; it replaces what an earlier one asked, but for nodes to close: no
        later plan speaks of them again."""
        now = self._clock.now()
        self._scales = {scale.pool.pool: scale for scale in scales}
        self._removals = {
            removal.node_uid: removal
            for removal in removals
            if now - self._removed_at.get(removal.node_uid, float("-inf")) > _REMOVAL_RETRY_SECONDS
        }
        self._openings = {opening.node_uid: opening for opening in openings}
        self._closures.update((closure.node_uid, closure) for closure in closures)
        if self._has_orders:
            self._wakeup.set()

    async def run(self) -> None:
        """Poll and act, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            self._working = True
            try:
                await self.look()
                self._mirror.listed(self._member, POOLS)
                await self._act()
            finally:
                self._working = False
            await asyncio.sleep(max(0.0, _POLL_AT_LEAST_WALL_SECONDS - (loop.time() - started)))
            await self._wait()

    async def _wait(self) -> None:
        self._wakeup.clear()
        if not self._has_orders:
            await happened_or_due(self._wakeup, self._clock, self._clock.now() + _POLL_SECONDS)

    # -- looking -------------------------------------------------------------------------------------------------

    async def look(self) -> None:
        """What the provider says of its pools, into the mirror; a failure leaves what was known, and says so there."""
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                pools = await self._provider.list_pools()
        except (ExternalError, TimeoutError) as error:
            self._count("list_pools", error)
            log.warning("pools_not_listed", cluster=self._member.member.id, error=str(error)[:300])
            self._found(pools_error=_said(error))
            return
        self._count("list_pools", None)
        self._found(pools=pools, pools_at=self._clock.now(), pools_error="")
        known = {pool.ref.pool for pool in self._member.member.pools}
        fresh = {status.pool: status for status in pools if status.pool in known}
        if fresh != self._member.pool_status:
            self._member.pool_status = fresh
            for status in fresh.values():
                self._note_shortage(PoolRef(self._member.member.id, status.pool), status.shortage)
            self._mirror.on_change()

    async def run_discovery(self) -> None:
        """Look at the cloud's clusters now and then, for ever. Only people read it: nothing waits for it."""
        while True:
            await self.discover()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._clock.sleep(_DISCOVER_SECONDS))
                both.create_task(asyncio.sleep(_DISCOVER_AT_LEAST_WALL_SECONDS))

    async def discover(self) -> None:
        """What clusters the account sees, into the mirror; a failure leaves what was known, and says so there."""
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                clusters = await self._provider.list_clusters()
        except (ExternalError, TimeoutError) as error:
            self._count("list_clusters", error)
            log.warning("clusters_not_listed", cluster=self._member.member.id, error=str(error)[:300])
            self._found(clusters_error=_said(error))
            return
        self._count("list_clusters", None)
        self._found(clusters=clusters[:_CLUSTERS], clusters_at=self._clock.now(), clusters_error="")

    def _found(self, **changes: Any) -> None:
        self._member.discovered = replace(self._member.discovered, **changes)

    def _note_shortage(self, pool: PoolRef, shortage: Shortage | None) -> None:
        """Keep a pool that cannot deliver out of the choice, longer each time; forget it once it delivers again."""
        if shortage is None:
            backoff = self._mirror.backoffs.get(pool)
            if backoff is not None and backoff.until <= self._clock.now():
                del self._mirror.backoffs[pool]
            return
        self._back_off(pool, shortage.text)

    def _back_off(self, pool: PoolRef, text: str) -> None:
        now = self._clock.now()
        old = self._mirror.backoffs.get(pool)
        if old is not None and old.until > now:
            return
        failures = old.failures + 1 if old is not None else 1
        pause = min(_FIRST_BACKOFF_SECONDS * 2 ** min(failures - 1, 10), _LONGEST_BACKOFF_SECONDS)
        self._mirror.backoffs[pool] = Backoff(pool, now + pause, failures, text[:200])
        log.info("pool_backed_off", pool=str(pool), seconds=pause, failures=failures, why=text[:200])
        self._mirror.on_change()

    # -- acting --------------------------------------------------------------------------------------------------

    async def _act(self) -> None:
        async with self._turn:
            await self._act_in_turn()

    async def _act_in_turn(self) -> None:
        scales, self._scales = self._scales, {}
        removals, self._removals = self._removals, {}
        closures, self._closures = self._closures, {}
        openings, self._openings = self._openings, {}
        for opening in openings.values():
            if opening.node_uid not in closures:
                await self._open(opening)
        for closure in closures.values():
            await self._close(closure)
        for scale in scales.values():
            await self._scale(scale)
        for removal in removals.values():
            await self._remove(removal)

    async def _scale(self, scale: ScalePool) -> None:
        status = self._member.pool_status.get(scale.pool.pool)
        if status is None or status.busy or status.desired_nodes == scale.desired_nodes:
            return
        self._fence()
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await self._provider.set_size(scale.pool.pool, scale.desired_nodes)
        except (CapacityError, QuotaError) as error:
            self._count("set_size", error)
            kind = "quota" if isinstance(error, QuotaError) else "capacity"
            shortage = Shortage(kind, str(error)[:200], self._clock.now())
            self._member.pool_status[scale.pool.pool] = replace(status, shortage=shortage)
            self._back_off(scale.pool, str(error))
            return
        except (ExternalError, TimeoutError) as error:
            self._count("set_size", error)
            log.warning("pool_not_resized", pool=str(scale.pool), error=str(error)[:300])
            return
        self._count("set_size", None)
        log.info("pool_resized", pool=str(scale.pool), nodes=scale.desired_nodes, why=scale.reason)
        self._member.pool_status[scale.pool.pool] = replace(status, desired_nodes=scale.desired_nodes)
        self._mirror.on_change()

    async def _close(self, closure: CloseNode) -> None:
        """Cordon, so that what is moved off the node does not come back to it. It failed: the move was for nothing, and
        is not made again before the workload has run for a while."""
        self._fence()
        why = {ANNOTATION_CLOSED: closure.reason}
        body = {"metadata": {"uid": closure.node_uid, "annotations": why}, "spec": {"unschedulable": True}}
        try:
            await self._api.patch(NODES, "", closure.node, body)
        except NotFoundError:
            return
        except (ExternalError, InvalidObjectError) as error:
            log.warning("node_not_closed", node=closure.node, pool=str(closure.pool), error=str(error)[:300])
            return
        log.info("node_closed", node=closure.node, pool=str(closure.pool), why=closure.reason)

    async def _open(self, opening: OpenNode) -> None:
        """Take a cordon of ours back. It failed: the next plan says so again."""
        self._fence()
        gone = {ANNOTATION_CLOSED: None}
        body = {"metadata": {"uid": opening.node_uid, "annotations": gone}, "spec": {"unschedulable": None}}
        try:
            await self._api.patch(NODES, "", opening.node, body)
        except NotFoundError:
            return
        except (ExternalError, InvalidObjectError) as error:
            log.warning("node_not_opened", node=opening.node, pool=str(opening.pool), error=str(error)[:300])
            return
        log.info("node_opened", node=opening.node, pool=str(opening.pool), why=opening.reason)

    async def _remove(self, removal: RemoveNode) -> None:
        """Cordon, look once more with the API's own eyes, then give the node back."""
        facts = self._member.nodes.get(removal.node)
        if facts is None or facts.uid != removal.node_uid or facts.deleting or self._is_held(removal.node_uid):
            return
        self._fence()
        try:
            if not await self._cordon_idle(removal.node, removal.node_uid):
                return
            async with asyncio.timeout(_CALL_SECONDS):
                await self._provider.remove_node(removal.pool.pool, removal.node, facts.provider_id)
        except NotFoundError:
            pass
        except (ExternalError, InvalidObjectError, TimeoutError) as error:
            self._count("remove_node", error)
            log.warning("node_not_removed", node=removal.node, pool=str(removal.pool), error=str(error)[:300])
            return
        self._count("remove_node", None)
        self._removed_at[removal.node_uid] = self._clock.now()
        status = self._member.pool_status.get(removal.pool.pool)
        if status is not None:
            # The provider lowered it with the removal: without this, a machine would seem to be on its way.
            lowered = max(status.min_nodes, status.desired_nodes - 1)
            self._member.pool_status[removal.pool.pool] = replace(status, desired_nodes=lowered)
        self._telemetry.returns.labels(removal.pool.cluster).inc()
        log.info("node_given_back", node=removal.node, pool=str(removal.pool), why=removal.reason)

    async def _cordon_idle(self, node: NodeName, uid: str) -> bool:
        """Close the node to new pods; False (and opened again) when a pod has come meanwhile."""
        body = {"metadata": {"uid": uid}, "spec": {"unschedulable": True}}
        await self._api.patch(NODES, "", node, body)
        pods = await self._api.list(PODS, field_selector=f"spec.nodeName={node}")
        for raw in pods.items:
            pod = parse_pod(raw)
            if not pod.terminal and not pod.daemon_or_static:
                await self._api.patch(NODES, "", node, {"metadata": {"uid": uid}, "spec": {"unschedulable": False}})
                return False
        return True

    # -- remedies ------------------------------------------------------------------------------------------------

    def hold(self, uid: str) -> None:
        """Until this has not been said for a while, the node is not given back as an idle one would be: a remedy is at
        work on it, and its place is not to be left empty."""
        self._held[uid] = self._clock.now()

    def _is_held(self, uid: str) -> bool:
        now = self._clock.now()
        self._held = {uid: at for uid, at in self._held.items() if now - at < _HELD_SECONDS}
        return uid in self._held

    async def replace(self, pool: PoolId, node: NodeName, uid: str) -> bool:
        """Give this very node back and ask for another in its place; whether both were accepted (else: again later).

        Raises: ExternalError when the provider will not do it.
        """
        async with self._turn:
            return await self._replace(pool, node, uid)

    async def _replace(self, pool: PoolId, node: NodeName, uid: str) -> bool:
        facts, status = self._member.nodes.get(node), self._member.pool_status.get(pool)
        if facts is None or facts.uid != uid or facts.deleting:
            return True
        if status is None or status.busy or status.desired_nodes is None:
            return False
        wanted = status.desired_nodes
        self._fence()
        await self._call("remove_node", self._provider.remove_node(pool, node, facts.provider_id))
        # Lowered by the removal; a machine that could not be asked for now is bought when there is work for it.
        self._fence()
        await self._call("set_size", self._provider.set_size(pool, wanted))
        log.info("node_replaced", node=node, pool=f"{self._member.member.id}/{pool}")
        return True

    async def grow(self, pool: PoolId, nodes: int) -> bool:
        """Ask for so many more, up to the pool's largest size; whether that was accepted.

        Raises: ExternalError when the provider will not do it.
        """
        async with self._turn:
            return await self._grow(pool, nodes)

    async def _grow(self, pool: PoolId, nodes: int) -> bool:
        status = self._member.pool_status.get(pool)
        largest = next((each.max_nodes for each in self._member.pools() if each.ref.pool == pool), 0)
        if status is None or status.busy or status.desired_nodes is None:
            return False
        wanted = min(status.desired_nodes + nodes, largest)
        if wanted > status.desired_nodes:
            self._fence()
            await self._call("set_size", self._provider.set_size(pool, wanted))
            self._member.pool_status[pool] = replace(status, desired_nodes=wanted)
            self._mirror.on_change()
        return True

    async def _call(self, name: str, call: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await call
        except TimeoutError as error:
            self._count(name, error)
            raise TransientError(f"{name}: no answer within {_CALL_SECONDS:.0f} s") from error
        except ExternalError as error:
            self._count(name, error)
            raise
        self._count(name, None)

    def _count(self, call: str, error: Exception | None) -> None:
        result = type(error).__name__ if error is not None else "ok"
        self._telemetry.provider_calls.labels(self._member.member.id, call, result).inc()


def _said(error: BaseException) -> str:
    return str(error)[:300] or f"no answer within {_CALL_SECONDS:.0f} s"
