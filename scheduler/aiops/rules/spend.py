"""A cost spike: the spend rate is up, and the work that is done for it is not.

Dearer than its work explains is also a pool whose work has just ended and whose nodes idle for a while; a spike is only
where more is spent than in the hours before.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HIGH, INFRASTRUCTURE, WARNING, Hit, Table, hit
from scheduler.aiops.rules import _shift
from scheduler.aiops.rules._events import above
from scheduler.aiops.series import Columns, Field, Floats

SCOPE = "pool"
VERSION = 1
FIELDS = (*_shift.FIELDS, Field("usual", np.nan))
Z = 6.0
LEAST_MEAN = np.log(1.2)
SEVERE_MEAN = np.log(2.0)
USUAL_SPAN = 180.0
LEAST_RISE = 1.25


def _log(value: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(value > 0, np.log(value), np.nan)


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    spend, work = table.of("spend_usd_per_hour"), table.of("busy_gpus_count")
    after, mean, z = _shift.follow(columns, spend, _log(work))
    up = above(mean, LEAST_MEAN) & above(z, Z) & above(spend, LEAST_RISE * columns["usual"])
    severe = above(mean, SEVERE_MEAN)
    shown = {"spend_usd_per_hour": spend, "busy_gpus_count": work, "dearer_ratio": np.expm1(mean)}
    hits = (
        *hit("cost.spike", HIGH, INFRASTRUCTURE, up & severe, shown),
        *hit("cost.spike", WARNING, INFRASTRUCTURE, up & ~severe, shown),
    )
    usual = np.where(np.isnan(columns["usual"]), spend, columns["usual"] + (spend - columns["usual"]) / USUAL_SPAN)
    return {**after, "usual": np.where(np.isnan(usual), columns["usual"], usual)}, hits
