"""Metrics of what is decided, and how long it takes."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import SECONDS, WAITS, Metrics, counter, gauge, histogram


class Decisions(Metrics):
    cycles = counter(
        "overspill_cycles",
        "Scheduling cycles run.",
    )
    cycle_seconds = histogram(
        "overspill_cycle_duration_seconds",
        "Time of one pure scheduling cycle.",
        buckets=SECONDS,
    )
    decisions = counter(
        "overspill_decisions",
        "Decisions by outcome and reason.",
        ["outcome", "reason"],
    )
    bursts = counter(
        "overspill_bursts",
        "Workloads placed on bought capacity.",
        ["cluster"],
    )
    returns = counter(
        "overspill_returns",
        "Bought nodes given back.",
        ["cluster"],
    )
    preemptions = counter(
        "overspill_preemptions",
        "Runs that were stopped for others, by their queue: Reclaimed by the queue that had lent it the room, "
        "Preempted by a higher priority.",
        ["queue", "reason"],
    )
    workloads = gauge(
        "overspill_workloads",
        "Workloads by queue and phase.",
        ["queue", "phase"],
    )
    queue_share = gauge(
        "overspill_queue_dominant_share_ratio",
        "Weighted dominant share of a queue.",
        ["queue"],
    )
    shadow_price = gauge(
        "overspill_shadow_price_usd",
        "What one more unit of what binds would have saved in the last cycle, by pool or budget and resource.",
        ["name", "resource", "unit"],
    )
    solver = counter(
        "overspill_solver_runs",
        "Cycles in which the backlog was weighed as a whole: optimal, or greedy where no optimum was found.",
        ["result"],
    )
    queue_wait = histogram(
        "overspill_queue_wait_seconds",
        "From being queued to the copy's start, in the federation's time.",
        ["queue"],
        buckets=WAITS,
    )
    oldest_wait = gauge(
        "overspill_queue_oldest_wait_seconds",
        "How long the one that has waited longest in a queue has waited; 0 where none waits.",
        ["queue"],
    )
    wait_forecast = gauge(
        "overspill_queue_wait_forecast_seconds",
        "Longest time that one of a queue is expected to wait still for owned capacity, each on the member that is "
        "soonest; none where it cannot be told.",
        ["queue"],
    )
    regret = counter(
        "overspill_regret_usd",
        "What placements were expected to cost above the cheapest that stood open to the same workload at that moment, "
        "as if it were alone (its time included where the policy values it). Not against the best in hindsight: that "
        "is `overspill simulate --bound`.",
        ["queue"],
    )
    expected_saved = gauge(
        "overspill_expected_saved_usd",
        "Expected cost of what was placed since the start, below running each workload on the cheapest on-demand "
        "offering open to it; in mode shadow of what would have been placed.",
        ["mode"],
    )
