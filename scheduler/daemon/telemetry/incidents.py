"""Metrics of what is found wrong, and what is done about it."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import SECONDS, Metrics, counter, gauge, histogram


class Incidents(Metrics):
    remedies = counter(
        "overspill_remedies",
        "Actions about incidents that came to their end, by what came of them: done, failed, overtaken.",
        ["policy", "action", "outcome"],
    )
    remedies_refused = gauge(
        "overspill_remedies_refused",
        "Actions that are not taken now, by why not (DryRun: they would be).",
        ["policy", "action", "reason"],
    )
    remedy_cases = gauge(
        "overspill_remedy_cases",
        "Incidents that something is done about, by how far it is.",
        ["phase"],
    )
    breakers_open = gauge(
        "overspill_remedy_breakers_open",
        "Families of signals on which a policy does not act.",
        ["policy", "cause"],
    )
    paused = gauge(
        "overspill_paused",
        "1 while what is switched off is off.",
        ["what"],
    )
    watch_rounds = counter(
        "overspill_fleet_watch_rounds",
        "Rounds in which the rules looked at the fleet.",
        ["result"],
    )
    findings = counter(
        "overspill_findings",
        "What the rules found, by kind (of the rules' own words).",
        ["kind"],
    )
    watch_seconds = histogram(
        "overspill_fleet_watch_round_duration_seconds",
        "Time of one such round.",
        buckets=SECONDS,
    )
    detector_series = gauge(
        "overspill_detector_series",
        "Series that the learning detectors look at.",
    )
    detector_metrics = gauge(
        "overspill_detector_metrics",
        "Metrics by how far the detectors are with them: learning, speaking, left out (no room).",
        ["state"],
    )
    incidents = counter(
        "overspill_incidents",
        "Incidents that ended, by the first word of their kind and what came of them: remedied, passed, merged.",
        ["kind", "outcome"],
    )
    gpu_seconds_saved = counter(
        "overspill_incident_saved_gpu_seconds",
        "GPU-seconds that remedies saved, by how long such trouble used to go unnoticed.",
    )
    usd_saved = counter(
        "overspill_incident_saved_usd",
        "The same at the nodes' prices, where known.",
    )
    gpu_seconds_at_risk = gauge(
        "overspill_incident_at_risk_gpu_seconds",
        "GPU-seconds of work since the last checkpoints that is lost if what open incidents hit stops now.",
    )
    usd_at_risk = gauge(
        "overspill_incident_at_risk_usd",
        "The same at the nodes' prices, where known.",
    )
    incidents_open = gauge(
        "overspill_incidents_open",
        "Incidents that are open.",
        ["severity", "cluster"],
    )
    webhooks = counter(
        "overspill_webhooks",
        "Alertmanager webhooks by what came of them.",
        ["result"],
    )
