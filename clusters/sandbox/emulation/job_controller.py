"""The emulated Job controller: keeps each Job's pods and status as its spec and their fate demand.

Status writes are gathered: counts settle for a moment before they are written, and an end is written at once with all
that came before it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Any, Final

from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.job_status import (
    FEDERATION_OF_NONE,
    INDEX,
    Ledger,
    Tally,
    failure,
    format_indexes,
    index_of,
    is_complete,
    parse_indexes,
    tally,
    wanted_active,
)
from clusters.sandbox.emulation.objects import (
    condition,
    condition_true,
    controller_uid,
    format_time,
    is_deleting,
    key_of,
    owner_reference,
    parse_time,
    phase,
    split_key,
    with_condition,
)
from clusters.sandbox.emulation.timers import Timer, Timers
from clusters.sandbox.emulation.work import WorkQueue
from scheduler.model.contract import JOBS, PODS
from scheduler.model.errors import AlreadyExistsError, NotFoundError
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock, KubeApi, RawObject

_SETTLE_SECONDS: Final = 0.03
"""Wall time for which changed counts are gathered before they are written."""
_SUFFIX_LETTERS: Final = "bcdfghjklmnpqrstvwxz2456789"
_FIRST_BACKOFF_SECONDS: Final = 10.0
_LAST_BACKOFF_SECONDS: Final = 600.0
_PODS_AT_ONCE: Final = 500


class JobController:
    """One instance per cluster; reconciles Jobs that no other controller manages."""

    def __init__(
        self,
        api: KubeApi,
        clock: Clock,
        timers: Timers,
        jobs: Informer,
        pods: Informer,
        *,
        seed: int | str = 0,
        workers: int = 8,
    ) -> None:
        self._api = api
        self._clock = clock
        self._timers = timers
        self._jobs = jobs
        self._pods = pods
        self._by_owner = pods.index(controller_uid)
        self._keys: dict[str, str] = {}
        self._ledgers: dict[str, Ledger] = {}
        self._alarms: dict[str, Timer] = {}
        self._settling: dict[str, float] = {}
        """Jobs with changed counts, and the wall time (of the event loop) at which they are written."""
        self._random = random.Random(f"job-pods/{seed}")  # noqa: S311  (names, no secret)
        self.queue = WorkQueue("jobs", self._reconcile, workers=workers)
        jobs.handle(self._on_job)
        pods.handle(self._on_pod)

    # What the cluster tells

    def _on_job(self, kind: str, old: RawObject | None, job: RawObject) -> None:
        uid, key = job["metadata"]["uid"], key_of(job)
        if kind == "DELETED":
            self._keys.pop(uid, None)
            self._ledgers.pop(uid, None)
            self._settling.pop(key, None)
            if (alarm := self._alarms.pop(uid, None)) is not None:
                alarm.cancel()
            return
        self._keys[uid] = key
        if old is None or old["metadata"].get("generation") != job["metadata"].get("generation") or is_deleting(job):
            self.queue.add(key)

    def _on_pod(self, kind: str, old: RawObject | None, pod: RawObject) -> None:
        uid = controller_uid(pod)
        key = self._keys.get(uid) if uid else None
        if uid is None or key is None:
            return
        if kind == "DELETED" and (job := self._jobs.get(key)) is not None:
            self._write_off(job, pod)
        if kind != "MODIFIED" or old is None or _look(old) != _look(pod):
            self.queue.add(key)

    def _write_off(self, job: RawObject, pod: RawObject) -> None:
        """Keep what a pod counted for, now that it is gone."""
        uid = pod["metadata"]["uid"]
        ledger = self._ledger(job, just_gone=pod)
        counted = tally((pod,), Ledger(released=ledger.released, ignored=ledger.ignored), job)
        if job["spec"].get("completionMode") == "Indexed":
            if phase(pod) == "Succeeded" and (index := index_of(pod)) is not None:
                ledger.indexes.add(index)
        else:
            ledger.succeeded_gone += counted.succeeded
        lost_alive = phase(pod) in ("Pending", "Running") and not is_deleting(pod) and uid not in ledger.released
        ledger.failed_gone += 1 if lost_alive else counted.failed
        ledger.released.discard(uid)
        ledger.ignored.discard(uid)

    def _ledger(self, job: RawObject, just_gone: RawObject | None = None) -> Ledger:
        uid = job["metadata"]["uid"]
        ledger = self._ledgers.get(uid)
        if ledger is None:
            status = job.get("status") or {}
            ledger = self._ledgers[uid] = Ledger(
                indexes=parse_indexes(str(status.get("completedIndexes") or "")), start_time=status.get("startTime")
            )
            present = [*self._by_owner.get(uid).values(), *((just_gone,) if just_gone is not None else ())]
            counted = tally(present, Ledger(), job)
            if job["spec"].get("completionMode") != "Indexed":
                ledger.succeeded_gone = max(0, int(status.get("succeeded") or 0) - counted.succeeded)
            ledger.failed_gone = max(0, int(status.get("failed") or 0) - counted.failed)
            ledger.failures_seen = ledger.failed_gone + counted.failed
        return ledger

    # Reconciling

    async def _reconcile(self, key: str) -> None:
        job = self._jobs.get(key)
        if job is None or is_deleting(job):
            return
        if job["spec"].get("managedBy", FEDERATION_OF_NONE) != FEDERATION_OF_NONE:
            return
        if condition_true(job, "Complete") or condition_true(job, "Failed"):
            await self._after_end(job)
            return
        ledger, now = self._ledger(job), self._clock.now()
        uid = job["metadata"]["uid"]
        counted = tally(tuple(self._by_owner.get(uid).values()), ledger, job)
        if condition_true(job, "SuccessCriteriaMet") or is_complete(job, counted):
            await self._finish(job, ledger, counted, None)
            return
        failed = self._failure(job, ledger, counted, now)
        if failed is not None:
            await self._finish(job, ledger, counted, failed)
        elif job["spec"].get("suspend"):
            await self._delete_pods(counted.active, ledger)
            ledger.start_time = None
            await self._write_running(job, ledger, counted, suspended=True)
        else:
            if ledger.start_time is None:
                ledger.start_time = (job.get("status") or {}).get("startTime") or format_time(now)
            counted = await self._adjust(job, ledger, counted, now)
            self._set_alarm(job, ledger, counted, now)
            await self._write_running(job, ledger, counted, suspended=False)

    def _failure(self, job: RawObject, ledger: Ledger, counted: Tally, now: Instant) -> tuple[str, str] | None:
        target = condition(job, "FailureTarget")
        if target is not None and target.get("status") == "True":
            return str(target.get("reason")), str(target.get("message"))
        suspended = bool(job["spec"].get("suspend"))
        started = parse_time(ledger.start_time) if ledger.start_time and not suspended else None
        return failure(job, counted, now, started)

    async def _adjust(self, job: RawObject, ledger: Ledger, counted: Tally, now: Instant) -> Tally:
        """Create or delete pods until as many run as should; the new count."""
        wanted, active = wanted_active(job, counted), len(counted.active)
        if job["spec"].get("podReplacementPolicy") == "Failed" or job["spec"].get("podFailurePolicy"):
            active += counted.terminating
        if active > wanted:
            surplus = sorted(counted.active, key=_deletion_order)[: active - wanted]
            await self._delete_pods(surplus, ledger)
        elif active < wanted and now >= self._note_failures(ledger, counted, now):
            await self._create_pods(job, counted, ledger, min(wanted - active, _PODS_AT_ONCE))
        return tally(tuple(self._by_owner.get(job["metadata"]["uid"]).values()), ledger, job)

    def _note_failures(self, ledger: Ledger, counted: Tally, now: Instant) -> Instant:
        """From when pods may be created again: a new failure doubles the pause."""
        if counted.failed > ledger.failures_seen:
            ledger.failures_seen = counted.failed
            pause = min(_LAST_BACKOFF_SECONDS, _FIRST_BACKOFF_SECONDS * 2.0 ** min(counted.failed - 1, 10))
            ledger.retry_at = (parse_time(counted.last_end) if counted.last_end else now) + pause
        return ledger.retry_at

    async def _create_pods(self, job: RawObject, counted: Tally, ledger: Ledger, count: int) -> None:
        indexed = job["spec"].get("completionMode") == "Indexed"
        taken = ledger.indexes | {index for pod in counted.active if (index := index_of(pod)) is not None}
        free = (index for index in range(int(job["spec"].get("completions") or 0)) if index not in taken)
        for _ in range(count):
            index = next(free, None) if indexed else None
            if indexed and index is None:
                return
            try:
                created = await self._api.create(PODS, job["metadata"]["namespace"], self._new_pod(job, index))
            except AlreadyExistsError:  # the drawn name is taken
                self.queue.add(key_of(job))
                continue
            self._pods.observe(created)

    def _new_pod(self, job: RawObject, index: int | None) -> dict[str, Any]:
        template, metadata = job["spec"]["template"], job["metadata"]
        name, uid = metadata["name"], metadata["uid"]
        prefix = f"{name[:50]}-" if index is None else f"{name[:50]}-{index}-"
        meta = template.get("metadata") or {}
        labels = {
            **(meta.get("labels") or {}),
            "batch.kubernetes.io/controller-uid": uid,
            "batch.kubernetes.io/job-name": name,
            "controller-uid": uid,
            "job-name": name,
        }
        annotations = dict(meta.get("annotations") or {})
        spec = dict(template["spec"])
        if index is not None:
            labels[INDEX] = annotations[INDEX] = str(index)
            spec["hostname"] = f"{name[:50]}-{index}"
            variable = {"name": "JOB_COMPLETION_INDEX", "value": str(index)}
            spec["containers"] = [{**c, "env": [*(c.get("env") or ()), variable]} for c in spec["containers"]]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": prefix + "".join(self._random.choices(_SUFFIX_LETTERS, k=5)),
                "generateName": prefix,
                "namespace": metadata["namespace"],
                "labels": labels,
                "annotations": annotations,
                "ownerReferences": [owner_reference(job, "batch/v1", "Job")],
            },
            "spec": spec,
        }

    async def _delete_pods(self, pods: list[RawObject], ledger: Ledger) -> None:
        for pod in pods:
            uid = pod["metadata"]["uid"]
            ledger.released.add(uid)
            try:
                await self._api.delete(PODS, pod["metadata"]["namespace"], pod["metadata"]["name"], uid=uid)
            except NotFoundError:
                continue

    # Status

    async def _write_running(self, job: RawObject, ledger: Ledger, counted: Tally, *, suspended: bool) -> None:
        counted = tally(tuple(self._by_owner.get(job["metadata"]["uid"]).values()), ledger, job)
        status = _counts(job, ledger, counted)
        status["startTime"] = None if suspended else ledger.start_time
        was = condition(job, "Suspended")
        urgent = suspended != (was is not None and was.get("status") == "True")
        if urgent:
            new = (
                _condition("Suspended", "JobSuspended", "Job suspended", self._clock.now())
                if suspended
                else {**_condition("Suspended", "JobResumed", "Job resumed", self._clock.now()), "status": "False"}
            )
            status["conditions"] = with_condition((job.get("status") or {}).get("conditions") or (), new)
        key, wall = key_of(job), asyncio.get_running_loop().time()
        if not _changes(job, status):
            self._settling.pop(key, None)
        elif urgent or wall >= self._settling.setdefault(key, wall + _SETTLE_SECONDS):
            self._settling.pop(key, None)
            await self._write(job, status)
        else:
            self.queue.add_later(key, self._settling[key] - wall + 0.001)

    async def _finish(self, job: RawObject, ledger: Ledger, counted: Tally, failed: tuple[str, str] | None) -> None:
        """Say that the end is decided, stop what still runs, and once nothing runs say that it is over."""
        now = self._clock.now()
        await self._delete_pods(counted.active, ledger)
        counted = tally(tuple(self._by_owner.get(job["metadata"]["uid"]).values()), ledger, job)
        over = not counted.active and not counted.terminating
        if ledger.start_time is None:
            ledger.start_time = format_time(now)
        end = now
        if failed is None and counted.last_end:
            end = max(parse_time(counted.last_end), parse_time(ledger.start_time))
        interim, final = ("SuccessCriteriaMet", "Complete") if failed is None else ("FailureTarget", "Failed")
        reason, message = failed or ("CompletionsReached", "Reached expected number of succeeded pods")
        conditions = list((job.get("status") or {}).get("conditions") or ())
        if job["spec"].get("suspend") is not True and condition_true(job, "Suspended"):
            resumed = {**_condition("Suspended", "JobResumed", "Job resumed", end), "status": "False"}
            conditions = with_condition(conditions, resumed)
        for kind in (interim, *((final,) if over else ())):
            if not condition_true(job, kind):
                conditions = with_condition(conditions, _condition(kind, reason, message, end))
        status = {**_counts(job, ledger, counted), "startTime": ledger.start_time, "conditions": conditions}
        if over and failed is None:
            status["completionTime"] = format_time(end)
        if _changes(job, status):
            await self._write(job, status)

    async def _write(self, job: RawObject, status: Mapping[str, Any]) -> None:
        body = {"metadata": {"uid": job["metadata"]["uid"]}, "status": status}
        written = await self._api.patch(JOBS, *split_key(key_of(job)), body, subresource="status")
        self._jobs.observe(written)
        if condition_true(written, "Complete") or condition_true(written, "Failed"):
            self.queue.add(key_of(job))

    # Time

    def _set_alarm(self, job: RawObject, ledger: Ledger, counted: Tally, now: Instant) -> None:
        """Look again when the deadline or the end of a back-off comes."""
        times = [ledger.retry_at] if ledger.retry_at > now and len(counted.active) < wanted_active(job, counted) else []
        deadline = job["spec"].get("activeDeadlineSeconds")
        if deadline is not None and ledger.start_time:
            times.append(parse_time(ledger.start_time) + float(deadline))
        self._alarm(job, min(times, default=None))

    def _alarm(self, job: RawObject, due: Instant | None) -> None:
        uid, key = job["metadata"]["uid"], key_of(job)
        if (alarm := self._alarms.pop(uid, None)) is not None:
            alarm.cancel()
        if due is not None:
            self._alarms[uid] = self._timers.at(due, lambda _: self.queue.add(key))

    async def _after_end(self, job: RawObject) -> None:
        """Delete a finished Job once its time to live is over."""
        self._settling.pop(key_of(job), None)
        keep = job["spec"].get("ttlSecondsAfterFinished")
        if keep is None:
            self._alarm(job, None)
            return
        ended = condition(job, "Complete") or condition(job, "Failed") or {}
        due = parse_time(str(ended.get("lastTransitionTime"))) + float(keep)
        if self._clock.now() < due:
            self._alarm(job, due)
            return
        await self._api.delete(JOBS, *split_key(key_of(job)), uid=job["metadata"]["uid"], propagation="Background")


def _condition(kind: str, reason: str, message: str, at: Instant) -> dict[str, Any]:
    moment = format_time(at)
    return {
        "type": kind,
        "status": "True",
        "reason": reason,
        "message": message,
        "lastProbeTime": moment,
        "lastTransitionTime": moment,
    }


def _counts(job: RawObject, ledger: Ledger, counted: Tally) -> dict[str, Any]:
    status: dict[str, Any] = {
        "active": len(counted.active) or None,
        "ready": counted.ready,
        "terminating": counted.terminating,
        "succeeded": counted.succeeded or None,
        "failed": counted.failed or None,
        "uncountedTerminatedPods": {},
    }
    if job["spec"].get("completionMode") == "Indexed":
        status["completedIndexes"] = format_indexes(ledger.indexes) or None
    return status


def _changes(job: RawObject, status: Mapping[str, Any]) -> bool:
    """Whether merging `status` would change anything (zero and absent counts are equal)."""
    current = job.get("status") or {}
    return any(current.get(field) != value and (current.get(field) or value) for field, value in status.items())


def _deletion_order(pod: RawObject) -> tuple[int, int, str]:
    """Surplus pods go in this order: unbound, then not ready, then the newest (by descending creation)."""
    unbound = 0 if not pod["spec"].get("nodeName") else 1
    return (unbound, int(condition_true(pod, "Ready")), _descending(str(pod["metadata"].get("creationTimestamp", ""))))


def _descending(text: str) -> str:
    return "".join(chr(0x10FFFF - ord(letter)) for letter in text)


def _look(pod: RawObject) -> tuple[object, ...]:
    """What of a pod matters to its Job."""
    status = pod.get("status") or {}
    restarts = [container.get("restartCount") for container in status.get("containerStatuses") or ()]
    return phase(pod), is_deleting(pod), condition_true(pod, "Ready"), restarts
