"""A network path whose probes fail, or take longer than they did."""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HIGH, INFRASTRUCTURE, WARNING, Hit, Table, hit
from scheduler.aiops.rules import _shift
from scheduler.aiops.rules._events import above, below, lasting
from scheduler.aiops.series import Columns, Field

SCOPE = "path"
VERSION = 1
FIELDS = (*_shift.FIELDS, Field("failed"))
SAMPLES = 2
"""In a row: a single lost probe is ordinary."""
Z = 6.0
LEAST_MEAN = np.log(2.0)


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    success, seconds = table.of("network_probe_success_count"), table.of("network_probe_seconds")
    known = ~np.isnan(success)
    failed = lasting(columns["failed"], below(success, 0.5), known)
    down = known & (failed >= SAMPLES)
    # What a failed probe took says when it gave up.
    took = np.where(below(success, 0.5), np.nan, seconds)
    after, mean, z = _shift.follow(columns, took, np.full(table.rows, np.nan))
    slow = above(mean, LEAST_MEAN) & above(z, Z)
    hits = (
        *hit("network.path-down", HIGH, INFRASTRUCTURE, down, {"samples_failed": failed}),
        *hit("network.path-slow", WARNING, INFRASTRUCTURE, slow & ~down,
             {"network_probe_seconds": seconds, "slower_ratio": np.expm1(mean)}),
    )  # fmt: skip
    return {**after, "failed": failed}, hits
