"""Whether all is well: where the alerts about Overspill itself lead."""

from __future__ import annotations

from deploy.grafana.boards import Board
from deploy.grafana.panels import COUNT, GOOD_IF_NONE, PER_MINUTE, RATIO, SECONDS, SINCE, USD, WARN_IF_ANY, View
from deploy.grafana.promql import total

_NOW = (
    View(
        "number",
        "Running",
        "Workloads that have started and not ended.",
        COUNT,
        {"running": 'sum(max by (queue, phase) (overspill_workloads{queue=~"$queue", phase="started"}))'},
        width=4,
        height=4,
        none="0",
    ),
    View(
        "number",
        "Waiting",
        "Workloads without a place.",
        COUNT,
        {"waiting": 'sum(max by (queue, phase) (overspill_workloads{queue=~"$queue", phase="pending"}))'},
        width=4,
        height=4,
        none="0",
    ),
    View(
        "number",
        "GPUs in use",
        "Part of the GPUs of all nodes that pods use.",
        RATIO,
        {
            "used": 'sum(max by (cluster, pool) (overspill_pool_gpus{cluster=~"$cluster", state="used"})) / '
            'sum(max by (cluster, pool) (overspill_pool_gpus{cluster=~"$cluster", state="all"}))'
        },
        width=4,
        height=4,
        most=1.0,
    ),
    View(
        "number",
        "Spend so far",
        "Metered on bought nodes since the history began.",
        USD,
        {
            "spend": 'sum(max by (queue, cluster, capacity_type) (overspill_spend_usd{queue=~"$queue", '
            'cluster=~"$cluster"}))'
        },
        width=4,
        height=4,
        none="0",
    ),
    View(
        "number",
        "Open incidents",
        "Incidents that are not resolved.",
        COUNT,
        {"open": "sum(max by (severity, cluster) (overspill_incidents_open)) or vector(0)"},
        width=4,
        height=4,
        steps=WARN_IF_ANY,
    ),
    View(
        "number",
        "Leaders",
        "Processes that hold the Lease: one, or none where all run in shadow mode.",
        COUNT,
        {"leaders": "sum(overspill_leader)"},
        width=4,
        height=4,
        steps=((None, "orange"), (1, "green"), (2, "red")),
    ),
)
_WORK = (
    View(
        "areas",
        "Workloads by phase",
        "All workloads on the hub that have a queue, but for those that ended.",
        COUNT,
        {
            "{{phase}}": 'sum by (phase) (max by (queue, phase) (overspill_workloads{queue=~"$queue", '
            'phase!="finished"}))'
        },
    ),
    View(
        "lines",
        "GPUs in use by member",
        "Part of each member's GPUs that pods use.",
        RATIO,
        {
            "{{cluster}}": 'sum by (cluster) (max by (cluster, pool) (overspill_pool_gpus{cluster=~"$cluster", '
            'state="used"})) / (sum by (cluster) (max by (cluster, pool) '
            '(overspill_pool_gpus{cluster=~"$cluster", state="all"})) > 0)'
        },
        most=1.0,
    ),
    View(
        "lines",
        "Decisions",
        "How often workloads were placed, burst, moved, released or told why they wait.",
        PER_MINUTE,
        {"{{outcome}}": "sum by (outcome) (rate(overspill_decisions_total[$__rate_interval])) * 60"},
    ),
)
_MEMBERS = (
    View(
        "states",
        "Members that answer",
        "Whether each member's API answers.",
        COUNT,
        {"{{cluster}}": 'min by (cluster) (overspill_member_reachable{cluster=~"$cluster"})'},
        names={"0": "silent", "1": "answers"},
        steps=((None, "red"), (1, "green")),
    ),
    View(
        "lines",
        "Age of what is known",
        "How long one of a member's watches has been down; 0 while all are up.",
        SECONDS,
        {"{{cluster}}": 'max by (cluster) (overspill_member_mirror_age_seconds{cluster=~"$cluster"})'},
        steps=((None, "green"), (300, "red")),
    ),
    View(
        "lines",
        "Writes",
        "Kubernetes writes of all members and the hub, by what came of them.",
        PER_MINUTE,
        {"{{result}}": "sum by (result) (rate(overspill_writes_total[$__rate_interval])) * 60"},
    ),
)
_PROCESS = (
    View(
        "lines",
        "Time of a cycle",
        "How long one decision on everything takes.",
        SECONDS,
        {
            "median": "histogram_quantile(0.5, sum by (le) "
            "(rate(overspill_cycle_duration_seconds_bucket[$__rate_interval])))",
            "99 %": "histogram_quantile(0.99, sum by (le) "
            "(rate(overspill_cycle_duration_seconds_bucket[$__rate_interval])))",
        },
    ),
    View(
        "lines",
        "Loop lag",
        "How late timers run, by process.",
        SECONDS,
        {"{{instance}}": "max by (instance) (overspill_event_loop_lag_seconds)"},
        steps=((None, "green"), (1, "red")),
    ),
    View(
        "lines",
        "Waiting to be reconciled",
        "Workloads that a write may be due for.",
        COUNT,
        {"workloads": "max(overspill_reconcile_queue_keys)"},
    ),
    View(
        "number",
        "Policies in force",
        "1 while the policies on disk are the ones in force.",
        COUNT,
        {"in force": "min(overspill_policy_last_reload_success)"},
        width=4,
        height=4,
        names={"0": "no", "1": "yes"},
        steps=((None, "red"), (1, "green")),
    ),
    View(
        "number",
        "Policies since",
        "When the policies in force were loaded.",
        SINCE,
        {"loaded": "max(overspill_policy_last_reload_timestamp_seconds) * 1000"},
        width=4,
        height=4,
        least=None,
    ),
    View(
        "number",
        "Loops that failed",
        "Restarts of loops within the time shown.",
        COUNT,
        {"restarts": f"{total('overspill_loop_restarts_total')} or vector(0)"},
        width=4,
        height=4,
        steps=WARN_IF_ANY,
    ),
    View(
        "number",
        "Watches that failed",
        "Lists and watches that failed within the time shown.",
        COUNT,
        {"failed": total('overspill_watch_failures_total{cluster=~"$cluster"}') + " or vector(0)"},
        width=4,
        height=4,
        steps=WARN_IF_ANY,
    ),
    View(
        "number",
        "Objects not understood",
        "API objects that could not be read within the time shown.",
        COUNT,
        {"malformed": total('overspill_malformed_objects_total{cluster=~"$cluster"}') + " or vector(0)"},
        width=4,
        height=4,
        steps=WARN_IF_ANY,
    ),
    View(
        "number",
        "Records dropped",
        "Of history and Events, because too many were waiting.",
        COUNT,
        {"dropped": f"{total('overspill_history_dropped_total')} + {total('overspill_events_dropped_total')}"},
        width=4,
        height=4,
        steps=GOOD_IF_NONE,
    ),
    View(
        "table",
        "Alerts",
        "Alerts of Overspill that fire or are about to.",
        COUNT,
        {"now": 'max by (alertname, alertstate, severity, cluster) (ALERTS{alertname=~"Overspill.+"})'},
        width=24,
        height=6,
        least=None,
    ),
)
BOARD = Board(
    "overspill-fleet-overview",
    "Overspill: fleet overview",
    "The federation at a glance, and the health of Overspill itself.",
    {"Now": _NOW, "Work": _WORK, "Members": _MEMBERS, "Overspill itself": _PROCESS},
)
