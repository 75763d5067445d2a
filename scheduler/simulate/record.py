"""What happened in a replay, job by job and machine by machine; `measures` turns it into figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from scheduler.model.ids import Instant, PoolRef
from scheduler.model.money import Usd
from scheduler.model.snapshot import SpendBucket
from scheduler.simulate.trace import TraceJob


@dataclass(slots=True, eq=False)
class JobRecord:
    """Times in seconds of the replay's clock; None: not (yet)."""

    job: TraceJob
    arrived_at: Instant
    first_started_at: Instant | None = None
    finished_at: Instant | None = None
    last_pool: PoolRef | None = None
    interruptions: int = 0
    """Times that it was stopped before its end, by a reclaim or by decision."""
    preemptions: int = 0
    """Those of them that were decided."""
    moves: int = 0
    """How often it was moved off bought nodes while it ran."""
    data_usd: Usd = Decimal(0)
    """Of bringing its data to where it ran, as far as prices are known."""
    lost_seconds: float = 0.0
    """Work on reference hardware that was done and had to be done again."""
    burst: bool = False
    """Whether it ever ran on bought capacity."""
    why: str = ""
    """Of a job that never ended: what stood in its way when the replay did."""


@dataclass(frozen=True, slots=True)
class MachineRecord:
    """A bought machine's whole life."""

    pool: PoolRef
    capacity_type: str
    created_at: Instant
    ended_at: Instant
    gpus: int
    busy_gpu_seconds: float
    usd: Usd | None
    """None: its price is unknown."""
    reclaimed: bool


@dataclass(frozen=True, slots=True)
class Moment:
    """The federation between two events, for plots."""

    at: Instant
    waiting_jobs: int
    waiting_gpus: int
    used_gpus: tuple[int, ...]
    """By cluster, in the order of `RunRecord.clusters`."""
    gpus: tuple[int, ...]
    spend_usd: float
    """On bought machines so far."""


@dataclass(slots=True, eq=False)
class RunRecord:
    """One replay of one decider."""

    name: str
    kind: str
    """policy, baseline or bound."""
    seed: int
    clusters: tuple[str, ...]
    owned_gpus: int
    started_at: Instant
    ended_at: Instant = 0.0
    """When the last job ended, or nothing was to be expected any more."""
    jobs: list[JobRecord] = field(default_factory=list)
    machines: list[MachineRecord] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    owned_busy_gpu_seconds: float = 0.0
    owned_busy_usd: Usd | None = Decimal(0)
    """Those at their pools' price; None once a GPU of unknown price has worked."""
    spend: tuple[SpendBucket, ...] = ()
    """By hour, cluster and queue; empty unless budgets were metered."""
    cycles: int = 0
    decide_seconds: float = 0.0
    """Wall time spent in deciding; told for orientation, never part of a result."""
