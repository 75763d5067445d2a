"""Shapes of answers about what is gathered: clusters, prices, readings."""

from __future__ import annotations

from typing import Any

from scheduler.daemon.http.answers.base import Answer, At, Exact
from scheduler.daemon.http.answers.fleet import Pool


class Cluster(Answer):
    id: str
    provider: str
    region: str
    labels: dict[str, str]
    login: str
    available: bool
    synced: bool
    unreachable_since: At | None
    error: str | None
    round_trip_seconds: float | None
    round_trip_at: At | None
    version: str | None
    status: str | None
    pools_at: At | None
    pools_error: str | None
    clusters_at: At | None
    clusters_error: str | None
    warning_count: int
    nodes: int | None
    nodes_ready: int | None
    gpus: int | None
    gpus_used: int | None


class Clusters(Answer):
    now: At
    clusters: list[Cluster]


class CloudCluster(Answer):
    name: str
    region: str
    version: str | None
    endpoint: str | None
    status: str
    health: list[str]


class CloudPool(Answer):
    instance_type: str | None
    capacity_type: str | None
    gpu_model: str | None
    gpus: int | None
    min_nodes: int | None
    max_nodes: int | None
    desired_nodes: int | None
    labels: dict[str, str]
    taints: list[str]
    zones: list[str]
    version: str | None
    health: list[str]
    autoscaled: bool | None
    busy: bool | None


class PoolDetail(Pool):
    provider: CloudPool | None


class ClusterDetail(Cluster):
    now: At
    cloud: CloudCluster | None
    other_clusters: list[str]
    pools: list[PoolDetail]
    warnings: list[str]


class PriceAnswer(Answer):
    source: str
    state: str
    usd_per_hour: Exact | None
    says: str | None
    as_of: At | None
    text: str


class Price(Answer):
    cluster: str
    pool: str
    provider: str
    region: str
    zones: list[str]
    instance_type: str
    capacity_type: str
    gpu_model: str | None
    gpus: int
    usd_per_hour: Exact | None
    usd_per_gpu_hour: Exact | None
    source: str | None
    as_of: At | None
    winner: str | None
    why_unknown: str | None
    answers: list[PriceAnswer]


class PriceSource(Answer):
    name: str
    read_at: At | None
    took_seconds: float | None
    quotes: int
    readings: int
    failures: int
    failing_since: At | None
    error: str | None
    problems: list[str]


class EgressTier(Answer):
    up_to_gib: float | None
    usd_per_gib: Exact


class Egress(Answer):
    cluster: str
    region: str
    destination: str
    tiers: list[EgressTier]
    source: str
    as_of: Any


class Prices(Answer):
    now: At
    prices: list[Price]
    sources: list[PriceSource]
    egress: list[Egress]


class Sample(Answer):
    labels: dict[str, str]
    value: float | None
    at: At


class Reading(Answer):
    cluster: str
    metric: str
    unit: str
    state: str
    source: str
    asked_at: At
    took_seconds: float
    newest_at: At | None
    error: str | None
    sample_count: int
    samples: list[Sample]


class Readings(Answer):
    now: At
    readings: list[Reading]
    samples_left_out: int
