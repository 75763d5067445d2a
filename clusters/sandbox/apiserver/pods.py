"""What the API server refuses of pods and pod templates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from clusters.sandbox.apiserver import names
from clusters.sandbox.apiserver.failures import (
    Cause,
    Json,
    duplicate,
    forbidden_field,
    invalid,
    not_supported,
    required,
)
from clusters.sandbox.apiserver.metadata import labels_causes, template_causes, unique_names

_RESTART: Final = ("Always", "Never", "OnFailure")
_STANDARD: Final = ("cpu", "memory", "ephemeral-storage", "storage")
_OPERATORS: Final = ("Equal", "Exists", "Lt", "Gt")
_EFFECTS: Final = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_UPDATE_TEXT: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def template_spec_causes(template: Json, path: str) -> Iterator[Cause]:
    """What is wrong with a pod template."""
    yield from template_causes(template.get("metadata") or {}, f"{path}.metadata")
    yield from pod_spec_causes(template.get("spec") or {}, f"{path}.spec")


def pod_spec_causes(spec: Json, path: str) -> Iterator[Cause]:
    containers = spec.get("containers") or []
    if not containers:
        yield required(f"{path}.containers")
    volumes = {volume.get("name") for volume in spec.get("volumes") or ()}
    yield from unique_names(spec.get("volumes") or [], f"{path}.volumes", set())
    seen: set[str] = set()
    for field in ("containers", "initContainers"):
        items = spec.get(field) or []
        yield from unique_names(items, f"{path}.{field}", seen)
        for index, container in enumerate(items):
            yield from _container_causes(container, f"{path}.{field}[{index}]", volumes)
    if spec.get("restartPolicy") not in _RESTART:
        yield not_supported(f"{path}.restartPolicy", spec.get("restartPolicy") or "", _RESTART)
    if selector := spec.get("nodeSelector"):
        yield from labels_causes(selector, f"{path}.nodeSelector")
    if tolerations := spec.get("tolerations"):
        yield from _toleration_causes(tolerations, f"{path}.tolerations")
    for field, least in (("terminationGracePeriodSeconds", 0), ("activeDeadlineSeconds", 1)):
        value = spec.get(field)
        if value is not None and value < least:
            detail = (
                "must be greater than or equal to 0" if least == 0 else "must be between 1 and 2147483647, inclusive"
            )
            yield invalid(f"{path}.{field}", value, detail)
    for field in ("nodeName", "priorityClassName", "serviceAccountName"):
        if value := spec.get(field):
            for fault in names.subdomain_faults(value):
                yield invalid(f"{path}.{field}", value, fault)


def _container_causes(container: Json, path: str, volumes: set[Any]) -> Iterator[Cause]:
    if not container.get("image"):
        yield required(f"{path}.image")
    elif container["image"] != container["image"].strip():
        yield invalid(f"{path}.image", container["image"], "must not have leading or trailing whitespace")
    if resources := container.get("resources"):
        yield from resource_causes(resources, f"{path}.resources")
    for index, env in enumerate(container.get("env") or ()):
        yield from _env_causes(env, f"{path}.env[{index}]")
    for index, port in enumerate(container.get("ports") or ()):
        number = port.get("containerPort")
        if not number:
            yield required(f"{path}.ports[{index}].containerPort")
        elif not 0 < number < 65536:
            yield invalid(f"{path}.ports[{index}].containerPort", number, "must be between 1 and 65535, inclusive")
    yield from _mount_causes(container.get("volumeMounts") or [], f"{path}.volumeMounts", volumes)


def _env_causes(env: Json, path: str) -> Iterator[Cause]:
    if not env.get("name"):
        yield required(f"{path}.name")
    elif "=" in env["name"]:
        yield invalid(f"{path}.name", env["name"], "a valid environment variable name must not contain '='")
    if env.get("value") and env.get("valueFrom"):
        yield invalid(f"{path}.valueFrom", "", "may not be specified when `value` is not empty")


def _mount_causes(mounts: list[Json], path: str, volumes: set[Any]) -> Iterator[Cause]:
    mounted: set[str] = set()
    for index, mount in enumerate(mounts):
        at = f"{path}[{index}]"
        if not mount.get("mountPath"):
            yield required(f"{at}.mountPath")
        elif mount["mountPath"] in mounted:
            yield invalid(f"{at}.mountPath", mount["mountPath"], "must be unique")
        mounted.add(mount.get("mountPath") or "")
        if mount.get("name") not in volumes:
            yield Cause("FieldValueNotFound", f"{at}.name", f'Not found: "{mount.get("name") or ""}"')


def resource_causes(resources: Json, path: str) -> Iterator[Cause]:
    """What is wrong with a container's requests and limits."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    for field, amounts in (("limits", limits), ("requests", requests)):
        for name, text in amounts.items():
            at = f"{path}.{field}.{name}" if "/" not in name else f"{path}.{field}[{name}]"
            for fault in names.label_key_faults(name):
                yield invalid(f"{path}.{field}", name, fault)
            if "/" not in name and name not in _STANDARD and not name.startswith("hugepages-"):
                yield invalid(f"{path}.{field}", name, "must be a standard resource for containers")
            value = names.quantity_value(str(text))
            if value is not None and value < 0:
                yield invalid(at, text, "must be greater than or equal to 0")
            if value is not None and "/" in name and value.denominator != 1:
                yield invalid(at, text, "must be an integer")
    for name, text in requests.items():
        asked, most = (
            names.quantity_value(str(text)),
            names.quantity_value(str(limits[name])) if name in limits else None,
        )
        at = f"{path}.requests"
        if "/" in name and most is None:
            yield required(f"{path}.limits", "Limit must be set for non overcommitable resources")
        elif asked is not None and most is not None and "/" in name and asked != most:
            yield invalid(at, text, f"must be equal to {name} limit of {limits[name]}")
        elif asked is not None and most is not None and asked > most:
            yield invalid(at, text, f"must be less than or equal to {name} limit of {limits[name]}")


def _toleration_causes(tolerations: list[Json], path: str) -> Iterator[Cause]:
    for index, toleration in enumerate(tolerations):
        at = f"{path}[{index}]"
        key, operator = toleration.get("key") or "", toleration.get("operator") or "Equal"
        if key:
            for fault in names.label_key_faults(key):
                yield invalid(f"{at}.key", key, fault)
        elif operator != "Exists":
            yield invalid(
                f"{at}.operator",
                operator,
                'operator must be Exists when `key` is empty, which means "match all values and all keys"',
            )
        if operator not in _OPERATORS:
            yield not_supported(f"{at}.operator", operator, _OPERATORS)
        elif operator == "Exists" and toleration.get("value"):
            yield invalid(f"{at}.operator", toleration["value"], "value must be empty when `operator` is 'Exists'")
        effect = toleration.get("effect") or ""
        if effect and effect not in _EFFECTS:
            yield not_supported(f"{at}.effect", effect, _EFFECTS)
        if toleration.get("tolerationSeconds") is not None and effect != "NoExecute":
            yield invalid(f"{at}.effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")


def taint_causes(taints: list[Json], path: str) -> Iterator[Cause]:
    """What is wrong with a node's taints."""
    seen: set[tuple[str, str]] = set()
    for index, taint in enumerate(taints):
        at = f"{path}[{index}]"
        key, effect = taint.get("key") or "", taint.get("effect") or ""
        for fault in names.label_key_faults(key):
            yield invalid(f"{at}.key", key, fault)
        for fault in names.label_value_faults(taint.get("value") or ""):
            yield invalid(f"{at}.value", taint["value"], fault)
        if effect not in _EFFECTS:
            yield not_supported(f"{at}.effect", effect, _EFFECTS)
        if (key, effect) in seen:
            yield duplicate(at, taint)
        seen.add((key, effect))


def create_causes(obj: Json) -> Iterator[Cause]:
    yield from pod_spec_causes(obj["spec"], "spec")


def update_causes(old: Json, new: Json) -> Iterator[Cause]:
    """Only images, deadlines, more tolerations and fewer scheduling gates may change in a pod's spec."""
    before, after = old["spec"], new["spec"]
    if before == after:
        return
    had, has = before.get("tolerations") or [], after.get("tolerations") or []
    if any(toleration not in has for toleration in had):
        yield forbidden_field(
            "spec.tolerations", "existing toleration can not be modified except its tolerationSeconds"
        )
    munged = _with_mutable_of(before, after)
    if (gates := before.get("schedulingGates")) and any(
        gate not in gates for gate in after.get("schedulingGates") or ()
    ):
        yield forbidden_field("spec.schedulingGates", "only deletion is allowed, but found new scheduling gate")
    for key in ("containers", "initContainers"):
        was, now = before.get(key) or [], after.get(key) or []
        if len(was) != len(now):
            yield forbidden_field(f"spec.{key}", "pod updates may not add or remove containers")
            return
        if now:
            munged[key] = [{**there, "image": here.get("image")} for here, there in zip(was, now, strict=True)]
        for index, container in enumerate(now):
            if not container.get("image"):
                yield required(f"spec.{key}[{index}].image")
    if munged != before:
        yield forbidden_field("spec", _UPDATE_TEXT)


def _with_mutable_of(before: Json, after: Json) -> Json:
    """`after` with those of its fields that may change put back to what they were."""
    munged = {**after}
    mutable = ["tolerations", "activeDeadlineSeconds"]
    if (before.get("terminationGracePeriodSeconds") or 0) < 0 and after.get("terminationGracePeriodSeconds") == 1:
        mutable.append("terminationGracePeriodSeconds")
    if before.get("schedulingGates"):
        mutable += ["schedulingGates", "nodeSelector", "affinity"]
    for key in mutable:
        _take(munged, before, key)
    return munged


def _take(target: Json, source: Json, key: str) -> None:
    if key in source:
        target[key] = source[key]
    else:
        target.pop(key, None)
