"""Metrics of services by revision and cluster, and of what steers their requests."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import Metrics, counter, gauge

_BY = ["service", "cluster", "revision"]


class Revisions(Metrics):
    revision_requests = gauge(
        "overspill_service_revision_requests_per_second",
        "Requests a second that a revision answered on a cluster, of the last interval.",
        _BY,
    )
    revision_latency = gauge(
        "overspill_service_revision_latency_seconds",
        "Time within which 95 % of a revision's requests were answered on a cluster.",
        _BY,
    )
    revision_errors = gauge(
        "overspill_service_revision_error_ratio",
        "Part of a revision's requests on a cluster that failed, of the last interval.",
        _BY,
    )
    service_traffic = counter(
        "overspill_service_traffic",
        "Looks at the objects that steer a service's requests: set, checked (nothing was to be done), or failed.",
        ["result"],
    )
