"""Exponentially weighted moments of many series at once, shared by the detectors."""

from __future__ import annotations

import numpy as np

from scheduler.aiops.series import Floats

TINY = 1e-12
LEAST_SHARE = 1e-3
"""Smallest spread that counts, as a share of the level: below it lies rounding, not noise."""

_HALF_ROOT = np.sqrt(0.5)
_ERFC = (-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
         -0.82215223, 0.17087277)  # fmt: skip


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
    """-ln P(Z > z) of a standard normal; its relative error is below 1e-6.

    By a Chebyshev fit of ln erfc (Press et al., Numerical Recipes, "erfcc": 1.2e-7 of erfc), which neither underflows
    far out nor needs scipy in the daemon.
    """
    far = np.abs(z) * _HALF_ROOT
    step = 1.0 / (1.0 + 0.5 * far)
    fit = np.full_like(step, _ERFC[-1])
    for factor in _ERFC[-2::-1]:
        fit *= step
        fit += factor
    tail = np.log(2.0) + far * far - np.log(step) - fit
    return np.asarray(np.where(z >= 0.0, tail, -np.log1p(-np.exp(-tail))), dtype=np.float64)


def two_tails(z: Floats) -> Floats:
    """-ln P(|Z| > |z|) of a standard normal."""
    return np.asarray(np.maximum(upper_tail(np.abs(z)) - np.log(2.0), 0.0))


def deviation(variance: Floats, level: Floats) -> Floats:
    """Standard deviation, but never below the rounding of `level`."""
    return np.asarray(np.sqrt(variance) + LEAST_SHARE * np.abs(level) + TINY)
