"""What a value is beside those of its siblings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.groups import medians
from scheduler.aiops.series import Floats

LEAST_SIBLINGS = 4


def among(value: Floats, group: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Of each row ln(its value / its group's median), and the robust deviation of that in its group: 1.4826 times the
    median absolute one. NaN: not known, not above zero, or of fewer than `LEAST_SIBLINGS`."""
    off, spread = np.full(len(value), np.nan), np.full(len(value), np.nan)
    with np.errstate(invalid="ignore"):
        rows = np.flatnonzero((value > 0) & (value < np.inf) & (group >= 0))
    if not len(rows):
        return off, spread
    _, number, size = np.unique(group[rows], return_inverse=True, return_counts=True)
    logs = np.log(value[rows])
    away = logs - medians(logs, number, size)[number]
    enough = size[number] >= LEAST_SIBLINGS
    off[rows] = np.where(enough, away, np.nan)
    spread[rows] = np.where(enough, 1.4826 * medians(np.abs(away), number, size)[number], np.nan)
    return off, spread
