"""Metrics of member clusters, their pools, and calls to them and to clouds."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import SECONDS, Metrics, counter, gauge, histogram


class Members(Metrics):
    metric_readings = counter(
        "overspill_metric_readings",
        "Readings of members' metrics by what came of them: ok, absent, stale, failed.",
        ["cluster", "state"],
    )
    metrics_round_seconds = histogram(
        "overspill_metrics_round_duration_seconds",
        "Time of one collection of all members' metrics.",
        buckets=SECONDS,
    )
    pool_nodes = gauge(
        "overspill_pool_nodes",
        "Nodes of a pool: all, ready.",
        ["cluster", "pool", "state"],
    )
    pool_gpus = gauge(
        "overspill_pool_gpus",
        "GPUs of a pool's nodes: all, used.",
        ["cluster", "pool", "state"],
    )
    writes = counter(
        "overspill_writes",
        "Kubernetes writes by cluster, step and result.",
        ["cluster", "step", "result"],
    )
    provider_calls = counter(
        "overspill_provider_calls",
        "Cloud calls by cluster, call and result.",
        ["cluster", "call", "result"],
    )
    watch_failures = counter(
        "overspill_watch_failures",
        "Lists and watches that failed, by kind of error.",
        ["cluster", "resource", "error"],
    )
    malformed = counter(
        "overspill_malformed_objects",
        "API objects that could not be understood.",
        ["cluster", "resource"],
    )
    reclaims = counter(
        "overspill_reclaims",
        "Nodes that their cloud said it takes back, by what said so.",
        ["cluster", "pool", "source"],
    )
    reclaim_advice = counter(
        "overspill_reclaim_advice",
        "Nodes that their cloud said it may take back soon, by what said so.",
        ["cluster", "pool", "source"],
    )
    member_reachable = gauge(
        "overspill_member_reachable",
        "1 while the member's API answers.",
        ["cluster"],
    )
    mirror_age = gauge(
        "overspill_member_mirror_age_seconds",
        "How long one of the member's watches has been down; 0 while all are up.",
        ["cluster"],
    )
    idle_bought_gpus = gauge(
        "overspill_idle_bought_gpus",
        "GPUs of bought nodes that no pod uses now; its time integral is idle bought GPU-seconds.",
        ["cluster", "pool"],
    )
    bought_nodes = gauge(
        "overspill_bought_nodes",
        "Nodes that are bought for bursts and given back when idle.",
        ["cluster", "pool", "capacity_type"],
    )
    shortage = gauge(
        "overspill_pool_shortage",
        "1 while a cloud could not deliver nodes of a pool, by why.",
        ["cluster", "pool", "error"],
    )
