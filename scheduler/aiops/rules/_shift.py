"""A value that has become higher than what goes with it explains: latency and load, spend and work.

ln(value) is regressed on the covariate, both exponentially weighted (least squares); what is left over is compared, as
a mean of three samples, with its own deviation. The mean of three residuals with lag-1 correlation r has the variance
s^2 (3 + 4 r + 2 r^2) / 9. Residuals are learnt clipped, so that a shift is not its own excuse; a level that stays
becomes usual within `SPAN` samples.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.series import Columns, Field, Floats

FIELDS = (
    Field("count"), Field("level"), Field("with_level"), Field("with_spread"), Field("together"), Field("variance"),
    Field("lagged"), Field("recent", np.nan, 3),
)  # fmt: skip
SPAN = 1440.0
WARM_UP = 240
LEAST_DEVIATION = 0.01
_CLIP = 3.0
_TINY = 1e-12


def follow(columns: Columns, value: Floats, with_it: Floats) -> tuple[Columns, Floats, Floats]:
    """What is remembered after one sample; the mean of the last three residuals (in ln); and that in its deviations.
    NaN where it cannot be told. A covariate (`with_it`) that is not known counts as usual."""
    count = columns["count"]
    with np.errstate(invalid="ignore", divide="ignore"):
        y = np.where(value > 0, np.log(value), np.nan)
        x = np.where(np.isfinite(with_it), with_it, columns["with_level"])
    seen = ~np.isnan(y)
    y, x = np.where(seen, y, columns["level"]), np.where(seen, x, columns["with_level"])
    share = 1.0 / np.minimum(count + 1.0, SPAN)
    slope = columns["together"] / (columns["with_spread"] + _TINY)
    off_x = np.where(count > 0, x - columns["with_level"], 0.0)
    left = np.where(count > 0, y - columns["level"] - slope * off_x, 0.0)
    deviation = np.sqrt(columns["variance"]) + LEAST_DEVIATION
    clipped = np.where(count > 30, np.clip(left, -_CLIP * deviation, _CLIP * deviation), left)
    off_y = np.where(count > 0, slope * off_x + clipped, 0.0)
    recent = np.where(seen[:, None], np.column_stack([columns["recent"][:, 1:], left]), columns["recent"])
    last = np.nan_to_num(columns["recent"][:, 2])
    after = {
        "count": count + seen,
        "level": np.where(seen, np.where(count > 0, columns["level"] + share * off_y, y), columns["level"]),
        "with_level": np.where(
            seen, np.where(count > 0, columns["with_level"] + share * off_x, x), columns["with_level"]
        ),
        "with_spread": _weighted(columns["with_spread"], off_x * off_x, share, seen),
        "together": _weighted(columns["together"], off_x * off_y, share, seen),
        "variance": _weighted(columns["variance"], clipped * clipped, share, seen),
        "lagged": _weighted(
            columns["lagged"], clipped * np.clip(last, -_CLIP * deviation, _CLIP * deviation), share, seen
        ),
        "recent": recent,
    }
    lag = np.clip(columns["lagged"] / (columns["variance"] + 1e-12), 0.0, 0.95)
    mean = recent.mean(axis=1)
    z = mean / (deviation * np.sqrt((3.0 + 4.0 * lag + 2.0 * lag * lag) / 9.0))
    told = seen & (count >= WARM_UP)
    return after, np.where(told, mean, np.nan), np.where(told, z, np.nan)


def _weighted(old: Floats, new: Floats, share: Floats, seen: np.ndarray) -> Floats:
    return np.where(seen, old + share * (new - old), old)
