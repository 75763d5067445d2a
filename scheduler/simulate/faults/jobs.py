"""Training jobs that come and go: gangs of whole nodes of one cluster, in the order in which nodes become free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.topology import Run
from scheduler.simulate.faults.fleet import GPUS_PER_NODE, Fleet

_SIZES, _SHARES = (1, 2, 4, 8, 16), (0.35, 0.2, 0.2, 0.15, 0.1)
_MEDIAN_MINUTES, _SPREAD = 360.0, 0.9
_REST_MINUTES = (3, 60)
CHECKPOINT_MINUTES = 30


@dataclass(slots=True)
class Job:
    """Changed while it runs: a fault ends it early."""

    uid: str
    nodes: NDArray[np.int64]
    starts: int
    ends: int
    """Minutes."""
    utilisation: float
    power: float
    tensor: float
    step_seconds: float
    memory: float
    dip_every: int
    host_memory: float
    hangs_from: int | None = None

    def run(self, fleet: Fleet, minute: int, start_seconds: float) -> Run:
        keys = tuple((fleet.places[node].cluster, fleet.places[node].node) for node in self.nodes.tolist())
        since = self.starts + (minute - self.starts) // CHECKPOINT_MINUTES * CHECKPOINT_MINUTES
        return Run(self.uid, keys, len(self.nodes) * GPUS_PER_NODE, start_seconds + 60.0 * since)


class Jobs:
    """What runs where."""

    def __init__(self, fleet: Fleet, rng: np.random.Generator) -> None:
        self._fleet, self._rng = fleet, rng
        self.running: dict[str, Job] = {}
        self.on_node: list[str] = [""] * fleet.nodes
        self._free_at = np.where(fleet.serves, 1 << 30, rng.integers(0, 30, fleet.nodes))
        self._next = {number: self._size() for number in range(3)}
        self._count = 0
        self.changed = True

    def step(self, minute: int) -> None:
        """Ends what is over, and starts what fits."""
        self.changed = False
        for job in [one for one in self.running.values() if one.ends <= minute]:
            self._end(job, minute)
        for number in range(3):
            while True:
                free = np.flatnonzero((self._free_at <= minute) & (self._fleet.cluster == number))
                most = int((~self._fleet.serves & (self._fleet.cluster == number)).sum())
                size = min(self._next[number], max(most // 2, 1))
                if len(free) < size or not len(free):
                    break
                self._start(free[:size], minute)
                self._next[number] = self._size()

    def kill(self, job: Job, minute: int) -> None:
        """Ends it at that minute, if it has not ended before."""
        job.ends = min(job.ends, minute)

    def block(self, node: int, until: int) -> None:
        """Starts nothing on the node before `until`."""
        if not self._fleet.serves[node]:
            self._free_at[node] = max(int(self._free_at[node]), until)

    def on(self, node: int) -> Job | None:
        return self.running.get(self.on_node[node])

    def _size(self) -> int:
        return int(self._rng.choice(_SIZES, p=_SHARES))

    def _start(self, nodes: NDArray[np.int64], minute: int) -> None:
        rng, self._count = self._rng, self._count + 1
        length = max(int(rng.lognormal(np.log(_MEDIAN_MINUTES), _SPREAD)), 20)
        job = Job(
            f"job-{self._count:05d}", nodes.copy(), minute, minute + length, rng.uniform(0.82, 0.99),
            rng.uniform(0.65, 0.95), rng.uniform(0.15, 0.55), rng.uniform(0.4, 8.0), rng.uniform(0.5, 0.93),
            int(rng.integers(30, 120)), rng.uniform(0.2, 0.6),
        )  # fmt: skip
        self.running[job.uid] = job
        for node in nodes.tolist():
            self.on_node[node] = job.uid
            self._free_at[node] = 1 << 29
        self.changed = True

    def _end(self, job: Job, minute: int) -> None:
        del self.running[job.uid]
        rest = self._rng.integers(*_REST_MINUTES)
        for node in job.nodes.tolist():
            self.on_node[node] = ""
            blocked = int(self._free_at[node]) if self._free_at[node] != 1 << 29 else 0
            self._free_at[node] = max(minute + int(rest), blocked)
        self.changed = True
