"""Services over clusters: what is promised and kept, what is asked and ready, where replicas are and requests go."""

from __future__ import annotations

from typing import Final

from deploy.grafana.boards import Board
from deploy.grafana.panels import COUNT, GOOD_IF_NONE, RATIO, SECONDS, USD_PER_HOUR, View
from deploy.grafana.promql import events, total

_OF: Final = 'service=~"$service"'
_SLO: Final = f"max by (service) (overspill_service_slo_ratio{{{_OF}}})"


def _rate(what: str) -> str:
    return f'max by (service) (overspill_service_requests_per_second{{{_OF}, what="{what}"}})'


def _replicas(state: str) -> str:
    return f'max by (service, cluster, revision) (overspill_service_replicas{{{_OF}, state="{state}"}})'


def _revisions(metric: str) -> str:
    return f"max by (service, cluster, revision) (overspill_service_revision_{metric}{{{_OF}}})"


_PROMISE = (
    View(
        "lines",
        "p95 against the SLO",
        "The longest p95 that was measured on a cluster, the way from the clients included, by what the SLO allows: "
        "above 100 % it is out.",
        RATIO,
        {"{{service}}": _SLO},
        steps=((None, "green"), (1.0, "red")),
        none="nothing is measured",
    ),
    View(
        "lines",
        "Minutes out of the SLO",
        "Of the hour before each moment, in the federation's time as Prometheus saw it.",
        COUNT,
        {"{{service}}": f"sum_over_time(({_SLO} > bool 1)[1h:1m])"},
        steps=((None, "green"), (1.0, "orange"), (6.0, "red")),
        none="nothing is measured",
    ),
    View(
        "states",
        "Conditions",
        "What is said of each service; the field Serving alone means that all is well.",
        COUNT,
        {"{{service}} {{reason}}": f"max by (service, reason) (overspill_service_condition{{{_OF}}})"},
        names={"1": "holds"},
        none="no service",
    ),
)
_REQUESTS = (
    View(
        "lines",
        "Asked and ready",
        "Requests a second: as measured, as there is to be capacity for, and as ready replicas carry within the SLO.",
        COUNT,
        {
            "{{service}} asked": _rate("asked"),
            "{{service}} planned": _rate("planned"),
            "{{service}} ready": _rate("ready"),
        },
        none="nothing is measured",
    ),
    View(
        "lines",
        "Load of what is ready",
        "Requests asked by what ready replicas carry within the SLO: above 100 % capacity is missing.",
        RATIO,
        {"{{service}}": f"{_rate('asked')} / ({_rate('ready')} > 0)"},
        steps=((None, "green"), (0.9, "orange"), (1.0, "red")),
        none="nothing is measured",
    ),
    View(
        "areas",
        "Traffic weights",
        "Part of a service's requests that is to go to a revision on a cluster.",
        RATIO,
        {
            "{{service}} {{cluster}} {{revision}}": "max by (service, cluster, revision) "
            f"(overspill_service_weight_ratio{{{_OF}}})"
        },
        none="nothing is ready",
    ),
)
_REPLICAS = (
    View(
        "areas",
        "Ready replicas",
        "By cluster and revision.",
        COUNT,
        {"{{service}} {{cluster}} {{revision}}": _replicas("ready")},
        none="no service",
    ),
    View(
        "areas",
        "Wanted and not ready",
        "Replicas that are asked for and not ready yet, by cluster and revision.",
        COUNT,
        {"{{service}} {{cluster}} {{revision}}": f"clamp_min({_replicas('wanted')} - {_replicas('ready')}, 0)"},
        none="no service",
    ),
    View(
        "areas",
        "Cost",
        "What the replicas that are asked for cost; none where a price is not known.",
        USD_PER_HOUR,
        {"{{service}}": f"max by (service) (overspill_service_usd_per_hour{{{_OF}}})"},
        none="no price is known",
    ),
)
_REVISIONS = (
    View(
        "areas",
        "Requests by revision",
        "Requests a second that a revision answered on a cluster.",
        COUNT,
        {"{{service}} {{cluster}} {{revision}}": _revisions("requests_per_second")},
        none="nothing is measured",
    ),
    View(
        "lines",
        "p95 by revision",
        "Time within which 95 % of a revision's requests were answered on a cluster.",
        SECONDS,
        {"{{service}} {{cluster}} {{revision}}": _revisions("latency_seconds")},
        none="nothing is measured",
    ),
    View(
        "lines",
        "Errors by revision",
        "Part of a revision's requests on a cluster that failed.",
        RATIO,
        {"{{service}} {{cluster}} {{revision}}": _revisions("error_ratio")},
        none="nothing is measured",
    ),
)
_CHANGES = (
    View(
        "number",
        "Changes",
        "Divisions within the time shown that asked for other replicas than the one before, of all services.",
        COUNT,
        {"changes": total("overspill_service_changes_total")},
    ),
    View(
        "number",
        "Rollbacks",
        "New revisions that were taken back within the time shown, of all services.",
        COUNT,
        {"rollbacks": total("overspill_service_rollbacks_total")},
        steps=GOOD_IF_NONE,
    ),
    View(
        "bars",
        "Steering",
        "Looks at what steers requests, of all services: set, checked (nothing was to be done), or failed.",
        COUNT,
        {"{{result}}": events("result", "overspill_service_traffic_total")},
        none="nothing is steered",
    ),
)

BOARD = Board(
    "overspill-services",
    "Overspill: Services",
    "Services over clusters: whether SLOs are kept, where replicas are, where requests go, what is rolled out.",
    {
        "Promise": _PROMISE,
        "Requests": _REQUESTS,
        "Replicas": _REPLICAS,
        "Revisions": _REVISIONS,
        "Changes": _CHANGES,
    },
)
