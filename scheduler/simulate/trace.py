"""A log of jobs: when each came, what it asked for, how much work it was. Read by `readers`, replayed by `driver`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from scheduler.model.workload import DataSet, PodSet

Speeds = Mapping[str, Mapping[str, float]]
"""Profile -> GPU model -> how many times as fast as the trace's reference; a model that is missing cannot run it."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a job's user says that it trains."""

    model: str
    batch_size: int | None
    """Of one GPU."""
    steps_per_second: float
    """On the trace's reference hardware: how many steps its work is."""


@dataclass(frozen=True, slots=True)
class TraceJob:
    name: str
    arrival_seconds: float
    """From the trace's start."""
    run_seconds: float
    """Of the whole work on the trace's reference hardware, all pods running, without start-up."""
    queue: str
    pod_sets: tuple[PodSet, ...]
    profile: str = ""
    """Key into `Trace.speeds`; "": equally fast everywhere."""
    priority: int = 0
    deadline_seconds: float | None = None
    """After arrival; None: none."""
    checkpoint_seconds: float | None = None
    """How often it saves its work; None: never, so that an interruption loses all of it."""
    data: tuple[DataSet, ...] = ()
    """What it reads at its start."""
    kind: str = "job"
    namespace: str = "default"
    labels: tuple[tuple[str, str], ...] = ()
    hint_known: bool = False
    """Whether the log tells what its user said of its run time, `hint_seconds`, instead of the assumptions."""
    hint_seconds: float | None = None
    """None: the user said nothing."""
    training: Training | None = None

    @property
    def gpus(self) -> int:
        return sum(each.requests.gpus * each.count for each in self.pod_sets)


@dataclass(frozen=True, slots=True)
class Trace:
    """Jobs in order of arrival, the first at 0 or later."""

    name: str
    jobs: tuple[TraceJob, ...]
    speeds: Speeds = field(default_factory=lambda: MappingProxyType({}))

    def window(self, start_seconds: float, seconds: float) -> Trace:
        """Only what arrives in that stretch of time, counted from its beginning."""
        end = start_seconds + seconds
        jobs = tuple(
            replace(job, arrival_seconds=job.arrival_seconds - start_seconds)
            for job in self.jobs
            if start_seconds <= job.arrival_seconds < end
        )
        return Trace(self.name, jobs, self.speeds)
