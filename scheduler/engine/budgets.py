"""Budgets: calendar windows, what is spent, what is committed, and whether more would break a limit.

A budget limits all spend in its scope: every placement on bought capacity, and every one whose data costs something to
bring there, must keep it where the scope covers queue, cluster and capacity type, whichever policy that workload has.
A budget without `queues` takes those of its policy's match; when that has none either, it covers all.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from scheduler.model.cluster import NodePool
from scheduler.model.ids import Instant, QueueId
from scheduler.model.money import Usd
from scheduler.model.plan import BudgetState
from scheduler.model.policy import Budget, PlacementPolicy
from scheduler.model.snapshot import SpendBucket
from scheduler.model.verdict import Reason


def window_bounds(window: str, now: Instant) -> tuple[Instant | None, Instant | None]:
    """Start and end of the calendar window (UTC) around `now`; (None, None) for `total`. Weeks start on Monday.

    Raises: ValueError for a word that is no window.
    """
    if window == "total":
        return None, None
    day = datetime.fromtimestamp(now, UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    match window:
        case "day":
            start, end = day, day + timedelta(days=1)
        case "week":
            start = day - timedelta(days=day.weekday())
            end = start + timedelta(days=7)
        case "month":
            start = day.replace(day=1)
            end = (start + timedelta(days=32)).replace(day=1)
        case _:
            raise ValueError(f"{window!r} is no budget window; use day, week, month or total")
    return start.timestamp(), end.timestamp()


@dataclass(slots=True, eq=False)
class Account:
    """One budget and what counts against it."""

    policy: str
    budget: Budget
    queues: frozenset[str]
    starts_at: Instant | None
    ends_at: Instant | None
    spent: Usd = Decimal(0)
    committed: Usd = Decimal(0)

    @property
    def left(self) -> Usd:
        """What may still be committed; negative when the budget is overdrawn."""
        return self.budget.limit_usd - self.spent - self.committed

    @property
    def over(self) -> Reason:
        """Said of what would break it."""
        return Reason("OverBudget", f"over the budget {self.budget.name}")

    def covers_queue(self, queue: QueueId | None) -> bool:
        return not self.queues or queue in self.queues

    def covers(self, queue: QueueId | None, cluster: str, capacity_type: str) -> bool:
        return self.covers_queue(queue) and self.covers_place(cluster, capacity_type)

    def covers_place(self, cluster: str, capacity_type: str) -> bool:
        return (not self.budget.clusters or cluster in self.budget.clusters) and (
            not self.budget.capacity_types or capacity_type in self.budget.capacity_types
        )


class BudgetLedger:
    """Every budget's account in this cycle; `commit` adds to it as placements are made."""

    def __init__(self, policies: Iterable[PlacementPolicy], spend: Iterable[SpendBucket], now: Instant) -> None:
        self.accounts: list[Account] = []
        for policy in sorted(policies, key=lambda each: each.name):
            for budget in sorted(policy.budgets, key=lambda each: each.name):
                queues = frozenset(budget.queues or policy.match.queues)
                self.accounts.append(Account(policy.name, budget, queues, *window_bounds(budget.window, now)))
        if self.accounts:
            for bucket in spend:
                self._book(bucket)

    def _book(self, bucket: SpendBucket) -> None:
        for account in self.accounts:
            in_window = account.starts_at is None or bucket.hour_start >= account.starts_at
            if in_window and account.covers(bucket.queue, bucket.cluster, bucket.capacity_type):
                account.spent += bucket.usd

    def commit(self, queue: QueueId, pool: NodePool, usd: Usd) -> None:
        """Count `usd` of expected further cost."""
        for account in self.covering(queue, pool):
            account.committed += usd

    def covering(self, queue: QueueId, pool: NodePool) -> list[Account]:
        """The budgets that count what workloads of the queue cost there."""
        return [each for each in self.accounts if each.covers(queue, pool.ref.cluster, pool.capacity_type)]

    def commit_idle(self, pool: NodePool, usd: Usd) -> None:
        """Count what idle nodes still cost. Nobody can say yet which queue pays, so every budget there counts it."""
        for account in self.accounts:
            if account.covers_place(pool.ref.cluster, pool.capacity_type):
                account.committed += usd

    def refusal(self, queue: QueueId, pool: NodePool, usd: Usd) -> Reason | None:
        """The first budget that `usd` more would break."""
        return next((each.over for each in self.covering(queue, pool) if usd > each.left), None)

    def next_window_end(self) -> Instant | None:
        ends = [account.ends_at for account in self.accounts if account.ends_at is not None]
        return min(ends, default=None)

    def states(self) -> tuple[BudgetState, ...]:
        return tuple(
            BudgetState(a.policy, a.budget.name, a.budget.limit_usd, a.spent, a.committed, a.ends_at)
            for a in self.accounts
        )
