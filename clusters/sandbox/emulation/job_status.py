"""What a Job's pods add up to, and whether that ends it. Pure.

Source: the Job controller of Kubernetes (pkg/controller/job/job_controller.go) and the API's rules for Job status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from clusters.sandbox.emulation.objects import condition_true, is_deleting, phase
from scheduler.model.ids import Instant
from scheduler.model.ports import RawObject

INDEX: Final = "batch.kubernetes.io/job-completion-index"
FEDERATION_OF_NONE: Final = "kubernetes.io/job-controller"
"""`spec.managedBy` of the built-in controller."""


@dataclass(slots=True)
class Ledger:
    """What must be remembered of a Job's pods that are gone."""

    succeeded_gone: int = 0
    failed_gone: int = 0
    indexes: set[int] = field(default_factory=set)
    """Completed indexes (Indexed mode)."""
    released: set[str] = field(default_factory=set)
    """UIDs of pods that the controller deleted itself (suspended, scaled down): their end is no failure."""
    ignored: set[str] = field(default_factory=set)
    """UIDs of failed pods that the pod failure policy ignores."""
    start_time: str | None = None
    retry_at: Instant = 0.0
    failures_seen: int = 0


@dataclass(slots=True)
class Tally:
    """The pods of a Job by what they count as."""

    active: list[RawObject] = field(default_factory=list)
    ready: int = 0
    terminating: int = 0
    succeeded: int = 0
    failed: int = 0
    restarts: int = 0
    last_end: str = ""
    """RFC 3339 time of the latest container end; "" when none ended."""
    fail_job: str | None = None
    """Message of the pod failure policy's FailJob rule, when one matched."""


def tally(pods: Iterable[RawObject], ledger: Ledger, job: RawObject) -> Tally:
    """Count pods; completed indexes and ignored failures are noted in `ledger`."""
    result = Tally(succeeded=ledger.succeeded_gone, failed=ledger.failed_gone)
    indexed = job["spec"].get("completionMode") == "Indexed"
    for pod in pods:
        state, uid = phase(pod), pod["metadata"]["uid"]
        if state == "Succeeded":
            result.last_end = max(result.last_end, ended_at(pod))
            if not indexed:
                result.succeeded += 1
            elif (index := index_of(pod)) is not None:
                ledger.indexes.add(index)
        elif state == "Failed" or is_deleting(pod):
            result.terminating += is_deleting(pod) and state != "Failed"
            _count_failure(pod, uid, ledger, job, result)
        else:
            result.active.append(pod)
            result.ready += condition_true(pod, "Ready")
            result.restarts += _restarts(pod)
    if indexed:
        limit = job["spec"].get("completions") or 0
        ledger.indexes = {index for index in ledger.indexes if index < limit}
        result.succeeded = len(ledger.indexes)
    return result


def _count_failure(pod: RawObject, uid: str, ledger: Ledger, job: RawObject, result: Tally) -> None:
    if uid in ledger.released or uid in ledger.ignored:
        return
    action, message = failure_action(job, pod)
    if action == "Ignore":
        ledger.ignored.add(uid)
        return
    if action == "FailJob":
        result.fail_job = message
    result.failed += 1
    result.last_end = max(result.last_end, ended_at(pod))


def failure_action(job: RawObject, pod: RawObject) -> tuple[str, str]:
    """(action, message) of the first rule of the pod failure policy that a failed pod meets; Count when none."""
    for position, rule in enumerate((job["spec"].get("podFailurePolicy") or {}).get("rules") or ()):
        if _rule_matches(rule, pod):
            name = pod["metadata"]["name"]
            return str(rule.get("action")), f"Pod {name} matching FailJob rule at index {position}"
    return "Count", ""


def _rule_matches(rule: Mapping[str, Any], pod: RawObject) -> bool:
    codes = rule.get("onExitCodes")
    if codes is not None:
        wanted, negate = set(codes.get("values") or ()), codes.get("operator") == "NotIn"
        return any((code in wanted) != negate for code in _exit_codes(pod, codes.get("containerName")) if code != 0)
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(
        item.get("type") == pattern.get("type") and item.get("status") == (pattern.get("status") or "True")
        for pattern in rule.get("onPodConditions") or ()
        for item in conditions
    )


def _exit_codes(pod: RawObject, container: str | None) -> list[int]:
    return [
        int(status["state"]["terminated"].get("exitCode", 0))
        for status in (pod.get("status") or {}).get("containerStatuses") or ()
        if "terminated" in (status.get("state") or {}) and container in (None, status.get("name"))
    ]


def _restarts(pod: RawObject) -> int:
    return sum(int(s.get("restartCount") or 0) for s in (pod.get("status") or {}).get("containerStatuses") or ())


def ended_at(pod: RawObject) -> str:
    """RFC 3339 time at which the pod's last container ended; "" when it is not known."""
    ends = [
        str(terminated["finishedAt"])
        for status in (pod.get("status") or {}).get("containerStatuses") or ()
        if (terminated := (status.get("state") or {}).get("terminated")) and terminated.get("finishedAt")
    ]
    return max(ends, default="")


def index_of(pod: RawObject) -> int | None:
    text = (pod["metadata"].get("annotations") or {}).get(INDEX, "")
    return int(text) if text.isdigit() else None


def format_indexes(indexes: set[int]) -> str:
    """ "1,3-5,7": runs of three or more become ranges, two stay apart, as Kubernetes writes them."""
    parts: list[str] = []
    run: list[int] = []
    for index in [*sorted(indexes), None]:
        if run and (index is None or index != run[-1] + 1):
            parts.extend(map(str, run) if len(run) < 3 else [f"{run[0]}-{run[-1]}"])
            run = []
        if index is not None:
            run.append(index)
    return ",".join(parts)


def parse_indexes(text: str) -> set[int]:
    """The set that `format_indexes` wrote."""
    result: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        result.update(range(int(first), int(last or first) + 1))
    return result


def is_complete(job: RawObject, counted: Tally) -> bool:
    """Whether the success criteria are met."""
    completions = job["spec"].get("completions")
    if completions is None:
        return counted.succeeded > 0 and not counted.active
    return counted.succeeded >= int(completions)


def failure(job: RawObject, counted: Tally, now: Instant, started: Instant | None) -> tuple[str, str] | None:
    """(reason, message) when the Job has failed for good."""
    spec = job["spec"]
    if counted.fail_job is not None:
        return "PodFailurePolicy", counted.fail_job
    limit = spec.get("backoffLimit")
    limit = 6 if limit is None else int(limit)
    on_failure = (spec["template"]["spec"].get("restartPolicy")) == "OnFailure"
    restarted_out = on_failure and counted.restarts > 0 and counted.restarts >= limit
    if counted.failed > limit or restarted_out:
        return "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and started is not None and now >= started + float(deadline):
        return "DeadlineExceeded", "Job was active longer than specified deadline"
    return None


def wanted_active(job: RawObject, counted: Tally) -> int:
    """How many pods should run now."""
    parallelism = job["spec"].get("parallelism")
    parallelism = 1 if parallelism is None else int(parallelism)
    completions = job["spec"].get("completions")
    if completions is None:
        return min(parallelism, len(counted.active)) if counted.succeeded else parallelism
    return max(0, min(parallelism, int(completions) - counted.succeeded))
