"""Who waits, for how long, and why."""

from __future__ import annotations

from deploy.grafana.boards import Board
from deploy.grafana.panels import COUNT, RATIO, SECONDS, View
from deploy.grafana.promql import events

_BUCKETS = 'sum by (le) (rate(overspill_queue_wait_seconds_bucket{queue=~"$queue"}[$__rate_interval]))'
_THIS = "${__data.fields.workload:percentencode}"
_LINES = (
    View(
        "lines",
        "Waiting",
        "Workloads of each queue without a place.",
        COUNT,
        {"{{queue}}": 'max by (queue) (overspill_workloads{queue=~"$queue", phase="pending"})'},
    ),
    View(
        "lines",
        "Running",
        "Workloads of each queue that have started.",
        COUNT,
        {"{{queue}}": 'max by (queue) (overspill_workloads{queue=~"$queue", phase="started"})'},
    ),
    View(
        "lines",
        "Share",
        "Weighted dominant share of each queue: the one with the least goes first.",
        RATIO,
        {"{{queue}}": 'max by (queue) (overspill_queue_dominant_share_ratio{queue=~"$queue"})'},
    ),
)
_WAITS = (
    View(
        "lines",
        "Wait of those that started",
        "From being queued to the copy's start, in the federation's time.",
        SECONDS,
        {
            "median": f"histogram_quantile(0.5, {_BUCKETS})",
            "90 %": f"histogram_quantile(0.9, {_BUCKETS})",
            "99 %": f"histogram_quantile(0.99, {_BUCKETS})",
        },
    ),
    View(
        "lines",
        "Longest wait so far",
        "How long the one that has waited longest has waited.",
        SECONDS,
        {"{{queue}}": 'max by (queue) (overspill_queue_oldest_wait_seconds{queue=~"$queue"})'},
    ),
    View(
        "lines",
        "Longest wait expected",
        "How long the last of each queue is expected to wait still for owned capacity.",
        SECONDS,
        {"{{queue}}": 'max by (queue) (overspill_queue_wait_forecast_seconds{queue=~"$queue"})'},
        none="nobody waits",
    ),
    View(
        "lines",
        "Late starts",
        "Part of those that started in the last hour after more than two hours: the alerts on "
        "waiting burn at this rate.",
        RATIO,
        {"{{queue}}": 'max by (queue) (overspill:queue_wait_late:ratio1h{queue=~"$queue"})'},
        steps=((None, "green"), (0.2, "orange"), (0.5, "red")),
        most=1.0,
        none="nothing started",
    ),
    View(
        "bars",
        "Waits and deadlines in danger",
        "How often forecasts said so within the time shown: a longer wait than the objective, or an end after the "
        "deadline.",
        COUNT,
        {"{{kind}}": events("kind", 'overspill_findings_total{kind=~"workload.(queue-wait|deadline)"}')},
        none="none",
    ),
    View(
        "bars",
        "Stopped for others",
        "Runs that were reclaimed or preempted within the time shown.",
        COUNT,
        {"{{queue}} {{reason}}": events("queue, reason", 'overspill_preemptions_total{queue=~"$queue"}')},
        none="none",
    ),
)
_WHY = (
    View(
        "bars",
        "Why they wait",
        "Decisions to keep workloads queued within the time shown, by reason.",
        COUNT,
        {"{{reason}}": events("reason", 'overspill_decisions_total{outcome="held"}')},
        width=8,
    ),
    View(
        "table",
        "Who waits longest",
        "The twenty of those told by name that have waited longest. A row leads to the workload.",
        SECONDS,
        {"waiting": 'topk(20, max by (queue, workload) (overspill_workload_waiting_seconds{queue=~"$queue"}))'},
        width=16,
        none="nobody waits",
        link=("This workload", f"/d/overspill-workload?var-workload={_THIS}&${{__url_time_range}}"),
    ),
)
BOARD = Board(
    "overspill-queue-wait",
    "Overspill: queue and wait",
    "Who waits, for how long, for how long still, and why.",
    {"Queues": _LINES, "Waiting": _WAITS, "Reasons": _WHY},
)
