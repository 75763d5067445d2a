"""A series that has stopped reporting: how long it has been silent, in its own usual intervals.

Gaps are taken as exponential with the usual interval as their mean, which is generous for a scraped series. It speaks
of rows without a sample; one that reports is not absent.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.detectors._moments import keep, weight
from scheduler.aiops.series import Columns, Field, Floats, Samples

VERSION = 1
FIELDS = (Field("count"), Field("last"), Field("interval"))
WARM_UP = 5
SPEAKS_AFTER = 0
SPAN = 50.0
LEAST_SECONDS = 1.0


def step(columns: Columns, samples: Samples) -> tuple[Columns, Floats]:
    count, last = columns["count"], columns["last"]
    seen = ~np.isnan(samples.values)
    gap = np.maximum(samples.at_seconds - last, 0.0)
    interval = np.maximum(columns["interval"], LEAST_SECONDS)
    surprise = np.where(seen, 0.0, np.minimum(gap / interval, 700.0))
    # Gaps begin with the second sample.
    share = weight(np.maximum(count - 1.0, 0.0), SPAN)
    usual = np.where(count > 0, columns["interval"] + share * (gap - columns["interval"]), 0.0)
    after = {
        "count": count + seen,
        "last": keep(seen, samples.at_seconds, last),
        "interval": keep(seen, usual, columns["interval"]),
    }
    return after, np.where(count >= WARM_UP, surprise, np.nan)
