"""How long a workload waits on a member, from the backlog ahead of it and what is left of the running jobs."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Going:
    """A running job: `remaining_seconds` None when it has no known end."""

    gpus: int
    remaining_seconds: float | None


@dataclass(frozen=True, slots=True)
class Ahead:
    """A waiting job in front, in the order of the queue; `run_seconds` None when unknown."""

    gpus: int
    run_seconds: float | None


def queue_wait_seconds(
    free_gpus: int, going: Sequence[Going], backlog: Sequence[Ahead], wanted_gpus: int
) -> float | None:
    """Seconds until `wanted_gpus` are free for the one behind `backlog`, first come first served without backfill.

    None where what is known never frees enough. Give medians for the expected wait and 90 % quantiles for a careful
    one. O((going + backlog) log).
    """
    ends = [
        (max(0.0, job.remaining_seconds), job.gpus)
        for job in going
        if job.remaining_seconds is not None and math.isfinite(job.remaining_seconds) and job.gpus > 0
    ]
    heapq.heapify(ends)
    now, free = 0.0, max(0, free_gpus)
    for gpus, seconds in [*((job.gpus, job.run_seconds) for job in backlog), (wanted_gpus, None)]:
        while free < gpus:
            if not ends:
                return None
            now, freed = heapq.heappop(ends)
            free += freed
        free -= max(0, gpus)
        if seconds is not None and math.isfinite(seconds) and gpus > 0:
            heapq.heappush(ends, (now + max(0.0, seconds), gpus))
    return now
