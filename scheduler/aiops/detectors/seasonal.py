"""A value that is unusual for this hour of the day and this day of the week.

An additive model: a level for each hour of the day, an offset for each day of the week, both exponentially weighted
(classical decomposition). 168 levels for the hours of a week would neither fit the state's bound nor be learnt in time.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.detectors._moments import deviation, follow, keep, two_tails, weight
from scheduler.aiops.series import Columns, Field, Floats, Samples

VERSION = 1
HOURS, DAYS = 24, 7
FIELDS = (
    Field("hours", np.nan, HOURS, single=True),
    Field("days", 0.0, DAYS, single=True),
    Field("count"),
    Field("mean"),
    Field("variance"),
    Field("recent"),
)
WARM_UP = 50
SPEAKS_AFTER = 70
HOUR_SPAN = 60.0
DAY_SPAN = 600.0
SPAN = 2000.0
SHORT_SPAN = 3.0


def step(columns: Columns, samples: Samples) -> tuple[Columns, Floats]:
    rows = np.arange(len(samples.values))
    seen = ~np.isnan(samples.values)
    hour = (samples.at_seconds // 3600).astype(np.int64) % HOURS
    day = (samples.at_seconds // 86400).astype(np.int64) % DAYS
    usual = columns["hours"][rows, hour].astype(np.float64)
    offset = columns["days"][rows, day].astype(np.float64)
    known = ~np.isnan(usual)
    off = np.where(seen & known, samples.values - usual - offset, 0.0)
    update = seen & known
    recent = columns["recent"] + (off - columns["recent"]) / SHORT_SPAN
    spread = deviation(columns["variance"], columns["mean"])
    surprise = np.minimum(two_tails(recent / spread), 700.0)
    mean, variance = follow(columns["mean"], columns["variance"], recent, weight(columns["count"], SPAN))
    hours, days = columns["hours"].copy(), columns["days"].copy()
    hours[rows, hour] = np.where(seen, np.where(known, usual + off / HOUR_SPAN, samples.values), usual)
    days[rows, day] = offset + off / DAY_SPAN
    after = {
        "hours": hours,
        "days": days,
        "count": columns["count"] + update,
        "mean": keep(update, mean, columns["mean"]),
        "variance": keep(update, variance, columns["variance"]),
        "recent": keep(update, recent, columns["recent"]),
    }
    return after, np.where(update & (columns["count"] >= WARM_UP), surprise, np.nan)
