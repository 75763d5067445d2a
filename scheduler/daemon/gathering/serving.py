"""Latency and load of workloads that serve, from what was gathered of their pods."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from scheduler.daemon.state.mirror import Mirror
from scheduler.model.ids import Uid
from scheduler.model.metrics import OK, Reading

P95: Final = "serving_latency_p95_seconds"
REQUESTS: Final = "serving_requests_per_second"


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one workload now, over all its pods that told."""

    p95_seconds: float
    """Of the pods' p95 each as often as it has requests; the plain mean where these are not told."""
    requests_per_second: float | None
    replicas: int


def serving_of(mirror: Mirror, latest: Iterable[Reading]) -> dict[Uid, Latency]:
    """By workload; samples that name no pod of ours are nobody's."""
    found: dict[str, dict[tuple[Uid, str], float]] = {P95: {}, REQUESTS: {}}
    for reading in latest:
        member = mirror.members.get(reading.cluster)
        if reading.metric not in found or reading.state != OK or member is None:
            continue
        for sample in reading.samples:
            labels = dict(sample.labels)
            pod = member.pods.get(f"{labels.get('namespace', '')}/{labels.get('pod', '')}")
            if pod is not None and pod.origin_uid is not None:
                key, known = (pod.origin_uid, f"{reading.cluster}/{pod.uid}"), found[reading.metric]
                # A pod may serve several models: its requests are added up, the slowest of them counts.
                old = known.get(key, 0.0)
                known[key] = old + sample.value if reading.metric == REQUESTS else max(old, sample.value)
    return {uid: _of(uid, found[P95], found[REQUESTS]) for uid in sorted({uid for uid, _ in found[P95]})}


def _of(uid: Uid, p95: dict[tuple[Uid, str], float], requests: dict[tuple[Uid, str], float]) -> Latency:
    mine = {key: value for key, value in p95.items() if key[0] == uid}
    loads = {key: requests.get(key, 0.0) for key in mine}
    total = sum(loads.values())
    weights = loads if total > 0 else dict.fromkeys(mine, 1.0)
    mean = sum(weights[key] * value for key, value in mine.items()) / sum(weights.values())
    return Latency(mean, total if any(key in requests for key in mine) else None, len(mine))
