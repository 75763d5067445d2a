"""A rank that computes longer than its siblings: +10 % on one of them slows the whole job down.

ln(step time / median of the job's ranks), over the last three samples, against what such a mean of three differs by
among ranks that are well: 1.4826 times the median absolute deviation within the job, averaged over time. For normal
noise `Z` is passed once in 2.5e10 samples (10,000 ranks in 1,700 days at one a minute); that each of the three is slow
guards against noise that is not normal.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HARDWARE, HIGH, WARNING, Hit, Table, hit
from scheduler.aiops.rules._among import among
from scheduler.aiops.series import Columns, Field

SCOPE = "gpu"
VERSION = 1
FIELDS = (Field("group", -1.0), Field("seen"), Field("noise"), Field("recent", np.nan, 3))
WARM_UP = 5
"""Samples of a rank in its job: the first steps compile and load."""
NOISE_SPAN = 30.0
LEAST_NOISE = 0.005
Z = 6.5
LEAST_SINGLE, LEAST_MEAN, SEVERE_MEAN = 0.04, 0.06, 0.25


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    off, spread = among(table.of("workload_step_compute_seconds"), table.group("workload"))
    known = ~np.isnan(off)
    group = table.group("workload").astype(np.float64)
    same = group == columns["group"]
    seen = np.where(same, columns["seen"], 0.0)
    before = np.where(same[:, None], columns["recent"], np.nan)
    recent = np.where(known[:, None], np.column_stack([before[:, 1:], off]), before)
    share = 1.0 / np.minimum(seen + 1.0, NOISE_SPAN)
    usual = np.where(same, columns["noise"], 0.0)
    noise = np.where(known, usual + share * (np.nan_to_num(spread) - usual), usual)
    mean = recent.mean(axis=1)
    with np.errstate(invalid="ignore"):
        slow = (recent >= LEAST_SINGLE).all(axis=1) & (mean >= LEAST_MEAN)
        slow &= mean * np.sqrt(3.0) >= Z * np.maximum(noise, LEAST_NOISE)
    slow &= known & (seen >= WARM_UP)
    shown = {"workload_step_compute_seconds": table.of("workload_step_compute_seconds"), "slower_ratio": np.expm1(mean)}
    hits = (
        *hit("gpu.straggler", HIGH, HARDWARE, slow & (mean >= SEVERE_MEAN), shown),
        *hit("gpu.straggler", WARNING, HARDWARE, slow & (mean < SEVERE_MEAN), shown),
    )
    return {"group": group, "seen": seen + known, "noise": noise, "recent": recent}, hits
