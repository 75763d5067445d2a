"""How often nodes of a spot pool are reclaimed: a Poisson rate with a Gamma prior, from all pools to zone and hour.

Source: Gelman et al., "Bayesian Data Analysis" (3rd ed.), section 2.6: Gamma(a, b) with n reclaims in t hours becomes
Gamma(a + n, b + t). What is learned at one level is the prior of the next, worth `PRIOR_HOURS` node hours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Final

from scheduler.predict.bounded import Recent

PRIOR_RECLAIMS_PER_HOUR: Final = 0.03
"""Of one node, before anything is observed; as in `first`."""
PRIOR_HOURS: Final = 24.0
_MOST_HOURS: Final = 100_000.0
"""Told at once: more is a clock that jumped, not nodes."""


@dataclass(frozen=True, slots=True)
class Hazard:
    """Gamma posterior of reclaims per node hour."""

    shape: float
    hours: float

    @property
    def mean_per_hour(self) -> float:
        return self.shape / self.hours

    def survives(self, run_seconds: float, nodes: int = 1) -> float:
        """Chance that no node of `nodes` is reclaimed within `run_seconds`, the rate's uncertainty included."""
        if run_seconds <= 0 or nodes <= 0:
            return 1.0
        return float((self.hours / (self.hours + nodes * run_seconds / 3600.0)) ** self.shape)


@dataclass(frozen=True, slots=True)
class DailyRates:
    """Reclaims an hour of one node, for each hour of the day (UTC): one for all, or 24."""

    per_hour: tuple[float, ...]
    _since_midnight: tuple[float, ...] = field(init=False, repr=False, compare=False)
    """Expected until each full hour."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_since_midnight", (0.0, *accumulate(self.per_hour)))

    def mean(self, from_hour: float, run_seconds: float) -> float:
        """Over a run that begins at `from_hour` of the day; at its beginning for one without a length."""
        if len(self.per_hour) == 1:
            return self.per_hour[0]
        hours = max(0.0, run_seconds) / 3600.0
        first = from_hour % 24.0
        if int(first) == int(first + hours):
            return self.per_hour[int(first)]
        return (self._until(first + hours) - self._until(first)) / hours

    def _until(self, hour: float) -> float:
        """Expected from midnight on."""
        days, rest = divmod(hour, 24.0)
        whole = int(rest)
        part = self._since_midnight[whole] + (rest - whole) * self.per_hour[whole % 24]
        return days * self._since_midnight[24] + part


MOST_PLACES: Final = 20_000
"""Pools, their zones and their hours, together; the one that nothing was learned of for longest is forgotten."""


class ReclaimHazards:
    """Counts by pool, zone and hour of day."""

    def __init__(self) -> None:
        self._seen: Recent[tuple[str, ...], tuple[float, float]] = Recent(MOST_PLACES)

    def learn(self, pool: str, zone: str, hour: int, reclaims: int, node_hours: float) -> None:
        """Exposure of `node_hours` with `reclaims`; counts that cannot be teach nothing."""
        if reclaims < 0 or not 0 < node_hours <= _MOST_HOURS:
            return
        for key in _levels(pool, zone, hour):
            n, t = self._seen.get(key) or (0.0, 0.0)
            self._seen.put(key, (n + reclaims, t + node_hours))

    def hazard(self, pool: str, zone: str, hour: int) -> Hazard:
        """For one node; an unseen pool has what all pools have taught."""
        return self._hazard(_levels(pool, zone, hour))

    def of_pool(self, pool: str) -> Hazard:
        """For one node at any hour, in whichever zone."""
        return self._hazard(_levels(pool, "", 0)[:2])

    def daily(self) -> Mapping[tuple[str, str], DailyRates]:
        """By (pool, zone), of all that were used. Zone "" beside them: of a node of the pool in whichever zone, as its
        node hours were spread over zones."""
        hours: dict[tuple[str, str], dict[int, float]] = {}
        spent: dict[str, dict[str, float]] = {}
        for key, (_, there) in self._seen.items():
            if len(key) == 2:
                spent.setdefault(key[0], {})[key[1]] = there
            elif len(key) == 3:
                hour = int(key[2])
                hours.setdefault((key[0], key[1]), {})[hour] = self.hazard(key[0], key[1], hour).mean_per_hour
        found: dict[tuple[str, str], DailyRates] = {}
        for pool, zones in sorted(spent.items()):
            for zone in sorted(zones):
                usual = self._hazard(_levels(pool, zone, 0)[:3]).mean_per_hour
                known = hours.get((pool, zone), {})
                found[pool, zone] = DailyRates(tuple(known.get(hour, usual) for hour in range(24)))
            found[pool, ""] = _mixed([(there, found[pool, zone]) for zone, there in sorted(zones.items())])
        return found

    def of_any(self) -> Hazard:
        """For one node of a pool that was never used."""
        return self._hazard(_levels("", "", 0)[:1])

    def pools(self) -> tuple[str, ...]:
        """Of which anything was learned."""
        return tuple(sorted(key[0] for key, _ in self._seen.items() if len(key) == 1))

    def state(self) -> list[Any]:
        """As JSON values."""
        return [[list(key), n, t] for key, (n, t) in self._seen.items()]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> ReclaimHazards:
        """Raises: ValueError, TypeError for what `state` did not write."""
        found = cls()
        for key, n, t in state:
            if not (math.isfinite(n) and math.isfinite(t) and n >= 0 and t > 0 and len(key) <= 4):
                raise ValueError("counts that cannot be")
            found._seen.put(tuple(map(str, key)), (float(n), float(t)))
        return found

    def _hazard(self, levels: Sequence[tuple[str, ...]]) -> Hazard:
        rate = PRIOR_RECLAIMS_PER_HOUR
        found = Hazard(rate * PRIOR_HOURS, PRIOR_HOURS)
        for key in levels:
            n, t = self._seen.get(key) or (0.0, 0.0)
            found = Hazard(rate * PRIOR_HOURS + n, PRIOR_HOURS + t)
            rate = found.mean_per_hour
        return found


def _mixed(parts: Sequence[tuple[float, DailyRates]]) -> DailyRates:
    """Of (weight, rates of 24 hours) each."""
    if len(parts) == 1:
        return parts[0][1]
    whole = sum(weight for weight, _ in parts)
    return DailyRates(tuple(sum(weight * one.per_hour[hour] for weight, one in parts) / whole for hour in range(24)))


def _levels(pool: str, zone: str, hour: int) -> tuple[tuple[str, ...], ...]:
    return (), (pool,), (pool, zone), (pool, zone, str(hour % 24))
