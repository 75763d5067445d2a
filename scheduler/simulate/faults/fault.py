"""What a fault is, and what a kind of fault is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from scheduler.simulate.faults.fleet import GPUS_PER_NODE
from scheduler.simulate.faults.jobs import Job
from scheduler.simulate.faults.telemetry import Telemetry

RULE: Final = "rule"
STATISTICAL: Final = "statistical"
UNNAMED: Final = "unnamed"
"""No rule speaks of it."""
GPU, NODE, JOB, SERVICE, POOL, ZONE = "gpu", "node", "job", "service", "pool", "zone"


@dataclass(slots=True)
class Fault:
    """One planted fault. `starts` and `ends` are minutes; the target is set when it begins."""

    kind: str
    starts: int
    minutes: int
    strength: float
    """What the kind makes of it."""
    target: int = -1
    """Number of the GPU, node, service, pool or domain."""
    job: Job | None = None
    """That it hits, if it does."""
    nodes: tuple[int, ...] = ()
    """That show something."""
    workload: str = ""

    @property
    def ends(self) -> int:
        return self.starts + self.minutes

    @property
    def gpus(self) -> np.ndarray:
        return (np.asarray(self.nodes, dtype=np.int64)[:, None] * GPUS_PER_NODE + np.arange(GPUS_PER_NODE)).ravel()


Step = Callable[[Telemetry, Fault, int], None]


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    shape: str
    """rule, statistical or unnamed."""
    about: str
    """gpu, node, job, service, pool or zone."""
    wants: tuple[str, ...]
    """Beginnings of the kinds of findings that tell it."""
    minutes: tuple[int, int]
    strength: tuple[float, float] = (1.0, 1.0)
    begin: Step | None = None
    apply: Step | None = None
    busy: bool = True
    """Only where a job runs."""
    least_nodes: int = 1
    """Of the job that is hit."""
