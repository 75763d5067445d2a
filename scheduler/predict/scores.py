"""How good duration predictions are: the figures that `overspill model evaluate` reports, the same for every model."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_MOST_PAIRS: Final = 500_000


def scores(said: Floats, actual: Floats) -> dict[str, float]:
    """Of seconds, both positive and equally long, at least two.

    median_ape, mean_ape and within_2x are shares; rmsle is of log(1 + seconds); concordance is the share of pairs with
    unlike outcomes that are put in the right order, ties of the prediction half (Harrell's C), over up to 500,000
    pairs: each run beside those at fixed distances from it in the order given.
    """
    error = np.abs(said - actual) / actual
    ratio = np.log(said) - np.log(actual)
    return {
        "median_ape": float(np.median(error)),
        "mean_ape": float(np.mean(error)),
        "rmsle": float(np.sqrt(np.mean((np.log1p(said) - np.log1p(actual)) ** 2))),
        "within_2x": float(np.mean(np.abs(ratio) <= np.log(2.0))),
        "concordance": _concordance(said, actual),
    }


def standard_error(covered: NDArray[np.bool_], cluster: NDArray[Any]) -> float:
    """How far off chance alone makes a share of outcomes, those of one cluster (a day, a model) being taken to stand
    and fall together: the cluster-robust standard error of a mean. Source: C. Cameron and D. Miller, "A practitioner's
    guide to cluster-robust inference", Journal of Human Resources 50 (2015), 2.2."""
    _, number = np.unique(cluster, return_inverse=True)
    sums = np.bincount(number, covered - covered.mean())
    return float(np.sqrt((sums**2).sum()) / len(covered))


def _concordance(said: Floats, actual: Floats) -> float:
    count = len(actual)
    strides = max(1, min(count - 1, _MOST_PAIRS // count))
    right = pairs = 0.0
    for distance in np.unique(np.linspace(1, count - 1, strides).astype(int)):
        longer = np.sign(actual[distance:] - actual[:-distance])
        ordered = np.sign(said[distance:] - said[:-distance])
        unlike = longer != 0
        pairs += float(unlike.sum())
        right += float(((longer * ordered)[unlike] > 0).sum()) + 0.5 * float((ordered[unlike] == 0).sum())
    return right / pairs if pairs else 0.5
