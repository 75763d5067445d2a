"""Shapes of answers about the fleet: clusters, queues, budgets, services at a glance."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from scheduler.daemon.http.answers.base import Answer, At, Exact


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
    services: list[ServiceBrief] = Field(default=[])
