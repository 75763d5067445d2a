"""Whether a replay kept its budgets: what was spent in each window, against its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from scheduler.engine.budgets import BudgetLedger, window_bounds
from scheduler.model.policy import Budget, PlacementPolicy, PolicySet
from scheduler.model.snapshot import SpendBucket


def has_budgets(policies: PolicySet) -> bool:
    return any(policy.budgets for policy in policies.policies)


def broken_budgets(policies: PolicySet, spend: Sequence[SpendBucket]) -> tuple[str, ...]:
    """ "policy/budget" for each window of each budget in which more was spent than its limit."""
    return tuple(
        f"{policy.name}/{budget.name}"
        for policy in sorted(policies.policies, key=lambda each: each.name)
        for budget in sorted(policy.budgets, key=lambda each: each.name)
        for _ in range(_windows_over(policy, budget, spend))
    )


def _windows_over(policy: PlacementPolicy, budget: Budget, spend: Sequence[SpendBucket]) -> int:
    alone = (replace(policy, budgets=(budget,)),)
    windows = {window_bounds(budget.window, bucket.hour_start) for bucket in spend}
    over = 0
    for start, end in windows:
        inside = [b for b in spend if start is None or (end is not None and start <= b.hour_start < end)]
        (state,) = BudgetLedger(alone, inside, inside[0].hour_start).states()
        over += state.spent_usd > budget.limit_usd
    return over
