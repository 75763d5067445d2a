"""What a cycle wants done, as data, and why. The actuator executes it; shadow mode and the simulator read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from scheduler.model.ids import DecisionId, Instant, NodeName, PoolRef, QueueId, WorkloadRef
from scheduler.model.money import Usd
from scheduler.model.verdict import Reason
from scheduler.model.workload import Placement


@dataclass(frozen=True, slots=True)
class CostPart:
    """One part of what placing a workload somewhere is expected to cost."""

    name: str
    """capacity, start-up, reclaims (work that is lost and done again), data (bringing it there), time (what the time to
    its end is worth)."""
    usd: float


@dataclass(frozen=True, slots=True)
class WaitOption:
    """Waiting for owned capacity instead of starting now, as the programme sees it. Times in seconds from now."""

    pool: PoolRef
    expected_wait_seconds: float
    expected_cost_usd: float
    """What the time until it is done is worth; owned capacity itself is paid for already."""


@dataclass(frozen=True, slots=True)
class ShadowPrice:
    """What one more unit of something that binds would have saved: a dual price of the programme."""

    name: str
    """A pool (cluster/pool) or a budget (policy/budget)."""
    resource: str
    """gpu, cpu, memory or budget."""
    worth_usd: float
    meaning: str
    """The unit in words, such as "USD for one more for an hour"."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An offering weighed for one workload. `score` is in the objective's unit, lower is better; None: refused."""

    pool: PoolRef
    capacity_type: str
    bought: bool
    score: float | None
    usd_per_hour: Usd | None
    """Of the nodes that the workload would occupy; None: unknown."""
    expected_cost_usd: Usd | None
    expected_start_seconds: float | None
    expected_seconds: float | None
    new_nodes: int
    refused: tuple[Reason, ...] = ()
    availability: float | None = None
    """Chance that the new nodes come when they are asked for; None: none are needed, or it was never seen."""
    cost_parts: tuple[CostPart, ...] = ()
    """Where the policy values time: what `score` (then in USD, time included) is made of."""


class Decision(NamedTuple):
    """Why a workload is where it is, or why it waits; recorded with everything needed to explain it later.

    A named tuple, as `SetPlacement`: a large backlog makes hundred thousands, in a third of the time of a frozen
    dataclass.
    """

    id: DecisionId
    at: Instant
    workload: WorkloadRef
    queue: QueueId
    outcome: str
    """placed, burst, started, held, released, moved."""
    reason: Reason
    sentence: str
    policy: str
    policy_digest: str
    chosen: Candidate | None = None
    alternatives: tuple[Candidate, ...] = ()
    refused: tuple[tuple[Reason, int], ...] = ()
    wait: WaitOption | None = None
    """The best that waiting could do; None: it was not weighed, or there is nothing to wait for."""
    binding: tuple[ShadowPrice, ...] = ()
    """What would have been worth more of, the most valuable first."""


class SetPlacement(NamedTuple):
    """Write `placement` as the workload's intent. Carries what it replaces, so that the actuator can re-validate."""

    workload: WorkloadRef
    placement: Placement
    replaces: Placement | None
    decision: DecisionId


@dataclass(frozen=True, slots=True)
class ScalePool:
    """Ask the provider for `desired_nodes` in all (absolute, hence idempotent)."""

    pool: PoolRef
    current_nodes: int
    desired_nodes: int
    reason: str


@dataclass(frozen=True, slots=True)
class CloseNode:
    """Cordon: its workloads are moved off it, and nothing new is to come."""

    pool: PoolRef
    node: NodeName
    node_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class OpenNode:
    """Take a `CloseNode` back: what is on it stays."""

    pool: PoolRef
    node: NodeName
    node_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """Cordon, check again that it is idle, then give back this very node and lower the pool by one."""

    pool: PoolRef
    node: NodeName
    node_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class QueueUsage:
    """For status and metrics."""

    queue: QueueId
    pending: int
    placed: int
    gpus_used: int
    dominant_share: float
    """Weighted dominant share of the federation, 0..; see engine.fairshare."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    policy: str
    budget: str
    limit_usd: Usd
    spent_usd: Usd
    committed_usd: Usd
    """Expected further cost of what is placed already."""
    window_ends_at: Instant | None


@dataclass(frozen=True, slots=True)
class Plan:
    at: Instant
    placements: tuple[SetPlacement, ...] = ()
    scales: tuple[ScalePool, ...] = ()
    closures: tuple[CloseNode, ...] = ()
    removals: tuple[RemoveNode, ...] = ()
    decisions: tuple[Decision, ...] = ()
    queues: tuple[QueueUsage, ...] = ()
    budgets: tuple[BudgetState, ...] = ()
    solver: str = ""
    """How the backlog was weighed: optimal, greedy (no optimum was found in time), "" (there was nothing to weigh)."""
    shadow_prices: tuple[ShadowPrice, ...] = ()
    """The most valuable first."""
    openings: tuple[OpenNode, ...] = ()
    wake_at: Instant | None = None
    """When, if nothing else happens, the passing of time alone could change the plan; None: never."""
