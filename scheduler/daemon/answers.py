"""The shapes of the read API's answers, from which its OpenAPI description is made.

The answers themselves are plain JSON values made by `status`, `gathered` and `incident_views`; a test holds each
against its shape here, so that neither goes without the other. Answers may grow keys.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Exact = Annotated[str, Field(pattern=r"^-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?$", examples=["12.30"])]
"""An exact decimal number, as text."""
At = Annotated[float, Field(description="Seconds since the Unix epoch, UTC.")]


class Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


class Error(Answer):
    error: str
    """One line: what is wrong, and the remedy."""


# -- the fleet ---------------------------------------------------------------------------------------------------------


class Reclaim(Answer):
    node: str
    source: str
    noticed_at: At
    deadline: At | None


class Pool(Answer):
    pool: str
    capacity_type: str
    scaling: str
    bought: bool
    """true: its nodes are bought for bursts and given back when idle."""
    instance_type: str
    gpu_model: str | None
    nodes: int | None
    """null: its nodes were never listed."""
    nodes_ready: int | None
    desired_nodes: int | None
    max_nodes: int
    gpus: int | None
    gpus_used: int | None
    usd_per_hour: Exact | None
    """Of one node; null: unknown."""
    price_source: str | None
    price_as_of: At | None
    shortage: str | None
    reclaimed: list[Reclaim]


class StatusCluster(Answer):
    id: str
    provider: str
    region: str
    available: bool
    unreachable_seconds: float | None
    error: str | None
    round_trip_seconds: float | None
    pools: list[Pool]


class QueueUsage(Answer):
    queue: str
    pending: int
    placed: int
    gpus_used: int
    dominant_share: float


class Budget(Answer):
    policy: str
    budget: str
    limit_usd: Exact
    spent_usd: Exact
    committed_usd: Exact
    """Expected further cost of what is placed already."""
    window_ends_at: At | None


class Spend(Answer):
    queue: str | None
    """null: idle time that is nobody's."""
    cluster: str
    capacity_type: str
    usd: Exact


class Cycles(Answer):
    idle: bool
    wake_at: At | None
    measured_at: At | None
    cycles: int
    last_cycle_seconds: float


class Policies(Answer):
    digest: str
    loaded_at: At
    error: str | None
    """Why the newest files were refused; the last good set counts."""


class Shadow(Answer):
    would_place: int
    would_burst: int
    would_hold: int
    expected_cost_usd: Exact
    saved_usd: Exact
    saved_against: str


class ServiceBrief(Answer):
    namespace: str
    name: str
    slo: str
    condition: str
    """Reason of the condition overspill.dev/Serving."""
    wanted: int
    ready: int
    demand_per_second: float | None
    ready_per_second: float | None
    """Within the SLO."""
    usd_per_hour: Exact | None
    clusters: list[str]


class Status(Answer):
    federation: str
    mode: Literal["shadow", "active"]
    now: At
    leader: bool
    synced: bool
    progress: Cycles
    clusters: list[StatusCluster]
    queues: list[QueueUsage]
    budgets: list[Budget]
    spend: list[Spend]
    spend_usd: Exact
    unpriced_node_seconds: float
    unpriced_transfers: int
    """Copies whose data nobody knows the price of bringing there."""
    workloads: dict[str, int]
    """How many by phase."""
    counters: dict[str, int]
    policies: Policies
    shadow: Shadow | None
    services: list[ServiceBrief] = []


# -- workloads and decisions -------------------------------------------------------------------------------------------


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
    waits: list[MemberWait] = []
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


# -- what is gathered --------------------------------------------------------------------------------------------------


class Cluster(Answer):
    id: str
    provider: str
    region: str
    labels: dict[str, str]
    login: str
    available: bool
    synced: bool
    unreachable_since: At | None
    error: str | None
    round_trip_seconds: float | None
    round_trip_at: At | None
    version: str | None
    status: str | None
    pools_at: At | None
    pools_error: str | None
    clusters_at: At | None
    clusters_error: str | None
    warning_count: int
    nodes: int | None
    nodes_ready: int | None
    gpus: int | None
    gpus_used: int | None


class Clusters(Answer):
    now: At
    clusters: list[Cluster]


class CloudCluster(Answer):
    name: str
    region: str
    version: str | None
    endpoint: str | None
    status: str
    health: list[str]


class CloudPool(Answer):
    instance_type: str | None
    capacity_type: str | None
    gpu_model: str | None
    gpus: int | None
    min_nodes: int | None
    max_nodes: int | None
    desired_nodes: int | None
    labels: dict[str, str]
    taints: list[str]
    zones: list[str]
    version: str | None
    health: list[str]
    autoscaled: bool | None
    busy: bool | None


class PoolDetail(Pool):
    provider: CloudPool | None


class ClusterDetail(Cluster):
    now: At
    cloud: CloudCluster | None
    other_clusters: list[str]
    pools: list[PoolDetail]
    warnings: list[str]


class PriceAnswer(Answer):
    source: str
    state: str
    usd_per_hour: Exact | None
    says: str | None
    as_of: At | None
    text: str


class Price(Answer):
    cluster: str
    pool: str
    provider: str
    region: str
    zones: list[str]
    instance_type: str
    capacity_type: str
    gpu_model: str | None
    gpus: int
    usd_per_hour: Exact | None
    usd_per_gpu_hour: Exact | None
    source: str | None
    as_of: At | None
    winner: str | None
    why_unknown: str | None
    answers: list[PriceAnswer]


class PriceSource(Answer):
    name: str
    read_at: At | None
    took_seconds: float | None
    quotes: int
    readings: int
    failures: int
    failing_since: At | None
    error: str | None
    problems: list[str]


class EgressTier(Answer):
    up_to_gib: float | None
    usd_per_gib: Exact


class Egress(Answer):
    cluster: str
    region: str
    destination: str
    tiers: list[EgressTier]
    source: str
    as_of: Any


class Prices(Answer):
    now: At
    prices: list[Price]
    sources: list[PriceSource]
    egress: list[Egress]


class Sample(Answer):
    labels: dict[str, str]
    value: float | None
    at: At


class Reading(Answer):
    cluster: str
    metric: str
    unit: str
    state: str
    source: str
    asked_at: At
    took_seconds: float
    newest_at: At | None
    error: str | None
    sample_count: int
    samples: list[Sample]


class Readings(Answer):
    now: At
    readings: list[Reading]
    samples_left_out: int


# -- incidents ---------------------------------------------------------------------------------------------------------


class Note(Answer):
    action: str
    reason: str
    text: str


class Subject(Answer):
    cluster: str | None
    pool: str | None
    node: str | None
    gpu: str | None
    workload: str | None


class Case(Answer):
    policy: str | None
    phase: str | None
    action: str | None
    tried: list[str]


class Incident(Case):
    id: str
    kind: str
    severity: str
    state: str
    opened_at: At
    subject: Subject
    notes: list[Note]
    """Why something is not done (yet). `ApprovalNeeded` names an action that a person may approve."""


class Breaker(Answer):
    policy: str
    family: str
    cause: str
    since: At
    over_at: At
    pause_seconds: float
    trial: str
    good: int


class Incidents(Answer):
    paused: bool | None = None
    bursting_paused: bool | None = None
    switches_error: str | None = None
    incidents: list[Incident] | None = None
    breakers: list[Breaker] | None = None
    quarantined_pools: list[str] | None = None
    quarantined_clusters: list[str] | None = None
    past: list[PastIncident] | None = None
    """With `days`, and then alone with the two below."""
    gpu_hours_saved: float | None = None
    usd_saved: Exact | None = None


class PastIncident(Answer):
    id: str
    kind: str
    severity: str
    cluster: str
    opened_at: At
    ended_at: At | None
    outcome: str | None
    gpu_hours_at_risk: float | None
    usd_at_risk: Exact | None
    gpu_hours_saved: float | None
    usd_saved: Exact | None
    subject: str


class Remedy(Answer):
    id: str
    incident: str
    signal: str
    policy: str
    action: str
    began_at: At
    ended_at: At | None
    outcome: str | None


class IncidentDetail(Case):
    id: str
    state: str
    kind: str | None = None
    severity: str | None = None
    opened_at: At | None = None
    subject: Subject | None = None
    notes: list[Note] = []
    past: dict[str, Any] | None = None
    """As the history has it, with evidence."""
    remedies: list[Remedy]


# -- what is sent ------------------------------------------------------------------------------------------------------


class Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, use_attribute_docstrings=True)


class SwitchesSent(Sent):
    """What is left out stays as it is."""

    paused: bool | None = None
    """true: nothing is remedied anywhere."""
    bursting_paused: bool | None = None
    """true: nothing is bought anywhere."""


class ApprovalSent(Sent):
    action: Annotated[str, Field(min_length=1, max_length=60)]
    """Which action may be taken."""


class Switched(Answer):
    paused: bool
    bursting_paused: bool
    error: str
    """Why the switches could not be read back; empty: they were."""
    by: str
    """Who threw them."""


class Webhook(Answer):
    alerts: int
