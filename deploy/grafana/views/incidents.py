"""What is wrong, what is done about it, and what came of that."""

from __future__ import annotations

from deploy.grafana.boards import Board
from deploy.grafana.panels import COUNT, GOOD_IF_NONE, GPU_SECONDS, PER_MINUTE, SECONDS, USD, WARN_IF_ANY, View
from deploy.grafana.promql import events, named, total

_NOW = (
    View(
        "areas",
        "Open incidents",
        "By severity.",
        COUNT,
        {
            "{{severity}}": "sum by (severity) (max by (severity, cluster) (overspill_incidents_open"
            '{cluster=~"$cluster"}))'
        },
        none="none",
    ),
    View(
        "bars",
        "Open incidents by member",
        "By where they are.",
        COUNT,
        {
            "{{cluster}}": named(
                "cluster",
                "of no member",
                'sum by (cluster) (max by (severity, cluster) (overspill_incidents_open{cluster=~"$cluster"}))',
            )
        },
        none="none",
    ),
    View(
        "lines",
        "Findings",
        "What rules and detectors found, by kind.",
        PER_MINUTE,
        {"{{kind}}": "sum by (kind) (rate(overspill_findings_total[$__rate_interval])) * 60"},
        none="none",
    ),
    View(
        "number",
        "Work at risk",
        "GPU-seconds since the last checkpoints of what open incidents hit.",
        GPU_SECONDS,
        {"at risk": "max(overspill_incident_at_risk_gpu_seconds)"},
        width=6,
        height=4,
    ),
    View(
        "number",
        "Money at risk",
        "The same at the nodes' prices, where known.",
        USD,
        {"at risk": "max(overspill_incident_at_risk_usd)"},
        width=6,
        height=4,
    ),
    View(
        "number",
        "Work saved",
        "By remedies, within the time shown.",
        GPU_SECONDS,
        {"saved": total("overspill_incident_saved_gpu_seconds_total")},
        width=6,
        height=4,
    ),
    View(
        "number",
        "Money saved",
        "The same at the nodes' prices, where known.",
        USD,
        {"saved": total("overspill_incident_saved_usd_total")},
        width=6,
        height=4,
    ),
)
_REMEDIES = (
    View(
        "bars",
        "Actions",
        "That came to their end within the time shown, by what came of them.",
        COUNT,
        {"{{action}} {{outcome}}": events("action, outcome", "overspill_remedies_total")},
        none="none",
    ),
    View(
        "areas",
        "Cases",
        "Incidents that something is done about, by how far it is.",
        COUNT,
        {"{{phase}}": "max by (phase) (overspill_remedy_cases)"},
        none="none",
    ),
    View(
        "bars",
        "Not done now",
        "Actions that guards hold back, by why (DryRun: they would be taken).",
        COUNT,
        {"{{reason}} {{policy}} {{action}}": "max by (policy, action, reason) (overspill_remedies_refused) > 0"},
        none="none",
    ),
    View(
        "states",
        "Breakers",
        "Families of signals on which a policy does not act at present.",
        COUNT,
        {"{{policy}} {{cause}}": "max by (policy, cause) (overspill_remedy_breakers_open)"},
        names={"0": "closed", "1": "open"},
        steps=GOOD_IF_NONE,
        none="none has opened",
    ),
    View(
        "states",
        "Switches",
        "What people have switched off.",
        COUNT,
        {"{{what}}": "max by (what) (overspill_paused)"},
        names={"0": "on", "1": "paused"},
        steps=WARN_IF_ANY,
    ),
    View(
        "bars",
        "Incidents that ended",
        "Within the time shown, by kind and what came of them.",
        COUNT,
        {"{{kind}} {{outcome}}": events("kind, outcome", "overspill_incidents_total")},
        none="none",
    ),
)
_WATCH = (
    View(
        "lines",
        "Rounds",
        "In which the fleet was looked at, by result.",
        PER_MINUTE,
        {"{{result}}": "sum by (result) (rate(overspill_fleet_watch_rounds_total[$__rate_interval])) * 60"},
    ),
    View(
        "lines",
        "Time of a round",
        "Of the watch, and of collecting all members' metrics.",
        SECONDS,
        {
            "watch, 99 %": "histogram_quantile(0.99, sum by (le) "
            "(rate(overspill_fleet_watch_round_duration_seconds_bucket[$__rate_interval])))",
            "metrics, 99 %": "histogram_quantile(0.99, sum by (le) "
            "(rate(overspill_metrics_round_duration_seconds_bucket[$__rate_interval])))",
        },
    ),
    View(
        "areas",
        "Detectors",
        "Metrics by how far the learning detectors are with them.",
        COUNT,
        {"{{state}}": "max by (state) (overspill_detector_metrics)"},
        width=8,
    ),
    View(
        "number",
        "Series",
        "That the learning detectors look at.",
        COUNT,
        {"series": "max(overspill_detector_series)"},
        width=12,
        height=4,
    ),
    View(
        "number",
        "Webhooks",
        "Of Alertmanager within the time shown, by what came of them.",
        COUNT,
        {"{{result}}": events("result", "overspill_webhooks_total")},
        width=12,
        height=4,
        none="none",
    ),
)
BOARD = Board(
    "overspill-incidents",
    "Overspill: incidents and remediation",
    "What is wrong, what is done about it within which bounds, and what came of it.",
    {"Incidents": _NOW, "Remediation": _REMEDIES, "Watching": _WATCH},
    since="now-24h",
)
