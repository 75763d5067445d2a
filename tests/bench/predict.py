"""How long predicting and learning take. Run: python -m tests.bench.predict [--json] [--runs N].

Wanted: 1,000 workload classes on 500 offerings predicted in 200 ms; an observation learned in 5 ms; a refit on 100,000
runs in 30 s.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import quantiles
from typing import Any, Final

import numpy as np

from scheduler.cli.output import print_json
from scheduler.model.cluster import ON_DEMAND, OWNED, SPOT, NodePool
from scheduler.model.workload import Hints, Workload
from scheduler.predict.durations import DurationModel, Run
from scheduler.predict.learning import Began, Learning
from tests.unit.engine_world import NOW, pods, pool, workload

CLASSES: Final = 1000
OFFERINGS: Final = 500
OBSERVED: Final = 2000
GPUS: Final = ("A100-80GB", "V100", "P100", "H100", "L4")
_SEED: Final = 1


def offerings() -> list[NodePool]:
    kinds = (OWNED, ON_DEMAND, SPOT)
    return [
        pool(f"c{n % 25}", f"p{n}", gpu_model=GPUS[n % 5], capacity_type=kinds[n % 3], provisioning_seconds=240.0)
        for n in range(OFFERINGS)
    ]


def classes() -> list[Workload]:
    found = []
    for n in range(CLASSES):
        hints = (
            Hints(600.0 + n, 600.0, model=f"model{n % 50}", batch_size=32, total_steps=1e5)
            if n % 2
            else Hints(600.0 + n)
        )
        found.append(workload(f"w{n}", pods(1, 2 ** (n % 4)), queue=f"q{n % 40}", hints=hints))
    return found


def learned(places: list[NodePool], asked: list[Workload]) -> tuple[Learning, list[float]]:
    """After 2,000 runs; and the milliseconds that each start and end took."""
    dice, learning, took = np.random.default_rng(_SEED), Learning(), []
    for index in range(OBSERVED):
        one, where = asked[int(dice.integers(CLASSES))], places[int(dice.integers(OFFERINGS))]
        at, seconds = NOW + 30.0 * index, float(dice.lognormal(7.0, 1.0))
        began = time.process_time()
        learning.began(Began(str(index), at, one, where))
        between = time.process_time()
        learning.ended(str(index), at + seconds, seconds)
        took += [(between - began) * 1000, (time.process_time() - between) * 1000]
        if index == OBSERVED // 2:
            learning.learn_anew(at)
    for where in places[::3]:
        learning.nodes_came(where.ref, float(dice.lognormal(5.5, 0.3)))
        learning.spot_used(where.ref, "z", 3, int(dice.integers(3)), 48.0)
    learning.learn_anew(NOW + 30.0 * OBSERVED)
    return learning, took


def refit_seconds(runs: int) -> float:
    """A forest of so many runs, of the features that the daemon's runs have."""
    dice, model = np.random.default_rng(_SEED), DurationModel(keep=runs)
    for index in range(runs):
        queue, gpus = f"q{dice.integers(40)}", int(2 ** dice.integers(4))
        run = Run(
            str(index), 30.0 * index, (f"{queue}|{gpus}|x", f"{queue}|{gpus}", queue), (float(gpus), 1.0, 8.0, 64.0)
        )
        model.submit(run)
        model.finish(str(index), 30.0 * index + 600.0, float(dice.lognormal(7.0 + 0.2 * gpus, 1.0)))
    began = time.process_time()
    model.forest = model.refit(30.0 * runs)
    return time.process_time() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="One JSON object as the last line.")
    parser.add_argument("--runs", type=int, default=100_000, help="Of the refit.")
    options = parser.parse_args()
    places, asked = offerings(), classes()
    learning, took = learned(places, asked)
    began = time.process_time()
    view = learning.predictor()
    made = time.process_time() - began
    began = time.process_time()
    view.table(asked, places)
    table = time.process_time() - began
    view = learning.predictor()
    began = time.process_time()
    kinds = {view.alike(where): where for where in places}
    for one in asked:
        for where in kinds.values():
            view.predict(one, where, 1)
    engine = time.process_time() - began
    cuts = quantiles(took, n=100)
    found: dict[str, Any] = {
        "classes": CLASSES,
        "offerings": OFFERINGS,
        "table_ms": round(table * 1000, 1),
        "alike_offerings": len(kinds),
        "one_by_one_ms": round(engine * 1000, 1),
        "view_ms": round(made * 1000, 2),
        "observation_ms": {"median": round(cuts[49], 2), "p99": round(cuts[98], 2), "most": round(max(took), 2)},
        "refit_runs": options.runs,
        "refit_seconds": round(refit_seconds(options.runs), 1),
    }
    for name, value in found.items():
        print(f"{name:18} {value}")
    if options.json:
        print_json(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
