"""What a budget for exploration buys, on the speeds that Gavel measured.

Run: python -m tests.bench.exploration [--seeds 1,2,3] [--limits 0,2,10] [--json].

Three owned pools (K80, P100, V100, at the prices per GPU hour of Gavel's simulator) take jobs of one GPU under a policy
that minds cost. Half of the configurations of the table (drawn by the seed) were seen on every GPU model before, the
others on a V100 only; the others are what comes, `REPEATS` jobs of each in an order that the seed draws, an hour of
V100 work each, one every half hour. Each job teaches its speed where it runs, with a log-normal error of 3 %. Beside
each limit (USD for the whole replay): what all jobs cost, what they would where each is known to be cheapest
(perfect), how many jobs were placed to learn, what those counted for, and the mean number of a configuration's jobs
until one ran where it is cheapest. A limit of 0 is no exploration.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from scheduler.cli.output import print_json
from scheduler.model.money import Price
from scheduler.model.plan import Plan
from scheduler.model.policy import ExplorationRule, PlacementPolicy, PolicySet
from scheduler.model.snapshot import Snapshot
from scheduler.predict.throughput import Configuration, ThroughputModel
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.driver import Site, replay
from scheduler.simulate.readers._pods import gpu_pods
from scheduler.simulate.record import RunRecord
from scheduler.simulate.trace import Trace, TraceJob, Training
from tests.bench.learning import LearningDecider, true_speeds
from tests.unit.engine_world import cluster, pool

TABLE: Final = Path("../shared/data/traces/gavel_throughput.csv")
USD_PER_GPU_HOUR: Final = {"k80": Decimal("0.135"), "p100": Decimal("0.43"), "v100": Decimal("0.74")}
REFERENCE: Final = "v100"
REPEATS: Final = 8
_EVERY_SECONDS: Final = 1800.0
_GPUS: Final = 8
_NODES: Final = 4
FREE: Final = Assumptions(start_seconds=0.0, restart_seconds=0.0)
Rates = Mapping[tuple[str, int | None], Mapping[str, float]]
"""Steps a second by model and batch size, and by GPU model."""


def table(path: Path = TABLE) -> dict[tuple[str, int | None], dict[str, float]]:
    """The rows of one GPU, of configurations that run on every GPU model."""
    found: dict[tuple[str, int | None], dict[str, float]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["scale_factor"] == "1" and float(row["steps_per_s"]) > 0:
                key = row["model"], int(row["batch_size"]) if row["batch_size"] else None
                found.setdefault(key, {})[row["gpu"]] = float(row["steps_per_s"])
    return {key: rates for key, rates in found.items() if rates.keys() == USD_PER_GPU_HOUR.keys()}


@dataclass
class WatchedDecider(LearningDecider):
    """Notes every placement; fails where the budget for exploration does not hold."""

    placed: list[tuple[str, str, Decimal | None]] = field(default_factory=list)
    """(configuration, GPU model, what it counts for in the exploration), in order."""

    def decide(self, snapshot: Snapshot) -> Plan:
        plan = super().decide(snapshot)
        for state in plan.budgets:
            if state.spent_usd + state.committed_usd > state.limit_usd:
                raise AssertionError(f"{state} does not hold")
        profiles = {each.ref.uid: each.labels[-1][1] for each in snapshot.workloads}
        self.placed += [
            (profiles[each.workload.uid], each.placement.pool, each.placement.exploration_usd)
            for each in plan.placements
        ]
        return plan


def site() -> Site:
    pools = tuple(
        pool("site", gpu, gpu_model=gpu, price=Price(usd * _GPUS, "gavel", 0.0))
        for gpu, usd in USD_PER_GPU_HOUR.items()
    )
    return Site((cluster("site", pools),), {each.ref: _NODES for each in pools})


def jobs_of(rates: Rates, seed: int) -> Trace:
    """`REPEATS` of each configuration, an hour of V100 work each."""
    draw, jobs = random.Random(seed), []
    order = [key for key in sorted(rates, key=str) for _ in range(REPEATS)]
    draw.shuffle(order)
    for number, (model, batch) in enumerate(order):
        training = Training(model, batch, rates[model, batch][REFERENCE])
        jobs.append(
            TraceJob(
                f"job{number:04d}", number * _EVERY_SECONDS, 3600.0, "team", gpu_pods(1), f"{model}/{batch}",
                training=training,
            )
        )  # fmt: skip
    speeds = {
        f"{model}/{batch}": {gpu: rate / there[REFERENCE] for gpu, rate in there.items()}
        for (model, batch), there in rates.items()
    }
    return Trace("gavel", tuple(jobs), speeds)


def taught(known: Rates, others: Rates) -> ThroughputModel:
    """`known` on every GPU model, `others` on the reference only."""
    model = ThroughputModel()
    for (name, batch), there in sorted({**known, **others}.items(), key=str):
        for gpu, rate in sorted(there.items()):
            if (name, batch) in known or gpu == REFERENCE:
                model.observe(Configuration(name, batch, gpu, 1), rate)
    model.refit()
    return model


def rules(limit_usd: Decimal) -> PolicySet:
    explores = ExplorationRule(limit_usd, "total") if limit_usd else None
    return PolicySet((PlacementPolicy("cost", objective="cost", exploration=explores),), digest="bench")


def measured(rates: Rates, limit_usd: Decimal, seed: int) -> dict[str, Any]:
    """One replay, with half of the configurations known everywhere."""
    names = sorted(rates, key=str)
    random.Random(seed).shuffle(names)
    known = {name: rates[name] for name in names[: len(names) // 2]}
    return replayed(known, {name: rates[name] for name in names[len(names) // 2 :]}, limit_usd, seed)


def replayed(known: Rates, others: Rates, limit_usd: Decimal, seed: int) -> dict[str, Any]:
    """Jobs of `others`, after `known` were seen on every GPU model."""
    trace = jobs_of(others, seed)
    decider = WatchedDecider("learned", rules(limit_usd), true_speeds(trace), taught(known, others), seed)
    record = replay(trace, site(), decider, FREE)
    cost = {
        f"{model}/{batch}": {gpu: float(usd) * there[REFERENCE] / there[gpu] for gpu, usd in USD_PER_GPU_HOUR.items()}
        for (model, batch), there in others.items()
    }
    perfect = sum(min(cost[job.profile].values()) for job in trace.jobs)
    counted = [usd for _, _, usd in decider.placed if usd is not None]
    return {
        "seed": seed,
        "limit_usd": float(limit_usd),
        "usd": sum(cost[name][gpu] for name, gpu, _ in decider.placed),
        "perfect_usd": perfect,
        "explored": len(counted),
        "counted_usd": float(sum(counted)),
        "jobs_until_cheapest": _until_cheapest(decider.placed, cost),
        "unfinished": _unfinished(record),
    }


def _until_cheapest(placed: list[tuple[str, str, Decimal | None]], cost: dict[str, dict[str, float]]) -> float:
    """Mean over configurations; one that never found it counts all of its jobs."""
    counts = []
    for name, there in cost.items():
        ran = [gpu for each, gpu, _ in placed if each == name]
        best = min(there, key=lambda gpu: there[gpu])
        counts.append(ran.index(best) if best in ran else len(ran))
    return sum(counts) / len(counts)


def _unfinished(record: RunRecord) -> int:
    return sum(job.finished_at is None for job in record.jobs)


def main() -> int:
    parser = argparse.ArgumentParser(description="What a budget for exploration buys.")
    parser.add_argument("--json", action="store_true", help="One JSON object as the last line.")
    parser.add_argument("--seeds", default="1,2,3,4,5")
    parser.add_argument("--limits", default="0,5,20", help="USD, for the whole replay.")
    options = parser.parse_args()
    if not TABLE.exists():
        print(f"skipped: {TABLE} is not there")
        return 0
    rates, rows = table(), []
    print("limit  seed    cost  perfect  excess  explored  counted  jobs until cheapest")
    for limit in map(Decimal, options.limits.split(",")):
        for seed in map(int, options.seeds.split(",")):
            row = measured(rates, limit, seed)
            rows.append(row)
            excess = row["usd"] / row["perfect_usd"] - 1
            print(
                f"{limit!s:>5} {seed:5} {row['usd']:7.2f} {row['perfect_usd']:8.2f} {100 * excess:6.1f}% "
                f"{row['explored']:9} {row['counted_usd']:8.2f} {row['jobs_until_cheapest']:20.2f}",
                flush=True,
            )
    if options.json:
        print_json({"rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(main())
