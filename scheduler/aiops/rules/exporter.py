"""A node whose GPU exporter has gone silent, or that shows fewer GPUs than it has.

`gpu_reporting_count` is how many of the node's GPUs gave any sample in this round, 0 also where nothing came at all;
`gpu_expected_count` how many it has. Only what has reported before is missed.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HARDWARE, HIGH, INFO, INFRASTRUCTURE, REBOOT, WARNING, Hit, Table, hit
from scheduler.aiops.rules._events import above, below, lasting
from scheduler.aiops.series import Columns, Field

SCOPE = "node"
VERSION = 1
FIELDS = (Field("silent"), Field("fewer"), Field("most", 0.0))
SAMPLES = 6
"""In a row: scrapes fail now and then."""


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    reporting, expected = table.of("gpu_reporting_count"), table.of("gpu_expected_count")
    most = np.fmax(columns["most"], reporting)
    known = ~np.isnan(reporting) & (most >= 1)
    silent = lasting(columns["silent"], below(reporting, 0.5), known)
    some = above(reporting, 0.5) & below(reporting, np.fmin(most, expected) - 0.5)
    fewer = lasting(columns["fewer"], some, known)
    closed = above(table.of("node_unschedulable_count"), 0.5)
    shown = {"gpu_reporting_count": reporting, "gpu_expected_count": expected}
    hits = (
        *hit("node.exporter-gone", WARNING, INFRASTRUCTURE, known & (silent >= SAMPLES) & ~closed, shown),
        *hit("node.exporter-gone", INFO, INFRASTRUCTURE, known & (silent >= SAMPLES) & closed, shown),
        *hit("node.gpu-missing", HIGH, HARDWARE, known & (fewer >= SAMPLES), shown, remedy=REBOOT),
    )
    return {"silent": silent, "fewer": fewer, "most": most}, hits
