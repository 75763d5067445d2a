"""A GPU that has come to differ from the others of its workload in power, temperature or clock, whatever the reason: a
fouled heat sink, a cap or a clock that nobody told of. Each value may be ordinary by itself; together with what all its
siblings show at the same time it is not.

ln(value / median of the siblings), less what is usual of this GPU (no two are alike), averaged over about `SPAN`
samples; it must pass a share that matters, its own noise `Z` times over, and the spread among the siblings (where half
of them differ from the other half nobody knows which half is well). What all do at once is no difference.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HARDWARE, WARNING, Hit, Table, hit
from scheduler.aiops.rules._among import among
from scheduler.aiops.series import Columns, Field, Floats

SCOPE = "gpu"
VERSION = 1
GAUGES = (
    ("power", "gpu_power_watts", 0),
    ("temperature", "gpu_temperature_celsius", 1),
    ("clock", "gpu_sm_clock_hertz", -1),
)
"""With the side that is trouble: 0 both. Cooler or faster than its siblings is one that has got rid of what held it."""
FIELDS = tuple(Field(f"{gauge}_{name}") for gauge, _, _ in GAUGES for name in ("seen", "usual", "recent", "noise"))
WARM_UP = 240
SPAN, USUAL_SPAN = 20.0, 1440.0
LEAST_MEAN = 0.08
LEAST_NOISE = 0.005
Z, Z_AMONG = 8.0, 4.0
_CLIP = 3.0
"""So many of its deviations are learnt of a sample at most: a shift is not its own excuse."""


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    after: dict[str, Floats] = {}
    hits: tuple[Hit, ...] = ()
    for gauge, metric, side in GAUGES:
        off, spread = among(table.of(metric), table.group("workload"))
        known = ~np.isnan(off)
        seen, usual, recent, noise = (columns[f"{gauge}_{name}"] for name in ("seen", "usual", "recent", "noise"))
        left = np.where(known, off - usual, 0.0)
        share = 1.0 / np.minimum(seen + 1.0, USUAL_SPAN)
        mean = np.where(known, recent + (left - recent) / SPAN, recent)
        limit = _CLIP * (noise + LEAST_NOISE)
        differs = known & (seen >= WARM_UP) & (np.abs(mean) >= np.maximum(LEAST_MEAN, Z * (noise + LEAST_NOISE)))
        differs &= (np.abs(mean) >= Z_AMONG * np.nan_to_num(spread)) & (mean * side >= 0.0)
        young = seen < WARM_UP
        after |= {
            f"{gauge}_seen": seen + known,
            f"{gauge}_usual": usual + share * np.where(young, left, np.clip(left, -limit, limit)),
            f"{gauge}_recent": mean,
            # Of the average: its mean absolute value.
            f"{gauge}_noise": np.where(known, noise + share * (np.minimum(np.abs(mean), limit) - noise), noise),
        }
        shown = {metric: table.of(metric), "differs_ratio": np.expm1(mean)}
        hits += hit(f"gpu.differs.{gauge}", WARNING, HARDWARE, differs, shown)
    return after, hits
