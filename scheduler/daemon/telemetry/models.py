"""Metrics of how well predictions do."""

from __future__ import annotations

from scheduler.daemon.telemetry.declared import Metrics, counter, gauge


class Models(Metrics):
    model_error = gauge(
        "overspill_model_error_ratio",
        "Mean absolute log error of predicted run times over the last seven days, by queue, gpu or source.",
        ["by", "name"],
    )
    model_coverage = gauge(
        "overspill_model_coverage_ratio",
        "Share of runs that ended within their 90 % interval over the last seven days.",
        ["by", "name"],
    )
    model_drifting = gauge(
        "overspill_model_drifting",
        "1 while far more runs miss their interval than wanted.",
        ["queue"],
    )
    said_error = gauge(
        "overspill_model_said_error_ratio",
        "Mean absolute log error of the last 50 queue waits (by cluster) and costs (by pool) that were said.",
        ["what", "name"],
    )
    said_coverage = gauge(
        "overspill_model_said_coverage_ratio",
        "Share of the last 20 queue waits and costs that stayed under their 90 % quantile.",
        ["what", "name"],
    )
    said_drifting = gauge(
        "overspill_model_said_drifting",
        "1 while far fewer queue waits or costs stay under their 90 % quantile than wanted.",
        ["what", "name"],
    )
    model_refits = counter(
        "overspill_model_refits",
        "Refits by what came of them: adopted or rejected.",
        ["model", "result"],
    )
    model_refit_seconds = gauge(
        "overspill_model_refit_seconds",
        "Time of the last refit.",
    )
    model_observations = counter(
        "overspill_model_observations",
        "What was learned from, by kind.",
        ["kind"],
    )
    model_dropped = counter(
        "overspill_model_observations_dropped",
        "Observations dropped because too many were waiting.",
    )
