"""Memory that grows in a straight line towards its limit.

Means of six blocks of samples in a row, at two speeds. A leak grows in every block, by about as much each time, and by
clearly more than noise explains. What starts (one large step), and what fills up and levels off (each step smaller than
the one before), does not: the steps are carried on as a geometric series, and that must meet the limit too.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.series import Columns, Field, Floats

BLOCKS = 6
SCALES = (5, 15)
"""Samples in a block."""
FIELDS = (
    Field("group", -1.0),
    *(
        field
        for scale in SCALES
        for field in (
            Field(f"count_{scale}"), Field(f"sum_{scale}"), Field(f"squares_{scale}"), Field(f"began_{scale}", np.nan),
            Field(f"means_{scale}", np.nan, BLOCKS), Field(f"noise_{scale}", np.nan),
        )
    ),
)  # fmt: skip
HORIZON_SECONDS = {5: 3600.0, 15: 8 * 3600.0}
"""How near the limit must be, by scale: in a short time little can be told from a cache that fills."""
LEAST_SHARE = 0.05
"""Of the limit: growth over all blocks that is worth a word."""
Z = 8.0
_LEAST_NOISE = 1e-5
_EVENEST, _LEAST_STEP = 2.0, 0.5
_STEADY = 0.95


def follow(columns: Columns, used: Floats, limit: Floats, group: Floats, at: float) -> tuple[Columns, Floats, Floats]:
    """What is remembered after one sample; by how much of the limit it grows in an hour, where it leaks (else NaN); and
    the seconds until the limit is met. A row whose `group` changes starts anew."""
    with np.errstate(invalid="ignore", divide="ignore"):
        value = np.where(limit > 0, used / limit, np.nan)
    same = group == columns["group"]
    after: dict[str, Floats] = {"group": group}
    growth, left = np.full(len(used), np.nan), np.full(len(used), np.nan)
    for scale in SCALES:
        part, done, seconds = _block(columns, scale, value, same, at)
        after.update(part)
        rows = np.flatnonzero(done)
        if not len(rows):
            continue
        means, noise = part[f"means_{scale}"][rows], part[f"noise_{scale}"][rows]
        rate, until = _trend(means, noise, scale, value[rows], seconds[rows])
        with np.errstate(invalid="ignore"):
            leaks = until <= HORIZON_SECONDS[scale]
        growth[rows] = np.where(leaks, np.fmax(growth[rows], rate), growth[rows])
        left[rows] = np.where(leaks, np.fmin(left[rows], until), left[rows])
    return after, growth, left


def _block(
    columns: Columns, scale: int, value: Floats, same: np.ndarray, at: float
) -> tuple[dict[str, Floats], np.ndarray, Floats]:
    """The columns of one speed after a sample; where a block has just ended; and how long that block took."""
    count, total, squares, began, means, noise = (
        np.where(same if columns[f"{name}_{scale}"].ndim == 1 else same[:, None], columns[f"{name}_{scale}"], fresh)
        for name, fresh in (
            ("count", 0.0), ("sum", 0.0), ("squares", 0.0), ("began", np.nan), ("means", np.nan), ("noise", np.nan)
        )
    )  # fmt: skip
    seen = ~np.isnan(value)
    began = np.where(np.isnan(began), at, began)
    count, known = count + seen, np.where(seen, value, 0.0)
    total, squares = total + known, squares + known * known
    done = count >= scale
    mean = total / np.maximum(count, 1.0)
    spread = np.sqrt(np.maximum(squares / np.maximum(count, 1.0) - mean * mean, 0.0))
    means = np.where(done[:, None], np.column_stack([means[:, 1:], mean]), means)
    share = 1.0 / BLOCKS
    noise = np.where(done, np.where(np.isnan(noise), spread, noise + share * (spread - noise)), noise)
    part = {
        f"count_{scale}": np.where(done, 0.0, count), f"sum_{scale}": np.where(done, 0.0, total),
        f"squares_{scale}": np.where(done, 0.0, squares), f"began_{scale}": np.where(done, at, began),
        f"means_{scale}": means, f"noise_{scale}": noise,
    }  # fmt: skip
    return part, done, np.maximum(at - began, 1.0)


def _trend(means: Floats, noise: Floats, scale: int, value: Floats, seconds: Floats) -> tuple[Floats, Floats]:
    """Growth in shares of the limit an hour, and seconds to the limit; NaN where there is no steady trend."""
    steps = np.diff(means, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        middle = np.median(steps, axis=1)
        even = (steps > _LEAST_STEP * middle[:, None]).all(axis=1) & (steps.max(axis=1) <= _EVENEST * middle)
        grown = means[:, -1] - means[:, 0]
        # The growth within a block is no noise: a line's deviation over a block is its step over the root of 12.
        clean = np.sqrt(np.maximum(noise * noise - middle * middle / 12.0, 0.0)) + _LEAST_NOISE
        clear = (grown >= Z * clean * np.sqrt(2.0 / scale)) & (grown >= LEAST_SHARE)
        bend = np.clip((steps[:, -2:].mean(axis=1) / steps[:, :2].mean(axis=1)) ** (1.0 / 3.0), 0.0, 1.0)
        room = np.maximum(1.0 - value, 0.0)
        reaches = (bend >= _STEADY) | (steps[:, -1] * bend / (1.0 - bend) >= room)
        leaks = even & clear & reaches & (middle > 0)
        blocks = room / middle
    return (
        np.where(leaks, middle / seconds * 3600.0, np.nan),
        np.where(leaks, blocks * seconds, np.nan),
    )
