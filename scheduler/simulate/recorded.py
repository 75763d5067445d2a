"""A trace made of what a daemon's history knows of past workloads, and in words what it cannot know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, Instant
from scheduler.model.resources import Resources
from scheduler.model.workload import DataSet, PodSet, Toleration
from scheduler.simulate.trace import Trace, TraceJob

_LEAST_SECONDS: Final = 1.0
_ALWAYS: Final = (
    "run times are those of the hardware that each job ran on, and count as the same everywhere",
    "a job that was interrupted counts with the run time of its last attempt",
)


def trace_of_runs(rows: Sequence[Mapping[str, Any]], until: Instant) -> tuple[Trace, tuple[str, ...]]:
    """Jobs of the rows that `scheduler.daemon.learning.runs` recorded, and notes on what they do not tell.

    The trace begins with the first arrival. A job that still runs at `until`, or that was deleted, counts with what its
    user expected or, when that is longer or unknown, with what it ran. Raises: InvalidObjectError when no job is left,
    or for a row that cannot be read.
    """
    noted: Counter[str] = Counter()
    try:
        found = [job for row in rows if (job := _job(row, until, noted)) is not None]
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidObjectError(f"the history holds a run that cannot be read: {error!r}") from error
    if not found:
        told = "; ".join(_notes(noted)) or "nothing was recorded in that time"
        raise InvalidObjectError(f"the history holds no job that can be replayed: {told}")
    start = min(at for at, _ in found)
    jobs = [replace(job, arrival_seconds=at - start) for at, job in found]
    ordered = sorted(jobs, key=lambda job: (job.arrival_seconds, job.name))
    return Trace("history", tuple(ordered)), (*_notes(noted), *_ALWAYS)


def _notes(noted: Counter[str]) -> tuple[str, ...]:
    return tuple(f"{count} {what}" for what, count in sorted(noted.items()))


def _job(row: Mapping[str, Any], until: Instant, noted: Counter[str]) -> tuple[Instant, TraceJob] | None:
    if row["runs_forever"]:
        noted["that serve without an end are left out"] += 1
        return None
    seconds = _seconds(row, until, noted)
    if seconds is None:
        return None
    arrived, hints = float(row["arrived_at"]), row["hints"]
    deadline = hints["deadline_at"]
    job = TraceJob(
        name=f"{row['namespace']}/{row['name']}/{row['uid']}",
        arrival_seconds=0.0,
        run_seconds=max(_LEAST_SECONDS, seconds),
        queue=row["queue"],
        pod_sets=tuple(_pod_set(each) for each in row["pod_sets"]),
        priority=int(row["priority"]),
        deadline_seconds=None if deadline is None else max(_LEAST_SECONDS, deadline - arrived),
        checkpoint_seconds=hints["checkpoint_every_seconds"],
        data=tuple(DataSet(ClusterId(each["cluster"]), int(each["bytes"])) for each in hints.get("data", ())),
        kind=row["kind"],
        namespace=row["namespace"],
        labels=tuple((key, value) for key, value in row["labels"]),
        hint_known=True,
        hint_seconds=hints["expected_seconds"],
    )
    return arrived, job


def _seconds(row: Mapping[str, Any], until: Instant, noted: Counter[str]) -> float | None:
    """Its run time; None: nobody can say."""
    started, ended, said = row["last_started_at"], row["finished_at"], row["hints"]["expected_seconds"]
    if started is None:
        if ended is not None:
            noted["that ended without having been seen to start are left out"] += 1
            return None
        if said is None:
            noted["that still wait, of a run time that nobody told, are left out"] += 1
            return None
        noted["that still wait count with the run time that their user expects"] += 1
        return float(said)
    ran = float(until if ended is None else ended) - float(started)
    if ended is not None and row["outcome"] != "deleted":
        return ran
    what = "still run" if ended is None else "were deleted while they ran"
    noted[f"that {what} count with what their user expected, or with what they ran when that is longer"] += 1
    return max(ran, 0.0 if said is None else float(said))


def _pod_set(given: Mapping[str, Any]) -> PodSet:
    asked = given["requests"]
    return PodSet(
        given["name"],
        int(given["count"]),
        Resources(
            int(asked["cpu_milli"]),
            int(asked["memory_bytes"]),
            int(asked["gpus"]),
            int(asked["pods"]),
            tuple((name, int(amount)) for name, amount in asked["extended"]),
        ),
        tuple((key, value) for key, value in given["node_selector"]),
        tuple(Toleration(**each) for each in given["tolerations"]),
        tuple(given["gpu_models"]),
        given.get("topology", ""),
    )
