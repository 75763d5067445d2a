"""A cost spike: the spend rate is up, and the work that is done for it is not."""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HIGH, INFRASTRUCTURE, WARNING, Hit, Table, hit
from scheduler.aiops.rules import _shift
from scheduler.aiops.rules._events import above
from scheduler.aiops.series import Columns

SCOPE = "pool"
VERSION = 1
FIELDS = _shift.FIELDS
Z = 6.0
LEAST_MEAN = np.log(1.2)
SEVERE_MEAN = np.log(2.0)


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    spend, work = table.of("spend_usd_per_hour"), table.of("busy_gpus_count")
    after, mean, z = _shift.follow(columns, spend, work)
    up = above(mean, LEAST_MEAN) & above(z, Z)
    severe = above(mean, SEVERE_MEAN)
    shown = {"spend_usd_per_hour": spend, "busy_gpus_count": work, "dearer_ratio": np.expm1(mean)}
    hits = (
        *hit("cost.spike", HIGH, INFRASTRUCTURE, up & severe, shown),
        *hit("cost.spike", WARNING, INFRASTRUCTURE, up & ~severe, shown),
    )
    return after, hits
