"""Throughput of a (model, GPU) pair never seen, the model seen on one other GPU. Run: python -m tests.bench.throughput.

Every model (all its batch sizes and counts) in turn keeps its rows on one GPU only; those on each other GPU are
predicted, all other models being known everywhere. Weights are fitted in each fold to what is known there. Nothing is
drawn at random but the two rows that `--holdout two-observations` gives back of each pair held out (`--seed`);
`--holdout model` keeps no row of the model.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scheduler.predict.throughput import Setting, fit

Table = list[tuple[Setting, float]]
TABLE = Path("../shared/data/traces/gavel_throughput.csv")
PEAK_FP32_TFLOPS = {"k80": 4.37, "p100": 9.3, "v100": 15.7}
"""NVIDIA data sheets: Tesla K80 (one of its two GPUs), P100 for PCIe, V100 SXM2."""


def read(path: Path) -> Table:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {
        Setting(r["model"], float(r["batch_size"]) if r["batch_size"] else None, int(r["scale_factor"]), r["gpu"],
                r["consolidated"] == "1" or r["scale_factor"] == "1"): float(r["steps_per_s"])
        for r in rows
    }  # fmt: skip
    return [(setting, steps) for setting, steps in found.items() if steps > 0]


def summary(errors: list[float]) -> dict[str, float]:
    return {"median_ape": float(np.median(errors)), "mean_ape": float(np.mean(errors))}


def folds(table: Table, holdout: str, seed: int) -> Iterator[tuple[Table, Table, str]]:
    """(known, asked, the one GPU the model is seen on), in order of model, kept GPU and, with two observations, GPU."""
    draw = np.random.default_rng(seed)
    gpus = sorted({s.gpu for s, _ in table})
    for model in sorted({s.model for s, _ in table}):
        others = [(s, y) for s, y in table if s.model != model]
        own = [(s, y) for s, y in table if s.model == model]
        if holdout == "model":
            yield others, own, ""
            continue
        for kept in gpus:
            base = others + [(s, y) for s, y in own if s.gpu == kept]
            unseen = [(s, y) for s, y in own if s.gpu != kept]
            if holdout == "pair":
                yield base, unseen, kept
                continue
            for gpu in sorted({s.gpu for s, _ in unseen}):
                there = [(s, y) for s, y in unseen if s.gpu == gpu]
                given = set(draw.permutation(len(there))[:2].tolist())
                settings = {there[i][0] for i in given}
                known = base + [(s, y) for s, y in there if s in settings]
                yield known, [(s, y) for s, y in there if s not in settings], kept


def measure(table: Table, holdout: str, seed: int) -> dict[str, list[float]]:
    """Absolute relative errors and hits of the interval over all folds, and the rule of thumb's where it applies."""
    out: dict[str, list[float]] = {"ape": [], "covered": [], "rule_of_thumb": []}
    for train, test, kept in folds(table, holdout, seed):
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
    parser = argparse.ArgumentParser(description="Error of learned throughputs, beside the hardware ratio.")
    parser.add_argument("--holdout", default="pair", choices=("pair", "two-observations", "model"))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not TABLE.exists():
        print(f"skipped: {TABLE} is not there")
        return 0
    out = measure(read(TABLE), options.holdout, options.seed)
    report = {
        "holdout": options.holdout,
        "seed": options.seed,
        **summary(out["ape"]),
        "coverage_90": float(np.mean(out["covered"])),
        "predicted": len(out["ape"]),
        "baselines": {"hardware_ratio": summary(out["rule_of_thumb"])} if out["rule_of_thumb"] else {},
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
