"""Replays a trace: events in order of virtual time, and after each the decider's plan, obeyed.

The decider of a policy is `engine.cycle` itself; those of the baselines are in `baselines`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Protocol

from scheduler.engine.cycle import cycle
from scheduler.engine.memory import Memory
from scheduler.model.cluster import Cluster, NodePool
from scheduler.model.errors import OverspillError
from scheduler.model.ids import Instant, PoolRef
from scheduler.model.plan import Plan
from scheduler.model.policy import PolicySet
from scheduler.model.ports import Prediction, Predictor
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Workload
from scheduler.predict.first import FirstPredictor
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.record import RunRecord
from scheduler.simulate.trace import Speeds, Trace
from scheduler.simulate.world import PROFILE_LABEL, SimulatedFederation

EPOCH: Final[Instant] = 1_790_000_000.0
"""When a replay starts: some midnight-less instant of 2026, the same always."""
_LOOKS_AT_ONCE: Final = 6
"""And two more for each pool: one that cannot deliver is answered to at once."""
_LOOKS_IN_VAIN: Final = 800
"""One after the other, while nothing was under way: an offering that is tried again each hour, for over a month."""
_LONGEST_WINDOW_SECONDS: Final = 62 * 86400.0
_TRIES: Final = 5
_TAIL_SECONDS: Final = 86400.0
"""How long after the last job bought nodes are waited for to go back."""
_MOMENTS: Final = 600
"""About as many points as a plot can show."""


class SimulationError(OverspillError):
    """The replay cannot go on; the text says why."""


class Decider(Protocol):
    """What is replayed."""

    name: str
    kind: str

    def decide(self, snapshot: Snapshot) -> Plan: ...


@dataclass(frozen=True, slots=True)
class Site:
    """The federation that is replayed: templates of clusters and pools, and how many owned nodes there are."""

    clusters: tuple[Cluster, ...]
    owned_nodes: Mapping[PoolRef, int] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def owned_gpus(self) -> int:
        pools = {pool.ref: pool for cluster in self.clusters for pool in cluster.pools}
        return sum(pools[ref].node_resources.gpus * count for ref, count in self.owned_nodes.items())


class TracePredictor:
    """Run times by what users say, scaled by the measured speed of each GPU model."""

    def __init__(self, speeds: Speeds) -> None:
        self._speeds = speeds
        self._first = FirstPredictor()

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction:
        plain = self._first.predict(workload, pool, new_nodes)
        profile = next((value for key, value in workload.labels if key == PROFILE_LABEL), None)
        if profile is None or plain.run_seconds is None:
            return plain
        speed = self._speeds[profile].get(pool.gpu_model or "")
        if not speed:
            return Prediction(None, plain.start_seconds)
        # As if the user had said how long it takes there, so that on slow hardware more is lost to reclaims.
        there = replace(workload.hints, expected_seconds=plain.run_seconds / speed)
        return self._first.predict(replace(workload, hints=there), pool, new_nodes)

    def alike(self, pool: NodePool) -> Hashable:
        """All that a prediction looks at of a pool."""
        return self._first.alike(pool), pool.gpu_model


@dataclass(slots=True)
class PolicyDecider:
    """The daemon's own engine under a set of policies."""

    name: str
    policies: PolicySet
    predictor: Predictor
    kind: str = "policy"
    memory: Memory = field(default_factory=Memory)

    def decide(self, snapshot: Snapshot) -> Plan:
        return cycle(snapshot, self.policies, self.predictor, memory=self.memory)


def replay(
    trace: Trace,
    site: Site,
    decider: Decider,
    assumptions: Assumptions,
    *,
    gather_seconds: float = 0.0,
    slice_seconds: float | None = None,
    meters_budgets: bool = False,
    progress: Callable[[float], None] = lambda done: None,
) -> RunRecord:
    """Everything that happens until the last job has ended, or nothing is to be expected any more.

    `gather_seconds`: what happens within that time of an event is decided on together. `slice_seconds`: decided is only
    when so much time has passed again, and then on all that is unfinished: what runs may move. `progress` is told the
    part of the jobs that has ended. Raises: SimulationError when the decider never comes to rest.
    """
    names = tuple(sorted(one.id for one in site.clusters))
    record = RunRecord(decider.name, decider.kind, assumptions.seed, names, site.owned_gpus, EPOCH)
    world = SimulatedFederation(
        site.clusters, site.owned_nodes, assumptions, trace.speeds, record, meters_budgets=meters_budgets
    )
    return _Replay(trace, world, decider, gather_seconds, slice_seconds, progress).run()


class _Replay:
    """One run: what is to come, and how long it may take."""

    def __init__(
        self,
        trace: Trace,
        world: SimulatedFederation,
        decider: Decider,
        gather_seconds: float,
        slice_seconds: float | None,
        progress: Callable[[float], None],
    ) -> None:
        self._arrivals = [(EPOCH + job.arrival_seconds, job) for job in trace.jobs]
        self._world, self._decider = world, decider
        self._gather_seconds, self._slice_seconds, self._progress = gather_seconds, slice_seconds, progress
        self._coming = 0
        """Index of the next arrival."""
        self._look_at: Instant | None = None
        self._moved_at: Instant = EPOCH
        """When a job last came or ended."""
        self._patience = _patience(trace)
        self._looks_in_vain = 0
        span = self._arrivals[-1][0] - EPOCH if self._arrivals else 0.0
        self._moment_seconds = max(span / _MOMENTS, 1.0)
        self._next_moment: Instant = EPOCH

    def run(self) -> RunRecord:
        world, record = self._world, self._world.record
        while (due := self._due()) is not None:
            self._happen(self._until(due))
            if self._slice_seconds is not None:
                world.part()
            self._look_at = self._settle()
            self._note_moment()
            if self._coming == len(self._arrivals) and not world.unfinished:
                break
        record.ended_at = world.now
        if not world.unfinished:
            self._give_back_the_rest()
        record.moments.append(world.moment())
        world.close()
        self._progress(1.0)
        return record

    def _due(self) -> Instant | None:
        """When to look again; None: never, or nothing has moved for so long that nothing will."""
        arrival = self._arrivals[self._coming][0] if self._coming < len(self._arrivals) else None
        event = self._world.next_event_at
        due = min((at for at in (event, self._look_at, arrival) if at is not None), default=None)
        if due is None or arrival is not None:
            return due
        self._looks_in_vain = self._looks_in_vain + 1 if event is None else 0
        given_up = due > self._moved_at + self._patience or self._looks_in_vain > _LOOKS_IN_VAIN
        return None if given_up else due

    def _until(self, due: Instant) -> Instant:
        """When to decide on what is due then."""
        if self._slice_seconds is None:
            return due + self._gather_seconds
        world = self._world
        if world.unfinished and world.next_event_at is not None:
            due = world.now
        # The next slice; one begins at the very start.
        passed = math.floor((world.now - EPOCH) / self._slice_seconds + 1e-6) if world.record.cycles else -1
        wanted = math.ceil((due - EPOCH) / self._slice_seconds - 1e-6)
        return EPOCH + self._slice_seconds * max(passed + 1, wanted)

    def _happen(self, until: Instant) -> None:
        world, before = self._world, (self._coming, self._world.unfinished)
        while self._coming < len(self._arrivals) and self._arrivals[self._coming][0] <= until:
            world.pass_time(self._arrivals[self._coming][0])
            world.submit(self._arrivals[self._coming][1])
            self._coming += 1
        world.pass_time(until)
        if before != (self._coming, world.unfinished):
            self._moved_at = world.now

    def _settle(self) -> Instant | None:
        """Decide and obey until nothing is freed any more; when time alone could change the plan."""
        world, record = self._world, self._world.record
        for _ in range(_LOOKS_AT_ONCE + 2 * len(world.pools)):
            snapshot = world.snapshot()
            began = time.perf_counter()
            plan = self._decider.decide(snapshot)
            record.decide_seconds += time.perf_counter() - began
            record.cycles += 1
            if not world.obey(plan):
                return plan.wake_at if plan.wake_at is not None and plan.wake_at > world.now else None
        moved = sorted({change.workload.name for change in plan.placements})
        told = f"; it still moves {', '.join(moved[:3])}" if moved else ""
        raise SimulationError(
            f"{self._decider.name}: no rest after {record.cycles} decisions, {world.now - EPOCH:.0f} s into the "
            f"replay{told}"
        )

    def _note_moment(self) -> None:
        world = self._world
        if world.now >= self._next_moment:
            world.record.moments.append(world.moment())
            self._next_moment = world.now + self._moment_seconds
            self._progress((self._coming - world.unfinished) / max(1, len(self._arrivals)))

    def _give_back_the_rest(self) -> None:
        """After the last job: idle bought nodes go back, which costs until they do."""
        last = self._world.now + _TAIL_SECONDS
        while self._world.keeps_more_than_it_must:
            upcoming = [at for at in (self._world.next_event_at, self._look_at) if at is not None]
            if not upcoming or min(upcoming) > last:
                return
            self._world.pass_time(min(upcoming))
            self._look_at = self._settle()


def _patience(trace: Trace) -> float:
    """Seconds without any job's arrival or end after which a replay is over: more than any budget's window, and than
    several tries of the longest run on the slowest hardware that it was measured on."""
    slowest = min((speed for speeds in trace.speeds.values() for speed in speeds.values() if speed > 0), default=1.0)
    longest = max((job.run_seconds for job in trace.jobs), default=0.0)
    return max(_LONGEST_WINDOW_SECONDS, _TRIES * longest / min(1.0, slowest))
