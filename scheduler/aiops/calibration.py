"""From a detector's surprise to a probability that can be trusted, and to a rate of false alarms for the whole fleet.

Twice peaks over threshold (Pickands 1975; Siffer et al., KDD 2017), because models are wrong in two ways. *Each series*
learns the tail of its own surprises, so that a noisy one does not flood. *The fleet* learns the common tail of what
is left, after bursts have been thinned to one peak each (Coles 2001, ch. 5), and sets the alarm threshold so that the
whole fleet raises as many false alarms a day as the operator allows, however many series it has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.series import Columns, Field, Floats
from scheduler.model.errors import InvalidObjectError

VERSION: Final = 1
"""Raised when the meaning of what is remembered changes."""
TAIL_SHARE: Final = 0.01
"""Of a series' surprises that count as its tail."""
PRIOR_PEAKS: Final = 20.0
"""How many peaks of a right model, in which a surprise is exponential with mean 1, each series starts with."""
_LARGEST_EXCESS: Final = 50.0
_STEP_SAMPLES: Final = 20.0

FIELDS: Final = (
    Field("count"),
    Field("threshold", -math.log(TAIL_SHARE)),
    Field("peaks"),
    Field("excess"),
)


def calibrate(columns: Columns, surprise: Floats, arrived: NDArray[np.bool_]) -> tuple[Columns, Floats]:
    """What has been learnt of each series' tail, and -ln of the probability of `surprise` by what was known before it.

    0 below the tail's threshold; NaN where the surprise is. The threshold follows its quantile by stochastic
    approximation (Robbins and Monro 1951); the excess over it is taken as exponential, as far as the series' own
    samples can show: n of them say nothing about what is rarer than 1 in n. Beyond, the tail is taken as a power law.
    Nothing is learnt where no sample has `arrived`: a silence must not get used to itself.
    """
    known = ~np.isnan(surprise)
    excess = np.where(known, surprise, 0.0) - columns["threshold"]
    peak = known & (excess > 0.0)
    scale = (PRIOR_PEAKS + columns["excess"]) / (PRIOR_PEAKS + columns["peaks"])
    share = (PRIOR_PEAKS + columns["peaks"]) / (PRIOR_PEAKS / TAIL_SHARE + columns["count"])
    score = _sobered(np.where(peak, excess / scale - np.log(np.minimum(share, 1.0)), 0.0), columns["count"])
    learnt = known & arrived
    peak = peak & learnt
    count = columns["count"] + learnt
    move = scale / np.sqrt(1.0 + count / _STEP_SAMPLES) * (peak - TAIL_SHARE)
    after = {
        "count": count,
        "threshold": np.where(learnt, np.maximum(columns["threshold"] + move, 0.0), columns["threshold"]),
        "peaks": columns["peaks"] + peak,
        "excess": columns["excess"] + np.where(peak, np.minimum(excess, _LARGEST_EXCESS), 0.0),
    }
    return after, np.where(known, score, np.nan)


def _sobered(score: Floats, count: Floats) -> Floats:
    """Logarithmic beyond ln(n + 1): a flat series that moves once is not a one in 10^300 event."""
    shown = np.log(count + 2.0)
    return np.where(score > shown, shown * (1.0 + np.log(np.maximum(score, shown) / shown)), score)


@dataclass(frozen=True, slots=True)
class Tail:
    """A generalised Pareto tail: P(score > x) = share (1 + shape (x - start) / scale)^(-1 / shape)."""

    start: float
    share: float
    scale: float
    shape: float

    def threshold(self, probability: float) -> float:
        """The score that is passed with that probability; never below `start`."""
        if probability >= self.share:
            return self.start
        ratio = probability / self.share
        if abs(self.shape) < 1e-6:
            return self.start - self.scale * math.log(ratio)
        return self.start + self.scale / self.shape * math.expm1(-self.shape * math.log(ratio))


LEAST_PEAKS: Final = 50
_LARGEST_SHAPE: Final = 0.9


def fit_tail(scores: Floats, samples: int, share: float = 0.001) -> Tail:
    """The fleet's tail from the thinned scores of a clean stretch of `samples` samples (zeros may be left out).

    By probability-weighted moments (Hosking and Wallis 1987): closed form, and steady for few peaks. A tail lighter
    than exponential is not believed. Raises: InvalidObjectError with fewer than 50 peaks.
    """
    positive = np.sort(scores[scores > 0.0])
    wanted = min(max(int(share * samples), LEAST_PEAKS), len(positive) - 1)
    if wanted < LEAST_PEAKS:
        raise InvalidObjectError(f"{len(positive)} peaks in {samples} samples; a tail needs {LEAST_PEAKS + 1}")
    start = float(positive[-wanted - 1])
    excess = positive[-wanted:] - start
    rank = (np.arange(wanted) + 0.65) / wanted
    mean, weighted = float(excess.mean()), float((excess * (1.0 - rank)).mean())
    shape = min(max(2.0 - mean / (mean - 2.0 * weighted), 0.0), _LARGEST_SHAPE) if mean > 2.0 * weighted else 0.0
    return Tail(start, wanted / samples, mean * (1.0 - shape), shape)


def alarm_threshold(tail: Tail, *, alarms_per_day: float, samples_per_day: float) -> float:
    """The score at which a clean fleet with so many samples a day, all series together, raises so many alarms a day."""
    if not (alarms_per_day > 0 and samples_per_day > 0):
        raise InvalidObjectError("alarms_per_day and samples_per_day must be above zero")
    return tail.threshold(alarms_per_day / samples_per_day)


BURST_FIELDS: Final = (Field("peak"), Field("since"))
QUIET_SAMPLES: Final = 100
LEAST_RISE: Final = 1.0
"""In nats: e times less probable."""


def thin(columns: Columns, score: Floats) -> tuple[Columns, Floats]:
    """Of a burst only what is clearly more surprising than what was told of it; 0 for the rest, and for what is NaN.

    A burst of a series ends when nothing has been told of it for QUIET_SAMPLES samples.
    """
    told = np.nan_to_num(score, nan=0.0)
    since = columns["since"] + 1.0
    peak = np.where(since > QUIET_SAMPLES, 0.0, columns["peak"])
    higher = told > peak + LEAST_RISE
    after = {"peak": np.where(higher, told, peak), "since": np.where(higher, 0.0, since)}
    return after, np.where(higher, told, 0.0)
