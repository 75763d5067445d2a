"""Counters and conditions over time, for rules. NaN is unknown throughout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.series import Floats

Flags = NDArray[np.bool_]


def increase(last: Floats, now: Floats) -> Floats:
    """By how much a counter has grown; what it shows after a reset to less; NaN where one of the two is not known."""
    with np.errstate(invalid="ignore"):
        return np.where(now >= last, now - last, np.where(now < last, np.maximum(now, 0.0), np.nan))


def latest(last: Floats, now: Floats) -> Floats:
    """The newest known value."""
    return np.where(np.isnan(now), last, now)


def lasting(samples: Floats, holds: Flags, known: Flags) -> Floats:
    """For how many known samples in a row a condition has held; a sample that is not known changes nothing."""
    return np.where(known, np.where(holds, samples + 1.0, 0.0), samples)


def above(value: Floats, limit: float | Floats) -> Flags:
    """value >= limit; False where it is not known."""
    with np.errstate(invalid="ignore"):
        return np.asarray(value >= limit)


def below(value: Floats, limit: float | Floats) -> Flags:
    """value <= limit; False where it is not known."""
    with np.errstate(invalid="ignore"):
        return np.asarray(value <= limit)


def bits(value: Floats) -> NDArray[np.int64]:
    """A bit mask that came as a number; 0 where it is not known, negative or too large."""
    with np.errstate(invalid="ignore"):
        fit = (value >= 0.0) & (value < 2.0**53)
    return np.where(fit, value, 0.0).astype(np.int64)
