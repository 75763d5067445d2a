"""What the node controllers do: conditions and taints of nodes, eviction from bad ones, pods of nodes that are gone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.matching import tolerates
from clusters.sandbox.emulation.objects import (
    condition,
    format_time,
    is_active,
    is_deleting,
    key_of,
    parse_time,
    split_key,
    with_condition,
)
from clusters.sandbox.emulation.timers import Timers
from clusters.sandbox.emulation.work import WorkQueue
from scheduler.model.contract import NODES, PODS
from scheduler.model.errors import NotFoundError
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock, KubeApi, RawObject

NOT_READY: Final = "node.kubernetes.io/not-ready"
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
_DEFAULT_TOLERATION_SECONDS: Final = 300.0
"""What the DefaultTolerationSeconds admission gives every pod for the two taints above."""


class NodeLifecycle:
    """One instance per cluster."""

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        timers: Timers,
        pods: Informer,
        nodes: Informer,
        *,
        heartbeat_seconds: float = 300.0,
        workers: int = 4,
    ) -> None:
        self._api = api
        self._clock = clock
        self._timers = timers
        self._pods = pods
        self._nodes = nodes
        self._heartbeat_seconds = heartbeat_seconds
        self._pods_by_node = pods.index(lambda pod: pod["spec"].get("nodeName"))
        self._bad: dict[str, tuple[str, str, str, Instant]] = {}
        """Node -> condition status, reason, message, since."""
        self._stale: set[str] = set()
        """Nodes whose heartbeat is to be written."""
        self.nodes_queue = WorkQueue("nodes", self._reconcile_node, workers=workers)
        self.evictions = WorkQueue("evictions", self._evict, workers=workers)
        nodes.handle(self._on_node)
        pods.handle(self._on_pod)
        self._schedule_heartbeat(clock.now())

    def mark_not_ready(self, node: str, *, reachable: bool = False) -> None:
        """The kubelet says that it is not ready (`reachable`), or says nothing any more."""
        if reachable:
            cause = ("False", "KubeletNotReady", "container runtime is down")
        else:
            cause = ("Unknown", "NodeStatusUnknown", "Kubelet stopped posting node status.")
        self._bad[node] = (*cause, self._clock.now())
        self.nodes_queue.add(node)

    def mark_ready(self, node: str) -> None:
        self._bad.pop(node, None)
        self.nodes_queue.add(node)

    # What the cluster tells

    def _on_node(self, kind: str, old: RawObject | None, node: RawObject) -> None:
        name = str(node["metadata"]["name"])
        if kind == "DELETED":
            self._bad.pop(name, None)
            for key in self._pods_by_node.get(name):
                self.evictions.add(key)
            return
        taints = (node.get("spec") or {}).get("taints") or []
        if taints != _with_health_taints(taints, self._health(node)):
            self.nodes_queue.add(name)
        if any(taint.get("effect") == "NoExecute" for taint in taints):
            for key in self._pods_by_node.get(name):
                self.evictions.add(key)

    def _on_pod(self, kind: str, old: RawObject | None, pod: RawObject) -> None:
        name = pod["spec"].get("nodeName")
        if kind == "DELETED" or not name or (old is not None and old["spec"].get("nodeName")):
            return
        node = self._nodes.get(name)
        if node is None or any(t.get("effect") == "NoExecute" for t in (node.get("spec") or {}).get("taints") or ()):
            self.evictions.add(key_of(pod))

    def _health(self, node: RawObject) -> str:
        """Status of the Ready condition as it should be: True, False or Unknown."""
        bad = self._bad.get(str(node["metadata"]["name"]))
        if bad is not None:
            return bad[0]
        ready = condition(node, "Ready")
        # A node that another component manages keeps what it says; one that we restored is ready.
        return "True" if ready is None or self._ours(node) else str(ready.get("status"))

    def _ours(self, node: RawObject) -> bool:
        return str((node.get("status") or {}).get("nodeInfo", {}).get("kubeletVersion", "")).endswith("-sandbox")

    # Nodes

    async def _reconcile_node(self, name: str) -> None:
        node = self._nodes.get(name)
        if node is None:
            return
        health = self._health(node)
        ready = condition(node, "Ready")
        if ready is None or ready.get("status") != health or name in self._stale:
            self._stale.discard(name)
            await self._write_condition(node, health)
        taints = (node.get("spec") or {}).get("taints") or []
        wanted = _with_health_taints(taints, health, format_time(self._clock.now()))
        if _without_times(wanted) != _without_times(taints):
            metadata = {
                "uid": node["metadata"]["uid"],
                "resourceVersion": self._nodes.objects[name]["metadata"]["resourceVersion"],
            }
            body = {"metadata": metadata, "spec": {"taints": wanted or None}}
            self._nodes.observe(await self._api.patch(NODES, "", name, body))

    async def _write_condition(self, node: RawObject, health: str) -> None:
        name = str(node["metadata"]["name"])
        now = self._clock.now()
        bad = self._bad.get(name)
        reason, message, since = (
            (bad[1], bad[2], bad[3]) if bad else ("KubeletReady", "kubelet is posting ready status", now)
        )
        new = {
            "type": "Ready",
            "status": health,
            "reason": reason,
            "message": message,
            "lastHeartbeatTime": format_time(since if bad else now),
            "lastTransitionTime": format_time(since),
        }
        conditions = with_condition((node.get("status") or {}).get("conditions") or (), new)
        body = {"metadata": {"uid": node["metadata"]["uid"]}, "status": {"conditions": conditions}}
        self._nodes.observe(await self._api.patch(NODES, "", name, body, subresource="status"))

    def _schedule_heartbeat(self, at: Instant) -> None:
        def beat(due: Instant) -> None:
            for name, node in self._nodes.objects.items():
                if name not in self._bad and self._ours(node) and not is_deleting(node):
                    self._stale.add(name)
                    self.nodes_queue.add(name)
            self._schedule_heartbeat(max(due, self._clock.now()))

        self._timers.at(at + self._heartbeat_seconds, beat, quiet=True)

    # Pods

    async def _evict(self, key: str) -> None:
        """Delete the pod when its node is gone, or when it does not tolerate a NoExecute taint (any longer)."""
        pod = self._pods.get(key)
        if pod is None or not pod["spec"].get("nodeName"):
            return
        name, uid = str(pod["spec"]["nodeName"]), pod["metadata"]["uid"]
        node = self._nodes.get(name)
        if node is None:
            if await self._is_gone(name):
                await self._api.delete(PODS, *split_key(key), uid=uid, grace_period_seconds=0)
            else:
                self.evictions.add_later(key, 1.0)
            return
        if not is_active(pod):
            return
        taints = [t for t in (node.get("spec") or {}).get("taints") or () if t.get("effect") == "NoExecute"]
        due = min((_leave_at(pod, taint, self._clock.now()) for taint in taints), default=None)
        if due is None or due == float("inf"):
            return
        if due > self._clock.now():
            self._timers.at(due, lambda _: self.evictions.add(key))
            return
        await self._api.delete(PODS, *split_key(key), uid=uid)

    async def _is_gone(self, name: str) -> bool:
        try:
            await self._api.get(NODES, "", name)
        except NotFoundError:
            return True
        return False


def _leave_at(pod: RawObject, taint: Mapping[str, Any], now: Instant) -> Instant:
    """When the pod must leave a node with this NoExecute taint; infinity when it need not."""
    since = parse_time(str(taint["timeAdded"])) if taint.get("timeAdded") else now
    tolerations = [t for t in pod["spec"].get("tolerations") or () if tolerates((t,), taint)]
    if not tolerations:
        default = _DEFAULT_TOLERATION_SECONDS if taint.get("key") in (NOT_READY, UNREACHABLE) else 0.0
        return since + default
    limits = [float(t["tolerationSeconds"]) for t in tolerations if t.get("tolerationSeconds") is not None]
    return since + min(limits) if limits else float("inf")


def _with_health_taints(taints: list[dict[str, Any]], health: str, added: str = "") -> list[dict[str, Any]]:
    """The taints with those that the Ready condition calls for, and without those that it does not."""
    key = {"False": NOT_READY, "Unknown": UNREACHABLE}.get(health)
    kept = [t for t in taints if t.get("key") not in (NOT_READY, UNREACHABLE) or t.get("key") == key]
    for effect in ("NoSchedule", "NoExecute") if key else ():
        if not any(t.get("key") == key and t.get("effect") == effect for t in kept):
            kept.append({"key": key, "effect": effect, **({"timeAdded": added} if added else {})})
    return kept


def _without_times(taints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in taint.items() if name != "timeAdded"} for taint in taints]
