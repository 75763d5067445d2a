"""Clocks that are lowered for a reason that somebody should look at. The bits are those of NVML's clock event reasons
(nvml.h: nvmlClocksEventReason*). A power cap (0x4), idling (0x1) and application clocks (0x2) are ordinary."""

from __future__ import annotations

from scheduler.aiops.findings import CRITICAL, HARDWARE, HIGH, WARNING, Hit, Table, hit
from scheduler.aiops.rules._events import bits, lasting
from scheduler.aiops.series import Columns, Field

SCOPE = "gpu"
VERSION = 1
HARDWARE_SLOWDOWN, SOFTWARE_THERMAL, HARDWARE_THERMAL, POWER_BRAKE = 0x8, 0x20, 0x40, 0x80
FIELDS = (Field("thermal"), Field("brake"), Field("slowdown"))
SAMPLES = 2
"""In a row: a short dip is ordinary."""


def step(columns: Columns, table: Table) -> tuple[Columns, tuple[Hit, ...]]:
    reasons = table.of("gpu_clock_event_reasons_code")
    known, mask = reasons >= 0, bits(reasons)
    hardware = (mask & HARDWARE_THERMAL) != 0
    brake_bit = (mask & POWER_BRAKE) != 0
    thermal_bit = (mask & (SOFTWARE_THERMAL | HARDWARE_THERMAL)) != 0
    thermal = lasting(columns["thermal"], thermal_bit, known)
    brake = lasting(columns["brake"], brake_bit, known)
    # The general bit comes with either of the two above; alone it says only that the board slows itself down.
    alone = ((mask & HARDWARE_SLOWDOWN) != 0) & ~hardware & ~brake_bit
    slowdown = lasting(columns["slowdown"], alone, known)
    shown = {
        "gpu_clock_event_reasons_code": reasons,
        "gpu_temperature_celsius": table.of("gpu_temperature_celsius"),
        "gpu_sm_clock_hertz": table.of("gpu_sm_clock_hertz"),
    }
    hits = (
        *hit("gpu.throttle.thermal", HIGH, HARDWARE, known & (thermal >= SAMPLES) & hardware, shown),
        *hit("gpu.throttle.thermal", WARNING, HARDWARE, known & (thermal >= SAMPLES) & thermal_bit & ~hardware, shown),
        *hit("gpu.throttle.power-brake", CRITICAL, HARDWARE, known & (brake >= SAMPLES), shown),
        *hit("gpu.throttle.slowdown", HIGH, HARDWARE, known & (slowdown >= SAMPLES), shown),
    )
    return {"thermal": thermal, "brake": brake, "slowdown": slowdown}, hits
