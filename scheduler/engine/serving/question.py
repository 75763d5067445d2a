"""How many replicas on which offer: the question, and what any answer to it must hold. Offers in the order of pools.

Two times count. `near`: what is asked for now on a quick offer is ready by then, so it need not be asked for earlier;
of slow offers only what is ready already counts, for when the rest comes is not known. `far`: what is asked for now on
the slowest offer is ready by then; quick offers may be filled until then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from scheduler.engine.serving.capacity import Rated, carried
from scheduler.model.ids import PoolRef
from scheduler.model.serving_policy import ServingSLO

STAY_SECONDS: Final = 1800.0
"""How long a division is expected to last: what a change costs must be earned within it."""
ROUNDING: Final = 1e-9
Counts = Mapping[PoolRef, int]


@dataclass(frozen=True)
class Question:
    """Hashable, so that an answer can be remembered: most looks ask what the one before asked."""

    rated: tuple[Rated, ...]
    slo: ServingSLO
    asked: tuple[tuple[PoolRef, int], ...]
    """Replicas asked for now, of all revisions, by pool."""
    ready: tuple[tuple[PoolRef, int], ...]
    """Of these, those that are ready."""
    near_per_second: float
    far_per_second: float
    near_seconds: float
    least_replicas: int

    @cached_property
    def have(self) -> dict[PoolRef, int]:
        """`asked`."""
        return dict(self.asked)

    @cached_property
    def there(self) -> dict[PoolRef, int]:
        """`ready`."""
        return dict(self.ready)

    @cached_property
    def fixed(self) -> dict[PoolRef, int]:
        """Offers of which not enough is known (a price, a speed): what runs there stays, nothing is added."""
        return {
            one.offer.pool: self.have.get(one.offer.pool, 0)
            for one in self.rated
            if one.offer.open and (one.offer.usd_per_replica_hour is None or one.offer.speed is None)
        }

    def most(self, one: Rated) -> int:
        """Most replicas there."""
        offer = one.offer
        if offer.pool in self.fixed:
            return self.fixed[offer.pool]
        return max(0, offer.most_replicas) if offer.open and one.usable else 0

    def quick(self, one: Rated) -> bool:
        """Whether what is asked for now is ready at `near`."""
        lead = one.offer.provisioning_seconds
        return lead is not None and lead + one.offer.load_seconds <= self.near_seconds + ROUNDING

    def usd_per_hour(self, one: Rated) -> float:
        """Of one replica, what reclaims waste included. An unknown price is only asked for where nothing is added."""
        price = one.offer.usd_per_replica_hour
        wasted = one.offer.reclaims_per_hour * one.offer.lead_seconds / 3600.0 if one.offer.reclaimable else 0.0
        return (0.0 if price is None else float(price)) * (1.0 + wasted)

    def start_usd(self, one: Rated) -> float:
        """Of one more replica: its time until it is of use."""
        wait = one.offer.load_seconds + self.slo.warm_up_seconds
        return self.usd_per_hour(one) * wait / 3600.0

    def cost(self, counts: Counts) -> float:
        """USD over STAY_SECONDS, changes included."""
        return sum(
            self.usd_per_hour(one) * STAY_SECONDS / 3600.0 * count
            + self.start_usd(one) * max(0, count - self.have.get(one.offer.pool, 0))
            for one, count in self._with(counts)
        )

    def weight(self, one: Rated) -> float:
        """Of a replica in the shares that are limited: requests per second at most."""
        return one.most_per_second or 1.0

    @cached_property
    def _quick_pools(self) -> dict[PoolRef, int]:
        """Most replicas of each offer that is quick."""
        return {one.offer.pool: self.most(one) for one in self.rated if self.quick(one)}

    def near_counts(self, counts: Counts) -> dict[PoolRef, int]:
        """What of it is ready at `near`: of slow offers only what is ready already."""
        there, quick = self.there, self._quick_pools
        return {pool: count if pool in quick else min(count, there.get(pool, 0)) for pool, count in counts.items()}

    def far_counts(self, counts: Counts) -> dict[PoolRef, int]:
        """What could be ready at `far`: quick offers may be filled in the meantime."""
        found = dict(counts)
        for pool, most in self._quick_pools.items():
            if most > found.get(pool, 0):
                found[pool] = most
        top = self.slo.scaling.max_replicas
        return dict(counts) if top is not None and sum(found.values()) > top else found

    def lacks(self, counts: Counts) -> tuple[float, float]:
        """Requests per second that it falls short of at `near` and at `far`; (0, 0): it suffices."""
        near = self.near_per_second - carried(self.rated, self.near_counts(counts))
        far = self.far_per_second - carried(self.rated, self.far_counts(counts))
        return near if near > ROUNDING else 0.0, far if far > ROUNDING else 0.0

    def keeps_limits(self, counts: Counts) -> bool:
        """Whether no hard limit is broken: room, shares, most replicas."""
        if any(count < 0 or count > self.most(one) for one, count in self._with(counts)):
            return False
        if self.slo.scaling.max_replicas is not None and sum(counts.values()) > self.slo.scaling.max_replicas:
            return False
        whole = sum(self.weight(one) * count for one, count in self._with(counts))
        return all(part <= share * whole + ROUNDING for share, part in self._shares(counts))

    def domains_short(self, counts: Counts) -> int:
        """How many failure domains with enough replicas are missing."""
        rule = self.slo.domains
        if rule.min_replicas <= 0 or self.least_replicas <= 0:
            return 0
        held: dict[str, int] = {}
        for one, count in self._with(counts):
            held[one.offer.domain(rule.key)] = held.get(one.offer.domain(rule.key), 0) + count
        return max(0, rule.domains - sum(1 for count in held.values() if count >= rule.min_replicas))

    def suffices(self, counts: Counts) -> bool:
        """Whether everything asked for is there: demand, domains, least replicas."""
        enough = sum(counts.values()) >= self.least_replicas
        return enough and not any(self.lacks(counts)) and self.domains_short(counts) == 0

    def _shares(self, counts: Counts) -> Iterator[tuple[float, float]]:
        """(share allowed, weight there) of everything that is limited."""
        parts: dict[str, float] = {}
        spot = 0.0
        for one, count in self._with(counts):
            weight = self.weight(one) * count
            parts[one.offer.provider] = parts.get(one.offer.provider, 0.0) + weight
            spot += weight if one.offer.reclaimable else 0.0
        yield self.slo.max_reclaimable_share, spot
        for _, part in sorted(parts.items()):
            yield self.slo.max_provider_share, part

    def _with(self, counts: Counts) -> Iterator[tuple[Rated, int]]:
        for one in self.rated:
            if count := counts.get(one.offer.pool, 0):
                yield one, count
