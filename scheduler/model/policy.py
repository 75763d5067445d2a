"""Policies as the engine uses them: checked, with units, expressions compiled. `policies/` makes these from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

from scheduler.model.ids import QueueId
from scheduler.model.money import Usd
from scheduler.model.remediation import RemediationPolicy
from scheduler.model.workload import Workload

if TYPE_CHECKING:
    from scheduler.model.serving_policy import ServingSLO

UNSAID_WHEN_NONE: Final = MappingProxyType({"unsaid_when_none": True})
"""Metadata of fields that came later: left out of a policy set's digest while they are None, so that the sets of before
keep their names."""


EXPLORATION: Final = "exploration"
"""Name under which plans tell the state of a policy's budget for it."""


class Expression(Protocol):
    """A compiled boolean CEL expression over a workload."""

    @property
    def source(self) -> str: ...

    def matches(self, workload: Workload) -> bool:
        """Pure and total: an evaluation error counts as no match."""
        ...


@dataclass(frozen=True, slots=True)
class Quota:
    """Of one resource (cpu in milli, memory in bytes, gpu, pods, or an extended name). None: no limit of that kind."""

    resource: str
    nominal: int
    borrowing_limit: int | None = None
    lending_limit: int | None = None


@dataclass(frozen=True, slots=True)
class PreemptionRule:
    """What may be stopped so that a workload of the queue can start. Nothing, unless it says so."""

    reclaim: bool = False
    """Workloads by which queues of its cohort exceed their nominal quota, while this one stays within its own."""
    lower_priority: bool = False
    """Workloads of the queue itself that have a lower priority."""
    max_lost_seconds: float | None = None
    """Most work that any one of them may lose; None: no limit."""


@dataclass(frozen=True, slots=True)
class QueueSpec:
    id: QueueId
    cohort: str | None = None
    """Queues of one cohort lend unused quota to one another; None: neither borrows nor lends."""
    weight: Decimal = Decimal(1)
    quotas: tuple[Quota, ...] = ()
    """A resource without a quota is not limited."""
    strict_fifo: bool = False
    """True: the oldest workload blocks those behind it; False: those behind may go first if it does not fit."""
    preemption: PreemptionRule = PreemptionRule()
    wait_objective_seconds: float | None = None
    """A forecast wait that is longer is an incident; nothing is placed by it."""
    latency_objective_seconds: float | None = field(default=None, metadata=UNSAID_WHEN_NONE)
    """The same of a forecast p95 latency of what serves."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a policy speaks for; all given parts must hold, an empty part always does."""

    queues: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    expression: Expression | None = None


@dataclass(frozen=True, slots=True)
class Constraints:
    """Hard limits: no placement ever breaks one. None or empty: no limit."""

    clusters: tuple[str, ...] = ()
    excluded_clusters: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    residency: tuple[str, ...] = ()
    """Allowed values of the cluster label `overspill.dev/residency` (such as eu)."""
    capacity_types: tuple[str, ...] = ()
    gpu_models: tuple[str, ...] = ()
    min_gpu_memory_bytes: int | None = None
    max_usd_per_gpu_hour: Usd | None = None
    max_usd_per_run: Usd | None = None
    """Upper limit of one run's expected cost; needs a known duration, else the offering is refused as unknown."""
    deadline_seconds: float | None = None
    """After creation; an offering that is not expected to finish in time is refused while another can."""
    deadline_confidence: float = 0.5
    """In what part of all cases it is to be met; a half goes by the median run time."""
    max_round_trip_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ValueOfTime:
    """What an hour until a workload is done is worth: so much for each workload, so much more for each of its GPUs."""

    usd_per_hour: Usd = Decimal(0)
    usd_per_gpu_hour: Usd = Decimal(0)

    def usd_per_second(self, gpus: int) -> float:
        return float(self.usd_per_hour + self.usd_per_gpu_hour * gpus) / 3600.0


@dataclass(frozen=True, slots=True)
class TimeSliceRule:
    """Runs may be moved whenever a slice begins, their work kept."""

    seconds: float
    usd_per_hour_to_last_end: Usd = Decimal(0)
    """What an hour until all such workloads are done is worth."""


@dataclass(frozen=True, slots=True)
class BurstRule:
    """When capacity may be bought. No rule: never."""

    after_wait_seconds: float = 0.0
    max_nodes: int | None = None
    """Bought nodes in use at once by the workloads of this policy."""
    expression: Expression | None = None
    ahead_seconds: float = 0.0
    """How long before forecast demand capacity is bought for it; 0: never."""


@dataclass(frozen=True, slots=True)
class ReturnRule:
    idle_seconds: float = 300.0
    """How long a bought node stays idle before it is given back."""
    moves: bool = False
    """Whether running workloads that make checkpoints may be moved off bought nodes when that pays."""
    move_after_seconds: float = 1800.0
    """How long a workload has run where it is before it may be moved."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A spend limit that placements may not break."""

    name: str
    limit_usd: Usd
    window: str
    """day, week, month (calendar, UTC) or total."""
    queues: tuple[str, ...] = ()
    clusters: tuple[str, ...] = ()
    capacity_types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DisruptionRule:
    member_lost_seconds: float | None = 900.0
    """How long a silent member keeps its workloads before they are placed elsewhere; None: for ever."""
    moves_at_once: int = 4
    """Most workloads of the policy that are on the move at any time."""


@dataclass(frozen=True, slots=True)
class ReservationRule:
    after_wait_seconds: float | None = 21600.0
    """How long a workload waits before room is kept for it; None: never."""


@dataclass(frozen=True, slots=True)
class ExplorationRule:
    """Workloads may go where less is known of how they run, so that it is learned."""

    limit_usd: Usd
    """Most that such runs may cost in one window, each reckoned whole, at the high end of what is predicted of it."""
    window: str
    """As of a `Budget`."""
    at_once: int = 1
    """Most of them that are placed at any time."""
    max_premium: float = 0.5
    """How much worse than the best an offering may be expected to be, as a part of the best's score."""


@dataclass(frozen=True, slots=True)
class PlacementPolicy:
    name: str
    precedence: int = 0
    """Among policies that match, the highest wins; ties go to the first by name."""
    match: Match = Match()
    objective: str = "cost"
    """Name of an objective plugin in `policies/objectives/`."""
    value_of_time: ValueOfTime | None = None
    """Set: the whole backlog is weighed at once, and waiting for owned capacity is an option like any other."""
    time_slice: TimeSliceRule | None = None
    """Set: who runs where is decided for a slice at a time. Needs `value_of_time`."""
    constraints: Constraints = Constraints()
    burst: BurstRule | None = None
    give_back: ReturnRule = ReturnRule()
    budgets: tuple[Budget, ...] = ()
    disruption: DisruptionRule = DisruptionRule()
    reservation: ReservationRule = ReservationRule()
    exploration: ExplorationRule | None = field(default=None, metadata=UNSAID_WHEN_NONE)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Everything loaded from the policy folder. `digest` names this very set in decisions and metrics."""

    policies: tuple[PlacementPolicy, ...] = ()
    queues: tuple[QueueSpec, ...] = ()
    digest: str = ""
    default_queue_allowed: bool = field(default=True)
    """Whether a workload may name a queue that no Queue object defines (it then has no quota and weight 1)."""
    remediation: tuple[RemediationPolicy, ...] = ()
    """By name."""
    serving: tuple[ServingSLO, ...] = ()
    """By name."""
