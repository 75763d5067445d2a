"""NVLink and PCIe errors. Limits are DCGM's (dcgm_gpu_hardware_limits.h): 8 PCIe replays a minute are the most that is
recommended; CRC errors of NVLink matter from 100 a second on. Fewer that go on for some samples are a warning."""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HARDWARE, HIGH, RESET, WARNING, Hit, Table, hit
from scheduler.aiops.rules._events import above, increase, lasting, latest
from scheduler.aiops.series import Columns, Field

SCOPE = "gpu"
VERSION = 1
FIELDS = (
    Field("crc", np.nan), Field("crc_at", np.nan), Field("crc_lasts"),
    Field("replays", np.nan), Field("replays_at", np.nan), Field("replays_last"),
)  # fmt: skip
MOST_CRC_PER_SECOND = 100.0
LEAST_CRC_PER_SECOND = 1.0
MOST_REPLAYS_PER_MINUTE = 8.0
CRC_SAMPLES, REPLAY_SAMPLES = 3, 2


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    crc, replays = table.of("gpu_nvlink_crc_errors_count"), table.of("gpu_pcie_replays_count")
    crc_rate = _rate(columns["crc"], columns["crc_at"], crc, table.at)
    replay_rate = 60.0 * _rate(columns["replays"], columns["replays_at"], replays, table.at)
    crc_lasts = lasting(columns["crc_lasts"], above(crc_rate, LEAST_CRC_PER_SECOND), ~np.isnan(crc_rate))
    over = above(replay_rate, MOST_REPLAYS_PER_MINUTE)
    replays_last = lasting(columns["replays_last"], over, ~np.isnan(replay_rate))
    severe = above(crc_rate, MOST_CRC_PER_SECOND)
    shown = {"nvlink_crc_errors_per_second": crc_rate}
    lasts = (crc_lasts >= CRC_SAMPLES) & ~severe & ~np.isnan(crc_rate)
    hits = (
        *hit("gpu.nvlink.crc", HIGH, HARDWARE, severe, shown, remedy=RESET),
        *hit("gpu.nvlink.crc", WARNING, HARDWARE, lasts, shown, remedy=RESET),
        *hit("gpu.pcie.replays", HIGH, HARDWARE, over & (replays_last >= REPLAY_SAMPLES),
             {"pcie_replays_per_minute": replay_rate}),
    )  # fmt: skip
    after = {
        "crc": latest(columns["crc"], crc),
        "crc_at": np.where(np.isnan(crc), columns["crc_at"], table.at),
        "crc_lasts": crc_lasts,
        "replays": latest(columns["replays"], replays),
        "replays_at": np.where(np.isnan(replays), columns["replays_at"], table.at),
        "replays_last": replays_last,
    }
    return after, hits


def _rate(last: np.ndarray, last_at: np.ndarray, now: np.ndarray, at: float) -> np.ndarray:
    """Increase per second since the last known sample; NaN where there is none."""
    elapsed = at - last_at
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(elapsed > 0, increase(last, now) / elapsed, np.nan)
