"""A distribution of the logarithm of a length, as its values at nine fixed levels.

Between them it is linear in the normal score, and beyond them it goes on at the slope of the whole: a log-normal length
is told exactly, one with two humps much more closely than by a log-normal. Pure arithmetic.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

LEVELS: Final = (0.01, 0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 0.95, 0.99)
_NORMAL: Final = NormalDist()
SCORES: Final = tuple(0.0 if level == 0.5 else _NORMAL.inv_cdf(level) for level in LEVELS)
"""Of `LEVELS`, of the standard normal distribution."""
LOW, MIDDLE, HIGH = LEVELS.index(0.05), LEVELS.index(0.5), LEVELS.index(0.95)
_LEAST_SLOPE: Final = 0.04
"""Log units for one of the score, beyond the levels: it can always grow."""
_FAR: Final = 8.0
"""Score from which on the tail is taken by its hazard: its chance has no digits left."""


def slope(logs: Sequence[float]) -> float:
    """Log units for one of the normal score, over all levels."""
    return max(_LEAST_SLOPE, (logs[-1] - logs[0]) / (SCORES[-1] - SCORES[0]))


def at_score(logs: Sequence[float], score: float) -> float:
    """Its value at a normal score; `logs`: rising, beside `LEVELS`."""
    if score <= SCORES[0]:
        return logs[0] + (score - SCORES[0]) * slope(logs)
    if score >= SCORES[-1]:
        return logs[-1] + (score - SCORES[-1]) * slope(logs)
    left = bisect_right(SCORES, score) - 1
    part = (score - SCORES[left]) / (SCORES[left + 1] - SCORES[left])
    return logs[left] + part * (logs[left + 1] - logs[left])


def score_of(logs: Sequence[float], value: float) -> float:
    """The normal score of a value: the inverse of `at_score`."""
    if value < logs[0]:
        return SCORES[0] + (value - logs[0]) / slope(logs)
    if value >= logs[-1]:
        return SCORES[-1] + (value - logs[-1]) / slope(logs)
    left = bisect_right(logs, value) - 1
    part = (value - logs[left]) / (logs[left + 1] - logs[left])
    return SCORES[left] + part * (SCORES[left + 1] - SCORES[left])


def left_seconds(logs: Sequence[float], ran_seconds: float, level: float = 0.5) -> float:
    """Seconds that a run which has gone on for `ran_seconds` (above 0) still takes at most with chance `level`.

    A conditional survival time (Klein and Moeschberger, "Survival Analysis", 2.4): where the survival function has
    fallen to (1 - level) of what it is at `ran_seconds`. Never negative.
    """
    score = score_of(logs, math.log(ran_seconds))
    if score > _FAR:
        # Far out a normal dies off at `score` for one of the score, about as an exponential for a while.
        return ran_seconds * slope(logs) * -math.log1p(-level) / score
    survives = _NORMAL.cdf(-score) * (1.0 - level)
    return max(0.0, math.exp(min(700.0, at_score(logs, -_NORMAL.inv_cdf(survives)))) - ran_seconds)


def drawn(low: float, middle: float, high: float) -> tuple[float, ...]:
    """Through its values at 5, 50 and 95 %: normal on either side of the middle."""
    far = SCORES[HIGH]
    return tuple(middle + score / far * (high - middle if score > 0 else middle - low) for score in SCORES)
