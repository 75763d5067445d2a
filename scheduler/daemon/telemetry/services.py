"""Metrics of services that are divided over members."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import Metrics, counter, gauge


class Services(Metrics):
    service_looks = counter(
        "overspill_service_looks",
        "Divisions of services by how they were found: milp, greedy, or kept (nothing was decided anew).",
        ["outcome"],
    )
    service_changes = counter(
        "overspill_service_changes",
        "Divisions that asked for other replicas than the one before.",
    )
    service_rollbacks = counter(
        "overspill_service_rollbacks",
        "New revisions of services that were taken back.",
    )
    service_slo = gauge(
        "overspill_service_slo_ratio",
        "Longest p95 of a service that was measured on a cluster that answers a twentieth of its requests or more, the "
        "way from the clients included, by what its SLO allows: above 1 it is out. None where nothing is measured.",
        ["service"],
    )
    service_replicas = gauge(
        "overspill_service_replicas",
        "Replicas of a service, wanted and ready.",
        ["service", "cluster", "revision", "state"],
    )
    service_weight = gauge(
        "overspill_service_weight_ratio",
        "Part of a service's requests that is to go to a revision on a cluster.",
        ["service", "cluster", "revision"],
    )
    service_rate = gauge(
        "overspill_service_requests_per_second",
        "Requests a second: asked (as measured), planned (for which there is to be capacity), carried (within the SLO, "
        "by all that is asked for), ready (by what is ready). None of what is not known.",
        ["service", "what"],
    )
    service_usd = gauge(
        "overspill_service_usd_per_hour",
        "What the replicas that are asked for cost; none where a price is not known.",
        ["service"],
    )
    service_condition = gauge(
        "overspill_service_condition",
        "1 for each condition that holds of a service.",
        ["service", "reason"],
    )
