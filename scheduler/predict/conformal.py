"""Intervals that hold as often as they say, by group and under drift.

Each end is moved along the given distribution, in normal scores: out by a step at a miss, in by a small part of it at a
hit, so that in the long run each end is missed as often as wanted, whatever the outcomes. A group that has learned from
n outcomes stands n / (n + 30) of the way from where all stand to where it would alone. Sources: A. Angelopoulos,
E. Candès and R. Tibshirani, "Conformal PID control for time series prediction", NeurIPS 2023, eq. 5 (quantile
tracking); A. Angelopoulos, R. Barber and S. Bates, "Online conformal prediction with decaying step sizes", ICML 2024;
V. Chernozhukov, K. Wüthrich and Y. Zhu, "Distributional conformal prediction", PNAS 118 (2021) (moved along the
distribution); A. Gelman and J. Hill, "Data Analysis Using Regression and Multilevel Models", 12.2 (partial pooling).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any, Final

from scheduler.model.spread import MIDDLE, at_score
from scheduler.predict.bounded import Recent

MOST_GROUPS: Final = 1000
"""About 1 kB each; the one that has learned nothing for longest is forgotten."""
_LEAST_STEP: Final = 0.01
_FIRST_STEP: Final = 0.2
_HALF_STEP: Final = 200
"""Outcomes after which a step is half of the first. Hits move an end by a twentieth of a step only, and a queue of a
thousand runs has to get from ends that are far too wide to where they belong."""
_LEAST, _MOST = -1.64, 4.0
"""From the median (almost) outwards."""
_ALONE: Final = 30
"""Outcomes after which a group stands half-way between all groups and itself."""
_SCORES_OF_A_WIDTH: Final = 2 * 1.6449
"""Earlier versions moved the ends by multiples of the width of a 90 % interval."""
_WINDOW: Final = 100
_DRIFT_MISSES: Final = 0.22
"""Of the last 100 outcomes at a wanted 10 %: four standard deviations (3 points each) above it."""
_WIDER: Final = 0.4
"""Scores, while a group drifts."""
_UNIT: Final = "scores"


@dataclass(slots=True)
class _Ends:
    """Normal scores by which the ends are moved out."""

    low: float = 0.0
    high: float = 0.0
    count: int = 0
    missed: deque[bool] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def learn(self, below: bool, above: bool, wanted: float) -> None:
        # The first outcomes count more.
        step = max(_LEAST_STEP, _FIRST_STEP * _HALF_STEP / (_HALF_STEP + self.count + 1))
        # Beyond an end that lies at the median nearly nothing falls: the other may miss its part, too.
        low_wanted = wanted if self.high <= _LEAST else wanted / 2
        high_wanted = wanted if self.low <= _LEAST else wanted / 2
        self.low = min(_MOST, max(_LEAST, self.low + step * (below - low_wanted)))
        self.high = min(_MOST, max(_LEAST, self.high + step * (above - high_wanted)))
        self.count += 1
        self.missed.append(below or above)


class Calibration:
    """Moves the ends of given intervals so that they miss `miss_rate` of the outcomes in each group."""

    def __init__(self, miss_rate: float = 0.1) -> None:
        if not 0.0 < miss_rate < 1.0:
            raise ValueError(f"miss_rate must lie between 0 and 1, not {miss_rate}")
        self._wanted = miss_rate
        self._score = -NormalDist().inv_cdf(miss_rate / 2)
        self._all = _Ends()
        self._groups: Recent[str, _Ends] = Recent(MOST_GROUPS)

    def interval(self, group: str, logs: Sequence[float]) -> tuple[float, float]:
        """Both ends, the median between them; wider while the group drifts. `logs`: as in `scheduler.model.spread`."""
        low, high = self._moved(group)
        return (
            min(logs[MIDDLE], at_score(logs, -self._score - low)),
            max(logs[MIDDLE], at_score(logs, self._score + high)),
        )

    def _moved(self, group: str) -> tuple[float, float]:
        ends, every = self._groups.get(group), self._all
        if ends is None:
            return every.low, every.high
        own = ends.count / (ends.count + _ALONE)
        more = _WIDER if self.drifting(group) else 0.0
        low, high = (own * mine + (1.0 - own) * all_ for mine, all_ in ((ends.low, every.low), (ends.high, every.high)))
        return low + more, high + more

    def learn(self, group: str, *, below: bool = False, above: bool = False) -> None:
        """One outcome: whether it lay below or above the interval that was given. Tell a run that has outlived its
        interval at once: those that end first are not like all."""
        one = self._groups.touch(group, _Ends)
        for ends in (one, self._all):
            ends.learn(below, above, self._wanted)

    def drifting(self, group: str) -> bool:
        """Whether far more of the last 100 outcomes were missed than wanted."""
        ends = self._groups.get(group)
        return ends is not None and len(ends.missed) == _WINDOW and sum(ends.missed) / _WINDOW > _DRIFT_MISSES

    def groups(self) -> tuple[str, ...]:
        return tuple(sorted(name for name, _ in self._groups.items()))

    def state(self) -> dict[str, Any]:
        """What was learned, as JSON values; the group that learned last comes last."""
        groups = [[name, _told(ends)] for name, ends in self._groups.items()]
        return {"unit": _UNIT, "all": _told(self._all), "groups": groups}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], miss_rate: float = 0.1) -> Calibration:
        """Raises: ValueError, KeyError, TypeError for what `state` did not write."""
        found = cls(miss_rate)
        scale = 1.0 if state.get("unit") == _UNIT else _SCORES_OF_A_WIDTH
        found._all = _read(state["all"], scale)
        for name, ends in state["groups"]:
            found._groups.put(str(name), _read(ends, scale))
        return found


def _told(ends: _Ends) -> list[Any]:
    return [ends.low, ends.high, ends.count, [int(one) for one in ends.missed]]


def _read(value: Any, scale: float) -> _Ends:
    low, high, count, missed = value
    if not (math.isfinite(low) and math.isfinite(high) and int(count) >= 0):
        raise ValueError("ends of an interval that are no numbers")
    moved = [min(_MOST, max(_LEAST, scale * float(each))) for each in (low, high)]
    ends = _Ends(moved[0], moved[1], int(count))
    ends.missed.extend(bool(one) for one in missed)
    return ends
