"""A lasting shift of the level: the two-sided Page-Hinkley test (Page 1954; Basseville and Nikiforov 1993).

Standardised residuals less a drift are summed and held above zero. A random walk with drift -d ever climbs to h with
probability exp(-2 d h): that is the surprise. After a shift has been told, the sums start anew.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.detectors._moments import deviation, follow, keep, weight
from scheduler.aiops.series import Columns, Field, Floats, Samples

VERSION = 1
FIELDS = (Field("count"), Field("mean"), Field("variance"), Field("up"), Field("down"))
WARM_UP = 100
SPEAKS_AFTER = 20
SPAN = 1000.0
DRIFT = 0.5
LARGEST = 4.0
"""Of one standardised residual: a shift shows in many samples, a spike is not one."""
TOLD = 40.0
"""The sums start anew when they have climbed so far."""


def step(columns: Columns, samples: Samples) -> tuple[Columns, Floats]:
    count, mean = columns["count"], columns["mean"]
    seen = ~np.isnan(samples.values)
    value = np.where(seen, samples.values, mean)
    z = np.clip((value - mean) / deviation(columns["variance"], mean), -LARGEST, LARGEST)
    warm = count >= WARM_UP
    up = np.where(warm, np.maximum(columns["up"] + z - DRIFT, 0.0), 0.0)
    down = np.where(warm, np.maximum(columns["down"] - z - DRIFT, 0.0), 0.0)
    surprise = 2.0 * DRIFT * np.maximum(up, down)
    told = np.maximum(up, down) > TOLD
    new_mean, variance = follow(mean, columns["variance"], value, weight(count, SPAN))
    after = {
        "count": count + seen,
        "mean": keep(seen, new_mean, mean),
        "variance": keep(seen, variance, columns["variance"]),
        "up": np.where(seen, np.where(told, 0.0, up), columns["up"]),
        "down": np.where(seen, np.where(told, 0.0, down), columns["down"]),
    }
    return after, np.where(seen & warm, surprise, np.nan)
