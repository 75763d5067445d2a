"""A GPU that says it is busy and does nothing: a kernel spins (a collective that waits for a rank that is gone).

Utilisation only says that some kernel is resident, so a hang shows as 100 % with little power and idle tensor cores. A
decode that is bound by memory has quiet tensor cores too, but draws power. Without a reading of the tensor cores the
power must be lower still.
"""

from __future__ import annotations

import numpy as np

from scheduler.aiops.findings import HIGH, RESTART, SYMPTOM, Hit, Table, hit
from scheduler.aiops.rules._events import above, below, lasting
from scheduler.aiops.series import Columns, Field

SCOPE = "gpu"
VERSION = 1
FIELDS = (Field("lasts"), Field("most_power", np.nan))
LEAST_UTILISATION = 0.98
MOST_TENSOR = 0.005
MOST_POWER_SHARE = 0.45
"""Of the most that this GPU was seen to draw."""
MOST_POWER_SHARE_ALONE = 0.3
LEAST_POWER_SEEN_WATTS = 150.0
"""A GPU that was never seen at work has no usual power."""
SAMPLES = 3


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    utilisation, power = table.of("gpu_utilization_ratio"), table.of("gpu_power_watts")
    tensor = table.of("gpu_tensor_active_ratio")
    most = np.fmax(columns["most_power"], power)
    share = power / np.where(above(most, LEAST_POWER_SEEN_WATTS), most, np.nan)
    quiet = below(tensor, MOST_TENSOR) & below(share, MOST_POWER_SHARE)
    quiet |= np.isnan(tensor) & below(share, MOST_POWER_SHARE_ALONE)
    known = ~np.isnan(utilisation) & ~np.isnan(share)
    lasts = lasting(columns["lasts"], above(utilisation, LEAST_UTILISATION) & quiet, known)
    shown = {"gpu_utilization_ratio": utilisation, "gpu_power_watts": power, "gpu_tensor_active_ratio": tensor}
    hits = hit("gpu.hang", HIGH, SYMPTOM, known & (lasts >= SAMPLES), shown, remedy=RESTART)
    return {"lasts": lasts, "most_power": most}, hits
