"""Metrics of the daemon itself: its loops, leadership, policy files and history."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import Metrics, counter, gauge


class Process(Metrics):
    loop_restarts = counter(
        "overspill_loop_restarts",
        "Loops that failed and restarted.",
        ["loop"],
    )
    loop_lag = gauge(
        "overspill_event_loop_lag_seconds",
        "How late the event loop runs its timers.",
    )
    keys = gauge(
        "overspill_reconcile_queue_keys",
        "Workloads waiting to be reconciled.",
    )
    leader = gauge(
        "overspill_leader",
        "1 while this process holds the Lease.",
    )
    shadow_mode = gauge(
        "overspill_shadow_mode",
        "1 in shadow mode, in which no process holds the Lease.",
    )
    policy_reload = gauge(
        "overspill_policy_last_reload_success",
        "1 when the policies on disk are the ones in force.",
    )
    policy_reloaded_at = gauge(
        "overspill_policy_last_reload_timestamp_seconds",
        "When the policies in force were loaded.",
    )
    history_dropped = counter(
        "overspill_history_dropped",
        "History records dropped because the database was too slow.",
    )
    events_dropped = counter(
        "overspill_events_dropped",
        "Kubernetes Events not written because too many were waiting.",
    )
