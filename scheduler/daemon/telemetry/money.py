"""Metrics of prices, spend and budgets."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import Metrics, counter, gauge


class Money(Metrics):
    spend = gauge(
        "overspill_spend_usd",
        "Metered spend on bought nodes so far.",
        ["queue", "cluster", "capacity_type"],
    )
    budget_left = gauge(
        "overspill_budget_left_usd",
        "Limit less spent and committed.",
        ["policy", "budget"],
    )
    price_age = gauge(
        "overspill_price_age_seconds",
        "Age of the price that a pool is planned with.",
        ["cluster", "pool"],
    )
    unpriced_pools = gauge(
        "overspill_unpriced_pools",
        "Pools whose price is not known.",
        ["cluster"],
    )
    price_changes = counter(
        "overspill_price_changes",
        "Gathered prices that changed, were learned or were lost.",
        ["cluster"],
    )
    price_source_failures = counter(
        "overspill_price_source_failures",
        "Readings of a price source that failed.",
        ["source"],
    )
    budget_limit = gauge(
        "overspill_budget_limit_usd",
        "What a budget allows within its window.",
        ["policy", "budget"],
    )
