"""What the API server refuses of builtin kinds: the schema's own rules, and each kind's on creation and change."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from clusters.sandbox.apiserver import jobs, pods
from clusters.sandbox.apiserver.failures import (
    Cause,
    Json,
    forbidden_field,
    invalid,
    not_supported,
    required,
    unprocessable,
)
from clusters.sandbox.apiserver.kinds import Kind
from clusters.sandbox.apiserver.metadata import IMMUTABLE
from clusters.sandbox.apiserver.schema import BOOLEAN, INTEGER, LIST, MAP, NUMBER, STRING, STRUCT, Type
from clusters.sandbox.apiserver.selectors import from_object

CreateRule = Callable[[Json], Iterator[Cause]]
UpdateRule = Callable[[Json, Json], Iterator[Cause]]

_ZERO_IS_FINE: Final = frozenset({INTEGER, NUMBER, BOOLEAN})
_AT_LEAST_ZERO: Final = "must be greater than or equal to 0"
_UNCHECKED_GROUPS: Final = frozenset({"rbac.authorization.k8s.io"})


def check_create(kind: Kind, obj: Json, more: Iterator[Cause]) -> None:
    """Raises: StatusError 422 naming everything that is wrong with a new object."""
    causes = [*more, *_schema_causes(kind, obj)]
    if not causes and (rule := _CREATE.get(kind.key)) is not None:
        causes.extend(rule(obj))
    _raise(kind, obj, causes)


def check_update(kind: Kind, old: Json, new: Json, more: Iterator[Cause]) -> None:
    """Raises: StatusError 422 naming everything that is wrong with the change (main resource)."""
    causes = list(more)
    if not causes and _body(new) != _body(old):
        causes.extend(_schema_causes(kind, new))
        if not causes and (rule := _UPDATE.get(kind.key)) is not None:
            causes.extend(rule(old, new))
    _raise(kind, new, causes)


def check_status(kind: Kind, old: Json, new: Json, more: Iterator[Cause]) -> None:
    """Raises: StatusError 422 naming everything that is wrong with the change of status."""
    causes = list(more)
    if (rule := _STATUS.get(kind.key)) is not None:
        causes.extend(rule(old, new))
    _raise(kind, new, causes)


def _raise(kind: Kind, obj: Json, causes: list[Cause]) -> None:
    if causes:
        raise unprocessable(kind.group, kind.kind, obj["metadata"].get("name") or "", causes)


def _body(obj: Json) -> Json:
    return {key: value for key, value in obj.items() if key not in ("metadata", "status")}


def _schema_causes(kind: Kind, obj: Json) -> Iterator[Cause]:
    if kind.custom is not None or kind.group in _UNCHECKED_GROUPS:
        return
    for name, made in kind.type.props.items():
        if name not in ("metadata", "status", "apiVersion", "kind") and name in obj:
            yield from _type_causes(made, obj[name], name)
    for name in kind.type.required:
        if name not in obj and name != "metadata":
            yield required(name)


def _type_causes(made: Type, value: Any, path: str) -> Iterator[Cause]:
    """Required fields and enumerated values, as the published schema has them."""
    form, inner = made.form, made.value
    if form == STRING:
        if made.enum is not None and value and value not in made.enum:
            yield not_supported(path, value, made.enum)
    elif form == STRUCT:
        yield from _struct_causes(made, value, path)
    elif form == LIST and inner is not None and (inner.form in (STRUCT, LIST) or inner.enum is not None):
        for index, item in enumerate(value):
            yield from _type_causes(inner, item, f"{path}[{index}]")
    elif form == MAP and inner is not None and inner.form == STRUCT:
        for name, item in value.items():
            yield from _type_causes(inner, item, f"{path}[{name}]")


def _struct_causes(made: Type, value: Json, path: str) -> Iterator[Cause]:
    props = made.props
    for name in made.required:
        if name not in value and props[name].form not in _ZERO_IS_FINE:
            yield required(f"{path}.{name}")
    for name, item in value.items():
        child = props.get(name)
        if child is not None and (child.form in (STRUCT, LIST, MAP) or child.enum is not None):
            yield from _type_causes(child, item, f"{path}.{name}")


# Kind by kind ------------------------------------------------------------------------------------------------------


def _immutable(old: Mapping[str, Any], new: Mapping[str, Any], fields: tuple[str, ...], prefix: str) -> Iterator[Cause]:
    for name in fields:
        if old.get(name) != new.get(name):
            yield invalid(f"{prefix}{name}", new.get(name), IMMUTABLE)


def _both(rule: CreateRule) -> UpdateRule:
    """A rule for creation that holds on every change too."""
    return lambda _, new: rule(new)


def _counted(spec: Json, fields: tuple[str, ...], path: str) -> Iterator[Cause]:
    for name in fields:
        if (value := spec.get(name)) is not None and value < 0:
            yield invalid(f"{path}.{name}", value, _AT_LEAST_ZERO)


def _workload(obj: Json) -> Iterator[Cause]:
    """Deployments, ReplicaSets, StatefulSets and DaemonSets."""
    spec = obj["spec"]
    yield from _counted(spec, ("replicas", "minReadySeconds", "revisionHistoryLimit"), "spec")
    selector = from_object(spec.get("selector"))
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if selector is None:
        yield required("spec.selector")
    elif not selector.requirements:
        yield invalid("spec.selector", spec["selector"], "empty selector is invalid for deployment")
    elif not selector.matches(labels):
        yield invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    yield from pods.template_spec_causes(spec["template"], "spec.template")
    policy = (spec["template"].get("spec") or {}).get("restartPolicy")
    if policy in ("Never", "OnFailure"):
        yield not_supported("spec.template.spec.restartPolicy", policy, ("Always",))


def _workload_update(old: Json, new: Json) -> Iterator[Cause]:
    yield from _workload(new)
    yield from _immutable(old["spec"], new["spec"], ("selector",), "spec.")


_STATEFUL_MUTABLE: Final = frozenset(
    {
        "replicas", "ordinals", "template", "updateStrategy", "revisionHistoryLimit",
        "persistentVolumeClaimRetentionPolicy", "minReadySeconds",
    }
)  # fmt: skip


def _stateful_update(old: Json, new: Json) -> Iterator[Cause]:
    yield from _workload(new)
    was = {key: value for key, value in old["spec"].items() if key not in _STATEFUL_MUTABLE}
    if was != {key: value for key, value in new["spec"].items() if key not in _STATEFUL_MUTABLE}:
        listed = ", ".join(f"'{name}'" for name in sorted(_STATEFUL_MUTABLE))
        yield forbidden_field("spec", f"updates to statefulset spec for fields other than {listed} are forbidden")


def _cron_job(obj: Json) -> Iterator[Cause]:
    spec = obj["spec"]
    schedule = spec.get("schedule") or ""
    if not schedule:
        yield required("spec.schedule")
    elif not re.fullmatch(
        r"@(yearly|annually|monthly|weekly|daily|midnight|hourly)|@every \S+|(\S+\s+){4}\S+", schedule
    ):
        yield invalid(
            "spec.schedule", schedule, f"expected exactly 5 fields, found {len(schedule.split())}: {schedule}"
        )
    if spec.get("concurrencyPolicy") not in ("Allow", "Forbid", "Replace"):
        yield not_supported(
            "spec.concurrencyPolicy", spec.get("concurrencyPolicy") or "", ("Allow", "Forbid", "Replace")
        )
    inner = spec["jobTemplate"]["spec"]
    if inner.get("selector") is not None:
        yield invalid("spec.jobTemplate.spec.selector", inner["selector"], "`selector` will be auto-generated")
    yield from jobs.spec_causes(inner, "spec.jobTemplate.spec")
    yield from _counted(
        spec, ("startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"), "spec"
    )


def _cron_job_create(obj: Json) -> Iterator[Cause]:
    yield from _cron_job(obj)
    if len(obj["metadata"]["name"]) > 52:
        yield invalid("metadata.name", obj["metadata"]["name"], "must be no more than 52 characters")


def _node(obj: Json) -> Iterator[Cause]:
    yield from pods.taint_causes((obj.get("spec") or {}).get("taints") or [], "spec.taints")


def _node_update(old: Json, new: Json) -> Iterator[Cause]:
    yield from _node(new)
    was, now = old.get("spec") or {}, new.get("spec") or {}
    for name in ("providerID", "podCIDR", "podCIDRs"):
        if was.get(name) and was.get(name) != now.get(name):
            yield forbidden_field(f"spec.{name}", "node updates may not change " + name + ' except from "" to valid')


def _lease(obj: Json) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    if (seconds := spec.get("leaseDurationSeconds")) is not None and seconds <= 0:
        yield invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0")
    yield from _counted(spec, ("leaseTransitions",), "spec")


def _disruption_budget(obj: Json) -> Iterator[Cause]:
    spec = obj.get("spec") or {}
    least, most = spec.get("minAvailable"), spec.get("maxUnavailable")
    if least is not None and most is not None:
        yield invalid("spec", spec, "minAvailable and maxUnavailable cannot be both set")
    for name, value in (("minAvailable", least), ("maxUnavailable", most)):
        if isinstance(value, int) and value < 0:
            yield invalid(f"spec.{name}", value, _AT_LEAST_ZERO)
        if isinstance(value, str) and (not re.fullmatch(r"\d+%", value) or int(value[:-1]) > 100):
            yield invalid(f"spec.{name}", value, "must be an integer or percentage (e.g '5%%')")


def _service(obj: Json) -> Iterator[Cause]:
    spec = obj["spec"]
    kinds = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    if spec.get("type") not in kinds:
        yield not_supported("spec.type", spec.get("type"), kinds)
    if not spec.get("ports") and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        yield required("spec.ports")
    for index, port in enumerate(spec.get("ports") or ()):
        if not 0 < (port.get("port") or 0) < 65536:
            yield invalid(f"spec.ports[{index}].port", port.get("port") or 0, "must be between 1 and 65535, inclusive")


def _config_map(obj: Json) -> Iterator[Cause]:
    for field in ("data", "binaryData"):
        for key in obj.get(field) or {}:
            if not re.fullmatch(r"[-._a-zA-Z0-9]{1,253}", key):
                detail = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
                yield invalid(f"{field}[{key}]", key, detail)


def _secret(obj: Json) -> Iterator[Cause]:
    yield from _config_map({"data": obj.get("data")})
    for key, value in (obj.get("data") or {}).items():
        try:
            base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            yield invalid(f"data[{key}]", "<no value>", "illegal base64 data")


def _held(rule: CreateRule, fields: tuple[str, ...]) -> UpdateRule:
    """ConfigMaps and Secrets: nothing changes once `immutable` is set."""

    def check(old: Json, new: Json) -> Iterator[Cause]:
        yield from rule(new)
        if old.get("type") != new.get("type"):
            yield invalid("type", new.get("type"), IMMUTABLE)
        if old.get("immutable"):
            for name in (*fields, "immutable"):
                if old.get(name) != new.get(name):
                    yield forbidden_field(name, "field is immutable when `immutable` is set")

    return check


def _priority_class(obj: Json) -> Iterator[Cause]:
    name, value = obj["metadata"]["name"], obj.get("value") or 0
    if name.startswith("system-") and name not in ("system-node-critical", "system-cluster-critical"):
        yield forbidden_field(
            "metadata.name", "priority class names with 'system-' prefix are reserved for system use only"
        )
    elif not name.startswith("system-") and value > 1_000_000_000:
        yield forbidden_field("value", "maximum allowed value of a user defined priority is 1000000000")


def _priority_class_update(old: Json, new: Json) -> Iterator[Cause]:
    for name in ("value", "preemptionPolicy"):
        if old.get(name) != new.get(name):
            yield forbidden_field(name, "may not be changed in an update.")


def _storage_class(obj: Json) -> Iterator[Cause]:
    if not obj.get("provisioner"):
        yield required("provisioner")


def _storage_class_update(old: Json, new: Json) -> Iterator[Cause]:
    for name in ("parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"):
        if old.get(name) != new.get(name):
            yield forbidden_field(name, f"updates to {name} are forbidden.")


def _event(obj: Json) -> Iterator[Cause]:
    involved = obj.get("involvedObject") or obj.get("regarding") or {}
    wanted = involved.get("namespace") or "default"
    if obj["metadata"].get("namespace") != wanted:
        yield invalid("involvedObject.namespace", involved.get("namespace") or "", "does not match event.namespace")


def _claim_update(old: Json, new: Json) -> Iterator[Cause]:
    was = {key: value for key, value in old["spec"].items() if key not in ("resources", "volumeAttributesClassName")}
    now = {key: value for key, value in new["spec"].items() if key not in ("resources", "volumeAttributesClassName")}
    if was.get("volumeName") is None:
        now.pop("volumeName", None)
    if was != now:
        yield forbidden_field("spec", "spec is immutable after creation except resources.requests for bound claims")


def _bindings_update(old: Json, new: Json) -> Iterator[Cause]:
    if old.get("roleRef") != new.get("roleRef"):
        yield invalid("roleRef", new.get("roleRef"), "cannot change roleRef")


def _pod_status(old: Json, new: Json) -> Iterator[Cause]:
    was, now = old.get("status") or {}, new.get("status") or {}
    if was.get("phase") in ("Succeeded", "Failed") and now.get("phase") != was["phase"]:
        yield invalid("status.phase", now.get("phase"), f"a pod that is {was['phase']} stays so")
    phases = ("Failed", "Pending", "Running", "Succeeded", "Unknown")
    if now.get("phase") and now["phase"] not in phases:
        yield not_supported("status.phase", now["phase"], phases)


_CREATE: Final[dict[tuple[str, str], CreateRule]] = {
    ("", "pods"): pods.create_causes,
    ("", "nodes"): _node,
    ("", "services"): _service,
    ("", "configmaps"): _config_map,
    ("", "secrets"): _secret,
    ("", "events"): _event,
    ("batch", "jobs"): jobs.create_causes,
    ("batch", "cronjobs"): _cron_job_create,
    ("apps", "deployments"): _workload,
    ("apps", "replicasets"): _workload,
    ("apps", "statefulsets"): _workload,
    ("apps", "daemonsets"): _workload,
    ("policy", "poddisruptionbudgets"): _disruption_budget,
    ("coordination.k8s.io", "leases"): _lease,
    ("scheduling.k8s.io", "priorityclasses"): _priority_class,
    ("storage.k8s.io", "storageclasses"): _storage_class,
}
_UPDATE: Final[dict[tuple[str, str], UpdateRule]] = {
    ("", "pods"): pods.update_causes,
    ("", "nodes"): _node_update,
    ("", "services"): _both(_service),
    ("", "configmaps"): _held(_config_map, ("data", "binaryData")),
    ("", "secrets"): _held(_secret, ("data",)),
    ("", "persistentvolumeclaims"): _claim_update,
    ("batch", "jobs"): jobs.update_causes,
    ("batch", "cronjobs"): _both(_cron_job),
    ("apps", "deployments"): _workload_update,
    ("apps", "replicasets"): _workload_update,
    ("apps", "statefulsets"): _stateful_update,
    ("apps", "daemonsets"): _workload_update,
    ("policy", "poddisruptionbudgets"): _both(_disruption_budget),
    ("coordination.k8s.io", "leases"): _both(_lease),
    ("scheduling.k8s.io", "priorityclasses"): _priority_class_update,
    ("storage.k8s.io", "storageclasses"): _storage_class_update,
    ("rbac.authorization.k8s.io", "rolebindings"): _bindings_update,
    ("rbac.authorization.k8s.io", "clusterrolebindings"): _bindings_update,
}
_STATUS: Final[dict[tuple[str, str], UpdateRule]] = {
    ("", "pods"): _pod_status,
    ("batch", "jobs"): jobs.status_causes,
}
