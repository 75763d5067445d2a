"""Serving that has become slower than its load explains, above all after a rollout.

The logarithm of a latency rises about linearly with the load (of a queue, -ln(1 - load)).
A rollout makes a regression likelier before anything is seen, so that less must be seen afterwards.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import APPLICATION, HIGH, SYMPTOM, WARNING, Hit, Table, hit
from scheduler.aiops.rules import _shift
from scheduler.aiops.rules._events import above
from scheduler.aiops.series import Columns

SCOPE = "workload"
VERSION = 1
FIELDS = _shift.FIELDS
ROLLOUT_SECONDS = 3600.0
Z, Z_AFTER_ROLLOUT = 6.0, 4.5
LEAST_MEAN = np.log(1.2)
"""Slower by less is nobody's concern."""
SEVERE_MEAN = np.log(1.75)


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    latency, load = table.of("serving_latency_p95_seconds"), table.of("serving_requests_per_second")
    after, mean, z = _shift.follow(columns, latency, load)
    with np.errstate(invalid="ignore"):
        since = table.at - table.of("workload_rolled_out_at_seconds")
        rolled_out = (since >= 0) & (since <= ROLLOUT_SECONDS)
    slow = above(mean, LEAST_MEAN) & above(z, np.where(rolled_out, Z_AFTER_ROLLOUT, Z))
    shown = {
        "serving_latency_p95_seconds": latency,
        "slower_ratio": np.expm1(mean),
        "seconds_since_rollout": np.where(rolled_out, since, np.nan),
    }
    severe = above(mean, SEVERE_MEAN)
    hits = (
        *hit("workload.latency.rollout", HIGH, APPLICATION, slow & rolled_out & severe, shown),
        *hit("workload.latency.rollout", WARNING, APPLICATION, slow & rolled_out & ~severe, shown),
        *hit("workload.latency", HIGH, SYMPTOM, slow & ~rolled_out & severe, shown),
        *hit("workload.latency", WARNING, SYMPTOM, slow & ~rolled_out & ~severe, shown),
    )
    return after, hits
