"""How well what is said comes true."""

from __future__ import annotations

from deploy.grafana.boards import Board
from deploy.grafana.panels import COUNT, GOOD_IF_NONE, PER_MINUTE, RATIO, SECONDS, WARN_IF_ANY, View
from deploy.grafana.promql import events, total

_DRIFT = {"0": "well", "1": "drifting"}
_RUNS = (
    *(
        View(
            "lines",
            f"Error of run times by {words}",
            "Mean absolute log error over the last seven days: 0.7 is a factor of two.",
            COUNT,
            {"{{name}}": f'max by (name) (overspill_model_error_ratio{{by="{by}"}})'},
            none="no runs yet",
        )
        for by, words in (("queue", "queue"), ("gpu", "GPU"), ("source", "source"))
    ),
    View(
        "lines",
        "Coverage by queue",
        "Part of runs within their 90 % interval over the last seven days: 0.9 is wanted.",
        RATIO,
        {"{{name}}": 'max by (name) (overspill_model_coverage_ratio{by="queue"})'},
        most=1.0,
        steps=((None, "red"), (0.8, "orange"), (0.85, "green")),
        none="no runs yet",
        width=12,
    ),
    View(
        "states",
        "Drift of run times",
        "Queues of which far more runs miss their interval than wanted.",
        COUNT,
        {"{{queue}}": "max by (queue) (overspill_model_drifting)"},
        names=_DRIFT,
        steps=GOOD_IF_NONE,
        none="no runs yet",
        width=12,
    ),
)
_SAID = (
    View(
        "lines",
        "Error of waits, costs, starts and latency",
        "Mean absolute log error of the last fifty that were said.",
        COUNT,
        {"{{what}} {{name}}": "max by (what, name) (overspill_model_said_error_ratio)"},
        none="nothing said yet",
    ),
    View(
        "lines",
        "Coverage of the same",
        "Part of the last twenty that stayed under their 90 % quantile.",
        RATIO,
        {"{{what}} {{name}}": "max by (what, name) (overspill_model_said_coverage_ratio)"},
        most=1.0,
        steps=((None, "red"), (0.75, "orange"), (0.85, "green")),
        none="nothing said yet",
    ),
    View(
        "states",
        "Drift of the same",
        "What is said too low too often.",
        COUNT,
        {"{{what}} {{name}}": "max by (what, name) (overspill_model_said_drifting)"},
        names=_DRIFT,
        steps=GOOD_IF_NONE,
        none="nothing said yet",
    ),
)
_LEARNING = (
    View(
        "lines",
        "Learned from",
        "Observations by kind.",
        PER_MINUTE,
        {"{{kind}}": "sum by (kind) (rate(overspill_model_observations_total[$__rate_interval])) * 60"},
        width=12,
    ),
    View(
        "number",
        "Refits",
        "By what came of them, within the time shown.",
        COUNT,
        {"{{model}} {{result}}": events("model, result", "overspill_model_refits_total")},
        width=4,
        none="none",
    ),
    View(
        "number",
        "Time of the last refit",
        "In a thread of its own.",
        SECONDS,
        {"refit": "max(overspill_model_refit_seconds)"},
        width=4,
    ),
    View(
        "number",
        "Observations dropped",
        "Because too many were waiting, within the time shown.",
        COUNT,
        {"dropped": total("overspill_model_observations_dropped_total")},
        width=4,
        steps=WARN_IF_ANY,
    ),
)
BOARD = Board(
    "overspill-predictions",
    "Overspill: predictions and calibration",
    "Predicted against actual: run times, waits, costs and starts, and whether intervals hold.",
    {"Run times": _RUNS, "What else is said": _SAID, "Learning": _LEARNING},
    since="now-7d",
)
