"""A value beyond everything seen so far, by a margin.

Record theory: the n-th of exchangeable values is a new maximum or minimum with probability 2/n (Renyi 1962); how far it
goes beyond is taken as exponential, on the scale of a share of the range.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.detectors._moments import TINY
from scheduler.aiops.series import Columns, Field, Floats, Samples

VERSION = 1
FIELDS = (Field("count"), Field("low", np.inf), Field("high", -np.inf))
WARM_UP = 50
SPEAKS_AFTER = 70
MARGIN = 0.05
"""Share of the range that a record may go beyond without surprise."""


def step(columns: Columns, samples: Samples) -> tuple[Columns, Floats]:
    count, low, high = columns["count"], columns["low"], columns["high"]
    value = samples.values
    seen = ~np.isnan(value)
    with np.errstate(invalid="ignore"):
        beyond = np.fmax(np.fmax(value - high, low - value), 0.0)
        scale = MARGIN * (high - low) + 1e-3 * np.fmax(np.abs(high), np.abs(low)) + TINY
        share = beyond / scale
    record = np.log((count + 1.0) / 2.0) + np.minimum(share - 1.0, 700.0)
    surprise = np.where(share > 1.0, record, 0.0)
    known = seen & (count >= WARM_UP)
    after = {
        "count": count + seen,
        "low": np.fmin(low, value),
        "high": np.fmax(high, value),
    }
    return after, np.where(known, surprise, np.nan)
