"""How often nodes of a spot pool are reclaimed: a Poisson rate with a Gamma prior, from all pools to zone and hour.

Source: Gelman et al., "Bayesian Data Analysis" (3rd ed.), section 2.6: Gamma(a, b) with n reclaims in t hours becomes
Gamma(a + n, b + t). What is learned at one level is the prior of the next, worth `PRIOR_HOURS` node hours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

PRIOR_RECLAIMS_PER_HOUR: Final = 0.03
"""Of one node, before anything is observed; as in `first`."""
PRIOR_HOURS: Final = 24.0


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


class ReclaimHazards:
    """Counts by pool, zone and hour of day."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, ...], tuple[float, float]] = {}

    def learn(self, pool: str, zone: str, hour: int, reclaims: int, node_hours: float) -> None:
        """Exposure of `node_hours` with `reclaims`; counts that cannot be teach nothing."""
        if reclaims < 0 or not math.isfinite(node_hours) or node_hours <= 0:
            return
        for key in _levels(pool, zone, hour):
            n, t = self._seen.get(key, (0.0, 0.0))
            self._seen[key] = n + reclaims, t + node_hours

    def hazard(self, pool: str, zone: str, hour: int) -> Hazard:
        """For one node; an unseen pool has what all pools have taught."""
        rate = PRIOR_RECLAIMS_PER_HOUR
        found = Hazard(rate * PRIOR_HOURS, PRIOR_HOURS)
        for key in _levels(pool, zone, hour):
            n, t = self._seen.get(key, (0.0, 0.0))
            found = Hazard(rate * PRIOR_HOURS + n, PRIOR_HOURS + t)
            rate = found.mean_per_hour
        return found


def _levels(pool: str, zone: str, hour: int) -> tuple[tuple[str, ...], ...]:
    return (), (pool,), (pool, zone), (pool, zone, str(hour % 24))
