"""Workloads as rows: what their pods and services measure, and what is forecast of them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from scheduler.aiops.findings import Subject
from scheduler.model.ids import Instant, PoolRef, whole_uid
from scheduler.model.metrics import OK, Reading
from scheduler.model.workload import Copy, Workload

REQUESTS: Final = "serving_requests_per_second"
RANK_SECONDS: Final = "workload_step_compute_seconds"
"""A rank's own computing time in a step: of its GPU, where its pod has a node to itself."""
PodKey = tuple[str, str, str]
"""Cluster, namespace, name."""


@dataclass(frozen=True, slots=True)
class PodPlace:
    workload: str
    """UID of the hub object."""
    node: str
    """"": on none."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected of one workload. None: not known, or there is none."""

    wait_seconds: float | None = None
    """From now until it starts."""
    wait_objective_seconds: float | None = None
    """From being queued."""
    queued_at: Instant | None = None
    """Set while it waits."""
    finish_at: Instant | None = None
    deadline_at: Instant | None = None
    p95_seconds: float | None = None
    """Latency of what serves, in an hour."""
    p95_objective_seconds: float | None = None
    grows: PoolRef | None = None
    """While it waits: the pool in which nodes could be bought for it soonest, which a remedy may enlarge."""
    p95_forecast_at: Instant | None = None
    """When that forecast was made."""


@dataclass(frozen=True, slots=True)
class WorkloadFacts:
    """What the daemon knows of workloads beside the snapshot and the readings."""

    pods: Mapping[PodKey, PodPlace] = field(default_factory=dict)
    rolled_out_at: Mapping[str, Instant] = field(default_factory=dict)
    forecasts: Mapping[str, Forecast] = field(default_factory=dict)


def workload_rows(
    now: Instant,
    workloads: Sequence[Workload],
    copies: Iterable[Copy],
    readings: Iterable[Reading],
    facts: WorkloadFacts,
) -> tuple[list[dict[str, float]], tuple[Subject, ...]]:
    """A row for each workload that is placed, or has a forecast, in the order of their UIDs; one for all parts of a
    service that is divided."""
    services: dict[PodKey, str] = {}
    clusters: dict[str, str] = {}
    for copy in copies:
        origin = whole_uid(copy.origin)
        services[copy.cluster, copy.namespace, copy.name] = origin
        if not copy.finished:
            clusters[origin] = copy.cluster
    measured = _measured(readings, facts.pods, services)
    rows, subjects = [], []
    for uid, workload in sorted({whole_uid(each.ref.uid): each for each in workloads}.items()):
        forecast = facts.forecasts.get(uid)
        if workload.finished or (uid not in clusters and forecast is None):
            continue
        row = measured.get(uid, {}) | _forecast(now, forecast)
        if uid in facts.rolled_out_at:
            row["workload_rolled_out_at_seconds"] = facts.rolled_out_at[uid]
        rows.append(row)
        grows = forecast.grows if forecast is not None and uid not in clusters else None
        place = Subject(cluster=clusters.get(uid, "")) if grows is None else Subject(grows.cluster, grows.pool)
        subjects.append(replace(place, workload=uid))
    return rows, tuple(subjects)


def rank_seconds(readings: Iterable[Reading], pods: Mapping[PodKey, PodPlace]) -> dict[tuple[str, str, str], float]:
    """A rank's computing time by cluster, node and workload: the slowest of its pods there."""
    found: dict[tuple[str, str, str], float] = {}
    for reading in readings:
        if reading.metric != RANK_SECONDS or reading.state != OK:
            continue
        for sample in reading.samples:
            labels = dict(sample.labels)
            place = pods.get((reading.cluster, labels.get("namespace", ""), labels.get("pod", "")))
            if place is not None and place.node:
                key = (str(reading.cluster), place.node, place.workload)
                found[key] = max(found.get(key, 0.0), sample.value)
    return found


def _forecast(now: Instant, forecast: Forecast | None) -> dict[str, float]:
    if forecast is None:
        return {}
    told = {
        "finish_forecast_seconds": forecast.finish_at,
        "deadline_seconds": forecast.deadline_at,
        "serving_latency_p95_forecast_seconds": forecast.p95_seconds,
        "serving_latency_p95_objective_seconds": forecast.p95_objective_seconds,
        "serving_latency_p95_forecast_at_seconds": forecast.p95_forecast_at,
    }
    if forecast.queued_at is not None and forecast.wait_seconds is not None:
        told["queue_wait_forecast_seconds"] = now - forecast.queued_at + forecast.wait_seconds
        told["queue_wait_objective_seconds"] = forecast.wait_objective_seconds
    return {name: value for name, value in told.items() if value is not None}


def _measured(
    readings: Iterable[Reading], pods: Mapping[PodKey, PodPlace], services: Mapping[PodKey, str]
) -> dict[str, dict[str, float]]:
    """By workload: rates and counts are summed over its pods, the rest is a mean, weighted by what each pod serves
    where that is known of all."""
    values: dict[tuple[str, str, str], dict[PodKey, float]] = defaultdict(dict)
    for reading in readings:
        if reading.state != OK or reading.metric == RANK_SECONDS:
            continue
        for sample in reading.samples:
            labels = dict(sample.labels)
            space, pod, service = (labels.get(name, "") for name in ("namespace", "pod", "service"))
            if labels.get("node") or not (pod or service):
                continue
            key = (str(reading.cluster), space, pod or service)
            place = pods.get(key)
            uid = place.workload if place is not None else services.get((key[0], space, service or pod), "")
            if uid:
                values[uid, reading.metric, reading.unit][key] = sample.value
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for (uid, metric, unit), by_pod in values.items():
        load = values.get((uid, REQUESTS, "per_second"), {})
        found[uid][metric] = _together(by_pod, load, summed=unit in ("per_second", "count"))
    return found


def _together(by_pod: Mapping[PodKey, float], load: Mapping[PodKey, float], *, summed: bool) -> float:
    if summed:
        return sum(by_pod.values())
    weight = {key: load.get(key, 0.0) for key in by_pod} if by_pod.keys() <= load.keys() else {}
    whole = sum(weight.values())
    if whole <= 0.0:
        return sum(by_pod.values()) / len(by_pod)
    return sum(value * weight[key] for key, value in by_pod.items()) / whole
