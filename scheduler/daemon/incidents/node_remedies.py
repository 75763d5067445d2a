"""What remedies do to a node, one write at a time: close it, empty it, ask for a reset or reboot, open it again.

Each step is idempotent and looks at the node as its API has it now: the list of taints is changed only on condition
that nobody else has changed it, and what belongs to another owner stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from clusters.kubernetes.codec import PodFacts, format_mark, format_time, parse_mark, parse_pod
from scheduler.model.contract import (
    ANNOTATION_REMEDIATION,
    ANNOTATION_REQUEST,
    ANNOTATION_REQUEST_DONE,
    NODES,
    PODS,
    TAINT_REMEDIATION,
)
from scheduler.model.errors import ConflictError, NotFoundError, RefusedError, ThrottledError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import Clock, KubeApi, RawObject
from scheduler.model.remediation import Action, Mark

log = structlog.get_logger(__name__)
Annotations = dict[str, str | None]


class NodeRemedies:
    """Raises the typed errors of the model. Every write checks the fence first."""

    def __init__(
        self, federation: str, apis: Mapping[ClusterId, KubeApi], clock: Clock, fence: Callable[[], None]
    ) -> None:
        self._federation = federation
        self._apis = apis
        self._clock = clock
        self._fence = fence

    async def close(self, action: Action) -> bool:
        """Cordon, taint and mark the node; False when it is gone.

        Raises: RefusedError when somebody else has closed it meanwhile.
        """
        raw = await self._node(action)
        if raw is None:
            return False
        held = taints_of(raw, TAINT_REMEDIATION)
        annotations = raw["metadata"].get("annotations") or {}
        mark = parse_mark(annotations.get(ANNOTATION_REMEDIATION))
        if held and mark is not None and mark.by == self._federation and mark.incident == action.incident:
            return True
        if held and (mark is None or mark.by != self._federation):
            raise RefusedError(f"node {action.target.node} is closed by another federation's remedy")
        if not held and raw["spec"].get("unschedulable"):
            raise RefusedError(f"node {action.target.node} was cordoned by somebody else meanwhile")
        said = Mark(self._federation, action.incident, action.signal, action.action, action.since)
        taint = {"key": TAINT_REMEDIATION, "value": _label(action.signal), "effect": "NoSchedule"}
        others = [each for each in raw["spec"].get("taints") or () if each.get("key") != TAINT_REMEDIATION]
        spec = {"unschedulable": True, "taints": [*others, taint]}
        await self._patch(action, raw, {ANNOTATION_REMEDIATION: format_mark(said)}, spec)
        log.info("node_closed", cluster=action.target.cluster, node=action.target.node, why=action.reason)
        return True

    async def empty(self, action: Action) -> bool:
        """Close the node and evict its pods, with respect for their disruption budgets; whether it is empty now."""
        if not await self.close(action):
            return True
        left = await self._pods(action)
        for pod in left:
            if not pod.deleting:
                await self._evict(action, pod)
        return not left

    async def request(self, action: Action, what: str) -> bool:
        """Empty the node, then ask the site's own agent for `what` (reset or reboot); whether it says it is done."""
        if not await self.empty(action):
            return False
        raw = await self._node(action)
        if raw is None:
            return True
        annotations = raw["metadata"].get("annotations") or {}
        if annotations.get(ANNOTATION_REQUEST_DONE) == action.id:
            return True
        asked = {"request": what, "id": action.id, "at": format_time(action.since)}
        if action.target.gpu:
            asked["gpu"] = action.target.gpu
        wanted = json.dumps(asked)
        if annotations.get(ANNOTATION_REQUEST) != wanted:
            await self._patch(action, raw, {ANNOTATION_REQUEST: wanted}, {})
            log.info("request_made", request=what, cluster=action.target.cluster, node=action.target.node)
        return False

    async def open(self, action: Action) -> bool:
        """Take back what `close` and `request` did; the mark stays, so that it is known when the node was disrupted.
        A node that is not ours (any more) is left alone."""
        raw = await self._node(action)
        if raw is None or not taints_of(raw, TAINT_REMEDIATION):
            return True
        mark = parse_mark((raw["metadata"].get("annotations") or {}).get(ANNOTATION_REMEDIATION))
        if mark is None or mark.by != self._federation:
            return True
        others = [each for each in raw["spec"].get("taints") or () if each.get("key") != TAINT_REMEDIATION]
        await self._patch(action, raw, {ANNOTATION_REQUEST: None}, {"unschedulable": None, "taints": others or None})
        log.info("node_opened", cluster=action.target.cluster, node=action.target.node)
        return True

    async def _node(self, action: Action) -> RawObject | None:
        """As its API has it; None: gone, or another node of the same name."""
        api = self._api(action)
        found = await api.list(NODES, field_selector=f"metadata.name={action.target.node}")
        return next((raw for raw in found.items if raw["metadata"]["uid"] == action.target.node_uid), None)

    async def _patch(self, action: Action, raw: RawObject, annotations: Annotations, spec: dict[str, Any]) -> None:
        meta = {name: raw["metadata"][name] for name in ("uid", "resourceVersion")}
        body = {"metadata": {**meta, "annotations": annotations}, "spec": spec}
        self._fence()
        await self._api(action).patch(NODES, "", str(action.target.node), body)

    async def _pods(self, action: Action) -> list[PodFacts]:
        """Those that an eviction can move: neither of DaemonSets nor static, not at their end."""
        found = await self._api(action).list(PODS, field_selector=f"spec.nodeName={action.target.node}")
        pods = [parse_pod(raw) for raw in found.items]
        left = [pod for pod in pods if not pod.terminal and not pod.daemon_or_static]
        return sorted(left, key=lambda pod: (pod.namespace, pod.name))

    async def _evict(self, action: Action, pod: PodFacts) -> None:
        options: dict[str, Any] = {"preconditions": {"uid": pod.uid}}
        if action.grace_seconds is not None:
            options["gracePeriodSeconds"] = int(action.grace_seconds)
        metadata = {"namespace": pod.namespace, "name": pod.name}
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": metadata, "deleteOptions": options}
        self._fence()
        try:
            await self._api(action).create_subresource(PODS, pod.namespace, pod.name, "eviction", body)
        except (NotFoundError, ConflictError):
            return  # it went, or another has its name
        except ThrottledError as error:
            # A disruption budget says not now: the others go on, this one is asked for again.
            log.info("eviction_waits", pod=f"{pod.namespace}/{pod.name}", why=str(error)[:200])
            return
        log.info("pod_evicted", cluster=action.target.cluster, pod=f"{pod.namespace}/{pod.name}", why=action.reason)

    def _api(self, action: Action) -> KubeApi:
        cluster = action.target.cluster
        if cluster is None or cluster not in self._apis:
            raise RefusedError(f"{action.action}: cluster {cluster} is not in the federation")
        return self._apis[cluster]


def taints_of(raw: RawObject, key: str) -> list[Mapping[str, Any]]:
    return [each for each in raw["spec"].get("taints") or () if each.get("key") == key]


def _label(signal: str) -> str:
    """The signal as a taint's value may say it."""
    kept = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "-" for char in signal)
    return kept[:63].strip("-_.")
