"""Metrics of workloads by name, of not more than `listen.workloadMetrics` of them."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import Metrics, gauge


class Workloads(Metrics):
    workload_phase = gauge(
        "overspill_workload_phase",
        "1 for the phase that a workload is in.",
        ["queue", "workload", "phase"],
    )
    workload_placed = gauge(
        "overspill_workload_placed",
        "1 for where a workload is placed.",
        ["queue", "workload", "cluster", "pool", "capacity_type"],
    )
    workload_gpus = gauge(
        "overspill_workload_gpus",
        "GPUs that all pods of a workload ask for.",
        ["queue", "workload"],
    )
    workload_waiting = gauge(
        "overspill_workload_waiting_seconds",
        "How long a workload has waited since it was last queued; none once it has started.",
        ["queue", "workload"],
    )
    workload_wait_forecast = gauge(
        "overspill_workload_wait_forecast_seconds",
        "How long it is expected to wait still for owned capacity, on the member that is soonest.",
        ["queue", "workload", "quantile"],
    )
    workload_progress = gauge(
        "overspill_workload_progress_ratio",
        "Part of its work that is done, as its own metric tells.",
        ["queue", "workload"],
    )
    workload_spend = gauge(
        "overspill_workload_spend_usd",
        "What a workload has cost on bought nodes that are still there; none where a price is not known.",
        ["queue", "workload"],
    )
