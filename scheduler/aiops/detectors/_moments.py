"""Exponentially weighted moments of many series at once, shared by the detectors."""

from __future__ import annotations

import numpy as np
from scipy.special import log_ndtr

from scheduler.aiops.series import Floats

TINY = 1e-12
LEAST_SHARE = 1e-3
"""Smallest spread that counts, as a share of the level: below it lies rounding, not noise."""


def weight(count: Floats, span: float) -> Floats:
    """Weight of the next sample: 1/n at first (the plain mean), 1/span later."""
    return np.asarray(1.0 / np.minimum(count + 1.0, span))


def follow(mean: Floats, variance: Floats, value: Floats, share: Floats) -> tuple[Floats, Floats]:
    """Mean and variance after `value` with weight `share` (West 1979, exponentially weighted)."""
    off = value - mean
    return mean + share * off, (1.0 - share) * (variance + share * off * off)


def keep(seen: np.ndarray[tuple[int], np.dtype[np.bool_]], new: Floats, old: Floats) -> Floats:
    """`new` where a sample arrived, else `old`."""
    return np.where(seen, new, old)


def upper_tail(z: Floats) -> Floats:
    """-ln P(Z > z) of a standard normal."""
    return np.asarray(-log_ndtr(-z), dtype=np.float64)


def two_tails(z: Floats) -> Floats:
    """-ln P(|Z| > |z|) of a standard normal."""
    return np.asarray(np.maximum(upper_tail(np.abs(z)) - np.log(2.0), 0.0))


def deviation(variance: Floats, level: Floats) -> Floats:
    """Standard deviation, but never below the rounding of `level`."""
    return np.asarray(np.sqrt(variance) + LEAST_SHARE * np.abs(level) + TINY)
