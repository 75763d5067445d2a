"""The emulated Deployment and ReplicaSet controllers."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping
from typing import Any, Final

from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.objects import (
    condition_true,
    controller_uid,
    format_time,
    is_active,
    is_deleting,
    key_of,
    owner_reference,
    split_key,
    with_condition,
)
from clusters.sandbox.emulation.work import WorkQueue
from scheduler.model.contract import DEPLOYMENTS, PODS, REPLICASETS
from scheduler.model.errors import AlreadyExistsError, ConflictError, NotFoundError
from scheduler.model.ports import Clock, KubeApi, RawObject, Resource

_HASH: Final = "pod-template-hash"
_REVISION: Final = "deployment.kubernetes.io/revision"
_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"


class ReplicaSetController:
    """Keeps `spec.replicas` pods of each ReplicaSet."""

    def __init__(self, api: KubeApi, sets: Informer, pods: Informer, *, seed: int | str = 0, workers: int = 4) -> None:
        self._api = api
        self._sets = sets
        self._pods = pods
        self._by_owner = pods.index(controller_uid)
        self._keys: dict[str, str] = {}
        self._random = random.Random(f"replicas/{seed}")  # noqa: S311  (names, no secret)
        self.queue = WorkQueue("replicasets", self._reconcile, workers=workers)
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
        replica_set = self._sets.get(key)
        if replica_set is None or is_deleting(replica_set):
            return
        uid = replica_set["metadata"]["uid"]
        active = [pod for pod in self._by_owner.get(uid).values() if is_active(pod)]
        wanted = _replicas(replica_set)
        for _ in range(max(0, wanted - len(active))):
            await self._create(replica_set, key)
        surplus = sorted(active, key=lambda pod: (condition_true(pod, "Ready"), pod["metadata"]["name"]))
        for pod in surplus[: max(0, len(active) - wanted)]:
            metadata = pod["metadata"]
            await self._api.delete(PODS, metadata["namespace"], metadata["name"], uid=metadata["uid"])
        await self._report(replica_set)

    async def _create(self, replica_set: RawObject, key: str) -> None:
        template, metadata = replica_set["spec"]["template"], replica_set["metadata"]
        prefix = f"{metadata['name'][:57]}-"
        meta = template.get("metadata") or {}
        body = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": prefix + "".join(self._random.choices(_LETTERS, k=5)),
                "generateName": prefix,
                "namespace": metadata["namespace"],
                "labels": dict(meta.get("labels") or {}),
                "annotations": dict(meta.get("annotations") or {}),
                "ownerReferences": [owner_reference(replica_set, "apps/v1", "ReplicaSet")],
            },
            "spec": template["spec"],
        }
        try:
            self._pods.observe(await self._api.create(PODS, metadata["namespace"], body))
        except AlreadyExistsError:  # the drawn name is taken
            self.queue.add(key)

    async def _report(self, replica_set: RawObject) -> None:
        pods = [p for p in self._by_owner.get(replica_set["metadata"]["uid"]).values() if is_active(p)]
        ready = sum(condition_true(pod, "Ready") for pod in pods)
        status = {
            "replicas": len(pods),
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "observedGeneration": replica_set["metadata"].get("generation", 1),
        }
        await _write_status(self._api, REPLICASETS, self._sets, replica_set, status)


class DeploymentController:
    """Moves each Deployment to its current template by way of ReplicaSets."""

    def __init__(self, api: KubeApi, clock: Clock, deployments: Informer, sets: Informer, *, workers: int = 4) -> None:
        self._api = api
        self._clock = clock
        self._deployments = deployments
        self._sets = sets
        self._by_owner = sets.index(controller_uid)
        self._keys: dict[str, str] = {}
        self.queue = WorkQueue("deployments", self._reconcile, workers=workers)
        deployments.handle(self._on_deployment)
        sets.handle(self._on_set)

    def _on_deployment(self, kind: str, old: RawObject | None, obj: RawObject) -> None:
        if kind == "DELETED":
            self._keys.pop(obj["metadata"]["uid"], None)
        else:
            self._keys[obj["metadata"]["uid"]] = key_of(obj)
            self.queue.add(key_of(obj))

    def _on_set(self, kind: str, old: RawObject | None, obj: RawObject) -> None:
        if (key := self._keys.get(controller_uid(obj) or "")) is not None:
            self.queue.add(key)

    async def _reconcile(self, key: str) -> None:
        deployment = self._deployments.get(key)
        if deployment is None or is_deleting(deployment):
            return
        uid = deployment["metadata"]["uid"]
        sets = sorted(self._by_owner.get(uid).values(), key=_revision)
        digest = template_hash(deployment["spec"]["template"])
        current = next((s for s in sets if (s["metadata"].get("labels") or {}).get(_HASH) == digest), None)
        old = [s for s in sets if s is not current]
        if deployment["spec"].get("paused") and current is None:
            await self._report(deployment, current, old)
            return
        if current is None:
            current = await self._create(deployment, digest, old)
        elif old and _revision(current) <= _revision(old[-1]):  # rolled back to a former template
            annotations = {_REVISION: str(_revision(old[-1]) + 1)}
            current = await self._patch_set(current, {"metadata": {"annotations": annotations}})
        await self._roll(deployment, current, old)
        await self._drop_history(deployment, old)
        current = self._sets.get(key_of(current)) or current
        await self._report(deployment, current, [self._sets.get(key_of(s)) or s for s in old])

    async def _roll(self, deployment: RawObject, current: RawObject, old: list[RawObject]) -> None:
        """Scale the current set up and the old ones down as the strategy allows now."""
        wanted = _replicas(deployment)
        have_old = sum(_replicas(s) for s in old)
        if (deployment["spec"].get("strategy") or {}).get("type") == "Recreate":
            for replica_set in old:
                await self._scale(replica_set, 0)
            still_there = sum(_status(s, "replicas") for s in old)
            await self._scale(current, 0 if have_old or still_there else wanted)
            return
        surge, unavailable = rolling_limits(deployment)
        room = wanted + surge - have_old - _replicas(current)
        target = min(wanted, _replicas(current) + max(0, room)) if _replicas(current) < wanted else wanted
        await self._scale(current, target)
        unready_current = max(0, _replicas(current) - _status(current, "availableReplicas"))
        spare = have_old + _replicas(current) - unready_current - (wanted - unavailable)
        for replica_set in old:
            unready = max(0, _replicas(replica_set) - _status(replica_set, "availableReplicas"))
            drop = min(_replicas(replica_set), unready + max(0, spare - unready))
            if drop and (spare > 0 or unready):
                await self._scale(replica_set, _replicas(replica_set) - drop)
                spare -= drop

    async def _create(self, deployment: RawObject, digest: str, old: list[RawObject]) -> RawObject:
        metadata, spec = deployment["metadata"], deployment["spec"]
        template = spec["template"]
        meta = template.get("metadata") or {}
        labels = {**(meta.get("labels") or {}), _HASH: digest}
        surge, _ = rolling_limits(deployment)
        have_old = sum(_replicas(s) for s in old)
        recreate = (spec.get("strategy") or {}).get("type") == "Recreate"
        room = max(0, _replicas(deployment) + surge - have_old)
        name = f"{metadata['name']}-{digest}"
        body = {
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": metadata["namespace"],
                "labels": labels,
                "annotations": {_REVISION: str((_revision(old[-1]) if old else 0) + 1)},
                "ownerReferences": [owner_reference(deployment, "apps/v1", "Deployment")],
            },
            "spec": {
                "replicas": (0 if have_old else _replicas(deployment))
                if recreate
                else min(_replicas(deployment), room),
                "selector": {
                    **spec["selector"],
                    "matchLabels": {**(spec["selector"].get("matchLabels") or {}), _HASH: digest},
                },
                "template": {**template, "metadata": {**meta, "labels": labels}},
            },
        }
        try:
            created = await self._api.create(REPLICASETS, metadata["namespace"], body)
        except AlreadyExistsError:
            created = await self._own(metadata, name)
        self._sets.observe(created)
        return created

    async def _own(self, metadata: Mapping[str, Any], name: str) -> RawObject:
        """The Deployment's set of that name, made by an attempt whose answer was lost.

        Raises: ConflictError, to be tried again, while it is one that a former Deployment of this name has left.
        """
        try:
            found = await self._api.get(REPLICASETS, metadata["namespace"], name)
        except NotFoundError:  # collected just now; not to be taken for the absence of the Deployment
            raise ConflictError(f"ReplicaSet {name} was on its way out") from None
        if controller_uid(found) != metadata["uid"]:
            raise ConflictError(f"ReplicaSet {name} belongs to another owner")
        return found

    async def _scale(self, replica_set: RawObject, replicas: int) -> None:
        if _replicas(replica_set) != replicas:
            await self._patch_set(replica_set, {"spec": {"replicas": replicas}})

    async def _patch_set(self, replica_set: RawObject, body: dict[str, Any]) -> RawObject:
        metadata = {**body.get("metadata", {}), "uid": replica_set["metadata"]["uid"]}
        patch = {**body, "metadata": metadata}
        written = await self._api.patch(REPLICASETS, *split_key(key_of(replica_set)), patch)
        self._sets.observe(written)
        return written

    async def _drop_history(self, deployment: RawObject, old: list[RawObject]) -> None:
        limit = deployment["spec"].get("revisionHistoryLimit")
        idle = [s for s in old if not _replicas(s) and not _status(s, "replicas") and not is_deleting(s)]
        for replica_set in idle[: max(0, len(idle) - (10 if limit is None else int(limit)))]:
            uid = replica_set["metadata"]["uid"]
            await self._api.delete(REPLICASETS, *split_key(key_of(replica_set)), uid=uid)

    async def _report(self, deployment: RawObject, current: RawObject | None, old: list[RawObject]) -> None:
        sets = [*old, *((current,) if current is not None else ())]
        wanted, available = _replicas(deployment), sum(_status(s, "availableReplicas") for s in sets)
        updated = _status(current, "replicas") if current is not None else 0
        total = sum(_status(s, "replicas") for s in sets)
        _, unavailable = rolling_limits(deployment)
        moment = format_time(self._clock.now())
        done = updated == wanted and total == updated and available >= wanted
        enough = available >= wanted - unavailable
        conditions: list[Mapping[str, Any]] = list((deployment.get("status") or {}).get("conditions") or ())
        name = current["metadata"]["name"] if current is not None else ""
        for new in (
            {
                "type": "Available",
                "status": "True" if enough else "False",
                "reason": "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
                "message": f"Deployment {'has' if enough else 'does not have'} minimum availability.",
            },
            {
                "type": "Progressing",
                "status": "True",
                "reason": "NewReplicaSetAvailable" if done else "ReplicaSetUpdated",
                "message": f'ReplicaSet "{name}" {"has successfully progressed" if done else "is progressing"}.',
            },
        ):
            conditions = _keep_unchanged(conditions, {**new, "lastUpdateTime": moment, "lastTransitionTime": moment})
        status = {
            "replicas": total,
            "updatedReplicas": updated,
            "readyReplicas": sum(_status(s, "readyReplicas") for s in sets),
            "availableReplicas": available,
            "unavailableReplicas": max(0, max(wanted, total) - available),
            "observedGeneration": deployment["metadata"].get("generation", 1),
            "conditions": conditions,
        }
        await _write_status(self._api, DEPLOYMENTS, self._deployments, deployment, status)


def template_hash(template: Mapping[str, Any]) -> str:
    """Ten characters that tell pod templates apart, of the letters that Kubernetes uses for it."""
    digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:10])


def rolling_limits(deployment: RawObject) -> tuple[int, int]:
    """(maxSurge, maxUnavailable) in pods; never both 0. Percentages: surge rounds up, unavailable down."""
    strategy = deployment["spec"].get("strategy") or {}
    rolling = strategy.get("rollingUpdate") or {}
    wanted = _replicas(deployment)
    surge = _share(rolling.get("maxSurge", "25%"), wanted, up=True)
    unavailable = _share(rolling.get("maxUnavailable", "25%"), wanted, up=False)
    return (surge, unavailable) if surge or unavailable else (0, 1)


def _share(value: int | str, whole: int, *, up: bool) -> int:
    if isinstance(value, str) and value.endswith("%"):
        share = int(value[:-1]) * whole
        return -(-share // 100) if up else share // 100
    return int(value)


def _keep_unchanged(conditions: list[Mapping[str, Any]], new: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """With `new` in it, unless it says what is there already (then times stay, too)."""
    for known in conditions:
        if all(known.get(field) == new[field] for field in ("type", "status", "reason", "message")):
            return conditions
    return with_condition(conditions, new)


def _replicas(obj: RawObject) -> int:
    replicas = obj["spec"].get("replicas")
    return 1 if replicas is None else int(replicas)


def _status(obj: RawObject, field: str) -> int:
    return int((obj.get("status") or {}).get(field) or 0)


def _revision(replica_set: RawObject) -> int:
    text = (replica_set["metadata"].get("annotations") or {}).get(_REVISION, "0")
    return int(text) if str(text).isdigit() else 0


async def _write_status(
    api: KubeApi, resource: Resource, informer: Informer, obj: RawObject, status: Mapping[str, Any]
) -> None:
    current = obj.get("status") or {}
    if all((current.get(field) or 0) == (value or 0) for field, value in status.items()):
        return
    body = {"metadata": {"uid": obj["metadata"]["uid"]}, "status": status}
    informer.observe(await api.patch(resource, *split_key(key_of(obj)), body, subresource="status"))
