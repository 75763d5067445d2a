"""Defaults that the API server fills in, per builtin kind. Each function returns a new object and changes none."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final

from clusters.sandbox.apiserver.failures import Json

_PROBE: Final = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")


def _container(container: Json) -> Json:
    image = str(container.get("image") or "")
    tag = image.rpartition("/")[2].partition("@")[0].rpartition(":")
    latest = "@" not in image and (not tag[1] or tag[2] == "latest")
    made = {
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always" if latest else "IfNotPresent",
        "resources": {},
        **container,
    }
    if ports := container.get("ports"):
        made["ports"] = [{"protocol": "TCP", **port} for port in ports]
    for probe in _PROBES:
        if value := container.get(probe):
            made[probe] = {**_PROBE, **value}
    limits = made["resources"].get("limits")
    if limits:
        made["resources"] = {**made["resources"], "requests": {**limits, **(made["resources"].get("requests") or {})}}
    return made


def _volume(volume: Json) -> Json:
    if len(volume) == 1:
        return {**volume, "emptyDir": {}}
    for source, mode in (("configMap", 420), ("secret", 420), ("projected", 420), ("downwardAPI", 420)):
        if isinstance(volume.get(source), dict):
            return {**volume, source: {"defaultMode": mode, **volume[source]}}
    return volume


def pod_spec(spec: Json) -> Json:
    made = {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
        **spec,
    }
    for key in ("containers", "initContainers"):
        if containers := spec.get(key):
            made[key] = [_container(container) for container in containers]
    if volumes := spec.get("volumes"):
        made["volumes"] = [_volume(volume) for volume in volumes]
    if "serviceAccountName" in spec and "serviceAccount" not in spec:
        made["serviceAccount"] = spec["serviceAccountName"]
    return made


def _template(owner: Json) -> Json:
    template = owner.get("template") or {}
    metadata = template.get("metadata") or {}
    return {**template, "metadata": metadata, "spec": pod_spec(template.get("spec") or {})}


def _pod(obj: Json) -> Json:
    spec = pod_spec(obj.get("spec") or {})
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    return {**obj, "spec": spec}


def job_spec(spec: Json) -> Json:
    made = {
        "backoffLimit": 6,
        "completionMode": "NonIndexed",
        "suspend": False,
        "manualSelector": False,
        **spec,
        "template": _template(spec),
    }
    if spec.get("completions") is None and spec.get("parallelism") is None:
        made["completions"] = made["parallelism"] = 1
    made.setdefault("parallelism", 1)
    if spec.get("backoffLimitPerIndex") is not None and "backoffLimit" not in spec:
        made["backoffLimit"] = 2147483647
    made.setdefault("podReplacementPolicy", "Failed" if spec.get("podFailurePolicy") else "TerminatingOrFailed")
    return made


def _job(obj: Json) -> Json:
    return {**obj, "spec": job_spec(obj.get("spec") or {})}


def _cron_job(obj: Json) -> Json:
    spec = obj.get("spec") or {}
    made = {
        "concurrencyPolicy": "Allow",
        "suspend": False,
        "successfulJobsHistoryLimit": 3,
        "failedJobsHistoryLimit": 1,
        **spec,
    }
    template = spec.get("jobTemplate") or {}
    inner = job_spec(template.get("spec") or {})
    inner.pop("manualSelector", None)
    made["jobTemplate"] = {**template, "metadata": template.get("metadata") or {}, "spec": inner}
    return {**obj, "spec": made}


def _deployment(obj: Json) -> Json:
    spec = obj.get("spec") or {}
    made = {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "progressDeadlineSeconds": 600,
        **spec,
        "template": _template(spec),
    }
    strategy = {"type": "RollingUpdate", **(spec.get("strategy") or {})}
    if strategy["type"] == "RollingUpdate":
        strategy["rollingUpdate"] = {
            "maxUnavailable": "25%",
            "maxSurge": "25%",
            **(strategy.get("rollingUpdate") or {}),
        }
    made["strategy"] = strategy
    return {**obj, "spec": made}


def _replica_set(obj: Json) -> Json:
    spec = obj.get("spec") or {}
    return {**obj, "spec": {"replicas": 1, **spec, "template": _template(spec)}}


def _stateful_set(obj: Json) -> Json:
    spec = obj.get("spec") or {}
    made = {
        "replicas": 1,
        "revisionHistoryLimit": 10,
        "podManagementPolicy": "OrderedReady",
        "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        **spec,
        "template": _template(spec),
    }
    return {**obj, "spec": made}


def _daemon_set(obj: Json) -> Json:
    spec = obj.get("spec") or {}
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    return {
        **obj,
        "spec": {"revisionHistoryLimit": 10, "updateStrategy": strategy, **spec, "template": _template(spec)},
    }


def _service(obj: Json) -> Json:
    spec = {
        "type": "ClusterIP",
        "sessionAffinity": "None",
        "internalTrafficPolicy": "Cluster",
        **(obj.get("spec") or {}),
    }
    if ports := spec.get("ports"):
        spec["ports"] = [{"protocol": "TCP", "targetPort": port.get("port"), **port} for port in ports]
    return {**obj, "spec": spec}


def _namespace(obj: Json) -> Json:
    labels = {**(obj["metadata"].get("labels") or {}), "kubernetes.io/metadata.name": obj["metadata"]["name"]}
    return {**obj, "metadata": {**obj["metadata"], "labels": labels}}


def _secret(obj: Json) -> Json:
    """`stringData` is for writing only: it becomes data."""
    made = {"type": "Opaque", **obj}
    plain = made.pop("stringData", None)
    if plain:
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in plain.items()}
        made["data"] = {**(made.get("data") or {}), **encoded}
    return made


def _event(obj: Json) -> Json:
    return {"type": "Normal", **obj} if not obj.get("type") else obj


def _priority_class(obj: Json) -> Json:
    return {"preemptionPolicy": "PreemptLowerPriority", **obj}


def _storage_class(obj: Json) -> Json:
    return {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate", **obj}


def _persistent_volume(obj: Json) -> Json:
    spec = {"persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem", **(obj.get("spec") or {})}
    return {**obj, "spec": spec}


def _claim(obj: Json) -> Json:
    return {**obj, "spec": {"volumeMode": "Filesystem", **(obj.get("spec") or {})}}


def _crd(obj: Json) -> Json:
    spec = {"conversion": {"strategy": "None"}, **(obj.get("spec") or {})}
    words = dict(spec.get("names") or {})
    if kind := words.get("kind"):
        words.setdefault("singular", kind.lower())
        words.setdefault("listKind", f"{kind}List")
    return {**obj, "spec": {**spec, "names": words}}


DEFAULTS: Final[dict[tuple[str, str], Callable[[Json], Json]]] = {
    ("", "pods"): _pod,
    ("", "namespaces"): _namespace,
    ("", "secrets"): _secret,
    ("", "services"): _service,
    ("", "events"): _event,
    ("", "persistentvolumes"): _persistent_volume,
    ("", "persistentvolumeclaims"): _claim,
    ("batch", "jobs"): _job,
    ("batch", "cronjobs"): _cron_job,
    ("apps", "deployments"): _deployment,
    ("apps", "replicasets"): _replica_set,
    ("apps", "statefulsets"): _stateful_set,
    ("apps", "daemonsets"): _daemon_set,
    ("scheduling.k8s.io", "priorityclasses"): _priority_class,
    ("storage.k8s.io", "storageclasses"): _storage_class,
    ("apiextensions.k8s.io", "customresourcedefinitions"): _crd,
}

_FRESH_STATUS: Final[dict[tuple[str, str], Any]] = {
    ("", "namespaces"): {"phase": "Active"},
    ("", "pods"): {"phase": "Pending", "qosClass": "BestEffort"},
    ("", "persistentvolumes"): {"phase": "Pending"},
    ("", "persistentvolumeclaims"): {"phase": "Pending"},
    ("", "services"): {"loadBalancer": {}},
    ("networking.k8s.io", "ingresses"): {"loadBalancer": {}},
}


def fresh_status(key: tuple[str, str], obj: Json) -> Json:
    """The status of a new object: whatever its creator wrote there is dropped."""
    status: Json = _FRESH_STATUS.get(key, {})
    if key == ("", "pods"):
        return {**status, "qosClass": qos_class(obj.get("spec") or {})}
    return status


def qos_class(spec: Json) -> str:
    """Guaranteed, Burstable or BestEffort, from the containers' cpu and memory."""
    guaranteed, any_set = True, False
    for container in (*(spec.get("containers") or ()), *(spec.get("initContainers") or ())):
        resources = container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        any_set |= any(name in requests or name in limits for name in ("cpu", "memory"))
        guaranteed &= all(
            name in limits and requests.get(name, limits[name]) == limits[name] for name in ("cpu", "memory")
        )
    if not any_set:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"
