"""Intervals that hold as often as they say, by group and under drift.

Adaptive conformal inference: the nominal miss rate moves with each outcome. Source: I. Gibbs and E. Candès, "Adaptive
conformal inference under distribution shift", NeurIPS 2021, eq. 2, on quantiles of the predictive distribution.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

_STEP: Final = 0.01
_WINDOW: Final = 100
_DRIFT_MISSES: Final = 0.22
"""Of the last 100 outcomes at a wanted 10 %: four standard deviations (3 points each) above it."""
_WIDER: Final = 1.5
_LEAST, _MOST = 0.001, 0.4


@dataclass(slots=True)
class _Coverage:
    miss_rate: float
    outcomes: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))


class Calibration:
    """Which quantiles to give so that the interval covers 1 - `miss_rate` in each group."""

    def __init__(self, miss_rate: float = 0.1) -> None:
        if not 0.0 < miss_rate < 1.0:
            raise ValueError(f"miss_rate must lie between 0 and 1, not {miss_rate}")
        self._wanted = miss_rate
        self._groups: dict[str, _Coverage] = {}

    def levels(self, group: str) -> tuple[float, float]:
        """Lower and upper quantile level; wider while the group drifts."""
        rate = self._of(group).miss_rate
        if self.drifting(group):
            rate /= _WIDER
        return rate / 2, 1.0 - rate / 2

    def learn(self, group: str, covered: bool) -> None:
        """One outcome: whether the interval that was given held it. Moves the rate by at most 1 point."""
        one = self._groups.setdefault(group, _Coverage(self._wanted))
        one.outcomes.append(covered)
        moved = one.miss_rate + _STEP * (self._wanted - (not covered))
        one.miss_rate = min(_MOST, max(_LEAST, moved))

    def drifting(self, group: str) -> bool:
        """Whether far more of the last 100 outcomes were missed than wanted."""
        seen = self._of(group).outcomes
        return len(seen) == _WINDOW and seen.count(False) / _WINDOW > _DRIFT_MISSES

    def state(self) -> dict[str, dict[str, object]]:
        """What was learned, as JSON values."""
        return {
            name: {"miss_rate": one.miss_rate, "outcomes": [int(held) for held in one.outcomes]}
            for name, one in sorted(self._groups.items())
        }

    def _of(self, group: str) -> _Coverage:
        return self._groups.get(group) or _Coverage(self._wanted)
