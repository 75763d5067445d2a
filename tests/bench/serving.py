"""Serving across clusters on recorded requests: cost at the same misses, the loss of a cluster, good and bad canaries.

Run: python -m tests.bench.serving [--only cost,loss,canary] [--seeds N] [--greedy] [--json].

cost: Alibaba's image requests, scaled to 50 replicas at peak, over twenty owned GPUs and two clouds
(tests/bench/serving_site/). Tuned on days 4 to 7: the SLO's `scaling`, and which setting of threshold bursting (which
may use spot nodes up to the same share, and takes the offering that is cheapest for what it does) has no more minutes
out of the SLO than the policy, at the least cost. Reported on days 9 to 13, once with that setting and once
with the one that is best there in hindsight.

loss: a steady stream of requests with the recorded service times, each twenty-six times as short (a chat service:
about a second); a cluster is lost with everything on it. Restored is when what is ready carries within the SLO what was
carried before, or what was planned for if that was less: a replica more in a queue that many share brings more than one
in another, so that fewer may do. Steady, so that no fall of the demand is taken for it.

canary: an hour of the recorded requests, as short; a new revision is 30 % slower, or the same. Twenty seeds each.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from scheduler.cli.simulate_requests import RequestOptions, prepare
from scheduler.model.ids import ClusterId
from scheduler.model.serving_policy import RolloutRule
from scheduler.simulate.requests import read_requests
from scheduler.simulate.serving.deciders import Engine, ServingDecider
from scheduler.simulate.serving.log import RequestLog, located, peak_load, scaled
from scheduler.simulate.serving.measures import ServingMeasures, measure
from scheduler.simulate.serving.replay import Happening, Moment, Rollout, ServingRun, replay
from scheduler.simulate.serving.study import ServingStudy, threshold, threshold_rules

HERE: Final = Path(__file__).parent / "serving_site"
LOG: Final = Path("../shared/data/traces/genai_requests.csv.gz")
TUNED: Final = (4.0, 4.0)
REPORTED: Final = (9.0, 5.0)
"""First day, days."""
SPEEDS: Final = ("L40S=1.9", "L4=0.65")
"""Against an A10G; assumed."""
REGIONS: Final = ("eu=0.5", "us=0.3", "asia=0.2")
WAYS: Final = (
    "eu:onprem=0.02", "eu:eks=0.09", "eu:gke=0.11", "us:onprem=0.09", "us:eks=0.02", "us:gke=0.03",
    "asia:onprem=0.2", "asia:eks=0.22", "asia:gke=0.16",
)  # fmt: skip
SHORTER: Final = 26.0
"""A chat service: requests of a second instead of the recorded 26."""
CYCLE_SECONDS: Final = 15.0
"""Of the chat service."""
ROLLOUT_AT: Final = 600.0
LOST_AT: Final = 1200.0
STEADY_PER_SECOND: Final = 16.0


def study_of(part: tuple[float, float], seeds: int, *, use_milp: bool) -> ServingStudy:
    study, _ = prepare(
        RequestOptions(
            federation=HERE / "federation.yaml", policies=(HERE / "slo",), requests=LOG, first_day=part[0],
            days=part[1], seeds=tuple(range(1, seeds + 1)), gpu_speeds=SPEEDS, regions=REGIONS, client_latencies=WAYS,
            use_milp=use_milp,
        )
    )  # fmt: skip
    return study


def one_run(study: ServingStudy, make: Callable[[], ServingDecider]) -> list[ServingMeasures]:
    """One for each seed."""
    slo = study.policies[0][1]
    found = []
    for seed in study.seeds:
        found.append(measure(replay(study.log, study.site, slo, make(), seed=seed, cycle_seconds=study.cycle_seconds)))
        print(f"  {told(found[-1])}", file=sys.stderr, flush=True)
    return found


def told(one: ServingMeasures) -> str:
    return (
        f"{one.decider:26} seed {one.seed}: {one.out_percent:.2f} % of minutes out ({one.out_percent_asked:.2f} % of "
        f"those with requests), {one.cost_usd:.2f} USD, {one.changes_per_hour:.1f} changes/h"
    )


def summed(ones: list[ServingMeasures]) -> dict[str, Any]:
    count = len(ones)
    return {
        "name": ones[0].decider,
        "out_percent": round(sum(one.out_percent for one in ones) / count, 4),
        "out_percent_asked": round(sum(one.out_percent_asked for one in ones) / count, 4),
        "cost_usd": round(sum(float(one.cost_usd) for one in ones) / count, 2),
        "cloud_usd": round(sum(float(one.cloud_usd) for one in ones) / count, 2),
        "changes_per_hour": round(sum(one.changes_per_hour for one in ones) / count, 2),
    }


def best_threshold(ours: dict[str, Any], theirs: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The cheapest setting with no more misses."""
    as_good = [one for one in theirs if one["out_percent"] <= ours["out_percent"]]
    return min(as_good, key=lambda one: (one["cost_usd"], one["name"]), default=None)


def saved(ours: dict[str, Any], theirs: dict[str, Any] | None) -> float | None:
    return None if theirs is None else round(100.0 * (1.0 - ours["cost_usd"] / theirs["cost_usd"]), 2)


def cost(seeds: int, *, use_milp: bool) -> dict[str, Any]:
    """Tuned on one part of the log, reported on another."""
    parts: dict[str, Any] = {}
    for name, part in (("tuned", TUNED), ("reported", REPORTED)):
        study = study_of(part, seeds, use_milp=use_milp)
        policy = study.policies[0][0]
        ours = summed(one_run(study, lambda policy=policy: Engine(policy, use_milp=use_milp)))  # type: ignore[misc]
        rules = threshold_rules(study.policies[0][1].max_reclaimable_share)
        theirs = []
        for rule in rules:
            one = summed(one_run(study, lambda rule=rule: threshold(rule)))  # type: ignore[misc]
            theirs.append(one)
        parts[name] = {"days": part, "requests": len(study.log), "ours": ours, "threshold": theirs}
    chosen = best_threshold(parts["tuned"]["ours"], parts["tuned"]["threshold"])
    reported = parts["reported"]
    there = None if chosen is None else next(one for one in reported["threshold"] if one["name"] == chosen["name"])
    hindsight = best_threshold(reported["ours"], reported["threshold"])
    return {
        "seeds": list(range(1, seeds + 1)), "solver": "milp" if use_milp else "greedy", **parts,
        "chosen_on_tuned": chosen, "chosen_there": there, "saved_percent": saved(reported["ours"], there),
        "best_in_hindsight": hindsight, "saved_percent_hindsight": saved(reported["ours"], hindsight),
    }  # fmt: skip


@cache
def chat(seed: int, minutes: int) -> RequestLog:
    """Evening of day 11, twenty replicas' worth of work at its peak."""
    raw = read_requests(LOG).window(11 * 86400.0 + 17 * 3600.0, minutes * 60.0)
    factor = 20.0 * SHORTER / peak_load(raw)
    return scaled(located(raw, (("eu", 0.5), ("us", 0.3), ("asia", 0.2))), factor, seed, SHORTER)


def steady(seed: int, minutes: int) -> RequestLog:
    """Sixteen requests a second, as a Poisson stream, with service times of that evening's."""
    log, rng = chat(seed, 60), np.random.default_rng([seed, 7])
    count = int(rng.poisson(STEADY_PER_SECOND * minutes * 60.0))
    chosen = rng.integers(0, len(log), count)
    at = np.sort(rng.uniform(0.0, minutes * 60.0, count))
    return replace(
        log, at=at, service_seconds=log.service_seconds[chosen], client=log.client[chosen], weight=np.ones(count)
    )


def chat_run(
    log: RequestLog, seed: int, happening: Happening, *, use_milp: bool, spread: float = 0.25
) -> tuple[ServingRun, Engine]:
    study = study_of((11.0, 0.1), 1, use_milp=use_milp)
    slo = replace(study.policies[0][1], p95_first_token_seconds=1.5, rollout=RolloutRule())
    engine = Engine("chat", use_milp=use_milp)
    site = replace(study.site, spread=spread)
    run = replay(log, site, slo, engine, seed=seed, cycle_seconds=CYCLE_SECONDS, happening=happening)
    return run, engine


def restored_after(run: ServingRun) -> tuple[float | None, float | None]:
    """Seconds from the loss until what is ready carries within the SLO what was carried before, or what was or is
    planned for if that is less; and until it does so with what had to wait meanwhile worked off. None: never."""
    before = [moment for moment in run.moments if moment.at < LOST_AT][-1]
    after = [moment for moment in run.moments if moment.at >= LOST_AT]

    def wanted(moment: Moment) -> float:
        planned = (one.planned_per_second for one in (before, moment))
        return min(before.unhindered_per_second, *(math.inf if one is None else one for one in planned)) - 1e-9

    again = next((moment.at - LOST_AT for moment in after if moment.unhindered_per_second >= wanted(moment)), None)
    calm = next(
        (moment.at - LOST_AT for moment in after if (moment.capacity_per_second or 0.0) >= wanted(moment)), None
    )
    return again, calm


def loss(seeds: int, *, use_milp: bool) -> dict[str, Any]:
    """One of the clouds, and the owned cluster. Starting takes the same time always, so that there is a bound: nodes
    that must be bought first, 240 s, and 45 s to load."""
    found: dict[str, Any] = {"seeds": list(range(1, seeds + 1)), "cycle_seconds": CYCLE_SECONDS}
    for cluster in ("eks", "onprem"):
        took = []
        for seed in range(1, seeds + 1):
            lost = Happening(lose=((LOST_AT, ClusterId(cluster)),))
            run, _ = chat_run(steady(seed, 35), seed, lost, use_milp=use_milp, spread=0.0)
            last = [moment for moment in run.moments if moment.at < LOST_AT][-1]
            if any(count for name, count in last.replicas.items() if name.startswith(cluster)):
                took.append(restored_after(run))
        again = [one for one, _ in took if one is not None]
        calm = [one for _, one in took if one is not None]
        found[cluster] = {
            "runs_with_replicas_there": len(took),
            "bound_seconds": 2 * CYCLE_SECONDS + 240.0 + 45.0,
            "restored": len(again),
            "median_seconds": median(again) if again else None,
            "most_seconds": max(again, default=None),
            "backlog_gone_median_seconds": median(calm) if calm else None,
            "backlog_gone_most_seconds": max(calm, default=None),
        }
    return found


def canary(seeds: int, *, use_milp: bool) -> dict[str, Any]:
    found: dict[str, Any] = {"seeds": list(range(1, seeds + 1))}
    for name, slower, minutes in (("slower", 1.3, 25), ("healthy", 1.0, 50)):
        back, steps = [], []
        for seed in range(1, seeds + 1):
            happening = Happening(rollout=Rollout(ROLLOUT_AT, "r2", slower))
            run, engine = chat_run(chat(seed, minutes), seed, happening, use_milp=use_milp)
            begun = next((moment.at for moment in run.moments if moment.shares.get("r2", 0.0) > 0), None)
            rejected = "r2" in engine.memory.rejected
            if rejected and begun is not None:
                gone = next(m.at for m in run.moments if m.at > begun and not m.shares.get("r2", 0.0))
                back.append(gone - begun)
            steps.append(engine.memory.rollout.step if engine.memory.rollout else None)
        found[name] = {
            "runs": seeds, "rolled_back": len(back), "median_seconds": median(back) if back else None,
            "most_seconds": max(back, default=None), "steps_reached": steps,
        }  # fmt: skip
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="Serving across clusters on recorded requests.")
    parser.add_argument("--only", default="cost,loss,canary")
    parser.add_argument("--seeds", type=int, default=1, help="Of the cost part.")
    parser.add_argument("--others", type=int, default=20, help="Seeds of loss and canary.")
    parser.add_argument("--greedy", action="store_true", help="Without the solver.")
    parser.add_argument("--json", action="store_true", help="Only the JSON line.")
    options = parser.parse_args()
    if not LOG.exists():
        print(f"skipped: {LOG} is not there")
        return 0
    milp = not options.greedy
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "cost": lambda: cost(options.seeds, use_milp=milp),
        "loss": lambda: loss(options.others, use_milp=milp),
        "canary": lambda: canary(options.others, use_milp=milp),
    }
    found = {name: run() for name, run in parts.items() if name in options.only.split(",")}
    if not options.json:
        for name, one in found.items():
            print(name)
            for key, value in one.items():
                print(f"  {key}: {value}")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
