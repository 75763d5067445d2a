"""Shapes of answers about workloads, decisions, and divisions of services."""

from __future__ import annotations

from pydantic import Field

from scheduler.daemon.http.answers.base import Answer, At, Exact


class Ref(Answer):
    kind: str
    namespace: str
    name: str
    uid: str


class Placement(Answer):
    cluster: str
    pool: str
    capacity_type: str
    bought: bool
    state: str
    attempt: int
    decided_at: At
    decision: str
    reason: str
    moved_from: str | None
    exploration_usd: Exact | None
    """What it counts for in the policy's exploration budget, where it was placed to learn."""
    domain: tuple[str, str] | None
    kept_off: tuple[str, ...]
    """Nodes that it must not use: room was kept there for another when it was placed."""
    part: str
    """Of a service that was divided before: which part its copy was."""


class Workload(Ref):
    queue: str
    priority: int
    phase: str
    gpus: int | None = None
    created_at: At | None = None
    placement: Placement | None
    condition: tuple[str, str] | None
    """Reason and message of the condition overspill.dev/Placed."""
    invalid: str | None = None


class Workloads(Answer):
    workloads: list[Workload]
    total: int
    """How many there are; more than are told where `limit` cuts them off."""


class Reason(Answer):
    code: str
    text: str


class PoolRef(Answer):
    cluster: str
    pool: str


class CostPart(Answer):
    name: str
    usd: float


class Candidate(Answer):
    pool: PoolRef
    capacity_type: str
    bought: bool
    score: float | None
    """In the objective's unit, lower is better; null: refused."""
    usd_per_hour: Exact | None
    expected_cost_usd: Exact | None
    expected_start_seconds: float | None
    expected_seconds: float | None
    new_nodes: int
    refused: list[Reason]
    availability: float | None
    cost_parts: list[CostPart]


class WaitOption(Answer):
    pool: PoolRef
    expected_wait_seconds: float
    expected_cost_usd: float


class ShadowPrice(Answer):
    name: str
    resource: str
    worth_usd: float
    meaning: str


class Decision(Answer):
    id: str
    at: At
    workload: Ref
    queue: str
    outcome: str
    reason: Reason
    sentence: str
    policy: str
    policy_digest: str
    chosen: Candidate | None
    alternatives: list[Candidate]
    refused: list[tuple[Reason, int]]
    wait: WaitOption | None
    binding: list[ShadowPrice]


class Decisions(Answer):
    decisions: list[Decision]


class MemberWait(Answer):
    cluster: str
    expected_seconds: float
    p90_seconds: float
    observed: int
    as_of: At


class RunCost(Answer):
    expected_usd: Exact
    p90_usd: Exact
    expected_parts: dict[str, Exact]
    p90_parts: dict[str, Exact]
    paid_usd: Exact | None


class RunProgress(Answer):
    workload: str
    begun: float
    done: float | None
    at: At
    per_second: float | None


class ServingCondition(Answer):
    reason: str
    message: str


class PartTarget(Answer):
    pool: PoolRef
    revision: str
    replicas: int
    ready: int
    bounds: tuple[int, int] | None
    """Set where another autoscaler owns the replicas."""


class Weight(Answer):
    cluster: str
    revision: str
    weight: int
    """Of 1000."""


class OfferChoice(Answer):
    pool: PoolRef
    gpu_model: str | None
    capacity_type: str
    replicas: int
    requests_per_second_each: float | None
    usd_per_million_requests: float | None
    latency_seconds: float | None
    refused: str


class Binding(Answer):
    name: str
    meaning: str
    saves_usd_per_hour: float | None


class RolloutState(Answer):
    old: str
    new: str
    phase: str
    step: int


class Division(Answer):
    slo: str
    decision: str
    decided_at: At
    sentence: str
    solver: str
    """milp, greedy, or kept."""
    conditions: list[ServingCondition]
    demand_per_second: float | None
    planned_per_second: float | None
    capacity_per_second: float | None
    ready_per_second: float | None
    usd_per_hour: Exact | None
    cost_parts: list[CostPart]
    targets: list[PartTarget]
    weights: list[Weight]
    choices: list[OfferChoice]
    binding: list[Binding]
    """What limits it, and what it would cost less without."""
    leaving: list[str]
    rollout: RolloutState | None


class Explanation(Answer):
    workload: Workload
    decisions: list[Decision]
    """Newest first."""
    waits: list[MemberWait] = Field(default=[])
    cost: RunCost | None = None
    progress: RunProgress | None = None
    division: Division | None = None
    """Of a service that is divided over clusters."""


class StreamedDecision(Answer):
    """The data of one `decision` event."""

    id: str
    at: At
    workload: Ref
    queue: str
    outcome: str
    reason: Reason
    sentence: str
    pool: str | None
    capacity_type: str | None
    expected_cost_usd: Exact | None
    expected_start_seconds: float | None
