"""Emulated KServe and Knative controllers, as far as a client sees them: Deployments below, url and conditions above.

Nobody sends requests here, so what scales itself has as many replicas as its lower bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from clusters.sandbox.emulation.deployment_controller import template_hash
from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.objects import (
    controller_uid,
    format_time,
    is_deleting,
    key_of,
    owner_reference,
    split_key,
    with_condition,
)
from clusters.sandbox.emulation.work import WorkQueue
from scheduler.model.contract import DEPLOYMENTS
from scheduler.model.errors import AlreadyExistsError, ConflictError
from scheduler.model.ports import Clock, KubeApi, RawObject

_MADE_OF: Final = "sandbox.overspill.dev/made-of"
_STOP: Final = "serving.kserve.io/stop"
_BOUND: Final = "autoscaling.knative.dev/"
_COMPONENTS: Final = ("predictor", "transformer", "explainer")
_NO_POD_SPEC: Final = frozenset(
    {"minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "labels", "annotations", "model", "timeout",
     "containerConcurrency", "canaryTrafficPercent", "deploymentStrategy", "batcher", "logger", "timeoutSeconds",
     "responseStartTimeoutSeconds", "idleTimeoutSeconds"}
)  # fmt: skip
_OF_CONTAINER: Final = ("args", "command", "env", "envFrom", "image", "ports", "resources", "volumeMounts")


@dataclass(frozen=True, slots=True)
class Below:
    """A Deployment that an object is carried out by."""

    name: str
    part: str
    """The condition that tells of it."""
    replicas: int
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    pod_spec: Mapping[str, Any]


class ServingController:
    """Keeps the Deployments of each object of one custom resource, and its status."""

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        objects: Informer,
        deployments: Informer,
        *,
        below: Callable[[RawObject], list[Below]],
        status: Callable[[RawObject, Mapping[str, bool]], tuple[dict[str, Any], dict[str, bool]]],
    ) -> None:
        """`status(object, which part is ready)`: fields of its status, and its conditions."""
        self._api = api
        self._clock = clock
        self._objects = objects
        self._deployments = deployments
        self._below = below
        self._status = status
        self._by_owner = deployments.index(controller_uid)
        self._keys: dict[str, str] = {}
        self.queue = WorkQueue(objects.resource.key, self._reconcile, workers=2)
        objects.handle(self._on_object)
        deployments.handle(self._on_deployment)

    def _on_object(self, kind: str, old: RawObject | None, obj: RawObject) -> None:
        if kind == "DELETED":
            self._keys.pop(obj["metadata"]["uid"], None)
        else:
            self._keys[obj["metadata"]["uid"]] = key_of(obj)
            self.queue.add(key_of(obj))

    def _on_deployment(self, kind: str, old: RawObject | None, obj: RawObject) -> None:
        if (key := self._keys.get(controller_uid(obj) or "")) is not None:
            self.queue.add(key)

    async def _reconcile(self, key: str) -> None:
        owner = self._objects.get(key)
        if owner is None or is_deleting(owner):
            return
        wanted = {each.name: each for each in self._below(owner)}
        there = {each["metadata"]["name"]: each for each in self._by_owner.get(owner["metadata"]["uid"]).values()}
        for name in sorted(there.keys() - wanted.keys()):
            await self._api.delete(DEPLOYMENTS, *split_key(key_of(there[name])), uid=there[name]["metadata"]["uid"])
        ready: dict[str, bool] = {}
        for name, each in sorted(wanted.items()):
            ready[each.part] = _is_ready(await self._keep(owner, each, there.get(name)), each)
        await self._report(owner, ready)

    async def _keep(self, owner: RawObject, wanted: Below, there: RawObject | None) -> RawObject:
        body = self._deployment(owner, wanted)
        namespace = owner["metadata"]["namespace"]
        if there is None:
            try:
                there = await self._api.create(DEPLOYMENTS, namespace, body)
            except AlreadyExistsError:
                raise ConflictError(f"Deployment {wanted.name} belongs to another owner") from None
        elif there["metadata"]["annotations"].get(_MADE_OF) != body["metadata"]["annotations"][_MADE_OF]:
            version = {"resourceVersion": there["metadata"]["resourceVersion"]}
            body["metadata"] |= version
            there = await self._api.update(DEPLOYMENTS, namespace, wanted.name, body)
        self._deployments.observe(there)
        return there

    def _deployment(self, owner: RawObject, wanted: Below) -> dict[str, Any]:
        resource, selector = self._objects.resource, {"app": wanted.name}
        spec = {
            "replicas": wanted.replicas,
            "selector": {"matchLabels": selector},
            "template": {
                "metadata": {"labels": {**wanted.labels, **selector}, "annotations": dict(wanted.annotations)},
                "spec": dict(wanted.pod_spec),
            },
        }
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": wanted.name,
                "namespace": owner["metadata"]["namespace"],
                "annotations": {_MADE_OF: template_hash(json.loads(json.dumps(spec)))},
                "ownerReferences": [owner_reference(owner, resource.api_version, resource.kind)],
            },
            "spec": spec,
        }

    async def _report(self, owner: RawObject, ready: Mapping[str, bool]) -> None:
        fields, states = self._status(owner, ready)
        before = owner.get("status") or {}
        listed: list[Mapping[str, Any]] = list(before.get("conditions") or ())
        moment = format_time(self._clock.now())
        for name, state in states.items():
            known = next((one for one in listed if one["type"] == name), None)
            said = {"type": name, "status": "True" if state else "False"}
            if known is None or known["status"] != said["status"]:
                listed = with_condition(listed, {**said, "lastTransitionTime": moment})
        status = {**fields, "conditions": listed, "observedGeneration": owner["metadata"].get("generation", 1)}
        if all(before.get(name) == value for name, value in status.items()):
            return
        body = {"metadata": {"uid": owner["metadata"]["uid"]}, "status": status}
        resource = self._objects.resource
        self._objects.observe(await self._api.patch(resource, *split_key(key_of(owner)), body, subresource="status"))


def inference_services(api: KubeApi, clock: Clock, objects: Informer, deployments: Informer) -> ServingController:
    """KServe, as it does without Knative: one Deployment for each component."""
    return ServingController(api, clock, objects, deployments, below=_components_of, status=_inference_status)


def knative_services(api: KubeApi, clock: Clock, objects: Informer, deployments: Informer) -> ServingController:
    """Knative, with one revision at a time."""
    return ServingController(api, clock, objects, deployments, below=_revision_of, status=_knative_status)


def _is_ready(deployment: RawObject, wanted: Below) -> bool:
    status = deployment.get("status") or {}
    seen = status.get("observedGeneration") == deployment["metadata"].get("generation")
    counts = [int(status.get(name) or 0) for name in ("replicas", "updatedReplicas", "availableReplicas")]
    return seen and all(count == wanted.replicas for count in counts)


def _components_of(obj: RawObject) -> list[Below]:
    meta, found = obj["metadata"], []
    for name in _COMPONENTS:
        component = obj["spec"].get(name)
        if component is None:
            continue
        least = component.get("minReplicas")
        containers = [*_model(component), *(component.get("containers") or ())]
        spec = {key: value for key, value in component.items() if key not in _NO_POD_SPEC}
        found.append(
            Below(
                name=f"{meta['name']}-{name}",
                part=f"{name.capitalize()}Ready",
                replicas=0 if _stopped(obj) else 1 if least is None else int(least),
                labels=component.get("labels") or {},
                annotations=component.get("annotations") or {},
                pod_spec={**spec, "containers": containers},
            )
        )
    return found


def _model(component: Mapping[str, Any]) -> list[dict[str, Any]]:
    model = component.get("model")
    if not model:
        return []
    given = {name: model[name] for name in _OF_CONTAINER if name in model}
    return [{"name": "kserve-container", "image": f"runtime/{model['modelFormat']['name']}:emulated", **given}]


def _stopped(obj: RawObject) -> bool:
    return (obj["metadata"].get("annotations") or {}).get(_STOP) == "true"


def _inference_status(obj: RawObject, ready: Mapping[str, bool]) -> tuple[dict[str, Any], dict[str, bool]]:
    stopped = _stopped(obj)
    states = {name: each and not stopped for name, each in ready.items()}
    up = bool(states) and all(states.values())
    return {"url": None if stopped else _url(obj)}, {**states, "IngressReady": up, "Stopped": stopped, "Ready": up}


def _revision_of(obj: RawObject) -> list[Below]:
    template = obj["spec"]["template"]
    meta = template.get("metadata") or {}
    annotations = meta.get("annotations") or {}
    return [
        Below(
            name=f"{obj['metadata']['name']}-deployment",
            part="ConfigurationsReady",
            replicas=int(annotations.get(f"{_BOUND}min-scale") or annotations.get(f"{_BOUND}minScale") or 0),
            labels=meta.get("labels") or {},
            annotations={name: text for name, text in annotations.items() if not name.startswith(_BOUND)},
            pod_spec={name: value for name, value in template["spec"].items() if name not in _NO_POD_SPEC},
        )
    ]


def _knative_status(obj: RawObject, ready: Mapping[str, bool]) -> tuple[dict[str, Any], dict[str, bool]]:
    up = all(ready.values())
    revision = f"{obj['metadata']['name']}-{obj['metadata'].get('generation', 1):05d}"
    fields = {"url": _url(obj), "latestCreatedRevisionName": revision}
    if up:
        fields["latestReadyRevisionName"] = revision
    return fields, {**ready, "RoutesReady": up, "Ready": up}


def _url(obj: RawObject) -> str:
    return f"http://{obj['metadata']['name']}.{obj['metadata']['namespace']}.sandbox.example"
