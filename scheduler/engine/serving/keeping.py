"""How many replicas are kept, and where, while nothing can be decided anew: as many as were asked for last, those of
closed offers replaced on open ones; never fewer than the least, so that a service that nobody measures starts at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scheduler.engine.serving.capacity import Rated
from scheduler.model.ids import PoolRef
from scheduler.model.serving import Service
from scheduler.model.serving_policy import ServingSLO


def keep(slo: ServingSLO, service: Service, rated: Sequence[Rated], have: Mapping[PoolRef, int]) -> dict[PoolRef, int]:
    """Replicas to head for by pool. Where there is no room for one that is to be replaced, it stays where it is."""
    known = {one.offer.pool: one for one in rated}
    number = sum(have.values()) if service.asked_before is None else service.asked_before
    least, most = slo.scaling.min_replicas, slo.scaling.max_replicas
    number = max(number, 0 if service.scales_to_zero and service.asked_before == 0 else least)
    number = number if most is None else min(number, max(most, least))
    kept = {pool: count for pool, count in have.items() if count > 0 and _stays(known.get(pool))}
    while sum(kept.values()) > number:
        dearest = max(kept, key=lambda pool: (_usd(known[pool]) if pool in known else math.inf, pool))
        kept[dearest] -= 1
        if not kept[dearest]:
            del kept[dearest]
    for _ in range(number - sum(kept.values())):
        best = _next(slo, rated, kept)
        if best is None:
            break
        kept[best.offer.pool] = kept.get(best.offer.pool, 0) + 1
    missing = number - sum(kept.values())
    for pool in sorted(have):
        back = min(missing, have[pool] if pool not in kept else 0)
        if back > 0 and (pool not in known or known[pool].offer.reachable):
            kept[pool] = back
            missing -= back
    return kept


def _stays(one: Rated | None) -> bool:
    """What nobody offers any more is unknown, not closed."""
    return one is None or one.offer.open


def _usd(one: Rated) -> float:
    price = one.offer.usd_per_replica_hour
    return math.inf if price is None else float(price)


def _next(slo: ServingSLO, rated: Sequence[Rated], kept: Mapping[PoolRef, int]) -> Rated | None:
    """Where one more goes: to a failure domain that lacks it, else the cheapest, as far as the shares allow."""
    whole = sum(kept.values()) + 1

    def allowed(one: Rated) -> bool:
        offer = one.offer
        room = offer.open and offer.usd_per_replica_hour is not None
        if not room or kept.get(offer.pool, 0) >= offer.most_replicas:
            return False
        alike = [each for each in rated if each.offer.provider == offer.provider]
        spot = [each for each in rated if each.offer.reclaimable]
        # Of providers rounded up: the first has to be somewhere; of spot rounded down.
        return _count(alike, kept) < math.ceil(slo.max_provider_share * whole) and (
            not offer.reclaimable or _count(spot, kept) < math.floor(slo.max_reclaimable_share * whole)
        )

    def rank(one: Rated) -> tuple[bool, float, float, PoolRef]:
        rule = slo.domains
        domain = one.offer.domain(rule.key)
        held: dict[str, int] = {}
        for each in rated:
            name = each.offer.domain(rule.key)
            held[name] = held.get(name, 0) + kept.get(each.offer.pool, 0)
        full = sum(count >= rule.min_replicas for count in held.values())
        lacks = rule.min_replicas > 0 and full < rule.domains and held[domain] < rule.min_replicas
        return not lacks, _usd(one), one.offer.lead_seconds, one.offer.pool

    return min(filter(allowed, rated), key=rank, default=None)


def _count(alike: Sequence[Rated], kept: Mapping[PoolRef, int]) -> int:
    return sum(kept.get(each.offer.pool, 0) for each in alike)
