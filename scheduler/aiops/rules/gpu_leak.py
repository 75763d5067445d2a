"""A GPU whose memory leaks: see `_leak`. It starts anew when another workload runs there."""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import APPLICATION, HIGH, RESTART, WARNING, Hit, Table, hit
from scheduler.aiops.rules import _leak
from scheduler.aiops.rules._events import below
from scheduler.aiops.series import Columns

SCOPE = "gpu"
VERSION = 1
FIELDS = _leak.FIELDS
SOON_SECONDS = 3600.0


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    used, total = table.of("gpu_memory_used_bytes"), table.of("gpu_memory_total_bytes")
    group = table.group("workload").astype(np.float64)
    after, growth, left = _leak.follow(columns, used, total, group, table.at)
    shown = {"grows_per_hour_ratio": growth, "seconds_to_limit": left, "gpu_memory_used_bytes": used}
    soon, leaks = below(left, SOON_SECONDS), ~np.isnan(growth)
    hits = (
        *hit("memory.leak.gpu", HIGH, APPLICATION, leaks & soon, shown, remedy=RESTART),
        *hit("memory.leak.gpu", WARNING, APPLICATION, leaks & ~soon, shown, remedy=RESTART),
    )
    return after, hits
