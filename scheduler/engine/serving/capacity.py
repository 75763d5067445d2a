"""What replicas carry within the SLO, by offer and by cluster: exactly, and as a line that the programme can use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from scheduler.engine.serving.waiting import carried_load
from scheduler.model.ids import ClusterId, PoolRef
from scheduler.model.serving import ClientDemand, ClientLatency, Service, ServingOffer
from scheduler.model.serving_policy import ServingSLO

UNPROMISED: Final = 0.8
"""Of what saturates a replica, where the SLO promises no latency."""
_LEAST_DERATING: Final = 0.5
_WAY_GRID: Final = 1.1


@dataclass(frozen=True, slots=True)
class Rated:
    """An offer with what one replica of it does within the SLO, the way from the clients subtracted."""

    offer: ServingOffer
    latency_seconds: float | None
    """From the clients, weighted by where the requests come from; None: not measured, taken for 0."""
    most_per_second: float
    """0: not known, or too far away."""
    budget_services: float = 0.0
    """How long a request may wait, in mean service times. Of pooled ones."""
    within_slo: float = 0.0
    """Requests per second of one replica. Of pooled ones: alone, without others to share its queue."""
    factor: float = 1.0
    """Below 1 where it was measured to be slower than it should be."""
    pooled: bool = False
    variation: float = 1.0
    """Of the service time, as the offer's speed says."""

    @property
    def usable(self) -> bool:
        return self.most_per_second > 0


def client_latency(
    cluster: ClusterId, demand: Sequence[ClientDemand], latency: Sequence[ClientLatency]
) -> float | None:
    """Round trip from the clients, weighted by where requests come from; the plain mean while nobody asks anything.

    None: no way from any region that asks was measured.
    """
    known = {one.region: one.seconds for one in latency if one.cluster == cluster and one.seconds is not None}
    rates = {one.region: max(0.0, one.requests_per_second or 0.0) for one in demand if one.region in known}
    if sum(rates.values()) <= 0:
        rates = dict.fromkeys(known, 1.0)
    total = sum(rates.values())
    return sum(rate * known[region] for region, rate in sorted(rates.items())) / total if total > 0 else None


def rate(offer: ServingOffer, slo: ServingSLO, service: Service) -> Rated:
    """What a replica of the offer does within the SLO."""
    way = _rounded_up(client_latency(offer.pool.cluster, service.demand, service.latency))
    speed = offer.speed
    if speed is None or not (math.isfinite(speed.most_per_second) and speed.most_per_second > 0):
        return Rated(offer, way, 0.0)
    spare = [
        limit - (way or 0.0) - idle
        for limit, idle in (
            (slo.p95_latency_seconds, speed.idle_p95_seconds),
            (slo.p95_first_token_seconds, speed.idle_first_token_seconds or 0.0),
        )
        if limit is not None
    ]
    if spare and min(spare) <= 0:
        return Rated(offer, way, 0.0)
    most, factor = speed.most_per_second, _derating(offer, slo, service)
    if speed.pooled:
        budget = min(spare) * most if spare else math.inf
        if math.isinf(budget):
            return Rated(offer, way, most, math.inf, UNPROMISED * most, factor, pooled=True)
        alone = most * factor * carried_load(1, budget, speed.variation)
        return Rated(offer, way, most, budget, alone, factor, True, speed.variation)
    return Rated(offer, way, most, within_slo=factor * _alone(offer, slo, way or 0.0), factor=factor)


def _rounded_up(way: float | None) -> float | None:
    """By a tenth at most: where requests come from wobbles, and each time the whole question would be a new one."""
    return way if way is None or way <= 0 else _WAY_GRID ** math.ceil(math.log(way, _WAY_GRID) - 1e-9)


def _alone(offer: ServingOffer, slo: ServingSLO, way: float) -> float:
    """Of a replica whose latency grows as idle / (1 - load / most)."""
    speed = offer.speed
    assert speed is not None
    found = [UNPROMISED] if slo.p95_latency_seconds is None and slo.p95_first_token_seconds is None else []
    for limit, idle in (
        (slo.p95_latency_seconds, speed.idle_p95_seconds),
        (slo.p95_first_token_seconds, speed.idle_first_token_seconds),
    ):
        if limit is not None:
            found.append(UNPROMISED if idle is None else max(0.0, 1.0 - idle / (limit - way)))
    return speed.most_per_second * min(found)


def _derating(offer: ServingOffer, slo: ServingSLO, service: Service) -> float:
    """A cluster that was slower than the SLO carries less than is thought, or has a backlog. In twentieths."""
    worst = 1.0
    for one in service.metrics:
        if one.cluster != offer.pool.cluster or one.revision != service.revision:
            continue
        for limit, seen in (
            (slo.p95_latency_seconds, one.p95_latency_seconds),
            (slo.p95_first_token_seconds, one.p95_first_token_seconds),
        ):
            if limit is not None and seen is not None and math.isfinite(seen) and seen > limit:
                worst = min(worst, limit / seen)
    return max(_LEAST_DERATING, math.floor(worst * 20) / 20)


def carried(rated: Sequence[Rated], counts: Mapping[PoolRef, int]) -> float:
    """Requests per second that these replicas carry within the SLO, each cluster with its own queue."""
    return sum(by_cluster(rated, counts).values())


def by_cluster(rated: Sequence[Rated], counts: Mapping[PoolRef, int]) -> dict[ClusterId, float]:
    """The same for each cluster that has replicas."""
    queues: dict[ClusterId, list[tuple[Rated, int]]] = {}
    found: dict[ClusterId, float] = {}
    for one in rated:
        count = counts.get(one.offer.pool, 0)
        if count <= 0 or one.most_per_second <= 0:
            continue
        cluster = one.offer.pool.cluster
        if one.pooled:
            queues.setdefault(cluster, []).append((one, count))
        else:
            found[cluster] = found.get(cluster, 0.0) + count * one.within_slo
    for cluster, members in queues.items():
        found[cluster] = found.get(cluster, 0.0) + _shared_queue(members)
    return found


def _shared_queue(members: Sequence[tuple[Rated, int]]) -> float:
    """Replicas of different speeds count as that many of their mean speed, with the smallest budget among them."""
    servers, work, seconds, factor, variation = 0, 0.0, math.inf, 1.0, 0.0
    for one, count in members:
        servers += count
        work += one.most_per_second * count
        seconds = min(seconds, one.budget_services / one.most_per_second)
        factor = min(factor, one.factor)
        variation = max(variation, one.variation)
    if math.isinf(seconds):
        return UNPROMISED * work * factor
    speed = work / servers
    return speed * carried_load(servers, seconds * speed, variation) * factor


def slope(one: Rated, servers: int) -> tuple[float, float]:
    """(per replica, taken off once) of the line that supports the shared queue's capacity at `servers` replicas.

    The capacity is convex in the number of replicas (more of them share better), so the line never promises too much.
    """
    if not one.pooled or math.isinf(one.budget_services):
        return one.within_slo * (one.factor if one.pooled else 1.0), 0.0
    at = max(1, servers)
    here, more = (carried_load(count, one.budget_services, one.variation) for count in (at, at + 1))
    rise = max(0.0, min(1.0, more - here))
    unit = one.most_per_second * one.factor
    return unit * rise, unit * max(0.0, rise * at - here)
