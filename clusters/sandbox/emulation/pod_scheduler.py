"""The emulated kube-scheduler: binds pending pods to nodes with room, highest priority first.

Pods that ask for the same thing form a class. A class knows which nodes could ever take it, and once one of its pods
finds no room the rest of the class is not tried again until something has changed for the better.
"""

from __future__ import annotations

import asyncio
import heapq
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.matching import matches_affinity, untolerated
from clusters.sandbox.emulation.objects import (
    condition,
    condition_true,
    format_time,
    is_active,
    is_deleting,
    is_terminal,
    key_of,
    pod_requests,
    resources,
    split_key,
    with_condition,
)
from clusters.sandbox.emulation.work import WorkQueue
from scheduler.model.contract import PODS
from scheduler.model.errors import ConflictError, InvalidObjectError, NotFoundError
from scheduler.model.ports import Clock, KubeApi, RawObject
from scheduler.model.resources import Resources

_log = structlog.get_logger(__name__)
_NO_SCHEDULE: Final = ("NoSchedule", "NoExecute")
_RESOURCE_NAMES: Final = {"gpu": "nvidia.com/gpu"}
_PASS_LIMIT: Final = 500
"""Pods placed in one pass before other tasks get their turn."""


@dataclass(slots=True)
class _Node:
    name: str
    spec: Mapping[str, Any]
    labels: Mapping[str, str]
    room: Resources
    ready: bool
    pods: dict[str, Resources] = field(default_factory=dict)


@dataclass(slots=True)
class _Class:
    """Pods with equal demands; `waiting` is a heap of (-priority, created, key)."""

    spec: Mapping[str, Any]
    requests: Resources
    waiting: list[tuple[int, str, str]] = field(default_factory=list)
    candidates: list[_Node] | None = None
    blocked: bool = False
    message: str = ""
    untold: list[str] = field(default_factory=list)
    """Pods that do not know yet why they wait."""


class PodScheduler:
    """Event-driven; call `run` after the informers have been given to it."""

    def __init__(self, api: KubeApi, clock: Clock, pods: Informer, nodes: Informer, *, workers: int = 8) -> None:
        self._api = api
        self._clock = clock
        self._pods = pods
        self._nodes: dict[str, _Node] = {}
        self._classes: dict[str, _Class] = {}
        self._class_of: dict[str, str] = {}
        self._bound: dict[str, str] = {}
        self._messages: dict[str, str] = {}
        self._event = asyncio.Event()
        self._binds = WorkQueue("bind", self._bind, workers=workers)
        self._notes = WorkQueue("unschedulable", self._note, workers=2)
        nodes.handle(self._on_node)
        pods.handle(self._on_pod)

    @property
    def busy(self) -> bool:
        return self._event.is_set() or self._binds.busy or self._notes.busy

    async def run(self) -> None:
        """Schedule for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._binds.run())
            group.create_task(self._notes.run())
            while True:
                await self._event.wait()
                self._event.clear()
                if self.schedule() >= _PASS_LIMIT:
                    self._event.set()
                await asyncio.sleep(0)

    def schedule(self) -> int:
        """Assign waiting pods to nodes, best first; how many were assigned. At most one pass' worth."""
        heads = [(group.waiting[0], key) for key, group in self._classes.items() if group.waiting and not group.blocked]
        heapq.heapify(heads)
        assigned = 0
        while heads and assigned < _PASS_LIMIT:
            (_, _, pod_key), class_key = heapq.heappop(heads)
            group = self._classes[class_key]
            if self._class_of.get(pod_key) != class_key:  # bound or gone since it was queued
                heapq.heappop(group.waiting)
            elif (node := self._choose(group)) is None:
                self._block(group, class_key)
                continue
            else:
                heapq.heappop(group.waiting)
                del self._class_of[pod_key]
                self._assume(pod_key, node, group.requests)
                assigned += 1
            if group.waiting:
                heapq.heappush(heads, (group.waiting[0], class_key))
        self._forget_empty_classes()
        return assigned

    def _choose(self, group: _Class) -> _Node | None:
        """The fullest node (by GPUs, then CPU) with room, so that large pods still find whole nodes and bought ones
        become idle; ties by name."""
        if group.candidates is None:
            group.candidates = [
                node for node in sorted(self._nodes.values(), key=lambda n: n.name) if not self._refusal(group, node)
            ]
        best: _Node | None = None
        asked = group.requests
        for node in group.candidates:
            room = node.room
            if (
                (best is None or (room.gpus, room.cpu_milli) < (best.room.gpus, best.room.cpu_milli))
                and asked.gpus <= room.gpus
                and asked.fits_in(room)
            ):
                best = node
        return best

    def _assume(self, pod_key: str, node: _Node, requests: Resources) -> None:
        node.pods[pod_key] = requests
        node.room = node.room - requests
        self._bound[pod_key] = node.name
        self._messages.pop(pod_key, None)
        self._binds.add(pod_key)

    async def _bind(self, key: str) -> None:
        pod, node = self._pods.get(key), self._bound.get(key)
        if pod is None or node is None or pod["spec"].get("nodeName"):
            return
        namespace, name = split_key(key)
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        metadata = {"name": name, "namespace": namespace, "uid": pod["metadata"]["uid"]}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
        try:
            await self._api.create_subresource(PODS, namespace, name, "binding", body)
        except NotFoundError:
            self._release(key)
        except ConflictError:
            # Bound or deleted by someone else: forget the assumption; if it is still pending it is tried again.
            current = self._pods.get(key)
            if current is None or not current["spec"].get("nodeName"):
                self._release(key)
                if current is not None and is_active(current):
                    self._enqueue(key, current)

    # What the cluster tells

    def _on_pod(self, kind: str, old: RawObject | None, pod: RawObject) -> None:
        key = key_of(pod)
        node = pod["spec"].get("nodeName")
        if kind == "DELETED" or is_terminal(pod):
            self._release(key)
        elif node:
            self._occupy(key, node, pod)
        elif is_active(pod):
            if key not in self._bound:
                self._enqueue(key, pod)
        else:
            self._release(key)

    def _enqueue(self, key: str, pod: RawObject) -> None:
        spec = pod["spec"]
        if key in self._class_of or spec.get("schedulerName", "default-scheduler") != "default-scheduler":
            return
        if spec.get("schedulingGates"):
            return
        class_key = _class_key(spec)
        group = self._classes.get(class_key)
        if group is None:
            try:
                group = self._classes[class_key] = _Class(spec, pod_requests(spec))
            except InvalidObjectError as error:
                _log.error("pod cannot be scheduled", pod=key, error=str(error))
                return
        self._class_of[key] = class_key
        created = str(pod["metadata"].get("creationTimestamp", ""))
        heapq.heappush(group.waiting, (-int(spec.get("priority") or 0), created, key))
        if group.blocked and group.message:
            self._tell(key, group)
            return
        group.untold.append(key)
        group.blocked = False
        self._event.set()

    def _occupy(self, key: str, node_name: str, pod: RawObject) -> None:
        self._class_of.pop(key, None)
        if self._bound.get(key) == node_name and (node_name not in self._nodes or key in self._nodes[node_name].pods):
            return
        self._release(key)
        self._bound[key] = node_name
        if (node := self._nodes.get(node_name)) is not None:
            self._charge(node, key, pod)

    def _charge(self, node: _Node, key: str, pod: RawObject) -> None:
        try:
            requests = pod_requests(pod["spec"])
        except InvalidObjectError as error:
            _log.error("bound pod with unreadable requests; counted as none", pod=key, error=str(error))
            requests = Resources(pods=1)
        node.pods[key] = requests
        node.room = node.room - requests

    def _release(self, key: str) -> None:
        self._class_of.pop(key, None)
        self._messages.pop(key, None)
        node = self._nodes.get(self._bound.pop(key, ""))
        if node is not None and (requests := node.pods.pop(key, None)) is not None:
            node.room = node.room + requests
            self._unblock(node)

    def _on_node(self, kind: str, old: RawObject | None, obj: RawObject) -> None:
        name = str(obj["metadata"]["name"])
        if kind == "DELETED":
            if self._nodes.pop(name, None) is not None:
                self._candidates_changed()
            return
        known = self._nodes.get(name)
        ready = condition_true(obj, "Ready") and not is_deleting(obj)
        if old is not None and known is not None and _same_to_pods(old, obj) and known.ready == ready:
            return
        try:
            allocatable = resources((obj.get("status") or {}).get("allocatable") or {})
        except InvalidObjectError as error:
            _log.error("node with unreadable allocatable; not scheduled on", node=name, error=str(error))
            return
        node = _Node(name, obj.get("spec") or {}, obj["metadata"].get("labels") or {}, allocatable, ready)
        self._nodes[name] = node
        if known is not None:
            node.pods = known.pods
            for requests in known.pods.values():
                node.room = node.room - requests
        else:
            for pod_key in [key for key, bound in self._bound.items() if bound == name]:
                if (pod := self._pods.get(pod_key)) is not None:
                    self._charge(node, pod_key, pod)
        self._candidates_changed()

    def _candidates_changed(self) -> None:
        for group in self._classes.values():
            group.candidates = None
            group.blocked = False
        self._event.set()

    def _unblock(self, node: _Node) -> None:
        for group in self._classes.values():
            if group.blocked and group.requests.fits_in(node.room):
                group.blocked = False
                self._event.set()

    def _forget_empty_classes(self) -> None:
        if len(self._classes) > 64:
            self._classes = {key: group for key, group in self._classes.items() if group.waiting}

    # Saying why not

    def _block(self, group: _Class, class_key: str) -> None:
        group.blocked = True
        waiting = [key for key in group.untold if self._class_of.get(key) == class_key]
        group.untold.clear()
        if waiting:
            group.message = self._explain(group)
        for key in waiting:
            self._tell(key, group)

    def _tell(self, key: str, group: _Class) -> None:
        """Once per pod: thousands may wait, and the cause is the news."""
        self._messages[key] = group.message
        self._notes.add(key)

    def _explain(self, group: _Class) -> str:
        reasons: Counter[str] = Counter()
        for node in self._nodes.values():
            refusal = self._refusal(group, node)
            if refusal:
                reasons[refusal] += 1
                continue
            for short in group.requests.shortfall(node.room):
                reasons[
                    "Too many pods" if short == "pods" else f"Insufficient {_RESOURCE_NAMES.get(short, short)}"
                ] += 1
        listed = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        total = len(self._nodes)
        return f"0/{total} nodes are available: {listed}." if total else "no nodes available to schedule pods"

    def _refusal(self, group: _Class, node: _Node) -> str:
        """Why the node could not take the class however empty it were; "" when it could."""
        tolerations = group.spec.get("tolerations") or ()
        if not node.ready:
            return "node(s) were not ready"
        if node.spec.get("unschedulable"):
            return "node(s) were unschedulable"
        taint = untolerated(node.spec.get("taints") or (), tolerations, _NO_SCHEDULE)
        if taint is not None:
            return f"node(s) had untolerated taint {{{taint.get('key')}: {taint.get('value') or ''}}}"
        if not matches_affinity(group.spec, node.labels, node.name):
            return "node(s) didn't match Pod's node affinity/selector"
        return ""

    async def _note(self, key: str) -> None:
        pod, message = self._pods.get(key), self._messages.get(key)
        if pod is None or message is None or pod["spec"].get("nodeName"):
            return
        existing = condition(pod, "PodScheduled")
        if existing is not None and existing.get("message") == message:
            return
        new = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": format_time(self._clock.now()),
        }
        conditions = with_condition((pod.get("status") or {}).get("conditions") or (), new)
        body = {"metadata": {"uid": pod["metadata"]["uid"]}, "status": {"conditions": conditions}}
        await self._api.patch(PODS, *split_key(key), body, subresource="status")


def _same_to_pods(old: RawObject, new: RawObject) -> bool:
    """Whether nothing changed that decides where pods may go."""
    return (
        (old.get("spec") or {}) == (new.get("spec") or {})
        and old["metadata"].get("labels") == new["metadata"].get("labels")
        and (old.get("status") or {}).get("allocatable") == (new.get("status") or {}).get("allocatable")
    )


def _class_key(spec: Mapping[str, Any]) -> str:
    demands = [
        [c.get("resources") for c in spec.get("containers") or ()],
        [[c.get("resources"), c.get("restartPolicy")] for c in spec.get("initContainers") or ()],
        spec.get("nodeSelector"),
        (spec.get("affinity") or {}).get("nodeAffinity"),
        spec.get("tolerations"),
        spec.get("overhead"),
    ]
    return json.dumps(demands, sort_keys=True)
