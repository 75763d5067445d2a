"""What plain detectors make of the same telemetry: every alarm of every series is an incident of its own.

`thresholds`: six standard deviations from an exponentially weighted mean of a day, or a static limit (a new Xid code,
any uncorrected error, not ready, 87 degrees), per series, silent for half an hour after an alarm. Judged in the same
way is what the learning detectors said by themselves (`faults.told_by_bank`).

An alarm tells a fault when it comes between its beginning and half an hour after its end from anything that the fault
touches, whatever it says: kinder than what incidents are held to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.findings import Table
from scheduler.aiops.monitor import View
from scheduler.aiops.series import Floats
from scheduler.simulate.faults.fault import POOL, RULE, SERVICE, STATISTICAL, UNNAMED, Fault
from scheduler.simulate.faults.fleet import GPUS_PER_NODE
from scheduler.simulate.faults.kinds import KINDS
from scheduler.simulate.faults.scoring import GRACE_MINUTES
from scheduler.simulate.faults.study import Study
from scheduler.simulate.faults.telemetry import START_SECONDS

GAUGES = {
    "gpu": ("gpu_utilization_ratio", "gpu_power_watts", "gpu_temperature_celsius", "gpu_memory_used_bytes",
            "workload_step_compute_seconds"),
    "node": ("node_memory_available_bytes",),
    "workload": ("serving_latency_p95_seconds",),
    "pool": ("spend_usd_per_hour",),
}  # fmt: skip
SITE_GAUGES = {
    "gpu": (*GAUGES["gpu"], "gpu_sm_clock_hertz", "gpu_link_replays_per_second"),
    "node": (*GAUGES["node"], "node_network_errors_per_second", "node_disk_latency_seconds", "node_coolant_celsius"),
    "workload": GAUGES["workload"],
    "pool": GAUGES["pool"],
}  # fmt: skip
"""The same where the site has gauges of its own."""
_SPAN, _SIGMAS, _HOLD_MINUTES = 1440.0, 6.0, 30
Flags = NDArray[np.bool_]
Alarm = tuple[int, str, int]
"""Minute, scope, row."""


def _gauges(view: View, gauges: Mapping[str, tuple[str, ...]]) -> tuple[Floats, list[tuple[str, int]]]:
    """All gauges as one array, and where each series belongs."""
    values: list[Floats] = []
    owners: list[tuple[str, int]] = []
    for scope, names in gauges.items():
        table = view.tables[scope]
        for name in names:
            values.append(table.of(name))
            owners.extend((scope, row) for row in range(table.rows))
    return np.concatenate(values), owners


@dataclass
class Thresholds:
    """Plain limits per series."""

    alarms: list[Alarm] = field(default_factory=list)
    gauges: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: GAUGES)
    _count: float = 0.0
    _mean: Floats | None = None
    _variance: Floats | None = None
    _held: Floats | None = None
    _last: dict[str, Floats] = field(default_factory=dict)
    _static_held: dict[tuple[str, str], Floats] = field(default_factory=dict)

    def watch(self, view: View) -> None:
        minute = round((view.at - START_SECONDS) / 60.0)
        value, owners = _gauges(view, self.gauges)
        if self._mean is None or self._variance is None or self._held is None:
            self._mean, self._variance = np.nan_to_num(value), np.zeros(len(value))
            self._held = np.zeros(len(value))
        off = np.where(np.isnan(value), 0.0, value - self._mean)
        wild = np.abs(off) > _SIGMAS * np.sqrt(self._variance) + 1e-3 * np.abs(self._mean)
        wild &= (self._held <= minute) & (self._count > 240)
        self.alarms.extend((minute, *owners[row]) for row in np.flatnonzero(wild).tolist())
        self._held = np.where(wild, minute + _HOLD_MINUTES, self._held)
        self._count += 1.0
        share = 1.0 / min(self._count, _SPAN)
        self._mean = self._mean + share * off
        self._variance = (1.0 - share) * (self._variance + share * off * off)
        gpu, node = view.tables["gpu"], view.tables["node"]
        self._static(minute, "gpu", "xid", self._new(gpu, "gpu_xid_code"))
        self._static(minute, "gpu", "ecc", self._new(gpu, "gpu_ecc_double_bit_errors_count"))
        self._static(minute, "gpu", "remap", self._new(gpu, "gpu_row_remap_failed_count"))
        with np.errstate(invalid="ignore"):
            self._static(minute, "gpu", "hot", gpu.of("gpu_temperature_celsius") > 87)
            self._static(minute, "node", "ready", node.of("node_ready_count") < 0.5)

    def _new(self, table: Table, name: str) -> Flags:
        now = table.of(name)
        last = self._last.get(name, now)
        self._last[name] = np.where(np.isnan(now), last, now)
        with np.errstate(invalid="ignore"):
            return np.asarray((now != last) & (now > 0))

    def _static(self, minute: int, scope: str, name: str, where: Flags) -> None:
        held = self._static_held.get((scope, name), np.zeros(len(where)))
        told = where & (held <= minute)
        self.alarms.extend((minute, scope, row) for row in np.flatnonzero(told).tolist())
        self._static_held[scope, name] = np.where(where, minute + _HOLD_MINUTES, held)


def judged(study: Study, alarms: list[Alarm]) -> dict[str, Any]:
    """Recall, precision and delay of such alarms."""
    found: dict[str, list[float | None]] = {RULE: [], STATISTICAL: [], UNNAMED: []}
    matched: set[int] = set()
    near: set[int] = set()
    for fault in study.faults:
        mine = [number for number, one in enumerate(alarms) if _of(fault, one)]
        near.update(mine)
        first = min(mine, key=lambda number: alarms[number][0], default=None)
        if first is not None:
            matched.add(first)
        found[KINDS[fault.kind].shape].append(None if first is None else alarms[first][0] - fault.starts)
    delays = [one for each in found.values() for one in each if one is not None]
    return {
        "incidents": len(alarms),
        "recall_rule": _share(found[RULE]),
        "recall_statistical": _share(found[STATISTICAL]),
        "recall_unnamed": _share(found[UNNAMED]),
        "precision": len(matched) / len(alarms) if alarms else None,
        "false_per_day": round((len(alarms) - len(near)) / study.scenario.days, 3),
        "median_delay_samples": median(delays) if delays else None,
    }


def _share(delays: list[float | None]) -> float | None:
    return sum(one is not None for one in delays) / len(delays) if delays else None


def _of(fault: Fault, alarm: Alarm) -> bool:
    minute, scope, row = alarm
    if not fault.starts <= minute <= fault.ends + GRACE_MINUTES:
        return False
    about = KINDS[fault.kind].about
    if about == SERVICE:
        return scope == "workload" and row == fault.target
    if about == POOL:
        return scope == "pool" and row == fault.target
    if scope in ("gpu", "node"):
        return (row // GPUS_PER_NODE if scope == "gpu" else row) in fault.nodes
    return False
