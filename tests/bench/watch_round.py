"""What watching costs the daemon: CPU of a round with and without the detectors, and what they keep in memory.

Run: python -m tests.bench.watch_round [--gpus 1000] [--rounds 200] [--json].

Readings of ten gauges a GPU (8 GPUs a node, as DCGM gives them) go through `FleetWatch` as in the daemon, 30 s apart in
virtual time. The resident set is read from /proc before the detectors' first round and after the last one; the state
is what their arrays hold. Series and detectors are counted as the bank counts them.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from scheduler.aiops.fleet_bank import FleetBank
from scheduler.cli.output import print_json
from scheduler.daemon.incidents.fleet_watch import Beside, FleetWatch
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.ids import ClusterId
from scheduler.model.metrics import OK, Reading, Sample
from scheduler.model.snapshot import Snapshot
from tests.unit.engine_world import NOW, cluster, node, pool, snapshot

GAUGES = (
    ("gpu_utilization_ratio", "ratio"), ("gpu_tensor_active_ratio", "ratio"), ("gpu_memory_used_bytes", "bytes"),
    ("gpu_power_watts", "watts"), ("gpu_temperature_celsius", "celsius"), ("gpu_sm_clock_hertz", "hertz"),
    ("gpu_memory_temperature_celsius", "celsius"), ("gpu_memory_clock_hertz", "hertz"),
    ("gpu_nvlink_bytes_per_second", "per_second"), ("workload_step_compute_seconds", "seconds"),
)  # fmt: skip


def world(gpus: int) -> Snapshot:
    nodes = tuple(node("a", f"n{number}") for number in range(gpus // 8))
    return snapshot(cluster("onprem", (pool("onprem", "a"),), nodes))


def readings(gpus: int, at: float, rng: np.random.Generator) -> list[Reading]:
    found = []
    for number, (metric, unit) in enumerate(GAUGES):
        values = rng.normal(100.0 + number, 5.0, gpus).tolist()
        samples = tuple(
            Sample((("node", f"n{row // 8}"), ("gpu", str(row % 8))), value, at) for row, value in enumerate(values)
        )
        found.append(Reading(ClusterId("onprem"), metric, unit, OK, samples, "bench", at, 0.1))
    return found


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


async def rounds(gpus: int, count: int, alarms_per_day: float) -> dict[str, Any]:
    now, rng = world(gpus), np.random.default_rng(7)
    told: list[list[Reading]] = [[]]
    clock = {"now": NOW}
    watch = FleetWatch(
        lambda: replace(now, now=clock["now"]), lambda: told[0], Telemetry(), Beside(alarms_per_day=alarms_per_day)
    )
    spent, before = [], 0
    for number in range(count):
        clock["now"] = NOW + 30.0 * number
        told[0] = readings(gpus, clock["now"], rng)
        if number == 2:
            before = resident_bytes()
        began = time.process_time()
        await watch.look()
        spent.append(time.process_time() - began)
    monitor = watch._monitor
    assert monitor is not None
    grown = resident_bytes() - before
    return {"cpu_ms": round(1000.0 * float(np.median(spent[count // 2 :])), 2), "resident_growth_bytes": grown,
            **state(monitor.bank)}  # fmt: skip


def state(bank: FleetBank) -> dict[str, Any]:
    series_detectors = sum(one.bank.rows * len(one.bank.detectors) for one in bank.scopes.values())
    held = sum(
        column.nbytes for one in bank.scopes.values() for part in one.bank.parts.values() for column in part.values()
    )
    peaks = sum(group.peaks.nbytes for group in bank.groups.values())
    return {"series": bank.series, "series_detectors": series_detectors, "state_bytes": held, "peaks_bytes": peaks}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    start = resident_bytes()
    without = asyncio.run(rounds(options.gpus, options.rounds, 0.0))
    plain = resident_bytes()
    with_bank = asyncio.run(rounds(options.gpus, options.rounds, 0.1))
    each = with_bank["series_detectors"] or 1
    found = {
        "gpus": options.gpus, "rounds": options.rounds, "without": without, "with": with_bank,
        "resident_at_start": start, "resident_without": plain, "resident_with": resident_bytes(),
        "state_bytes_each": round(with_bank["state_bytes"] / each, 1),
    }  # fmt: skip
    if options.json:
        print_json(found)
        return 0
    print(f"{with_bank['series']} series, {each} series-detectors; rounds of {options.rounds}")
    print(f"CPU a round: {without['cpu_ms']} ms without, {with_bank['cpu_ms']} ms with the detectors")
    print(f"state: {with_bank['state_bytes'] / 1e6:.1f} MB, {found['state_bytes_each']} bytes a series-detector; "
          f"peaks {with_bank['peaks_bytes'] / 1e6:.2f} MB")  # fmt: skip
    print(f"resident: {plain / 1e6:.1f} MB without, {found['resident_with'] / 1e6:.1f} MB with: "
          f"{(found['resident_with'] - plain) / each:.0f} bytes a series-detector, with arrays in flight")  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
