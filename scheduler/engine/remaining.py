"""What is left of a run that goes on, and of one that was begun before. Pure arithmetic on predictions."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist
from typing import Final

from scheduler.model.ids import Instant
from scheduler.model.ports import Prediction
from scheduler.model.snapshot import Progress
from scheduler.model.spread import left_seconds as shaped_left_seconds

_NORMAL: Final = NormalDist()
_FAR: Final = 8.0
"""Standard deviations from which on the tail is taken by its hazard: its chance has no digits left."""
_LEAST_LEFT: Final = 0.01
"""Of the work, of a run that is about to end: nobody knows more closely."""


def left_seconds(prediction: Prediction, ran_seconds: float) -> float | None:
    """Median of what is left of a run that has gone on for `ran_seconds`; None: its length is unknown, or it has gone
    on for longer than was predicted and the predictor does not say how sure it is.

    Where the shape of its distribution is told, that says what is left; else a length that is known to lie about its
    median is taken for log-normal, and what is left is its median given that it is longer than `ran_seconds` (a
    conditional survival time: Klein and Moeschberger, "Survival Analysis", 2.4: half of the survival function at
    `ran_seconds`). One that is said without a spread is believed.
    """
    run, spread = prediction.run_seconds, prediction.run_log_sd
    if run is None:
        return None
    ran = max(0.0, ran_seconds)
    if not spread or run <= 0:
        return run - ran if ran < run else None
    if ran <= 0:
        return run
    if prediction.run_shape:
        at_median = math.log(run)
        return shaped_left_seconds([at_median + each for each in prediction.run_shape], ran)
    at = (math.log(ran) - math.log(run)) / spread
    if at > _FAR:
        # Far out a log-normal dies off at z / (spread x t) per second, about as an exponential for a while.
        return ran * spread * math.log(2.0) / at
    survives = _NORMAL.cdf(-at)
    return max(0.0, run * math.exp(-spread * _NORMAL.inv_cdf(survives / 2.0)) - ran)


def told_left_seconds(told: Progress, now: Instant) -> float | None:
    """Seconds that its own metric leaves it; None: it does not say how far it is, or how fast it goes."""
    if told.done is None or not told.per_second or told.per_second <= 0:
        return None
    done = told.done + told.per_second * max(0.0, now - told.at)
    return max(_LEAST_LEFT, 1.0 - done) / told.per_second


def part_left(told: Progress | None) -> float:
    """Of the whole work, what the present attempt (or the next one) has to do; in hundredths, at least one."""
    return 1.0 if told is None or told.begun <= 0 else max(_LEAST_LEFT, round(1.0 - told.begun, 2))


def of_part(prediction: Prediction, part: float) -> Prediction:
    """The prediction for a part of the whole work."""
    if part == 1.0 or prediction.run_seconds is None:
        return prediction
    return replace(prediction, run_seconds=prediction.run_seconds * part, lost_seconds=prediction.lost_seconds * part)
