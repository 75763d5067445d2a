"""The emulated StatefulSet controller: pods with ordinals, one after another, each with its own volume claims."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clusters.sandbox.emulation.deployment_controller import template_hash
from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.objects import (
    condition_true,
    controller_uid,
    is_deleting,
    is_terminal,
    key_of,
    owner_reference,
    split_key,
)
from clusters.sandbox.emulation.work import WorkQueue
from scheduler.model.contract import PODS, STATEFULSETS, VOLUME_CLAIMS
from scheduler.model.errors import AlreadyExistsError, ConflictError
from scheduler.model.ports import KubeApi, RawObject

_HASH = "controller-revision-hash"
_POD_NAME = "statefulset.kubernetes.io/pod-name"


class StatefulSetController:
    """Source: Kubernetes documentation, "StatefulSets": deployment and scaling guarantees, rolling updates. Partitions
    and maxUnavailable are left out: one pod is replaced after another, the highest ordinal first."""

    def __init__(self, api: KubeApi, sets: Informer, pods: Informer, *, workers: int = 4) -> None:
        self._api = api
        self._sets = sets
        self._pods = pods
        self._by_owner = pods.index(controller_uid)
        self._keys: dict[str, str] = {}
        self.queue = WorkQueue("statefulsets", self._reconcile, workers=workers)
        sets.handle(self._on_set)
        pods.handle(self._on_pod)

    def _on_set(self, kind: str, old: RawObject | None, obj: RawObject) -> None:
        if kind == "DELETED":
            self._keys.pop(obj["metadata"]["uid"], None)
        else:
            self._keys[obj["metadata"]["uid"]] = key_of(obj)
            self.queue.add(key_of(obj))

    def _on_pod(self, kind: str, old: RawObject | None, pod: RawObject) -> None:
        if (key := self._keys.get(controller_uid(pod) or "")) is not None:
            self.queue.add(key)

    async def _reconcile(self, key: str) -> None:
        owner = self._sets.get(key)
        if owner is None or is_deleting(owner):
            return
        pods = {_ordinal(pod): pod for pod in self._by_owner.get(owner["metadata"]["uid"]).values()}
        spec = owner["spec"]
        wanted, ordered = _replicas(owner), spec.get("podManagementPolicy") != "Parallel"
        for ordinal in range(wanted):
            pod = pods.get(ordinal)
            if pod is None:
                pod = pods[ordinal] = await self._create(owner, ordinal)
            elif is_terminal(pod) and not is_deleting(pod):
                await self._delete(pod)
            if ordered and not condition_true(pod, "Ready"):
                break
        for ordinal in sorted((each for each in pods if each >= wanted), reverse=True):
            if not is_deleting(pods[ordinal]):
                await self._delete(pods[ordinal])
            if ordered:
                break
        await self._roll(owner, pods, wanted)
        await self._report(owner)

    async def _roll(self, owner: RawObject, pods: Mapping[int, RawObject], wanted: int) -> None:
        if (owner["spec"].get("updateStrategy") or {}).get("type") == "OnDelete":
            return
        revision = _revision(owner)
        here = [pods.get(ordinal) for ordinal in range(wanted)]
        old = [pod for pod in here if pod is not None and pod["metadata"]["labels"].get(_HASH) != revision]
        others = [pod for pod in here if pod is None or pod not in old]
        if old and not any(pod is None or is_deleting(pod) or not condition_true(pod, "Ready") for pod in others):
            last = old[-1]
            if not any(is_deleting(pod) for pod in old):
                await self._delete(last)

    async def _create(self, owner: RawObject, ordinal: int) -> RawObject:
        metadata, spec = owner["metadata"], owner["spec"]
        namespace, name = metadata["namespace"], f"{metadata['name']}-{ordinal}"
        claims = [(each["metadata"]["name"], each) for each in spec.get("volumeClaimTemplates") or ()]
        for claim, wanted in claims:
            await self._claim(namespace, f"{claim}-{name}", wanted)
        template = spec["template"]
        meta = template.get("metadata") or {}
        volumes = [{"name": claim, "persistentVolumeClaim": {"claimName": f"{claim}-{name}"}} for claim, _ in claims]
        kept = [each for each in template["spec"].get("volumes") or () if each["name"] not in dict(claims)]
        pod_spec = {**template["spec"], **({"volumes": [*kept, *volumes]} if kept or volumes else {})}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {**(meta.get("labels") or {}), _HASH: _revision(owner), _POD_NAME: name},
                "annotations": dict(meta.get("annotations") or {}),
                "ownerReferences": [owner_reference(owner, "apps/v1", "StatefulSet")],
            },
            "spec": {**pod_spec, "hostname": name},
        }
        try:
            made = await self._api.create(PODS, namespace, body)
        except AlreadyExistsError:
            raise ConflictError(f"Pod {name} of a former StatefulSet is on its way out") from None
        self._pods.observe(made)
        return made

    async def _claim(self, namespace: str, name: str, template: Mapping[str, Any]) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": name, "namespace": namespace, "labels": (template["metadata"]).get("labels") or {}},
            "spec": template["spec"],
        }
        try:
            await self._api.create(VOLUME_CLAIMS, namespace, body)
        except AlreadyExistsError:
            return

    async def _delete(self, pod: RawObject) -> None:
        await self._api.delete(PODS, *split_key(key_of(pod)), uid=pod["metadata"]["uid"])

    async def _report(self, owner: RawObject) -> None:
        pods = [p for p in self._by_owner.get(owner["metadata"]["uid"]).values() if not is_terminal(p)]
        ready = sum(condition_true(pod, "Ready") and not is_deleting(pod) for pod in pods)
        revision = _revision(owner)
        status = {
            "replicas": len(pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "updatedReplicas": sum(pod["metadata"]["labels"].get(_HASH) == revision for pod in pods),
            "updateRevision": revision,
            "observedGeneration": owner["metadata"].get("generation", 1),
        }
        current = owner.get("status") or {}
        if all((current.get(name) or 0) == (value or 0) for name, value in status.items()):
            return
        body = {"metadata": {"uid": owner["metadata"]["uid"]}, "status": status}
        self._sets.observe(await self._api.patch(STATEFULSETS, *split_key(key_of(owner)), body, subresource="status"))


def _ordinal(pod: RawObject) -> int:
    tail = str(pod["metadata"]["name"]).rpartition("-")[2]
    return int(tail) if tail.isdecimal() else -1


def _replicas(owner: RawObject) -> int:
    replicas = owner["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def _revision(owner: RawObject) -> str:
    return f"{owner['metadata']['name']}-{template_hash(owner['spec']['template'])}"
