"""How what happened compares with what was said, by name: a factor that puts right what is off one way, and how sure.

The factor is the median of the last ratios, shrunk towards 1 by a few that are 1 (a median is moved by no single
outlier); the careful one is their 90 % quantile. Bounded: 50 ratios of each of 2,000 names.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from scheduler.predict.bounded import Recent

MOST_NAMES: Final = 2000
_KEPT: Final = 50
_PRIOR_ONES: Final = 3
_WORST: Final = 5.0
"""Log units that one ratio counts at most."""
_LATELY: Final = 20
_LEAST: Final = 10
_DRIFT_COVERAGE: Final = 0.7
"""Of the last 20, that stayed under what was to hold in nine cases of ten, below which what is said has drifted."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What was said, times `median`, is right half of the time; times `p90`, enough nine times in ten."""

    median: float
    p90: float
    count: int
    error: float
    """Mean absolute log error of what was said, corrected as it was then."""
    covered: float
    """Share that stayed under its p90 lately."""

    @property
    def drifting(self) -> bool:
        return self.count >= _LEAST and self.covered < _DRIFT_COVERAGE


NOTHING_SEEN: Final = Correction(1.0, 1.0, 0, 0.0, 1.0)


@dataclass(slots=True)
class _Seen:
    ratios: deque[float]
    """Logs of actual over said, uncorrected."""
    errors: deque[float]
    covered: deque[bool]
    count: int = 0


class Ratios:
    def __init__(self) -> None:
        self._seen: Recent[str, _Seen] = Recent(MOST_NAMES)

    def learn(self, name: str, said: float, actual: float, *, p90: float | None = None) -> None:
        """One outcome. `p90`: what was to hold in nine cases of ten (None: by the correction). Values that are not
        finite or not above 0 teach nothing."""
        if not (math.isfinite(said) and math.isfinite(actual) and said > 0 and actual > 0):
            return
        if p90 is not None and not (math.isfinite(p90) and p90 > 0):
            p90 = None
        ratio = max(-_WORST, min(_WORST, math.log(actual) - math.log(said)))
        before = self.of(name)
        seen = self._seen.touch(name, lambda: _Seen(deque(maxlen=_KEPT), deque(maxlen=_KEPT), deque(maxlen=_LATELY)))
        seen.errors.append(abs(ratio - math.log(before.median)))
        # The first few have nothing to be held against.
        if p90 is not None or before.count >= _LEAST:
            seen.covered.append(actual <= (said * before.p90 if p90 is None else p90))
        seen.ratios.append(ratio)
        seen.count += 1

    def of(self, name: str) -> Correction:
        seen = self._seen.get(name)
        if seen is None:
            return NOTHING_SEEN
        known = sorted([*seen.ratios, *([0.0] * _PRIOR_ONES)])
        high = known[min(len(known) - 1, math.ceil(0.9 * (len(known) + 1)) - 1)]
        middle = median(known)
        covered = sum(seen.covered) / len(seen.covered) if seen.covered else 1.0
        error = sum(seen.errors) / len(seen.errors)
        return Correction(math.exp(middle), math.exp(max(high, middle)), seen.count, error, covered)

    def all(self) -> dict[str, Correction]:
        return {name: self.of(name) for name, _ in self._seen.items()}

    def state(self) -> list[Any]:
        """As JSON values."""
        return [[n, list(s.ratios), list(s.errors), [int(one) for one in s.covered], s.count] for n, s in self._items]

    @property
    def _items(self) -> Sequence[tuple[str, _Seen]]:
        return list(self._seen.items())

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> Ratios:
        """Raises: ValueError, TypeError for what `state` did not write."""
        found = cls()
        for name, ratios, errors, covered, count in state:
            if not ratios or not errors or not all(map(math.isfinite, (*ratios, *errors))) or count < len(ratios):
                raise ValueError("ratios that cannot be")
            seen = _Seen(
                deque(map(float, ratios), maxlen=_KEPT),
                deque(map(float, errors), maxlen=_KEPT),
                deque(map(bool, covered), maxlen=_LATELY),
                int(count),
            )
            found._seen.put(str(name), seen)
        return found


def corrections(state: Mapping[str, Correction], name: str) -> Correction:
    """Of a frozen view of `Ratios.all`."""
    return state.get(name, NOTHING_SEEN)
