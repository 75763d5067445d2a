"""A series that differs from its siblings: a straggling rank, a slow node, one GPU hotter than the rest of its job.

The modified z-score by median and median absolute deviation of the group (Iglewicz and Hoaglin 1993), averaged over the
last samples: one odd sample is no straggler.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.detectors._moments import TINY, keep, two_tails
from scheduler.aiops.groups import medians
from scheduler.aiops.series import Columns, Field, Floats, Samples

VERSION = 1
FIELDS = (Field("count"), Field("recent"))
WARM_UP = 5
SPEAKS_AFTER = 0
SHORT_SPAN = 6.0
LEAST_PEERS = 4
LEAST_SHARE = 0.02
"""Differences below this share of the median are nobody's concern."""
_NORMAL = 0.6745
_LARGEST = 30.0


def step(columns: Columns, samples: Samples) -> tuple[Columns, Floats]:
    z = np.full(len(samples.values), np.nan)
    rows = np.flatnonzero(~np.isnan(samples.values) & (samples.peers >= 0))
    z[rows] = _modified_z(samples.values[rows], samples.peers[rows])
    known = ~np.isnan(z)
    recent = columns["recent"] + (np.where(known, z, 0.0) - columns["recent"]) / SHORT_SPAN
    after = {"count": columns["count"] + known, "recent": keep(known, recent, columns["recent"])}
    warm = known & (columns["count"] >= WARM_UP)
    return after, np.where(warm, two_tails(recent), np.nan)


def _modified_z(values: Floats, groups: NDArray[np.int64]) -> Floats:
    """Of each value within its group; NaN in groups that are too small."""
    if not len(values):
        return values
    _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
    middle = medians(values, group, size)[group]
    off = values - middle
    usual = medians(np.abs(off), group, size)[group]
    z = _NORMAL * off / (usual + LEAST_SHARE * np.abs(middle) + TINY)
    return np.where(size[group] >= LEAST_PEERS, np.clip(z, -_LARGEST, _LARGEST), np.nan)
