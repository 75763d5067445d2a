"""What learned throughputs are worth beside knowing them, on Gavel's traces and cluster.

Run: python -m tests.bench.learning [--seeds 1,2] [--policies cost,balanced] [--json].

The same jobs are replayed under one policy four times: with no knowledge of how GPU models differ (a user's time on
a V100 is taken for all); with learned throughputs, once from nothing and once where each job's configuration was seen
before on a V100; and with the measured throughputs themselves. Learned from is what a job's own metric would tell: its
steps a second, once for each GPU model that it runs on, with a log-normal error of 3 %. What a replay costs is what its
policy minds: the GPU hours' price, and time at the policy's own value. The benefit kept is the part of what perfect
knowledge saves over none.

Seed 0 is the trace as it is; others are logs drawn from it (see tests.bench.gavel).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from scheduler.cli.output import print_json
from scheduler.cli.simulate import SimulateOptions, prepare
from scheduler.engine.cycle import cycle
from scheduler.engine.memory import Memory
from scheduler.model.ids import Uid
from scheduler.model.plan import Plan
from scheduler.model.policy import PolicySet
from scheduler.model.ports import Predictor
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from scheduler.predict.learned import Known, LearnedPredictor
from scheduler.predict.throughput import Configuration, ThroughputModel
from scheduler.simulate.assumptions import draw, normal
from scheduler.simulate.driver import PolicyDecider, TracePredictor
from scheduler.simulate.measures import Measures
from scheduler.simulate.study import Contender, Study, run_contender
from scheduler.simulate.trace import Trace
from scheduler.simulate.world import PROFILE_LABEL
from tests.bench.gavel import FREE, HERE, PEER, POLICIES, ROUND_SECONDS, TRACE, drawn

_ERROR: Final = 0.03
_REFIT_EVERY: Final = 5
_GPUS_A_SERVER: Final = 8
REFERENCE: Final = "V100"


def true_speeds(trace: Trace) -> dict[str, dict[str, float]]:
    """Steps a second by profile and GPU model."""
    found: dict[str, dict[str, float]] = {}
    for job in trace.jobs:
        if job.training is not None:
            rates = trace.speeds[job.profile]
            found[job.profile] = {gpu: rate * job.training.steps_per_second for gpu, rate in rates.items()}
    return found


@dataclass
class LearningDecider:
    """The engine, with throughputs as they are learned from what runs."""

    name: str
    policies: PolicySet
    speeds: dict[str, dict[str, float]]
    model: ThroughputModel
    seed: int
    kind: str = "policy"
    memory: Memory = field(default_factory=Memory)
    seen: set[tuple[Uid, str]] = field(default_factory=set)
    running: list[tuple[Workload, str]] = field(default_factory=list)
    unfitted: int = 0

    def decide(self, snapshot: Snapshot) -> Plan:
        self._observe()
        if self.unfitted >= _REFIT_EVERY:
            self.model.refit()
            self.unfitted = 0
        known = Known(throughput=self.model if len(self.model) else None)
        plan = cycle(snapshot, self.policies, LearnedPredictor(known), memory=self.memory)
        self._remember(snapshot, plan)
        return plan

    def _remember(self, snapshot: Snapshot, plan: Plan) -> None:
        gpus = {pool.ref: pool.gpu_model or "" for cluster in snapshot.clusters for pool in cluster.pools}
        workloads = {workload.ref.uid: workload for workload in snapshot.workloads}
        self.running = [
            (workloads[each.workload.uid], gpus[each.placement.pool_ref])
            for each in plan.placements
            if each.placement.state is PlacementState.STARTED
        ]

    def _observe(self) -> None:
        """What ran since the last decision: each job on each GPU model tells its speed once."""
        for workload, gpu in sorted(self.running, key=lambda one: one[0].ref.uid):
            run = (workload.ref.uid, gpu)
            rate = self.speeds[dict(workload.labels)[PROFILE_LABEL]].get(gpu)
            hints, gpus = workload.hints, workload.requests.gpus
            if run in self.seen or not rate or hints.model is None:
                continue
            self.seen.add(run)
            error = _ERROR * normal(draw(self.seed, "speed", *run), draw(self.seed, "speed2", *run))
            where = Configuration(hints.model, hints.batch_size, gpu, gpus, gpus <= _GPUS_A_SERVER)
            self.model.observe(where, rate * math.exp(error))
            self.unfitted += 1


def seen_before(trace: Trace) -> ThroughputModel:
    """Each configuration of the trace, seen once on a V100 (or on the fastest where it does not fit there)."""
    model = ThroughputModel()
    for job in sorted(trace.jobs, key=lambda one: one.profile):
        if job.training is not None:
            rates = {gpu: rate for gpu, rate in trace.speeds[job.profile].items() if rate}
            gpu = REFERENCE if REFERENCE in rates else max(rates, key=lambda one: rates[one])
            where = Configuration(job.training.model, job.training.batch_size, gpu, job.gpus)
            model.observe(where, rates[gpu] * job.training.steps_per_second)
    model.refit()
    return model


def minded_usd(policies: PolicySet, measures: Measures) -> float:
    """GPU hours at their price, each job's time until it is done and the time until all are, at the policy's values."""
    (policy,) = policies.policies
    assert policy.value_of_time is not None
    assert policy.time_slice is not None
    assert measures.owned_busy_usd is not None
    assert measures.completion.mean is not None
    by_job = float(policy.value_of_time.usd_per_hour) * measures.completion.mean / 3600.0 * measures.finished
    to_last = float(policy.time_slice.usd_per_hour_to_last_end) * measures.makespan_seconds / 3600.0
    return measures.owned_busy_usd + by_job + to_last


def contenders(study: Study, seed: int) -> Iterator[tuple[str, Contender]]:
    (policy,) = study.policies
    rules, speeds = policy.policies, true_speeds(study.trace)
    plain: tuple[tuple[str, Predictor], ...] = (
        ("nothing", FirstPredictor()),
        ("perfect", TracePredictor(study.trace.speeds)),
    )
    for name, predictor in plain:
        yield name, Contender(name, "policy", name, "", PolicyDecider(name, rules, predictor), rules)
    for name, model in (("learned from nothing", ThroughputModel()), ("learned, V100 seen", seen_before(study.trace))):
        yield name, Contender(name, "policy", name, "", LearningDecider(name, rules, speeds, model, seed), rules)


def study_of(trace: str, policy: str, seed: int) -> Study:
    options = SimulateOptions(
        HERE / "federation.yaml",
        (HERE / policy,),
        Path(TRACE),
        queues=(trace,),
        slice_seconds=ROUND_SECONDS,
        assumptions=FREE,
    )
    study, _ = prepare(options)
    return study if seed == 0 else replace(study, trace=drawn(study.trace, seed))


def main() -> int:
    parser = argparse.ArgumentParser(description="The benefit of knowing throughputs that learned ones keep.")
    parser.add_argument("--json", action="store_true", help="One JSON object as the last line.")
    parser.add_argument("--seeds", default="0,1", help="Of the logs; 0: the trace itself.")
    parser.add_argument("--traces", default=",".join(PEER))
    parser.add_argument("--policies", default=",".join(POLICIES))
    options = parser.parse_args()
    if not TRACE.exists():
        print(f"skipped: {TRACE} is not there")
        return 0
    rows: list[dict[str, Any]] = []
    for trace in options.traces.split(","):
        for policy in options.policies.split(","):
            for seed in map(int, options.seeds.split(",")):
                row = measured(trace, policy, seed)
                rows.append(row)
                told = "  ".join(f"{name} {usd:9.2f}" for name, usd in row["usd"].items())
                kept = "  ".join(f"{name} {_percent(part)}" for name, part in row["kept"].items())
                print(f"{trace:18} {policy:16} seed {seed}  {told}\n{'':42} kept: {kept}", flush=True)
    found = {"error": _ERROR, "rows": rows, "kept_of_all": overall(rows)}
    print("of all benefit together, each row's in parts of its cost with nothing known:")
    for name, part in overall(rows).items():
        print(f"  {name:24} {_percent(part)}")
    if options.json:
        print_json(found)
    return 0


def measured(trace: str, policy: str, seed: int) -> dict[str, Any]:
    study = study_of(trace, policy, seed)
    usd: dict[str, float] = {}
    for name, contender in contenders(study, seed):
        run = run_contender(study, contender, seed, lambda done: None)
        if run.unfinished:
            raise ValueError(f"{name}: {run.unfinished}")
        usd[name] = minded_usd(contender.policies, run.measures)
    benefit = usd["nothing"] - usd["perfect"]
    learned = [name for name in usd if name.startswith("learned")]
    kept = {name: (usd["nothing"] - usd[name]) / benefit if benefit > 0 else None for name in learned}
    return {"trace": trace, "policy": policy, "seed": seed, "usd": usd, "benefit_usd": benefit, "kept": kept}


def overall(rows: list[dict[str, Any]]) -> dict[str, float | None]:
    """Every row counts by what knowing saves in parts of its cost, so that no policy's units speak for all."""
    found: dict[str, float | None] = {}
    for name in rows[0]["kept"]:
        whole = sum(row["benefit_usd"] / row["usd"]["nothing"] for row in rows)
        saved = sum((row["usd"]["nothing"] - row["usd"][name]) / row["usd"]["nothing"] for row in rows)
        found[name] = saved / whole if whole > 0 else None
    return found


def _percent(part: float | None) -> str:
    return "no benefit to keep" if part is None else f"{100 * part:.1f} %"


if __name__ == "__main__":
    sys.exit(main())
