"""The life of one workload."""

from __future__ import annotations

from deploy.grafana.boards import Board
from deploy.grafana.panels import COUNT, RATIO, SECONDS, USD, View

_IT = 'queue=~"$queue", workload="$workload"'
_NOW = (
    View(
        "word",
        "Phase",
        "Where it is in its life now.",
        COUNT,
        {"{{phase}}": f"max by (phase) (overspill_workload_phase{{{_IT}}})"},
        width=8,
        height=4,
        none="not told by name",
    ),
    View(
        "number",
        "GPUs",
        "That all its pods ask for.",
        COUNT,
        {"GPUs": f"max(overspill_workload_gpus{{{_IT}}})"},
        width=8,
        height=4,
        none="not told by name",
    ),
    View(
        "number",
        "Spend",
        "On bought nodes that are still there.",
        USD,
        {"spend": f"max(overspill_workload_spend_usd{{{_IT}}})"},
        width=8,
        height=4,
        none="none on bought nodes",
    ),
)
_LIFE = (
    View(
        "states",
        "Phases",
        "Pending, reserved (nodes are being bought), started, paused, releasing, finished.",
        COUNT,
        {"{{phase}}": f"max by (phase) (overspill_workload_phase{{{_IT}}})"},
        width=24,
        names={"1": "in it"},
        steps=((None, "green"),),
        none="not told by name",
    ),
    View(
        "states",
        "Places",
        "Where it is placed.",
        COUNT,
        {
            "{{cluster}}/{{pool}} ({{capacity_type}})": "max by (cluster, pool, capacity_type) "
            f"(overspill_workload_placed{{{_IT}}})"
        },
        width=24,
        height=6,
        names={"1": "there"},
        steps=((None, "blue"),),
        none="not placed",
    ),
    View(
        "lines",
        "Waiting",
        "How long it has waited since it was last queued.",
        SECONDS,
        {"waited": f"max(overspill_workload_waiting_seconds{{{_IT}}})"},
        none="it does not wait",
    ),
    View(
        "lines",
        "Wait expected still",
        "For owned capacity, on the member that is soonest.",
        SECONDS,
        {"quantile {{quantile}}": f"max by (quantile) (overspill_workload_wait_forecast_seconds{{{_IT}}})"},
        none="it does not wait",
    ),
    View(
        "lines",
        "Progress",
        "Part of its work that is done, as its own metric tells.",
        RATIO,
        {"done": f"max(overspill_workload_progress_ratio{{{_IT}}})"},
        most=1.0,
        none="it tells none",
    ),
)
BOARD = Board(
    "overspill-workload",
    "Overspill: one workload",
    "The life of one workload: phases, places, waits, progress and spend. Why it is where it is: overspill explain.",
    {"Now": _NOW, "Life": _LIFE},
)
