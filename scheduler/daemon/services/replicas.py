"""What the replicas of services tell of themselves (vLLM, Triton, KServe, Knative, plain HTTP servers): by pod, and
added up by revision, cluster and pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from clusters.kubernetes.codec import PodFacts
from scheduler.daemon.services.growth import Counters, Growth
from scheduler.daemon.state.member_mirror import CopyEntry
from scheduler.daemon.state.mirror import Mirror
from scheduler.model.ids import ClusterId, Instant, PoolId, PoolRef, Uid
from scheduler.model.metrics import OK, Reading
from scheduler.model.money import Usd
from scheduler.model.serving import RevisionMetrics

REQUESTS: Final = "serving_requests_count"
LATENCY_SUM: Final = "serving_latency_sum_seconds"
FIRST_SUM: Final = "serving_first_token_sum_seconds"
ERRORS: Final = "serving_errors_count"
COUNTERS: Final = (REQUESTS, LATENCY_SUM, FIRST_SUM, ERRORS)
P95: Final = "serving_latency_p95_seconds"
FIRST_P95: Final = "serving_first_token_p95_seconds"
WAITING: Final = "serving_queue_depth_count"
GAUGES: Final = (P95, FIRST_P95, WAITING)
_MOST_COUNT: Final = 10**15
"""Beyond which a number of requests is told as that."""


class Place(NamedTuple):
    pool: PoolId | None
    revision: str


class Places(Protocol):
    """Who knows what a pod or a copy of a service is of."""

    def of_pod(self, cluster: ClusterId, pod: PodFacts) -> Place | None:
        """None: not known, or no longer of any revision."""
        ...

    def of_copy(self, entry: CopyEntry) -> str:
        """Its revision; "": not known."""
        ...


@dataclass(slots=True)
class Replica:
    """One pod, and what it told in this round, by Overspill's names of metrics."""

    cluster: ClusterId
    pod: PodFacts
    place: Place | None
    grown: dict[str, Growth] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    waiting_at: Instant | None = None
    """When its queue was seen; None: it was not."""


Readings = Mapping[tuple[ClusterId, str], Reading]


def replicas_of(
    mirror: Mirror, readings: Readings, counters: Counters, places: Places
) -> dict[Uid, dict[tuple[ClusterId, str], Replica]]:
    """By service, then by cluster and pod ("namespace/name"): those that told anything, each metric once."""
    found: dict[Uid, dict[tuple[ClusterId, str], Replica]] = {}
    for (cluster, metric), reading in sorted(readings.items()):
        member = mirror.members.get(cluster)
        if reading.state != OK or member is None or metric not in (*COUNTERS, *GAUGES):
            continue
        for sample in reading.samples:
            labels = dict(sample.labels)
            key = f"{labels.get('namespace', '')}/{labels.get('pod', '')}"
            pod = member.pods.get(key)
            if pod is None or pod.origin_uid is None:
                continue
            mine = found.setdefault(pod.origin_uid, {})
            replica = mine.get((cluster, key))
            if replica is None:
                replica = mine[cluster, key] = Replica(cluster, pod, places.of_pod(cluster, pod))
            if metric in COUNTERS:
                growth = counters.grown((cluster, pod.uid, metric), sample.value, sample.at, pod.created_at)
                if growth is not None:
                    replica.grown[metric] = growth
            else:
                # Of several models in one pod the slowest counts; what waits is added up.
                old = replica.gauges.get(metric)
                both = sum if metric == WAITING else max
                replica.gauges[metric] = sample.value if old is None else both((old, sample.value))
                if metric == WAITING:
                    replica.waiting_at = max(replica.waiting_at or sample.at, sample.at)
    return found


PriceOf = Callable[[PoolRef, PodFacts], Usd | None]


def metrics_of(replicas: Iterable[Replica], price_of: PriceOf) -> tuple[RevisionMetrics, ...]:
    """Of the last interval, by cluster, pool and revision: of replicas that were told of at its beginning, too."""
    groups: dict[tuple[ClusterId, PoolId | None, str], list[Replica]] = {}
    for one in replicas:
        requests = one.grown.get(REQUESTS)
        if one.place is not None and one.place.revision and requests is not None and not requests.since_birth:
            groups.setdefault((one.cluster, one.place.pool, one.place.revision), []).append(one)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] or "", item[0][2]))
    return tuple(_together(*key, members, price_of) for key, members in ordered)


def _together(
    cluster: ClusterId, pool: PoolId | None, revision: str, members: list[Replica], price_of: PriceOf
) -> RevisionMetrics:
    requests = [one.grown[REQUESTS] for one in members]
    count = sum(each.amount for each in requests)
    seconds = max(each.seconds for each in requests)
    usd = None if pool is None else _usd(PoolRef(cluster, pool), members, price_of)
    return RevisionMetrics(
        cluster=cluster,
        revision=revision,
        at=max(each.at for each in requests),
        interval_seconds=seconds,
        pool=pool,
        requests=round(max(-_MOST_COUNT, min(_MOST_COUNT, count))),
        mean_latency_seconds=_mean(members, LATENCY_SUM, count),
        mean_first_token_seconds=_mean(members, FIRST_SUM, count),
        p95_latency_seconds=_weighted(members, P95),
        p95_first_token_seconds=_weighted(members, FIRST_P95),
        errors=_errors(members),
        replicas=len(members),
        usd_per_request=None if usd is None or count <= 0 else float(usd) * seconds / 3600.0 / count,
    )


def _mean(members: list[Replica], metric: str, count: float) -> float | None:
    grown = [one.grown.get(metric) for one in members]
    if count <= 0 or any(each is None or each.since_birth for each in grown):
        return None
    return sum(each.amount for each in grown if each is not None) / count


def _weighted(members: list[Replica], metric: str) -> float | None:
    """Of the replicas' own values, each as often as it has requests; the plain mean where none has any."""
    known = [(one.gauges[metric], max(0.0, one.grown[REQUESTS].amount)) for one in members if metric in one.gauges]
    if not known:
        return None
    total = sum(weight for _, weight in known)
    if total <= 0 or not math.isfinite(total):
        return sum(value for value, _ in known) / len(known)
    return sum(value * weight for value, weight in known) / total


def _errors(members: list[Replica]) -> int | None:
    """None: nobody counts them (some servers tell of errors only once there was one)."""
    told = [one.grown[ERRORS].amount for one in members if ERRORS in one.grown]
    return round(max(-_MOST_COUNT, min(_MOST_COUNT, sum(told)))) if told else None


def _usd(pool: PoolRef, members: list[Replica], price_of: PriceOf) -> Usd | None:
    """An hour of all of them; None: a price is not known."""
    total = Usd(0)
    for one in members:
        price = price_of(pool, one.pod)
        if price is None:
            return None
        total += price
    return total


def newest(replicas: Iterable[Replica]) -> Instant | None:
    return max((one.grown[REQUESTS].at for one in replicas if REQUESTS in one.grown), default=None)
