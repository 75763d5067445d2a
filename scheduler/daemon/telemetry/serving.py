"""Metrics of services that are divided over members."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import Metrics, counter, gauge

_BY = ["service", "cluster", "revision"]


class Serving(Metrics):
    serving_demand = gauge(
        "overspill_serving_demand",
        "Requests per second that are asked of a service; none while nobody tells.",
        ["service"],
    )
    serving_requests = gauge(
        "overspill_serving_requests",
        "Requests per second that a revision answered on a cluster in the last interval.",
        _BY,
    )
    serving_latency = gauge(
        "overspill_serving_latency_seconds",
        "Time within which 95 % of a revision's requests were answered on a cluster.",
        _BY,
    )
    serving_error_ratio = gauge(
        "overspill_serving_error_ratio",
        "Part of a revision's requests on a cluster that failed in the last interval.",
        _BY,
    )
    serving_weight = gauge(
        "overspill_serving_weight_ratio",
        "Part of a service's requests that a revision on a cluster is to get, as it was set last.",
        _BY,
    )
    serving_traffic = counter(
        "overspill_serving_traffic",
        "Looks at the objects that steer a service's requests: set, checked (nothing was to be done), or failed.",
        ["result"],
    )
