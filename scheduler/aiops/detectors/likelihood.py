"""Whether the recent residuals are larger than usual: the anomaly likelihood of Ahmad et al. (2017, Neurocomputing
262), with an exponentially weighted mean as the predictor.

The residual is |value - prediction|; its mean over a short span is compared with mean and deviation over a long one.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.detectors._moments import deviation, follow, keep, upper_tail, weight
from scheduler.aiops.series import Columns, Field, Floats, Samples

VERSION = 1
FIELDS = (Field("count"), Field("level"), Field("mean"), Field("variance"), Field("recent"))
WARM_UP = 50
SPEAKS_AFTER = 70
PREDICTOR_SPAN = 6.0
SHORT_SPAN = 3.0
LONG_SPAN = 2000.0


def step(columns: Columns, samples: Samples) -> tuple[Columns, Floats]:
    count, level = columns["count"], columns["level"]
    seen = ~np.isnan(samples.values)
    value = np.where(seen, samples.values, level)
    residual = np.where(count > 0, np.abs(value - level), 0.0)
    recent = columns["recent"] + (residual - columns["recent"]) / SHORT_SPAN
    # The mean of a short span varies less than single residuals do: variance / (2 span - 1).
    spread = deviation(columns["variance"] / (2.0 * SHORT_SPAN - 1.0), level)
    surprise = np.minimum(upper_tail((recent - columns["mean"]) / spread), 700.0)
    share = weight(count, LONG_SPAN)
    mean, variance = follow(columns["mean"], columns["variance"], residual, share)
    after = {
        "count": count + seen,
        "level": keep(seen, level + weight(count, PREDICTOR_SPAN) * (value - level), level),
        "mean": keep(seen, mean, columns["mean"]),
        "variance": keep(seen, variance, columns["variance"]),
        "recent": keep(seen, recent, columns["recent"]),
    }
    return after, np.where(seen & (count >= WARM_UP), surprise, np.nan)
