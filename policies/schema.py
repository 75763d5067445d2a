"""The policy kinds as they are written in YAML. `compiler` turns them into `scheduler.model.policy`."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field, model_validator

from policies.documents import Problem, Strict, duplicates, refuse
from policies.values import (
    Bytes,
    Duration,
    DurationOrNever,
    Expression,
    Money,
    Name,
    Objective,
    PluginName,
    PositiveDuration,
    Quantity,
    ResourceName,
    Text,
    WaitOrNever,
    Weight,
    quantity,
)
from scheduler.model.policy import EXPLORATION

CapacityType = Literal["owned", "reserved", "on-demand", "spot"]
ApiVersion = Literal["overspill.dev/v1alpha1"]


class Metadata(Strict):
    """As on any Kubernetes object."""

    name: Name
    """Unique among the objects of its kind."""
    labels: dict[str, str] = Field(default_factory=dict)
    """For people and tools; not read by Overspill."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """For people and tools; not read by Overspill."""


class MatchSpec(Strict):
    """What the policy speaks for. All given parts must hold; nothing given matches every workload."""

    queues: list[Text] = Field(default_factory=list)
    """Names of queues, any of them."""
    kinds: list[PluginName] = Field(default_factory=list)
    """Workload kinds, any of them, such as job or federatedworkload."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels of the workload, all of them."""
    expression: Expression | None = None
    """CEL over the workload that gives a bool, such as workload.gpus > 0."""


class ConstraintsSpec(Strict):
    """Hard limits: no placement ever breaks one. Nothing given: no limit."""

    clusters: list[Text] = Field(default_factory=list)
    """Only these member clusters."""
    excluded_clusters: list[Text] = Field(default_factory=list)
    """Never these member clusters."""
    providers: list[Text] = Field(default_factory=list)
    """Only these providers, such as onprem or eks."""
    regions: list[Text] = Field(default_factory=list)
    """Only these regions."""
    residency: list[Text] = Field(default_factory=list)
    """Only clusters whose label overspill.dev/residency has one of these values."""
    capacity_types: list[CapacityType] = Field(default_factory=list)
    """Only these capacity types."""
    gpu_models: list[Text] = Field(default_factory=list)
    """Only these GPU models."""
    min_gpu_memory: Bytes | None = None
    """Least memory of each GPU, such as 40Gi."""
    max_usd_per_gpu_hour: Money | None = None
    """Highest price of one GPU for one hour, in USD."""
    max_usd_per_run: Money | None = None
    """Highest expected cost of one run, in USD; needs a known duration."""
    deadline: PositiveDuration | None = None
    """Longest time from creation to the end of the run, such as 24h."""
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = 0.5
    """In what part of all cases a deadline, this one or a workload's own, is to be met. Default 0.5: by the median."""
    max_round_trip: PositiveDuration | None = None
    """Longest network round trip to the cluster, such as 40ms."""


class ValueOfTimeSpec(Strict):
    """What an hour until a workload is done is worth to its users, in USD."""

    usd_per_hour: Money = Decimal(0)
    """For each workload. Default 0."""
    usd_per_gpu_hour: Money = Decimal(0)
    """For each of its GPUs. Default 0."""

    @model_validator(mode="after")
    def _worth_something(self) -> ValueOfTimeSpec:
        if not self.usd_per_hour and not self.usd_per_gpu_hour:
            raise refuse(Problem((), "is worth nothing; give usdPerHour or usdPerGpuHour, or leave valueOfTime out"))
        return self


class TimeSliceSpec(Strict):
    """Runs may be moved whenever a slice begins, their work kept."""

    every: PositiveDuration
    """Length of a slice, such as 6m."""
    usd_per_hour_to_last_end: Money = Decimal(0)
    """What an hour until the last of these workloads is done is worth, in USD. Default 0."""


class BurstSpec(Strict):
    """When capacity may be bought. Without this block: never."""

    after_wait: Duration = 0.0
    """How long a workload waits before capacity is bought for it. Default 0s."""
    max_nodes: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Most bought nodes in use at once by the workloads of this policy. Default: no limit."""
    expression: Expression | None = None
    """CEL over the workload: capacity is bought only for those that match."""
    ahead: Duration = 0.0
    """How long before forecast demand capacity is bought for it. Default 0s: never."""


class ReturnSpec(Strict):
    """When bought capacity is given back."""

    idle: Duration = 300.0
    """How long a bought node stays idle before it is given back. Default 5m."""
    move: Literal["never", "whenItPays"] = "never"
    """Whether running workloads that make checkpoints may leave bought nodes for cheaper room when that saves more than
    the work since the last checkpoint, which is done again, and the later end cost. Default never."""
    move_after: Duration = 1800.0
    """How long a workload has run where it is before it may be moved. Default 30m."""


class BudgetSpec(Strict):
    """A spend limit that no placement may break."""

    name: Name
    """Unique within the policy."""
    limit_usd: Money
    """Most that may be spent in one window, in USD."""
    window: Literal["day", "week", "month", "total"]
    """Calendar day, week or month in UTC, or total."""
    queues: list[Text] = Field(default_factory=list)
    """Counts the spend of these queues. Default: of every queue."""
    clusters: list[Text] = Field(default_factory=list)
    """Counts the spend on these clusters. Default: on every cluster."""
    capacity_types: list[CapacityType] = Field(default_factory=list)
    """Counts the spend on these capacity types. Default: on every type."""


class DisruptionSpec(Strict):
    """What happens to workloads when things break."""

    member_lost: DurationOrNever = 900.0
    """How long a silent member keeps its workloads before they are placed elsewhere, or never. Default 15m."""
    moves_at_once: Annotated[int, Field(ge=0, le=10_000)] = 4
    """Most workloads of this policy that are on the move at any time (see return.move). Default 4."""


class ReservationSpec(Strict):
    """When room is kept for a workload that does not fit yet, so that smaller ones cannot keep it waiting for ever."""

    after_wait: WaitOrNever = 21600.0
    """How long it waits before that (0s: from the start), or never. Others may use the room meanwhile if they end in
    time. Default 6h."""


class ExplorationSpec(Strict):
    """Workloads may go to an offering on which less is known of their speed, so that it is learned: where it could turn
    out to be the best, and never against a hard limit."""

    limit_usd: Money
    """Most that such runs may cost in one window, in USD: each counts whole, at the high end of what is predicted."""
    window: Literal["day", "week", "month", "total"]
    """Calendar day, week or month in UTC, or total."""
    at_once: Annotated[int, Field(ge=1, le=1000)] = 1
    """Most such runs placed at any time. Default 1."""
    max_premium: Annotated[float, Field(ge=0, le=10)] = 0.5
    """How much worse than the best known one the offering may be expected to be: 0.5 is half as much again by the
    objective. Default 0.5."""


class PlacementSpec(Strict):
    """Where the matched workloads may run, what to optimise, and what may be spent."""

    precedence: Annotated[int, Field(ge=-1_000_000, le=1_000_000)] = 0
    """Among the policies that match, the highest wins; ties go to the first by name."""
    match: MatchSpec = Field(default_factory=MatchSpec)
    """What the policy speaks for."""
    objective: Objective = "cost"
    """What to optimise within the constraints."""
    value_of_time: ValueOfTimeSpec | None = None
    """Weigh money against time: waiting for owned capacity is then an option, taken when it is the cheaper one."""
    time_slice: TimeSliceSpec | None = None
    """Share what is there in time slices: at each, the whole backlog is weighed anew. Needs valueOfTime; no burst."""
    constraints: ConstraintsSpec = Field(default_factory=ConstraintsSpec)
    """Hard limits."""
    burst: BurstSpec | None = None
    """When capacity may be bought. Default: never."""
    give_back: ReturnSpec = Field(default_factory=ReturnSpec, alias="return")
    """When bought capacity is given back."""
    budgets: list[BudgetSpec] = Field(default_factory=list)
    """Spend limits."""
    disruption: DisruptionSpec = Field(default_factory=DisruptionSpec)
    """What happens when things break."""
    reservation: ReservationSpec = Field(default_factory=ReservationSpec)
    """When room is kept for a workload that waits."""
    exploration: ExplorationSpec | None = None
    """What may be spent on learning how fast workloads run elsewhere. Default: nothing."""

    @model_validator(mode="after")
    def _budget_names(self) -> PlacementSpec:
        if problems := list(duplicates([budget.name for budget in self.budgets], "budget", "name", "budgets")):
            raise refuse(*problems)
        return self

    @model_validator(mode="after")
    def _exploration(self) -> PlacementSpec:
        if self.exploration is not None and any(each.name == EXPLORATION for each in self.budgets):
            raise refuse(Problem(("budgets",), f"{EXPLORATION} is the name of the exploration's own; choose another"))
        if self.exploration is not None and self.time_slice is not None:
            raise refuse(Problem(("exploration",), "does not go with timeSlice; leave one of them out"))
        return self

    @model_validator(mode="after")
    def _slices(self) -> PlacementSpec:
        if self.time_slice is not None and self.value_of_time is None:
            raise refuse(Problem(("timeSlice",), "needs valueOfTime, by which the workloads are weighed"))
        if self.time_slice is not None and self.burst is not None:
            raise refuse(Problem(("timeSlice",), "shares what is there, so nothing is bought for it; leave burst out"))
        return self


class PlacementPolicyDocument(Strict):
    """How workloads are placed, and when capacity is bought for them."""

    api_version: ApiVersion
    kind: Literal["PlacementPolicy"]
    metadata: Metadata
    spec: PlacementSpec = Field(default_factory=PlacementSpec)
    """Everything in it may be left out."""


class QuotaSpec(Strict):
    """How much of one resource the queue's workloads may use at once."""

    resource: ResourceName
    """cpu, memory, gpu, pods, or an extended resource."""
    nominal: Quantity
    """What is the queue's own."""
    borrowing_limit: Quantity | None = None
    """Most that it may use beyond that, out of what its cohort leaves unused. Default: no limit."""
    lending_limit: Quantity | None = None
    """Most of its own that the cohort may borrow. Default: all of it."""

    @model_validator(mode="after")
    def _units(self) -> QuotaSpec:
        problems = []
        for key, value in (
            ("nominal", self.nominal),
            ("borrowingLimit", self.borrowing_limit),
            ("lendingLimit", self.lending_limit),
        ):
            if (
                value is not None
                and self.resource not in ("cpu", "memory")
                and quantity(value) != quantity(value, milli=True) / 1000
            ):
                problems.append(Problem((key,), f'"{value}" is not whole; write a whole number of {self.resource}'))
        if (
            not problems
            and self.lending_limit is not None
            and self.units(self.lending_limit) > self.units(self.nominal)
        ):
            problems.append(Problem(("lendingLimit",), "more than nominal; lend at most what is the queue's own"))
        if problems:
            raise refuse(*problems)
        return self

    def units(self, value: str | int | Decimal) -> int:
        """`value` in the unit of quotas: thousandths of a core for cpu, else whole bytes, GPUs, pods."""
        return quantity(value, milli=self.resource == "cpu")


class PreemptionSpec(Strict):
    """What may be stopped, and queued again, so that a workload of the queue can start."""

    reclaim: Literal["never", "borrowed"] = "never"
    """borrowed: workloads by which queues of the cohort exceed their nominal quota, while this queue stays within its
    own. Default never."""
    priority: Literal["never", "lower"] = "never"
    """lower: workloads of this queue with a lower priority. Default never."""
    max_lost_work: Duration | None = None
    """Most work that one of them may lose, since its last checkpoint or, without checkpoints, since its start.
    Default: no limit."""

    @model_validator(mode="after")
    def _some_limit(self) -> PreemptionSpec:
        allowed = self.reclaim != "never" or self.priority != "never"
        if "max_lost_work" in self.model_fields_set and not allowed:
            raise refuse(Problem(("maxLostWork",), "limits nothing; allow reclaim or priority, or remove it"))
        return self


class QueueSpecification(Strict):
    """A queue's share of the federation."""

    cohort: Name | None = None
    """Queues of one cohort lend unused quota to one another. Default: neither borrows nor lends."""
    weight: Weight = Decimal(1)
    """Its fair share against the others'. Default 1."""
    quotas: list[QuotaSpec] = Field(default_factory=list)
    """A resource without a quota is not limited."""
    strict_fifo: bool = False
    """true: the oldest workload blocks those behind it. Default false."""
    preemption: PreemptionSpec = Field(default_factory=PreemptionSpec)
    """What may be stopped for it. Default: nothing."""
    wait_objective: PositiveDuration | None = None
    """A forecast wait that is longer is an incident. Default: `aiops.queueWait` of the federation file."""
    latency_objective: PositiveDuration | None = None
    """A forecast p95 latency of its serving workloads that is longer, such as 400ms, is an incident. Default: none."""

    @model_validator(mode="after")
    def _resources(self) -> QueueSpecification:
        if self.preemption.reclaim == "borrowed" and self.cohort is None:
            text = "has nobody to reclaim from without a cohort; name one in cohort or write never"
            raise refuse(Problem(("preemption", "reclaim"), text))
        if self.preemption.reclaim == "borrowed" and not any(each.resource in ("gpu", "cpu") for each in self.quotas):
            text = "has nothing of its own without a quota for gpu or cpu; add one in quotas or write never"
            raise refuse(Problem(("preemption", "reclaim"), text))
        names = [quota.resource for quota in self.quotas]
        if problems := list(duplicates(names, "quota for", "resource", "quotas")):
            raise refuse(*problems)
        return self


class QueueDocument(Strict):
    """A queue that workloads name in the label overspill.dev/queue."""

    api_version: ApiVersion
    kind: Literal["Queue"]
    metadata: Metadata
    spec: QueueSpecification = Field(default_factory=QueueSpecification)
    """Everything in it may be left out."""
