"""Carries remedies out. Each call takes an action as far as it goes now and says whether it is done; called again until
it is, also after a restart, so every step asks first what is there already."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Final, Protocol

import structlog

from clusters.kubernetes.annotations import format_places, parse_places
from scheduler.daemon.incidents.node_remedies import NodeRemedies
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.model.contract import ANNOTATION_AVOIDED_POOLS, ANNOTATION_EXCLUDED_NODES
from scheduler.model.errors import RefusedError
from scheduler.model.ids import ClusterId, DecisionId, NodeName, PoolId, Uid
from scheduler.model.plan import SetPlacement
from scheduler.model.ports import Clock, KubeApi
from scheduler.model.remediation import (
    CORDON,
    DRAIN,
    EXCLUDE_NODE,
    MOVE_SERVING,
    NODE_ACTIONS,
    NOTIFY,
    PAUSE_BURSTING,
    QUARANTINE_CLUSTER,
    QUARANTINE_POOL,
    REBOOT,
    REPLACE,
    RESET,
    RESTART,
    ROLL_BACK,
    SCALE_UP,
    UNDO,
    Action,
)
from scheduler.model.workload import PlacementState

log = structlog.get_logger(__name__)
REASON: Final = "Remediation"
"""On the placement of a workload that a remedy moves."""


class Pools(Protocol):
    def hold(self, uid: str) -> None: ...

    async def replace(self, pool: PoolId, node: NodeName, uid: str) -> bool: ...

    async def grow(self, pool: PoolId, nodes: int) -> bool: ...


class Effects:
    """Raises the typed errors of the model: RefusedError and AuthError for what will not do, others for now."""

    def __init__(
        self,
        mirror: Mirror,
        hub_api: KubeApi,
        nodes: NodeRemedies,
        pools: Mapping[ClusterId, Pools],
        clock: Clock,
        *,
        fence: Callable[[], None],
        want: Callable[[SetPlacement], None],
        roll_back: Callable[[], str],
        notify: Callable[[Action], None],
    ) -> None:
        self._mirror = mirror
        self._hub_api = hub_api
        self._nodes = nodes
        self._pools = pools
        self._clock = clock
        self._fence = fence
        self._want = want
        self._roll_back = roll_back
        self._notify = notify
        self._acts: dict[str, Callable[[Action], Awaitable[bool]]] = {
            NOTIFY: self._tell,
            CORDON: self._cordon,
            DRAIN: self._drain,
            REPLACE: self._replace,
            RESET: lambda action: nodes.request(action, "reset"),
            REBOOT: lambda action: nodes.request(action, "reboot"),
            RESTART: self._restart,
            EXCLUDE_NODE: self._exclude,
            MOVE_SERVING: self._move,
            SCALE_UP: self._grow,
            ROLL_BACK: self._take_back_policy,
            # In force by being remembered: the planner reads them off the state.
            QUARANTINE_POOL: self._nothing_more,
            QUARANTINE_CLUSTER: self._nothing_more,
            PAUSE_BURSTING: self._nothing_more,
            UNDO: self._undo,
        }

    async def carry_out(self, action: Action) -> bool:
        """Whether it is done."""
        return await self._acts[action.action](action)

    async def _nothing_more(self, _action: Action) -> bool:
        return True

    async def _tell(self, action: Action) -> bool:
        self._notify(action)
        return True

    async def _cordon(self, action: Action) -> bool:
        await self._nodes.close(action)
        return True

    async def _drain(self, action: Action) -> bool:
        # Empty and closed it would be given back at once, and what the policy has next for it would find it gone.
        self._hold(action)
        return await self._nodes.empty(action)

    def _hold(self, action: Action) -> None:
        keeper = self._pools.get(action.target.cluster) if action.target.cluster is not None else None
        if keeper is not None:
            keeper.hold(action.target.node_uid)

    async def _replace(self, action: Action) -> bool:
        target = action.target
        if target.cluster is None or target.pool is None or target.node is None:
            raise RefusedError("replace-node: the node belongs to no pool")
        keeper = self._pools.get(target.cluster)
        if keeper is None:
            raise RefusedError(f"replace-node: {target.cluster} has no provider")
        self._hold(action)
        if not await self._nodes.empty(action):
            return False
        return await keeper.replace(target.pool, target.node, target.node_uid)

    async def _grow(self, action: Action) -> bool:
        target = action.target
        keeper = self._pools.get(target.cluster) if target.cluster is not None else None
        if keeper is None or target.pool is None:
            raise RefusedError("scale-up: there is no such pool")
        return await keeper.grow(target.pool, action.nodes)

    async def _take_back_policy(self, action: Action) -> bool:
        log.warning("policies_rolled_back", digest=self._roll_back()[:12], why=action.reason)
        return True

    # -- workloads -------------------------------------------------------------------------------------------------

    async def _restart(self, action: Action) -> bool:
        """Back into its queue, from where it is placed anew."""
        uid = action.target.workload
        workload = self._mirror.workload(uid) if uid is not None else None
        if workload is None or workload.finished or workload.placement is None:
            return True
        placement = workload.placement
        if placement.decided_at > action.since and placement.state is not PlacementState.RELEASING:
            return True
        if placement.state is PlacementState.RELEASING:
            return False
        if placement.state is not PlacementState.STARTED:
            return True
        self.release(workload.ref.uid, action.id, at=max(self._clock.now(), action.since))
        return False

    def release(self, uid: Uid, decision: str, *, at: float) -> None:
        """Have the reconciler take a workload off its pool; it waits in its queue again once its copy is gone."""
        workload = self._mirror.workload(uid)
        placement = workload.placement if workload is not None else None
        if workload is None or placement is None or placement.state is not PlacementState.STARTED:
            return
        after = replace(placement, state=PlacementState.RELEASING, decided_at=at, decision=decision[:64], reason=REASON)
        self._want(SetPlacement(workload.ref, after, placement, DecisionId(decision[:64])))
        log.info("workload_released", workload=str(workload.ref), pool=str(placement.pool_ref), decision=decision)

    async def _exclude(self, action: Action) -> bool:
        target = action.target
        if target.cluster is not None and target.node is not None:
            await self._note_place(action, ANNOTATION_EXCLUDED_NODES, (target.cluster, target.node), there=True)
        return await self._restart(action)

    async def _move(self, action: Action) -> bool:
        """Off this pool and, while the signal lasts, not onto it again."""
        target = action.target
        if target.cluster is not None and target.pool is not None:
            await self._note_place(action, ANNOTATION_AVOIDED_POOLS, (target.cluster, target.pool), there=True)
        return await self._restart(action)

    async def _note_place(self, action: Action, annotation: str, place: tuple[str, str], *, there: bool) -> None:
        """Add a place to, or remove it from, an annotation of the workload's hub object, if it has changed at all."""
        hub = self._hub(action)
        if hub is None:
            return
        said = (hub.raw["metadata"].get("annotations") or {}).get(annotation)
        before = set(parse_places(said))
        after = before | {place} if there else before - {place}
        if after == before:
            return
        ref, kind = hub.workload.ref, self._mirror.kinds[hub.workload.ref.kind]
        condition = {"uid": ref.uid, "resourceVersion": hub.raw["metadata"]["resourceVersion"]}
        body = {"metadata": {**condition, "annotations": {annotation: format_places(after) or None}}}
        self._fence()
        changed = await self._hub_api.patch(kind.hub_resource, ref.namespace, ref.name, body)
        self._mirror.apply_hub(kind, changed)

    def _hub(self, action: Action) -> HubEntry | None:
        uid = action.target.workload
        entry = self._mirror.hub.get(uid) if uid is not None else None
        return entry if entry is not None and not entry.workload.finished else None

    # -- back again ------------------------------------------------------------------------------------------------

    async def _undo(self, action: Action) -> bool:
        target = action.target
        if NODE_ACTIONS.intersection(action.undoes) and target.node is not None:
            await self._nodes.open(action)
        if EXCLUDE_NODE in action.undoes and target.cluster is not None and target.node is not None:
            await self._note_place(action, ANNOTATION_EXCLUDED_NODES, (target.cluster, target.node), there=False)
        if MOVE_SERVING in action.undoes and target.cluster is not None and target.pool is not None:
            await self._note_place(action, ANNOTATION_AVOIDED_POOLS, (target.cluster, target.pool), there=False)
        return True
