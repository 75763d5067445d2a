"""What Kubernetes says of a node: NotReady, pressure, a spot notice; and one that goes back and forth."""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import (
    CRITICAL,
    HARDWARE,
    HIGH,
    INFO,
    INFRASTRUCTURE,
    REBOOT,
    WARNING,
    Hit,
    Table,
    hit,
)
from scheduler.aiops.rules._events import above, below, lasting, latest
from scheduler.aiops.series import Columns, Field

SCOPE = "node"
VERSION = 1
FIELDS = (
    Field("away"), Field("ready", np.nan), Field("changes"), Field("at", np.nan), Field("pressure"),
    Field("notice", np.nan),
)  # fmt: skip
SAMPLES = 2
FLAPS = 3.0
"""Changes between ready and not, older ones counting less: four within a quarter of an hour or so."""
_MEMORY_SECONDS = 2400.0
PRESSURES = ("node_memory_pressure_count", "node_disk_pressure_count", "node_pid_pressure_count",
             "node_network_unavailable_count")  # fmt: skip


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    ready, last = table.of("node_ready_count"), columns["ready"]
    known = ~np.isnan(ready)
    away = lasting(columns["away"], below(ready, 0.5), known)
    elapsed = np.where(np.isnan(columns["at"]), 0.0, np.maximum(table.at - columns["at"], 0.0))
    turned = known & ~np.isnan(last) & (above(ready, 0.5) != above(last, 0.5))
    changes = columns["changes"] * np.exp(-elapsed / _MEMORY_SECONDS) + turned
    closed = above(table.of("node_unschedulable_count"), 0.5)
    pressed = np.zeros(table.rows, dtype=bool)
    for name in PRESSURES:
        pressed |= above(table.of(name), 0.5)
    pressure = np.where(pressed, columns["pressure"] + 1.0, 0.0)
    notice = table.of("node_reclaim_notice_count")
    noticed = above(notice, 0.5) & (columns["notice"] < 0.5)
    gone = known & (away >= SAMPLES)
    shown = {"node_ready_count": ready, "samples_not_ready": away}
    hits = (
        *hit("node.not-ready", CRITICAL, HARDWARE, gone & ~closed, shown, remedy=REBOOT),
        # Closed by somebody who may well be working on it.
        *hit("node.not-ready", INFO, HARDWARE, gone & closed, shown),
        *hit("node.flapping", HIGH, HARDWARE, turned & (changes >= FLAPS), {"changes_of_ready": changes}),
        *hit("node.pressure", WARNING, HARDWARE, pressed & (pressure >= SAMPLES),
             {name: table.of(name) for name in PRESSURES}),
        *hit("node.spot-notice", WARNING, INFRASTRUCTURE, noticed, {"node_reclaim_notice_count": notice}),
    )  # fmt: skip
    after = {
        "away": away,
        "ready": latest(last, ready),
        "changes": changes,
        "at": np.full(table.rows, table.at),
        "pressure": pressure,
        "notice": latest(columns["notice"], notice),
    }
    return after, hits
