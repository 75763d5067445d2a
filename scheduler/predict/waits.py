"""How long a workload waits on a member, from the backlog ahead of it and what is left of the running jobs."""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Going:
    """A running job: `remaining_seconds` None when it has no known end."""

    gpus: int
    remaining_seconds: float | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """A waiting job, and the members on which it may run."""

    name: str
    gpus: int
    run_seconds: float | None
    members: frozenset[str]


class Line:
    """First come, first served without backfill, on one member. Changed in place by `take`."""

    def __init__(self, free_gpus: int, going: Iterable[Going]) -> None:
        self._now = 0.0
        self._free = max(0, free_gpus)
        self._ends = sorted(
            (max(0.0, job.remaining_seconds), job.gpus)
            for job in going
            if job.remaining_seconds is not None and math.isfinite(job.remaining_seconds) and job.gpus > 0
        )

    def start(self, gpus: int) -> float | None:
        """Seconds until so many are free behind all that were taken; None: what is known never frees enough."""
        free, now = self._free, self._now
        for at, freed in self._ends:
            if free >= gpus:
                break
            free, now = free + freed, at
        return now if free >= gpus else None

    def take(self, gpus: int, run_seconds: float | None) -> float | None:
        """The same, and it is in the line from now on; where it can never start nothing changes."""
        at = self.start(gpus)
        if at is None:
            return None
        while self._free < gpus:
            self._now, freed = self._ends.pop(0)
            self._free += freed
        self._free -= max(0, gpus)
        if run_seconds is not None and math.isfinite(run_seconds) and gpus > 0:
            insort(self._ends, (self._now + max(0.0, run_seconds), gpus))
        return self._now


def waits(lines: Mapping[str, Line], waiting: Iterable[Waiting]) -> dict[str, dict[str, float]]:
    """By job and member, seconds until it could start there, in the order in which they are given. Each then takes its
    place in the line in which it would start first (ties: the member's name), as each runs on one member only."""
    found: dict[str, dict[str, float]] = {}
    for job in waiting:
        known = {name: lines[name].start(job.gpus) for name in sorted(job.members & lines.keys())}
        told = {name: seconds for name, seconds in known.items() if seconds is not None}
        found[job.name] = told
        if told:
            lines[min(told, key=lambda name: (told[name], name))].take(job.gpus, job.run_seconds)
    return found
