"""ECC errors and row remapping (NVIDIA, "GPU Memory Error Management": a remap that is pending is done by the next
reset; when one has failed the GPU is to be replaced)."""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import CRITICAL, HARDWARE, HIGH, REPLACE, RESET, WARNING, Hit, Table, hit
from scheduler.aiops.rules._events import above, increase, latest
from scheduler.aiops.series import Columns, Field

SCOPE = "gpu"
VERSION = 1
FIELDS = (
    Field("double", np.nan), Field("single", np.nan), Field("single_recent"), Field("at", np.nan),
    Field("rows", np.nan), Field("failed", np.nan), Field("pending", np.nan),
)  # fmt: skip
MOST_SINGLE_PER_HOUR = 600.0
"""Corrected errors: ten a minute, DCGM's own (provisional) limit, kept up."""
_MEMORY_SECONDS = 900.0


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    double, single = table.of("gpu_ecc_double_bit_errors_count"), table.of("gpu_ecc_single_bit_errors_count")
    rows, failed = table.of("gpu_remapped_rows_uncorrectable_count"), table.of("gpu_row_remap_failed_count")
    pending = table.of("gpu_row_remap_pending_count")
    elapsed = np.where(np.isnan(columns["at"]), 0.0, np.maximum(table.at - columns["at"], 0.0))
    corrected = np.nan_to_num(increase(columns["single"], single))
    recent = columns["single_recent"] * np.exp(-elapsed / _MEMORY_SECONDS) + corrected
    hourly = recent * 3600.0 / _MEMORY_SECONDS
    more = {"gpu_ecc_double_bit_errors_count": double, "gpu_remapped_rows_uncorrectable_count": rows}
    new_failure = above(failed, 1.0) & (columns["failed"] < 1.0)
    new_pending = above(pending, 1.0) & (columns["pending"] < 1.0)
    remapped = above(increase(columns["rows"], rows), 1.0) | new_pending
    hits = (
        *hit("gpu.ecc.double", CRITICAL, HARDWARE, above(increase(columns["double"], double), 1.0), more, remedy=RESET),
        *hit("gpu.ecc.single", WARNING, HARDWARE, above(hourly, MOST_SINGLE_PER_HOUR) & (corrected > 0),
             {"ecc_single_bit_errors_per_hour": hourly}),
        *hit("gpu.remap.failed", CRITICAL, HARDWARE, new_failure, {"gpu_row_remap_failed_count": failed},
             remedy=REPLACE),
        *hit("gpu.remap.pending", HIGH, HARDWARE, remapped & ~new_failure, more, remedy=RESET),
    )  # fmt: skip
    after = {
        "double": latest(columns["double"], double),
        "single": latest(columns["single"], single),
        "single_recent": recent,
        "at": np.full(table.rows, table.at),
        "rows": latest(columns["rows"], rows),
        "failed": latest(columns["failed"], failed),
        "pending": latest(columns["pending"], pending),
    }
    return after, hits
