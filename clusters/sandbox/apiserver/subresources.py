"""Subresources that are not just a part of their object: scale, pods/binding and pods/eviction."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from clusters.sandbox.apiserver import failures
from clusters.sandbox.apiserver.failures import Json, StatusError
from clusters.sandbox.apiserver.kinds import Kind
from clusters.sandbox.apiserver.registry import SCALE, Deletion, Registry, Request
from clusters.sandbox.apiserver.selectors import from_object
from clusters.sandbox.apiserver.store import Entry

_BUDGETS: Final = ("policy", "poddisruptionbudgets")
_PODS: Final = ("", "pods")


def _at(obj: Any, path: str) -> Any:
    for key in path.split(".") if path else ():
        obj = obj.get(key) if isinstance(obj, dict) else None
    return obj


def _with(obj: Json, path: str, value: Any) -> Json:
    key, _, rest = path.partition(".")
    inner = obj.get(key)
    return {**obj, key: _with(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def scale_of(kind: Kind, entry: Entry) -> Json:
    """The autoscaling/v1 Scale of an object."""
    paths = kind.scale
    if paths is None:
        raise failures.no_such_path()
    meta = entry.obj["metadata"]
    shown = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    selector = _at(entry.obj, paths.selector) if paths.selector else None
    if isinstance(selector, dict):
        selector = ",".join(f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items())
    return {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {key: meta[key] for key in shown if key in meta},
        "spec": {"replicas": _at(entry.obj, paths.replicas) or 0},
        "status": {
            "replicas": _at(entry.obj, paths.status_replicas) or 0,
            **({"selector": selector} if selector else {}),
        },
    }


def set_scale(registry: Registry, kind: Kind, namespace: str, name: str, scale: Any, request: Request) -> Json:
    """Write the replicas that a Scale asks for. Raises: StatusError."""
    entry = registry.get(kind, namespace, name)
    paths = kind.scale
    if paths is None:
        raise failures.no_such_path()
    replicas = _at(scale, "spec.replicas")
    if replicas is None:
        replicas = 0
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        cause = failures.invalid("spec.replicas", replicas, "must be greater than or equal to 0")
        raise failures.unprocessable("autoscaling", "Scale", name, [cause])
    obj = _with(entry.obj, paths.replicas, replicas)
    given = scale.get("metadata") or {} if isinstance(scale, dict) else {}
    meta = {**obj["metadata"], "resourceVersion": given.get("resourceVersion") or obj["metadata"]["resourceVersion"]}
    if given.get("uid"):
        meta["uid"] = given["uid"]
    # Managed fields tell by which door replicas were set: so an autoscaler is known.
    written = registry.update(kind, namespace, name, {**obj, "metadata": meta}, replace(request, subresource=SCALE))
    return scale_of(kind, written)


def bind(registry: Registry, kind: Kind, namespace: str, name: str, body: Any, request: Request) -> Json:
    """Bind a pod to the node that the Binding targets; once only. Raises: StatusError."""
    entry = registry.get(kind, namespace, name)
    node = _at(body, "target.name")
    if not node or not isinstance(node, str):
        raise failures.unprocessable("", "Binding", name, [failures.required("target.name")])
    uid = _at(body, "metadata.uid")
    meta, spec = entry.obj["metadata"], entry.obj["spec"]
    if uid and uid != meta["uid"]:
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {meta['uid']}"
        raise failures.conflict("", "pods/binding", name, why)
    if meta.get("deletionTimestamp"):
        raise failures.conflict("", "pods/binding", name, f"pod {name} is being deleted, cannot be assigned to a host")
    if spec.get("nodeName"):
        why = f'pod {name} is already assigned to node "{spec["nodeName"]}"'
        raise failures.conflict("", "pods/binding", name, why)
    if spec.get("schedulingGates"):
        why = f"pod {name} has non-empty .spec.schedulingGates"
        raise failures.conflict("", "pods/binding", name, why)
    condition = {"type": "PodScheduled", "status": "True", "lastTransitionTime": registry.now()}
    status = entry.obj.get("status") or {}
    others = [old for old in status.get("conditions") or () if old.get("type") != "PodScheduled"]
    status = {**status, "conditions": [*others, condition]}
    meta = {**meta, "annotations": {**(meta.get("annotations") or {}), **((_at(body, "metadata.annotations")) or {})}}
    if not meta["annotations"]:
        del meta["annotations"]
    obj = {**entry.obj, "metadata": meta, "spec": {**spec, "nodeName": node}, "status": status}
    if not request.dry_run:
        registry.put(kind, entry, obj)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


# Eviction and disruption budgets -----------------------------------------------------------------------------------


def evict(registry: Registry, kind: Kind, namespace: str, name: str, body: Any, request: Request) -> Json:
    """Delete a pod unless a PodDisruptionBudget forbids it now (429). Raises: StatusError."""
    entry = registry.get(kind, namespace, name)
    options = (body.get("deleteOptions") or {}) if isinstance(body, dict) else {}
    given = options.get("preconditions") or {}
    how = Deletion(
        uid=given.get("uid") or "",
        resource_version=given.get("resourceVersion") or "",
        propagation=options.get("propagationPolicy") or "",
        grace_period_seconds=options.get("gracePeriodSeconds"),
        dry_run=request.dry_run or bool(options.get("dryRun")),
    )
    if not _evicts_freely(entry.obj):
        _spend_budget(registry, entry, dry_run=how.dry_run)
    registry.delete(kind, namespace, name, how)
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}


def _evicts_freely(pod: Json) -> bool:
    phase = (pod.get("status") or {}).get("phase")
    return phase in ("Succeeded", "Failed", "Pending") or bool(pod["metadata"].get("deletionTimestamp"))


def _spend_budget(registry: Registry, pod: Entry, *, dry_run: bool) -> None:
    """Take one disruption from the budget that covers the pod. Raises: StatusError 429 when none is left."""
    covering = []
    for entry in registry.store.entries(_BUDGETS, pod.namespace):
        selector = from_object((entry.obj.get("spec") or {}).get("selector"))
        if selector is not None and selector.matches(pod.labels):
            covering.append(entry)
    if not covering:
        return
    if len(covering) > 1:
        text = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
        raise StatusError(500, "InternalError", text)
    kind = registry.kinds.by_key(_BUDGETS)
    assert kind is not None
    budget = covering[0]
    status = budget_status(registry, budget)
    if status["disruptionsAllowed"] <= 0 and _is_ready(pod.obj):
        needs, has = status["desiredHealthy"], status["currentHealthy"]
        detail = f"The disruption budget {budget.name} needs {needs} healthy pods and has {has} currently"
        raise StatusError(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
            details={"causes": [{"reason": "DisruptionBudget", "message": detail}]},
        )
    if not dry_run:
        spent = {**status, "disruptionsAllowed": max(0, status["disruptionsAllowed"] - 1)}
        if _is_ready(pod.obj):
            spent["disruptedPods"] = {**(status.get("disruptedPods") or {}), pod.name: registry.now()}
        registry.put(kind, budget, {**budget.obj, "status": spent})


def budget_status(registry: Registry, budget: Entry) -> Json:
    """The status that the disruption controller would give a budget for the pods that exist now."""
    spec = budget.obj.get("spec") or {}
    selector = from_object(spec.get("selector"))
    pods = [
        entry
        for entry in registry.store.entries(_PODS, budget.namespace)
        if selector is not None
        and selector.matches(entry.labels)
        and (entry.obj.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]
    old = (budget.obj.get("status") or {}).get("disruptedPods") or {}
    disrupted = {pod.name: old[pod.name] for pod in pods if pod.name in old}
    healthy = sum(
        _is_ready(pod.obj) and not pod.obj["metadata"].get("deletionTimestamp") and pod.name not in disrupted
        for pod in pods
    )
    expected = _expected(registry, pods)
    if (most := spec.get("maxUnavailable")) is not None:
        desired = max(0, expected - _share(most, expected))
    else:
        desired = _share(spec.get("minAvailable", 1), expected)
    return {
        **({"disruptedPods": disrupted} if disrupted else {}),
        "observedGeneration": budget.obj["metadata"].get("generation") or 1,
        "currentHealthy": healthy,
        "desiredHealthy": desired,
        "disruptionsAllowed": max(0, healthy - desired),
        "expectedPods": expected,
    }


def _expected(registry: Registry, pods: list[Entry]) -> int:
    """Pods that the controllers of these pods are to keep; a pod without a scalable controller counts itself."""
    total, seen = 0, set()
    for pod in pods:
        owner = next((o for o in pod.obj["metadata"].get("ownerReferences") or () if o.get("controller")), None)
        found = registry.store.by_uid(owner["uid"]) if owner else None
        replicas = _at(found[1].obj, "spec.replicas") if found else None
        if owner is None or replicas is None:
            total += 1
        elif owner["uid"] not in seen:
            seen.add(owner["uid"])
            total += replicas
    return total


def _share(value: Any, total: int) -> int:
    """A count or a percentage (rounded up) of `total`."""
    if isinstance(value, str):
        return -(-int(value.rstrip("%")) * total // 100)
    return int(value)


def _is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions)
