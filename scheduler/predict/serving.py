"""Serving: latency quantiles by load, what a replica can carry within an SLO, and p95 an hour ahead.

The forecast is damped: the newest hour's level shrunk towards the long-run one, each as a median of log latency, since
single intervals of a few requests jump. Capacity follows M/M/1-like growth: latency = idle / (1 - load / most)
(Kleinrock, "Queueing Systems" vol. 1, 3.2), fitted by least squares of 1/latency, which is then linear in load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

_LEAST_POINTS: Final = 5


@dataclass(frozen=True, slots=True)
class Replica:
    """Latency of one replica: `idle_ms` without load, without bound at `most_per_second`."""

    idle_ms: float
    most_per_second: float

    def latency_ms(self, per_second: float) -> float:
        """Infinite at or beyond what it can carry."""
        if per_second >= self.most_per_second:
            return math.inf
        return self.idle_ms / (1.0 - max(0.0, per_second) / self.most_per_second)

    def capacity_per_second(self, slo_ms: float) -> float:
        """Requests per second within `slo_ms`; 0 where even an idle replica is slower."""
        if slo_ms <= self.idle_ms:
            return 0.0
        return self.most_per_second * (1.0 - self.idle_ms / slo_ms)


def fit_replica(
    per_second: Sequence[float],
    latency_ms: Sequence[float],
    belief: tuple[float, float] | None = None,
    belief_points: int = 0,
) -> Replica | None:
    """From loads and the latency quantile wanted; None for too few points, or latency that does not rise with load.

    `belief`: (idle ms, most per second) that count as so many points, half of them without load, half at the most.
    """
    pairs = [
        (x, 1.0 / y)
        for x, y in zip(per_second, latency_ms, strict=True)
        if math.isfinite(x) and math.isfinite(y) and x >= 0 and y > 0
    ]
    weights = [1.0] * len(pairs)
    if belief is not None:
        idle, most = belief
        pairs += [(0.0, 1.0 / idle), (most, 0.0)]
        weights += [belief_points / 2.0] * 2
    if sum(weights) < _LEAST_POINTS or len({x for x, _ in pairs}) < 2:
        return None
    x, y = np.array([x for x, _ in pairs]), np.array([y for _, y in pairs])
    slope, intercept = np.polyfit(x, y, 1, w=np.sqrt(weights))
    if slope >= 0 or intercept <= 0:
        return None
    return Replica(float(1.0 / intercept), float(-intercept / slope))


def forecast_p95_ms(past_ms: Sequence[float], *, recent: int = 12, weight: float = 0.5) -> float | None:
    """p95 an hour on from equally long past intervals, oldest first; None without a usable one.

    `recent` intervals count `weight`, all of them the rest. Values that cannot be are passed over.
    """
    usable = [math.log(value) for value in past_ms if math.isfinite(value) and value > 0]
    if not usable:
        return None
    return math.exp(weight * float(np.median(usable[-recent:])) + (1.0 - weight) * float(np.median(usable)))
