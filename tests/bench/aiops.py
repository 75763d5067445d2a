"""The detector bank: time and state of a step, alarms on clean GPU series. Run: python -m tests.bench.aiops [--json].

Time: one sample of each of 100,000 series through every detector, calibration and thinning, as CPU time of one thread,
beside a Python loop over the series that follows one mean and one variance each (the least that any detector does).

Alarms: duty cycle and memory of real inference GPUs (Alibaba GenAI, 7 h at 57 s), of which no fault is known; a pod's
series ends with its last sample. Pods with even numbers fit the fleet's tail, those with odd ones are counted. "by
model" counts each point that some detector holds for a 3-sigma event, "by series" the same after each series' own
calibration, "thinned" what bursts leave of that; then what passes the fleet's threshold for one false alarm a day among
these series, or among 10,000. So that silence cannot pass for calibration, the same series are run again with faults
planted at 4 h, and those that pass the threshold are counted.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops.bank import detector_bytes, new_bank, observe
from scheduler.aiops.calibration import alarm_threshold, fit_tail
from scheduler.aiops.detectors import detector_names, load_detector
from scheduler.aiops.series import Floats, Samples, empty, samples
from scheduler.cli.output import print_json

TRACE = Path("../shared/data/traces/genai_pod_gpu.csv.gz")
STEP_SECONDS = 57.0
DAY_SECONDS = 86400.0
THREE_SIGMA = -math.log(0.00135)
WARM_UP, ROUNDS = 125, 7
FAULT_ROW = 253


def step_time(series: int) -> dict[str, Any]:
    """CPU time of a warm step (median of seven) and of the loop, and the state by detector."""
    rng = np.random.default_rng(0)
    bank = new_bank(series)
    spent = []
    for number in range(WARM_UP + ROUNDS):
        batch = _noise(series, number, rng)
        start = time.process_time()
        bank, _ = observe(bank, batch)
        spent.append(time.process_time() - start)
    step = float(np.median(spent[-ROUNDS:]))
    start = time.process_time()
    _loop(batch.values.tolist())
    loop = time.process_time() - start
    return {
        "series": series,
        "step_ms": round(1e3 * step, 1),
        "us_per_point": round(1e6 * step / series, 3),
        "loop_ms": round(1e3 * loop, 1),
        "detector_bytes": {name: detector_bytes(name) for name in detector_names()},
    }


def _noise(series: int, number: int, rng: np.random.Generator) -> Samples:
    at = np.full(series, number * 60.0)
    return samples(at, rng.normal(50.0, 5.0, series), np.full(series, 1000.0), np.arange(series) // 8)


def _loop(values: list[float]) -> float:
    state = [[50.0, 25.0] for _ in values]
    worst = 0.0
    for one, value in zip(state, values, strict=True):
        off = value - one[0]
        worst = max(worst, abs(off) / math.sqrt(one[1]))
        one[0] += 0.01 * off
        one[1] = 0.99 * (one[1] + 0.01 * off * off)
    return worst


def read_gpus() -> tuple[Floats, list[int]]:
    """Values by time and series (two series a pod: duty, memory), NaN where there is none; and each series' pod."""
    found: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    with gzip.open(TRACE, "rt", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            at = round(float(row["t_s"]) / STEP_SECONDS)
            for metric, name in enumerate(("gpu_duty_pct", "gpu_mem_mib")):
                if row[name]:
                    found[int(row["pod"]), metric][at] = float(row[name])
    keys = sorted(found)
    values = np.full((1 + max(max(one) for one in found.values()), len(keys)), np.nan)
    for column, key in enumerate(keys):
        for at, value in found[key].items():
            values[at, column] = value
    return values, [pod for pod, _ in keys]


def model_surprise(values: Floats) -> Floats:
    """The largest surprise of any detector, as its own model has it."""
    worst = np.full(values.shape, np.nan)
    for name in detector_names():
        detector = load_detector(name)
        columns = empty(detector.FIELDS, values.shape[1])
        for row, batch in enumerate(_batches(values)):
            columns, surprise = detector.step(columns, batch)
            worst[row] = np.fmax(worst[row], surprise)
    return worst


def living(values: Floats) -> NDArray[np.bool_]:
    """Until each series' last sample: a pod that has ended is not missed."""
    return np.flip(np.logical_or.accumulate(np.flip(np.isfinite(values), 0)), 0)


def bank_scores(values: Floats) -> tuple[Floats, Floats]:
    """Calibrated by series: before and after thinning."""
    bank = new_bank(values.shape[1])
    raw, thinned = np.empty(values.shape), np.empty(values.shape)
    for row, batch in enumerate(_batches(values)):
        bank, scores = observe(bank, batch)
        raw[row], thinned[row] = scores.raw, scores.score
    return raw, thinned


def _batches(values: Floats) -> list[Samples]:
    return [samples(np.full(values.shape[1], row * STEP_SECONDS), one) for row, one in enumerate(values)]


def planted(values: Floats, metric: int, fault: str) -> Floats:
    """The series with a fault in every one of that metric (0 duty, 1 memory; they alternate)."""
    faulty = values.copy()
    part = faulty[FAULT_ROW:, metric::2]
    match fault:
        case "stops reporting":
            part[:] = np.nan
        case "stuck at 100 %":
            part[np.isfinite(part)] = 100.0
        case "doubles":
            part *= 2.0
        case "leaks 1 % a minute":
            part += 0.01 * np.nan_to_num(values[:FAULT_ROW, metric::2]).mean(axis=0) * np.arange(len(part))[:, None]
    return faulty


FAULTS = ((0, "stops reporting"), (0, "stuck at 100 %"), (1, "doubles"), (1, "leaks 1 % a minute"))


def found_faults(values: Floats, odd: NDArray[np.bool_], threshold: float) -> dict[str, str]:
    """Of each planted fault: how many of the odd pods' series pass the threshold after it."""
    found = {}
    for metric, fault in FAULTS:
        _, thinned = bank_scores(planted(values, metric, fault))
        mine = odd & (np.arange(len(odd)) % 2 == metric)
        hits = (thinned[FAULT_ROW:, mine] >= threshold).any(axis=0)
        found[fault] = f"{int(hits.sum())}/{int(mine.sum())}"
    return found


def clean_alarms() -> dict[str, Any]:
    """Alarms a series and day on the odd pods."""
    values, pods = read_gpus()
    odd = np.array(pods) % 2 == 1
    alive = living(values)
    surprise, raw, thinned = (np.where(alive, one, 0.0) for one in (model_surprise(values), *bank_scores(values)))
    points = int((~np.isnan(values[:, odd])).sum())
    days = points * STEP_SECONDS / DAY_SECONDS
    tail = fit_tail(thinned[:, ~odd], int((~np.isnan(values[:, ~odd])).sum()))
    daily = DAY_SECONDS / STEP_SECONDS
    counted = {
        "by_model": int((surprise[:, odd] > THREE_SIGMA).sum()),
        "by_series": int((raw[:, odd] > THREE_SIGMA).sum()),
        "thinned": int((thinned[:, odd] > THREE_SIGMA).sum()),
    }
    thresholds = {}
    for name, series in (("one_a_day_here", int(odd.sum())), ("one_a_day_in_10000", 10_000)):
        thresholds[name] = alarm_threshold(tail, alarms_per_day=1.0, samples_per_day=daily * series)
        counted[name] = int((thinned[:, odd] >= thresholds[name]).sum())
    return {
        "series": int(odd.sum()),
        "series_days": round(days, 2),
        "tail": {"start": tail.start, "scale": tail.scale, "shape": tail.shape, "share": tail.share},
        "thresholds": thresholds,
        "alarms": counted,
        "planted": {name: found_faults(values, odd, threshold) for name, threshold in thresholds.items()},
        "alarms_per_series_day": {name: round(count / days, 4) for name, count in counted.items()},
        "highest_score": round(float(thinned[:, odd].max()), 2),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--series", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {"step": step_time(options.series), "clean": None}
    if TRACE.exists():
        found["clean"] = clean_alarms()
    if options.json:
        print_json(found)
        return 0
    step = found["step"]
    print(f"{step['series']} series: {step['step_ms']} ms a step ({step['us_per_point']} us a point); ", end="")
    print(f"a loop for one mean and variance: {step['loop_ms']} ms")
    for name, size in step["detector_bytes"].items():
        print(f"  {name:14} {size:4} bytes a series")
    if found["clean"] is None:
        print(f"alarms skipped: {TRACE} is not there")
        return 0
    clean = found["clean"]
    print(f"clean GPU series: {clean['series']} over {clean['series_days']} series-days")
    for name, count in clean["alarms"].items():
        print(f"  {name:20} {count:6} alarms, {clean['alarms_per_series_day'][name]:10.4f} a series and day")
    for name, faults in clean["planted"].items():
        told = ", ".join(f"{fault} {hits}" for fault, hits in faults.items())
        print(f"  {name}: threshold {clean['thresholds'][name]:.1f}; planted faults found: {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
