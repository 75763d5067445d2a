"""`batch/v1` Jobs that a user handed over with `spec.managedBy: overspill.dev/federation`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from clusters.kubernetes.codec import explain, parse_time
from clusters.kubernetes.conditions import conditions, find, is_true, merged, placed_patch
from clusters.kubernetes.hubobjects import (
    MALFORMED,
    copy_metadata,
    origin,
    pinned_template,
    pod_priority,
    read_hints,
    read_metadata,
    read_pod_set,
    refuse_malformed,
    whole_number,
)
from scheduler.model.contract import JOBS, MANAGED_BY
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, Instant, Uid
from scheduler.model.ports import MemberFacts, RawObject, Resource, WorkloadKind
from scheduler.model.workload import Copy, CopyState, Dependent, Placement, PodSet, Workload

_HUB_ONLY: Final = frozenset({"managedBy", "selector", "manualSelector", "ttlSecondsAfterFinished", "suspend"})
"""Spec fields that are not copied. With a TTL the member would delete the result before it was seen."""
_GENERATED_LABELS: Final = frozenset({"controller-uid", "job-name"})
_GENERATED_PREFIX: Final = "batch.kubernetes.io/"
_FOLLOWED: Final = ("parallelism", "activeDeadlineSeconds", "backoffLimit")
"""Spec fields that may change while a Job runs and are carried to the copy."""
_CRITERIA: Final = {"Complete": "SuccessCriteriaMet", "Failed": "FailureTarget"}
"""A terminal condition and the one that the API server wants to see with it."""
_HAND_OVER: Final = (
    f"set spec.managedBy: {MANAGED_BY}; it cannot be changed later, so create the Job anew "
    "(a hub older than Kubernetes 1.32 drops it)"
)
_CONDITION_FIELDS: Final = ("status", "reason", "message")


class Job:
    name = "job"
    hub_resource: Resource = JOBS
    member_resources: tuple[Resource, ...] = (JOBS,)

    @refuse_malformed
    def parse(self, obj: RawObject) -> Workload:
        meta = read_metadata(obj, self.name)
        invalid, priority = meta.invalid, 0
        pod_sets: tuple[PodSet, ...] = ()
        hints = meta.said.hints
        spec: Any = obj.get("spec")
        try:
            pod_spec = _template(spec)["spec"]
            priority = pod_priority(meta.said, pod_spec)
            pod_sets = (read_pod_set("main", _pods(spec), pod_spec, meta.said),)
            hints = read_hints(meta, pod_spec)
        except MALFORMED as error:
            invalid = invalid or explain(error)
        ours = isinstance(spec, Mapping) and spec.get("managedBy") == MANAGED_BY
        return Workload(
            ref=meta.ref,
            queue=meta.queue,
            priority=priority,
            created_at=meta.created_at,
            queued_at=meta.queued_at,
            pod_sets=pod_sets,
            labels=meta.labels,
            hints=hints,
            progress_query=meta.said.progress_query,
            speed_query=meta.said.speed_query,
            suspended=isinstance(spec, Mapping) and spec.get("suspend") is True,
            deleting=meta.deleting,
            finished=_finished(obj),
            has_finalizer=meta.has_finalizer,
            placement=meta.placement,
            condition=meta.condition,
            invalid=invalid,
            unmanaged=None if ours else _HAND_OVER,
            runs_as=JOBS.key,
        )

    @refuse_malformed
    def make_copy(self, obj: RawObject, workload: Workload, placement: Placement, member: MemberFacts) -> RawObject:
        spec = obj["spec"]
        template = _template(spec)
        meta = template.get("metadata") or {}
        cleaned = {**template, "metadata": {**meta, "labels": _without_generated(meta.get("labels"))}}
        source = obj["metadata"]
        return {
            "apiVersion": JOBS.api_version,
            "kind": JOBS.kind,
            "metadata": copy_metadata(
                {**source, "labels": _without_generated(source.get("labels"))}, workload.ref, placement, member
            ),
            "spec": {
                **{name: value for name, value in spec.items() if name not in _HUB_ONLY},
                "suspend": False,
                "template": pinned_template(cleaned, workload.ref.uid, member),
            },
        }

    @refuse_malformed
    def refresh_copy(
        self, obj: RawObject, workload: Workload, placement: Placement, member: MemberFacts, copy: RawObject
    ) -> RawObject | None:
        if _finished(copy):
            return None
        wanted, has = obj["spec"], copy["spec"]
        changed = {name: wanted.get(name) for name in _FOLLOWED if _differs(name, wanted, has)}
        if _elastic(wanted) and wanted.get("completions") != has.get("completions"):
            # The API server lets both change together, and only to the same number.
            changed |= {"completions": wanted["completions"], "parallelism": wanted["parallelism"]}
        return {"spec": changed} if changed else None

    @refuse_malformed
    def parse_copy(self, obj: RawObject, cluster: ClusterId) -> Copy:
        uid, attempt, hub = origin(obj)
        meta, spec, status = obj["metadata"], obj["spec"], obj.get("status") or {}
        state = _state(obj)
        started = status.get("startTime")
        return Copy(
            origin=uid,
            cluster=cluster,
            kind=self.name,
            namespace=meta["namespace"],
            name=meta["name"],
            uid=Uid(meta["uid"]),
            attempt=attempt,
            state=state,
            suspended=spec.get("suspend") is True,
            deleting=meta.get("deletionTimestamp") is not None,
            created_at=parse_time(meta["creationTimestamp"]),
            started_at=parse_time(started) if started else None,
            finished_at=_finished_at(obj),
            pods_wanted=_pods_wanted(spec, status, state),
            origin_cluster=hub,
        )

    def dependents(self, obj: RawObject, copy: RawObject) -> tuple[Dependent, ...]:
        """None: what a Job refers to is its user's to bring."""
        return ()

    @refuse_malformed
    def suspend_patch(self, obj: RawObject, *, suspend: bool) -> RawObject | None:
        if _finished(obj) or (obj["spec"].get("suspend") is True) == suspend:
            return None
        return {"spec": {"suspend": suspend}}

    @refuse_malformed
    def mirror_status(self, obj: RawObject, copy: RawObject | None, ready_pods: int | None = None) -> RawObject | None:
        if _finished(obj):
            return None
        status = obj.get("status") or {}
        wanted = _mirrored(obj, copy)
        changed = {name: value for name, value in wanted.items() if (status.get(name) or None) != (value or None)}
        existing = conditions(obj)
        updates = [one for one in _mirrored_conditions(obj, copy) if _news(existing, one)]
        if updates:
            changed["conditions"] = merged(existing, updates)
        return {"status": changed} if changed else None

    @refuse_malformed
    def condition_patch(
        self, obj: RawObject, *, reason: str, message: str, placed: bool, now: Instant
    ) -> RawObject | None:
        return placed_patch(obj, reason=reason, message=message, placed=placed, now=now)


def _template(spec: Any) -> Mapping[str, Any]:
    if not isinstance(spec, Mapping) or not isinstance(spec.get("template"), Mapping):
        raise InvalidObjectError("spec.template is missing")
    template: Mapping[str, Any] = spec["template"]
    if not isinstance(template.get("spec"), Mapping) or not template["spec"].get("containers"):
        raise InvalidObjectError("spec.template.spec has no containers")
    return template


def _pods(spec: Mapping[str, Any]) -> int:
    """Pods that run at the same time: parallelism, but never more than there are completions to reach."""
    parallelism = whole_number(spec, "parallelism", 1)
    return min(parallelism, whole_number(spec, "completions", parallelism))


def _pods_wanted(spec: Mapping[str, Any], status: Mapping[str, Any], state: CopyState) -> int:
    if state in (CopyState.SUSPENDED, CopyState.SUCCEEDED, CopyState.FAILED):
        return 0
    parallelism = whole_number(spec, "parallelism", 1)
    completions = spec.get("completions")
    return (
        parallelism
        if completions is None
        else max(0, min(parallelism, completions - int(status.get("succeeded") or 0)))
    )


def _without_generated(labels: Mapping[str, str] | None) -> dict[str, str]:
    return {
        name: value
        for name, value in (labels or {}).items()
        if name not in _GENERATED_LABELS and not name.startswith(_GENERATED_PREFIX)
    }


def _elastic(spec: Mapping[str, Any]) -> bool:
    """Indexed with as many completions as pods: the one case in which completions, and with them the count of those
    that succeeded, may go down (pkg/apis/batch/validation, pkg/registry/batch/job of kubernetes/kubernetes)."""
    return spec.get("completionMode") == "Indexed" and spec.get("completions") == spec.get("parallelism")


def _differs(name: str, wanted: Mapping[str, Any], has: Mapping[str, Any]) -> bool:
    default = {"parallelism": 1, "backoffLimit": has.get("backoffLimit")}.get(name)
    return bool(wanted.get(name, default) != has.get(name, default))


def _finished(obj: RawObject) -> bool:
    listed = conditions(obj)
    return is_true(listed, "Complete") or is_true(listed, "Failed")


def _finished_at(obj: RawObject) -> Instant | None:
    listed = conditions(obj)
    done = (obj.get("status") or {}).get("completionTime")
    for kind in _CRITERIA:
        if is_true(listed, kind):
            at = done or (find(listed, kind) or {}).get("lastTransitionTime")
            return parse_time(at) if at else None
    return None


def _state(obj: RawObject) -> CopyState:
    listed, status = conditions(obj), obj.get("status") or {}
    if is_true(listed, "Complete"):
        return CopyState.SUCCEEDED
    if is_true(listed, "Failed"):
        return CopyState.FAILED
    if obj["spec"].get("suspend") is True:
        return CopyState.SUSPENDED
    return CopyState.RUNNING if status.get("ready") or status.get("succeeded") else CopyState.PENDING


def _mirrored(obj: RawObject, copy: RawObject | None) -> dict[str, Any]:
    """Status fields as the hub's API server will take them; None: not set.

    Source: pkg/apis/batch/validation and pkg/registry/batch/job/strategy.go of kubernetes/kubernetes. A copy that was
    made anew starts from zero, yet on the hub `failed` never goes down, `succeeded` only for elastic Jobs, and
    `startTime` stays while the Job is not suspended.
    """
    before, source = obj.get("status") or {}, (copy or {}).get("status") or {}
    finished = copy is not None and _finished(copy)
    wanted: dict[str, Any] = {
        "active": None if finished else source.get("active"),
        "ready": None if finished else source.get("ready"),
        "terminating": None if finished else source.get("terminating"),
        "startTime": _start_time(obj, copy),
    }
    if copy is None:
        return wanted
    elastic = _elastic(obj["spec"])
    for name in ("succeeded", "failed"):
        count = int(source.get(name) or 0)
        falls = elastic and name == "succeeded"
        wanted[name] = count if falls else max(count, int(before.get(name) or 0))
    wanted["ready"] = min(int(wanted["ready"] or 0), int(wanted["active"] or 0))
    wanted["completedIndexes"] = source.get("completedIndexes")
    wanted["failedIndexes"] = source.get("failedIndexes")
    if is_true(conditions(copy), "Complete"):
        done = source.get("completionTime") or _condition_time(copy, "Complete")
        # Two members' clocks may differ: the end is never before the beginning.
        wanted["completionTime"] = max(done, wanted["startTime"], key=parse_time)
    return wanted


def _start_time(obj: RawObject, copy: RawObject | None) -> str | None:
    before = (obj.get("status") or {}).get("startTime")
    started = ((copy or {}).get("status") or {}).get("startTime")
    if copy is not None and _finished(copy):
        # Required of a finished Job, also of one that ended without ever starting a pod.
        return str(before or started or copy["metadata"]["creationTimestamp"])
    if obj["spec"].get("suspend") is True:
        return None
    return before or started


def _condition_time(obj: RawObject, kind: str) -> str:
    found = find(conditions(obj), kind) or {}
    return str(found.get("lastTransitionTime") or obj["metadata"]["creationTimestamp"])


def _mirrored_conditions(obj: RawObject, copy: RawObject | None) -> list[Mapping[str, Any]]:
    """Suspended as it is; a terminal condition together with its criterion, in one write.

    The criteria are held back until then: they can never be taken back on the hub, so a copy that is lost between
    criterion and end would leave a Job that its next copy could not finish otherwise.
    """
    theirs = conditions(copy) if copy is not None else []
    result: list[Mapping[str, Any]] = []
    suspended = find(theirs, "Suspended") or _suspended_by_hub(obj, has_copy=copy is not None)
    if suspended is not None:
        result.append(_as_condition("Suspended", suspended))
    for kind, criterion in _CRITERIA.items():
        if (ending := find(theirs, kind)) is not None and ending.get("status") == "True":
            told = find(theirs, criterion)
            result.append(_as_condition(criterion, told if told and told.get("status") == "True" else ending))
            result.append(_as_condition(kind, ending))
            break
    return result


def _suspended_by_hub(obj: RawObject, *, has_copy: bool) -> Mapping[str, Any] | None:
    """What the built-in controller would say of a Job without pods; None when there is nothing to say, or the copy is
    yet to be suspended."""
    if obj["spec"].get("suspend") is True:
        return None if has_copy else {"status": "True", "reason": "JobSuspended", "message": "Job suspended"}
    if is_true(conditions(obj), "Suspended"):
        return {"status": "False", "reason": "JobResumed", "message": "Job resumed"}
    return None


def _as_condition(kind: str, source: Mapping[str, Any]) -> Mapping[str, Any]:
    times = {name: source[name] for name in ("lastProbeTime", "lastTransitionTime") if source.get(name)}
    return {"type": kind, **{name: source.get(name) or "" for name in _CONDITION_FIELDS}, **times}


def _news(existing: list[Mapping[str, Any]], update: Mapping[str, Any]) -> bool:
    before = find(existing, update["type"])
    return before is None or any((before.get(name) or "") != update[name] for name in _CONDITION_FIELDS)


KIND: WorkloadKind = Job()
