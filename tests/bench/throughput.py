"""Throughput of a (model, GPU) pair never seen, the model seen on one other GPU. Run: python -m tests.bench.throughput.

Every model (all its batch sizes and counts) in turn keeps its rows on one GPU only; those on each other GPU are
predicted, all other models being known everywhere. Weights are fitted in each fold to what is known there. Nothing is
drawn at random.
"""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np

from scheduler.predict.throughput import Setting, fit

TABLE = Path("../shared/data/traces/gavel_throughput.csv")
PEAK_FP32_TFLOPS = {"k80": 4.37, "p100": 9.3, "v100": 15.7}
"""NVIDIA data sheets: Tesla K80 (one of its two GPUs), P100 for PCIe, V100 SXM2."""


def read(path: Path) -> list[tuple[Setting, float]]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {
        Setting(r["model"], float(r["batch_size"]) if r["batch_size"] else None, int(r["scale_factor"]), r["gpu"],
                r["consolidated"] == "1" or r["scale_factor"] == "1"): float(r["steps_per_s"])
        for r in rows
    }  # fmt: skip
    return [(setting, steps) for setting, steps in found.items() if steps > 0]


def measure(table: list[tuple[Setting, float]]) -> dict[str, list[float]]:
    out: dict[str, list[float]] = {"ape": [], "covered": [], "rule_of_thumb": []}
    gpus = sorted({s.gpu for s, _ in table})
    for model in sorted({s.model for s, _ in table}):
        for kept in gpus:
            train = [(s, y) for s, y in table if s.model != model or s.gpu == kept]
            test = [(s, y) for s, y in table if s.model == model and s.gpu != kept]
            learned = fit([s for s, _ in train], [y for _, y in train])
            if learned is None or not test:
                continue
            answer = learned.predict([s for s, _ in test])
            known = dict(train)
            for (s, y), median, low, high in zip(test, answer.median, answer.low, answer.high, strict=True):
                out["ape"].append(abs(float(median) / y - 1))
                out["covered"].append(float(low <= y <= high))
                base = known.get(Setting(s.model, s.batch_size, s.gpus, kept, s.same_node))
                if base is not None:
                    ratio = PEAK_FP32_TFLOPS[s.gpu] / PEAK_FP32_TFLOPS[kept]
                    out["rule_of_thumb"].append(abs(base * ratio / y - 1))
    return out


def main() -> int:
    if not TABLE.exists():
        print(f"skipped: {TABLE} is not there")
        return 0
    out = measure(read(TABLE))
    report = {
        "median_ape": float(np.median(out["ape"])),
        "mean_ape": float(np.mean(out["ape"])),
        "coverage_90": float(np.mean(out["covered"])),
        "predicted": len(out["ape"]),
        "baselines": {
            "hardware_ratio": {
                "median_ape": float(np.median(out["rule_of_thumb"])),
                "mean_ape": float(np.mean(out["rule_of_thumb"])),
            }
        },
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
