"""Replays a trace: events in order of virtual time, and after each the decider's plan, obeyed.

The decider of a policy is `engine.cycle` itself; those of the baselines are in `baselines`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
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
        return Prediction(None if not speed else plain.run_seconds / speed, plain.start_seconds)

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
    meters_budgets: bool = False,
    progress: Callable[[float], None] = lambda done: None,
) -> RunRecord:
    """Everything that happens until the last job has ended, or nothing can happen any more.

    `gather_seconds`: what happens within that time of an event is decided on together. `progress` is told the part of
    the jobs that has ended. Raises: SimulationError when the decider never comes to rest.
    """
    names = tuple(sorted(one.id for one in site.clusters))
    record = RunRecord(decider.name, decider.kind, assumptions.seed, names, site.owned_gpus, EPOCH)
    world = SimulatedFederation(
        site.clusters, site.owned_nodes, assumptions, trace.speeds, record, meters_budgets=meters_budgets
    )
    arrivals = [(EPOCH + job.arrival_seconds, job) for job in trace.jobs]
    coming = 0
    span = arrivals[-1][0] - EPOCH if arrivals else 0.0
    look_at: Instant | None = None
    next_moment = EPOCH
    while True:
        upcoming = [world.next_event_at, look_at, arrivals[coming][0] if coming < len(arrivals) else None]
        due = min((at for at in upcoming if at is not None), default=None)
        if due is None:
            break
        until = due + gather_seconds
        while coming < len(arrivals) and arrivals[coming][0] <= until:
            world.pass_time(arrivals[coming][0])
            world.submit(arrivals[coming][1])
            coming += 1
        world.pass_time(until)
        look_at = _settle(world, decider, record)
        if world.now >= next_moment:
            record.moments.append(world.moment())
            next_moment = world.now + max(span / _MOMENTS, 1.0)
            progress((coming - world.unfinished) / max(1, len(arrivals)))
        if coming == len(arrivals) and not world.unfinished:
            record.ended_at = world.now
            _give_back_the_rest(world, decider, record, look_at)
            break
    record.moments.append(world.moment())
    world.close()
    return record


def _settle(world: SimulatedFederation, decider: Decider, record: RunRecord) -> Instant | None:
    """Decide and obey until nothing is freed any more; when time alone could change the plan."""
    for _ in range(_LOOKS_AT_ONCE):
        began = time.perf_counter()
        plan = decider.decide(world.snapshot())
        record.decide_seconds += time.perf_counter() - began
        record.cycles += 1
        if not world.obey(plan):
            return plan.wake_at if plan.wake_at is not None and plan.wake_at > world.now else None
    raise SimulationError(f"{decider.name}: no rest after {_LOOKS_AT_ONCE} decisions at one instant")


def _give_back_the_rest(
    world: SimulatedFederation, decider: Decider, record: RunRecord, look_at: Instant | None
) -> None:
    """After the last job: idle bought nodes go back, which costs until they do."""
    for _ in range(1000):
        upcoming = [at for at in (world.next_event_at, look_at) if at is not None]
        if not upcoming:
            return
        world.pass_time(min(upcoming))
        look_at = _settle(world, decider, record)


def pools_of(clusters: Iterable[Cluster]) -> dict[PoolRef, NodePool]:
    return {pool.ref: pool for cluster in clusters for pool in cluster.pools}
