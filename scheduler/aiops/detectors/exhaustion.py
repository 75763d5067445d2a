"""A trend that will reach the limit soon: a memory leak, a disk that fills.

An exponentially weighted straight line of value over time (least squares). Surprising is a slope that noise hardly
explains, if the line meets the limit within the horizon.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.detectors._moments import LEAST_SHARE, TINY, keep, upper_tail, weight
from scheduler.aiops.series import Columns, Field, Floats, Samples

VERSION = 1
FIELDS = (Field("count"), Field("at"), Field("level"), Field("spread_at"), Field("spread"), Field("together"))
WARM_UP = 30
SPEAKS_AFTER = 30
SPAN = 60.0
HORIZON_SECONDS = 6 * 3600.0


def step(columns: Columns, samples: Samples) -> tuple[Columns, Floats]:
    count = columns["count"]
    seen = ~np.isnan(samples.values)
    share = weight(count, SPAN)
    off_at = np.where(seen, samples.at_seconds - columns["at"], 0.0)
    off = np.where(seen, samples.values - columns["level"], 0.0)
    spread_at = (1.0 - share) * (columns["spread_at"] + share * off_at * off_at)
    spread = (1.0 - share) * (columns["spread"] + share * off * off)
    together = (1.0 - share) * (columns["together"] + share * off_at * off)
    after = {
        "count": count + seen,
        "at": columns["at"] + share * off_at,
        "level": columns["level"] + share * off,
        "spread_at": keep(seen, spread_at, columns["spread_at"]),
        "spread": keep(seen, spread, columns["spread"]),
        "together": keep(seen, together, columns["together"]),
    }
    known = seen & (count >= WARM_UP) & ~np.isnan(samples.limits)
    return after, np.where(known, _surprise(after, samples), np.nan)


def seconds_to_limit(columns: Columns, samples: Samples) -> Floats:
    """Until the line meets the limit; infinity if it never does, 0 if it has, NaN without a limit."""
    slope = columns["together"] / (columns["spread_at"] + TINY)
    now = columns["level"] + slope * (samples.at_seconds - columns["at"])
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(slope > 0, (samples.limits - now) / slope, np.inf)
    return np.where(np.isnan(samples.limits), np.nan, np.maximum(left, 0.0))


def _surprise(columns: Columns, samples: Samples) -> Floats:
    slope = columns["together"] / (columns["spread_at"] + TINY)
    noise = np.maximum(columns["spread"] - slope * columns["together"], 0.0)
    noise += np.square(LEAST_SHARE * columns["level"]) + TINY
    # An exponentially weighted mean over a span is worth 2 span - 1 samples at most.
    worth = np.minimum(columns["count"], 2.0 * SPAN - 1.0)
    error = np.sqrt(noise / (worth * columns["spread_at"] + TINY))
    soon = seconds_to_limit(columns, samples) <= HORIZON_SECONDS
    return np.where(soon, np.minimum(upper_tail(slope / error), 700.0), 0.0)
