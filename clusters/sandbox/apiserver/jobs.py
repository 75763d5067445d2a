"""What the API server refuses of Jobs: specs, changes of them, and status transitions.

Facts from kubernetes/kubernetes `pkg/apis/batch/validation/validation.go` and `pkg/registry/batch/job/strategy.go` as
of 1.32, with JobManagedBy, JobSuccessPolicy, ElasticIndexedJob and JobPodReplacementPolicy on.
Stricter in two points: condition types are unique, and a suspended Job that is not finished gets no new startTime.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

from clusters.sandbox.apiserver import names
from clusters.sandbox.apiserver.failures import (
    Cause,
    Json,
    duplicate,
    invalid,
    invalid_plain,
    not_supported,
    required,
)
from clusters.sandbox.apiserver.metadata import IMMUTABLE
from clusters.sandbox.apiserver.pods import template_spec_causes
from clusters.sandbox.apiserver.selectors import from_object

UID_LABEL: Final = "batch.kubernetes.io/controller-uid"
NAME_LABEL: Final = "batch.kubernetes.io/job-name"
_OLD_UID_LABEL: Final = "controller-uid"
_OLD_NAME_LABEL: Final = "job-name"
_COUNTS: Final = (
    "parallelism",
    "completions",
    "activeDeadlineSeconds",
    "backoffLimit",
    "ttlSecondsAfterFinished",
    "backoffLimitPerIndex",
    "maxFailedIndexes",
)
_AT_LEAST_ZERO: Final = "must be greater than or equal to 0"
_MODES: Final = ("Indexed", "NonIndexed")
_INDEXED_MOST: Final = 100_000
_MANAGED_BY_MOST: Final = 63
_ACTIONS: Final = ("Count", "FailIndex", "FailJob", "Ignore")


def with_selector(obj: Json) -> Json:
    """The Job with the selector and pod labels that the API server generates, unless it asks for a manual one."""
    spec = obj["spec"]
    if spec.get("manualSelector"):
        return obj
    uid, name = obj["metadata"]["uid"], obj["metadata"]["name"]
    template = spec["template"]
    metadata = template.get("metadata") or {}
    labels = {
        _OLD_NAME_LABEL: name,
        NAME_LABEL: name,
        _OLD_UID_LABEL: uid,
        UID_LABEL: uid,
        **(metadata.get("labels") or {}),
    }
    selector = spec.get("selector") or {}
    selector = {**selector, "matchLabels": {UID_LABEL: uid, **(selector.get("matchLabels") or {})}}
    template = {**template, "metadata": {**metadata, "labels": labels}}
    return {**obj, "spec": {**spec, "selector": selector, "template": template}}


def create_causes(obj: Json) -> Iterator[Cause]:
    yield from _generated_selector(obj)
    yield from _selector_causes(obj["spec"])
    yield from spec_causes(obj["spec"], "spec")
    spec = obj["spec"]
    if spec.get("completionMode") == "Indexed" and (spec.get("completions") or 0) > 0:
        host = f"{obj['metadata']['name']}-{spec['completions'] - 1}"
        if names.label_faults(host):
            detail = f"will not able to create pod with invalid DNS label: {host}"
            yield invalid("metadata.name", obj["metadata"]["name"], detail)


def _generated_selector(obj: Json) -> Iterator[Cause]:
    spec = obj["spec"]
    if spec.get("manualSelector") or spec.get("selector") is None:
        return
    uid, name = obj["metadata"]["uid"], obj["metadata"]["name"]
    want = {_OLD_UID_LABEL: uid, _OLD_NAME_LABEL: name, UID_LABEL: uid, NAME_LABEL: name}
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    for key, value in want.items():
        if key not in labels:
            yield required("spec.template.metadata.labels", f"must be '{value}'")
        elif labels[key] != value:
            yield invalid("spec.template.metadata.labels", labels, f"must be '{value}'")
    selector = from_object(spec["selector"])
    if selector is not None and not selector.matches(want):
        yield invalid("spec.selector", spec["selector"], "`selector` not auto-generated")


def _selector_causes(spec: Json) -> Iterator[Cause]:
    selector = from_object(spec.get("selector"))
    if selector is None:
        yield required("spec.selector")
        return
    labels = (spec["template"].get("metadata") or {}).get("labels") or {}
    if not selector.matches(labels):
        yield invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")


def spec_causes(spec: Json, path: str) -> Iterator[Cause]:
    """What is wrong with a Job's spec, whether its own or in a CronJob."""
    for field in _COUNTS:
        value = spec.get(field)
        if value is not None and value < 0:
            yield invalid(f"{path}.{field}", value, _AT_LEAST_ZERO)
    managed_by = spec.get("managedBy")
    if managed_by is not None:
        for fault in names.domain_path_faults(managed_by):
            yield invalid(f"{path}.managedBy", managed_by, fault)
        if len(managed_by) > _MANAGED_BY_MOST:
            detail = f"Too long: may not be more than {_MANAGED_BY_MOST} bytes"
            yield Cause("FieldValueTooLong", f"{path}.managedBy", detail)
    yield from _mode_causes(spec, path)
    if spec.get("podFailurePolicy") is not None:
        yield from _failure_policy_causes(spec, f"{path}.podFailurePolicy.rules")
    if spec.get("successPolicy") is not None:
        yield from _success_policy_causes(spec, f"{path}.successPolicy")
    policies = ("Failed",) if spec.get("podFailurePolicy") is not None else ("Failed", "TerminatingOrFailed")
    if spec.get("podReplacementPolicy") not in (None, *policies):
        yield not_supported(f"{path}.podReplacementPolicy", spec["podReplacementPolicy"], policies)
    yield from template_spec_causes(spec["template"], f"{path}.template")
    yield from _restart_causes(spec, f"{path}.template.spec.restartPolicy")


def _restart_causes(spec: Json, path: str) -> Iterator[Cause]:
    policy = (spec["template"].get("spec") or {}).get("restartPolicy")
    if policy in (None, "", "Always"):
        yield required(path, 'valid values: "OnFailure", "Never"')
    elif spec.get("podFailurePolicy") is not None and policy != "Never":
        yield invalid(path, policy, 'only "Never" is supported when podFailurePolicy is specified')


def _mode_causes(spec: Json, path: str) -> Iterator[Cause]:
    mode, completions = spec.get("completionMode"), spec.get("completions")
    most_failed = spec.get("maxFailedIndexes")
    if mode not in (None, *_MODES):
        yield not_supported(f"{path}.completionMode", mode, _MODES)
    if most_failed is not None and spec.get("backoffLimitPerIndex") is None:
        yield required(f"{path}.backoffLimitPerIndex", "when maxFailedIndexes is specified")
    if mode == "Indexed":
        if completions is None:
            yield required(f"{path}.completions", "when completion mode is Indexed")
        if (spec.get("parallelism") or 0) > _INDEXED_MOST:
            detail = f"must be less than or equal to {_INDEXED_MOST} when completion mode is Indexed"
            yield invalid(f"{path}.parallelism", spec["parallelism"], detail)
        if most_failed is not None and completions is not None and most_failed > completions:
            yield invalid(f"{path}.maxFailedIndexes", most_failed, "must be less than or equal to completions")
        return
    for field in ("backoffLimitPerIndex", "maxFailedIndexes"):
        if spec.get(field) is not None:
            yield invalid(f"{path}.{field}", spec[field], "requires indexed completion mode")


def _failure_policy_causes(spec: Json, path: str) -> Iterator[Cause]:
    pod = spec["template"].get("spec") or {}
    containers = {c.get("name") for c in (*(pod.get("containers") or ()), *(pod.get("initContainers") or ()))}
    for index, rule in enumerate(spec["podFailurePolicy"].get("rules") or ()):
        at = f"{path}[{index}]"
        action, codes, conditions = rule.get("action"), rule.get("onExitCodes"), rule.get("onPodConditions")
        if not action:
            yield required(f"{at}.action", f"valid values: {list(_ACTIONS)}")
        elif action not in _ACTIONS:
            yield not_supported(f"{at}.action", action, _ACTIONS)
        elif action == "FailIndex" and spec.get("backoffLimitPerIndex") is None:
            yield invalid(f"{at}.action", action, "requires the backoffLimitPerIndex to be set")
        if codes and conditions:
            yield invalid_plain(at, "specifying both OnExitCodes and OnPodConditions is not supported")
        if not codes and not conditions:
            yield invalid_plain(at, "specifying one of OnExitCodes and OnPodConditions is required")
        if codes:
            yield from _exit_code_causes(codes, f"{at}.onExitCodes", containers)


def _exit_code_causes(codes: Json, path: str, containers: set[Any]) -> Iterator[Cause]:
    operator, values = codes.get("operator"), codes.get("values") or []
    if operator not in ("In", "NotIn"):
        yield not_supported(f"{path}.operator", operator or "", ("In", "NotIn"))
    if codes.get("containerName") is not None and codes["containerName"] not in containers:
        detail = "must be one of the container or initContainer names in the pod template"
        yield invalid(f"{path}.containerName", codes["containerName"], detail)
    if not values:
        yield invalid(f"{path}.values", values, "at least one value is required")
    for index, value in enumerate(values):
        if operator == "In" and value == 0:
            yield invalid(f"{path}.values[{index}]", value, "must not be 0 for the In operator")
        if value in values[:index]:
            yield duplicate(f"{path}.values[{index}]", value)
    if values != sorted(values):
        yield invalid(f"{path}.values", values, "must be ordered")


def _success_policy_causes(spec: Json, path: str) -> Iterator[Cause]:
    if spec.get("completionMode") != "Indexed":
        yield invalid(path, spec["successPolicy"], "requires indexed completion mode")
        return
    rules = spec["successPolicy"].get("rules") or []
    if not rules:
        yield required(f"{path}.rules", "at least one rules must be specified when the successPolicy is specified")
    completions = spec.get("completions") or 0
    for index, rule in enumerate(rules):
        at = f"{path}.rules[{index}]"
        count, indexes = rule.get("succeededCount"), rule.get("succeededIndexes")
        if count is None and indexes is None:
            yield required(at, "at least one of succeededCount or succeededIndexes must be specified")
        if indexes is not None and isinstance(parsed := parse_indexes(indexes, completions), str):
            yield invalid(f"{at}.succeededIndexes", indexes, f"error parsing succeededIndexes: {parsed}")
        if count is not None and count > completions:
            detail = f"must be less than or equal to {completions} (the number of specified completions)"
            yield invalid(f"{at}.succeededCount", count, detail)


def update_causes(old: Json, new: Json) -> Iterator[Cause]:
    """What may not change in a Job's spec."""
    yield from create_causes(new)
    was, now = old["spec"], new["spec"]
    yield from _completions_change(was, now)
    for field in (
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ):
        if was.get(field) != now.get(field):
            yield invalid(f"spec.{field}", now.get(field), IMMUTABLE)
    if was["template"] != now["template"]:
        never_started = bool(was.get("suspend")) and not (old.get("status") or {}).get("startTime")
        template = _with_scheduling_of(was["template"], now["template"]) if never_started else was["template"]
        if template != now["template"]:
            yield invalid("spec.template", now["template"], IMMUTABLE)


def _completions_change(was: Json, now: Json) -> Iterator[Cause]:
    if was.get("completions") == now.get("completions"):
        return
    if now.get("completionMode") != "Indexed":
        yield invalid("spec.completions", now.get("completions"), IMMUTABLE)
    elif now.get("completions") is not None and now["completions"] != now.get("parallelism"):
        yield invalid("spec.completions", now["completions"], "can only be modified in tandem with spec.parallelism")


def _with_scheduling_of(template: Json, source: Json) -> Json:
    """`template` with the scheduling directives of `source`: those may change while a Job never started."""
    metadata, spec = {**(template.get("metadata") or {})}, {**(template.get("spec") or {})}
    from_metadata, from_spec = source.get("metadata") or {}, source.get("spec") or {}
    for target, origin, fields in (
        (metadata, from_metadata, ("labels", "annotations")),
        (spec, from_spec, ("nodeSelector", "tolerations", "schedulingGates")),
    ):
        for field in fields:
            target.pop(field, None)
            if field in origin:
                target[field] = origin[field]
    affinity = {key: value for key, value in (spec.pop("affinity", None) or {}).items() if key != "nodeAffinity"}
    if node_affinity := (from_spec.get("affinity") or {}).get("nodeAffinity"):
        affinity["nodeAffinity"] = node_affinity
    if affinity or "affinity" in from_spec:
        spec["affinity"] = affinity
    return {**template, "metadata": metadata, "spec": spec}


# Status ------------------------------------------------------------------------------------------------------------


def _true(status: Json, kind: str) -> bool:
    return any(c.get("type") == kind and c.get("status") == "True" for c in status.get("conditions") or ())


def _finished(status: Json) -> bool:
    return _true(status, "Complete") or _true(status, "Failed")


def status_causes(old: Json, new: Json) -> Iterator[Cause]:
    """What is wrong with a change of a Job's status. Rules on a field hold only when that field changes."""
    was, now = old.get("status") or {}, new.get("status") or {}
    if was == now:
        return
    yield from _counter_causes(now)
    yield from _condition_causes(was, now, new["spec"])
    yield from _time_causes(was, now, new["spec"])
    yield from _finish_causes(was, now)
    yield from _index_causes(was, now, new["spec"])
    yield from _transition_causes(was, now, new["spec"])


def _counter_causes(now: Json) -> Iterator[Cause]:
    for field in ("active", "succeeded", "failed", "ready", "terminating"):
        if (now.get(field) or 0) < 0:
            yield invalid(f"status.{field}", now[field], _AT_LEAST_ZERO)
    seen: set[str] = set()
    for field in ("succeeded", "failed"):
        for index, uid in enumerate((now.get("uncountedTerminatedPods") or {}).get(field) or ()):
            path = f"status.uncountedTerminatedPods.{field}[{index}]"
            if not uid:
                yield invalid(path, uid, "must not be empty")
            elif uid in seen:
                yield duplicate(path, uid)
            seen.add(uid)
    types = [condition.get("type") for condition in now.get("conditions") or ()]
    for index, kind in enumerate(types):
        if kind in types[:index]:
            yield duplicate(f"status.conditions[{index}].type", kind)


def _condition_causes(was: Json, now: Json, spec: Json) -> Iterator[Cause]:
    path = "status.conditions"

    def changed(kind: str) -> bool:
        return _true(was, kind) != _true(now, kind)

    complete, failed = _true(now, "Complete"), _true(now, "Failed")
    target, met = _true(now, "FailureTarget"), _true(now, "SuccessCriteriaMet")
    if complete and failed and (changed("Complete") or changed("Failed")):
        yield invalid_plain(path, "cannot set Complete=True and Failed=true conditions")
    if complete and target and (changed("Complete") or changed("FailureTarget")):
        yield invalid_plain(path, "cannot set Complete=True and FailureTarget=true conditions")
    if failed and not target and (changed("Failed") or changed("FailureTarget")):
        yield invalid_plain(path, "cannot set Failed=True condition without the FailureTarget=true condition")
    if complete and not met and (changed("Complete") or changed("SuccessCriteriaMet")):
        yield invalid_plain(path, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
    if met and failed:
        yield invalid_plain(path, "cannot set SuccessCriteriaMet=True and Failed=true conditions")
    if met and target:
        yield invalid_plain(path, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
    if spec.get("successPolicy") is not None and complete and not met:
        yield invalid_plain(path, "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")


def _time_causes(was: Json, now: Json, spec: Json) -> Iterator[Cause]:
    start, completion = now.get("startTime"), now.get("completionTime")
    complete = _true(now, "Complete")
    start_changed, completion_changed = was.get("startTime") != start, was.get("completionTime") != completion
    if _true(was, "Complete") != complete or completion_changed:
        if completion and not complete:
            detail = "cannot set completionTime when there is no Complete=True condition"
            yield invalid("status.completionTime", completion, detail)
        if complete and not completion:
            yield required("status.completionTime", "completionTime is required for Complete jobs")
    if (start_changed or completion_changed) and start and completion and _before(completion, start):
        yield invalid("status.completionTime", completion, "completionTime cannot be set before startTime")
    if completion and was.get("completionTime") and completion_changed:
        yield invalid("status.completionTime", completion, "completionTime cannot be mutated")
    if start_changed and was.get("startTime") and not spec.get("suspend"):
        yield required("status.startTime", "startTime cannot be removed for unsuspended job")
    if start and not was.get("startTime") and spec.get("suspend") and not _finished(now):
        yield invalid("status.startTime", start, "startTime cannot be set while the job is suspended")


def _before(one: str, other: str) -> bool:
    try:
        return datetime.fromisoformat(one) < datetime.fromisoformat(other)
    except ValueError:
        return False


def _finish_causes(was: Json, now: Json) -> Iterator[Cause]:
    finished = _finished(now)
    turned = _finished(was) != finished

    def changed(field: str) -> bool:
        return (was.get(field) or 0) != (now.get(field) or 0)

    active = now.get("active") or 0
    if finished and active > 0 and (turned or changed("active")):
        yield invalid("status.active", active, "active>0 is invalid for finished job")
    if finished and not now.get("startTime") and (turned or changed("startTime")):
        yield required("status.startTime", "startTime is required for finished job")
    pods = now.get("uncountedTerminatedPods") or {}
    if finished and (pods.get("failed") or pods.get("succeeded")) and (turned or changed("uncountedTerminatedPods")):
        detail = "uncountedTerminatedPods needs to be empty for finished job"
        yield invalid("status.uncountedTerminatedPods", pods, detail)
    if finished and (now.get("terminating") or 0) > 0 and (turned or changed("terminating")):
        yield invalid("status.terminating", now["terminating"], "terminating>0 is invalid for finished job")
    if (ready := now.get("ready") or 0) > max(0, active) and (changed("ready") or changed("active")):
        yield invalid("status.ready", ready, "cannot set more ready pods than active")


def _index_causes(was: Json, now: Json, spec: Json) -> Iterator[Cause]:
    done, failed = now.get("completedIndexes") or "", now.get("failedIndexes")
    done_changed = (was.get("completedIndexes") or "") != done
    failed_changed = was.get("failedIndexes") != failed
    completions = spec.get("completions")
    if done_changed:
        if done and spec.get("completionMode") != "Indexed":
            detail = "cannot set non-empty completedIndexes when non-indexed completion mode"
            yield invalid("status.completedIndexes", done, detail)
        if completions is not None and isinstance(parsed := parse_indexes(done, completions), str):
            yield invalid("status.completedIndexes", done, f"error parsing completedIndexes: {parsed}")
    if failed_changed and failed is not None:
        if spec.get("backoffLimitPerIndex") is None:
            detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null"
            yield invalid("status.failedIndexes", failed, detail)
        elif completions is not None and isinstance(parsed := parse_indexes(failed, completions), str):
            yield invalid("status.failedIndexes", failed, f"error parsing failedIndexes: {parsed}")
    if (done_changed or failed_changed) and failed and completions is not None:
        one, other = parse_indexes(done, completions), parse_indexes(failed, completions)
        if not isinstance(one, str) and not isinstance(other, str) and (both := _overlap(one, other)) is not None:
            detail = f"failedIndexes and completedIndexes overlap at index: {both}"
            yield invalid("status.failedIndexes", failed, detail)


def _transition_causes(was: Json, now: Json, spec: Json) -> Iterator[Cause]:
    path = "status.conditions"
    for kind in ("Failed", "Complete", "FailureTarget"):
        if _true(was, kind) and not _true(now, kind):
            yield invalid_plain(path, f"cannot disable the terminal {kind}=True condition")
    if (now.get("failed") or 0) < (was.get("failed") or 0):
        yield invalid("status.failed", now.get("failed") or 0, "cannot decrease the failed counter")
    elastic = spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")
    if not elastic and (now.get("succeeded") or 0) < (was.get("succeeded") or 0):
        yield invalid("status.succeeded", now.get("succeeded") or 0, "cannot decrease the succeeded counter")
    if _true(was, "SuccessCriteriaMet") and not _true(now, "SuccessCriteriaMet"):
        yield invalid_plain(path, "cannot disable the SuccessCriteriaMet=True condition")
    if _true(was, "Complete") and not _true(was, "SuccessCriteriaMet") and _true(now, "SuccessCriteriaMet"):
        yield invalid_plain(path, "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")


def parse_indexes(text: str, completions: int) -> tuple[range, ...] | str:
    """The intervals of indexes that "0,2-4" stands for, or what is wrong with it."""
    found: list[range] = []
    for part in text.split(",") if text else ():
        ends = part.split("-")
        if len(ends) > 2:
            why = "violates the requirement that an index interval can have at most two parts separated by '-'"
            return f'the fragment "{part}" {why}'
        if not all(end.isdecimal() and len(end) < 11 for end in ends):
            return f'cannot convert string to integer for index: "{part}"'
        first, last = int(ends[0]), int(ends[-1])
        if last >= completions:
            return f'too large index: "{ends[-1]}"'
        if len(ends) == 2 and first >= last:
            return f"non-increasing order, previous: {first}, current: {last}"
        if found and found[-1].stop > first:
            return f"non-increasing order, previous: {found[-1].stop - 1}, current: {first}"
        found.append(range(first, last + 1))
    return tuple(found)


def _overlap(one: tuple[range, ...], other: tuple[range, ...]) -> int | None:
    """The first index that both have; None: they have none in common."""
    starts = (max(a.start, b.start) for a in one for b in other if a.start < b.stop and b.start < a.stop)
    return min(starts, default=None)
