"""Beside Gavel's simulator, on its own traces and cluster. Run: python -m tests.bench.gavel [--json] [--drawn SEED].

Gavel (Narayanan et al., OSDI 2020) was run on both of its physical traces: the figures in `PEER` are what its simulator
printed for 8 V100, 16 P100 and 24 K80, rounds of 360 s, each GPU-hour of work at 0.74, 0.43 and 0.135 USD. The same
jobs, throughputs, rounds and prices are replayed here through `engine.cycle` under the policies in `gavel_cluster/`.
What differs between the models stands in docs/simulate.md.

The policies' amounts were chosen with a prototype on logs of the kind that `--drawn SEED` makes: as many jobs, drawn
from a trace with replacement, each with 0.7 to 1.4 times its work, at arrivals drawn anew.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from scheduler.cli.output import print_json
from scheduler.cli.simulate import SimulateOptions, prepare
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.study import Run, run_study
from scheduler.simulate.trace import Trace

HERE: Final = Path(__file__).parent / "gavel_cluster"
TRACE: Final = Path("../shared/data/traces/gavel_physical_traces.csv")
POLICIES: Final = ("completion-time", "makespan", "cost", "balanced")
ROUND_SECONDS: Final = 360.0
FREE: Final = Assumptions(start_seconds=0.0, restart_seconds=0.0)


@dataclass(frozen=True, slots=True)
class Figures:
    completion_hours: float
    makespan_hours: float
    usd: float

    def no_worse(self, other: Figures) -> tuple[bool, bool, bool]:
        """In each column whether it is no worse, by the two digits that Gavel's figures have."""
        return (
            round(self.completion_hours, 2) <= other.completion_hours,
            round(self.makespan_hours, 2) <= other.makespan_hours,
            round(self.usd, 2) <= other.usd,
        )


PEER: Final = {
    "max_min_fairness": {
        "fifo_perf": Figures(5.42, 20.09, 245.43),
        "max_min_fairness_perf": Figures(4.06, 17.76, 243.27),
        "its cost policy": Figures(4.44, 17.97, 234.92),
        "min_total_duration_perf": Figures(6.38, 17.09, 240.16),
    },
    "minimize_makespan": {
        "first of three": Figures(9.91, 19.03, 289.65),
        "second of three": Figures(10.24, 20.27, 294.73),
        "third of three": Figures(17.72, 17.98, 285.48),
    },
}


def best_of(trace: str) -> Figures:
    """Gavel's best in each column, whichever of its policies reached it."""
    peers = PEER[trace].values()
    return Figures(
        min(each.completion_hours for each in peers),
        min(each.makespan_hours for each in peers),
        min(each.usd for each in peers),
    )


def drawn(trace: Trace, seed: int) -> Trace:
    """Another log of the same kind: see above."""
    dice = random.Random(seed)
    together = all(job.arrival_seconds == 0.0 for job in trace.jobs)
    mean = trace.jobs[-1].arrival_seconds / max(1, len(trace.jobs) - 1)
    jobs, at = [], 0.0
    for number in range(len(trace.jobs)):
        job = dice.choice(trace.jobs)
        work = job.run_seconds * dice.uniform(0.7, 1.4)
        jobs.append(replace(job, name=f"drawn-{number:03d}", arrival_seconds=at, run_seconds=work))
        at += 0.0 if together else dice.expovariate(1.0 / mean)
    return replace(trace, jobs=tuple(jobs))


def figures(run: Run) -> Figures:
    """Raises: ValueError when something is missing: a job that never ended, a price."""
    measures = run.measures
    if run.unfinished or measures.completion.mean is None or measures.owned_busy_usd is None:
        raise ValueError(f"{run.contender.name}: {run.unfinished or 'unpriced'}")
    return Figures(measures.completion.mean / 3600, measures.makespan_seconds / 3600, measures.owned_busy_usd)


def replayed(trace: str, seed: int | None) -> dict[str, tuple[Figures, Run]]:
    options = SimulateOptions(
        HERE / "federation.yaml",
        tuple(HERE / name for name in POLICIES),
        TRACE,
        queues=(trace,),
        slice_seconds=ROUND_SECONDS,
        assumptions=FREE,
    )
    study, _ = prepare(options)
    if seed is not None:
        study = replace(study, trace=drawn(study.trace, seed))
    return {run.contender.name: (figures(run), run) for run in run_study(study).runs}


def main() -> int:
    parser = argparse.ArgumentParser(description="Completion, makespan and money beside Gavel's simulator.")
    parser.add_argument("--json", action="store_true", help="One JSON object as the last line.")
    parser.add_argument("--drawn", type=int, metavar="SEED", help="On a drawn log instead, where Gavel has no figures.")
    options = parser.parse_args()
    if not TRACE.exists():
        print(f"skipped: {TRACE} is not there")
        return 0
    found: dict[str, Any] = {"drawn": options.drawn, "round_seconds": ROUND_SECONDS, "traces": {}}
    for trace in PEER:
        began = time.process_time()
        ours = replayed(trace, options.drawn)
        seconds = time.process_time() - began
        _tell(trace, ours, told_peers=options.drawn is None)
        print(f"{'':34} {seconds:.1f} s of CPU for all of them\n")
        found["traces"][trace] = _json(trace, ours, seconds, with_peers=options.drawn is None)
    if options.json:
        print_json(found)
    return 0


def _tell(trace: str, ours: dict[str, tuple[Figures, Run]], *, told_peers: bool) -> None:
    print(f"{trace:34} {'completion h':>13} {'makespan h':>11} {'USD':>8}")
    for name, each in PEER[trace].items() if told_peers else ():
        print(_line(f"  Gavel: {name}", each))
    if told_peers:
        print(_line("  Gavel's best of each column", best_of(trace)))
    for name, (each, _) in ours.items():
        marks = "".join("+" if good else "-" for good in each.no_worse(best_of(trace))) if told_peers else ""
        print(f"{_line(f'  overspill: {name}', each)}  {marks}")


def _line(name: str, each: Figures) -> str:
    return f"{name:34} {each.completion_hours:13.2f} {each.makespan_hours:11.2f} {each.usd:8.2f}"


def _json(trace: str, ours: dict[str, tuple[Figures, Run]], seconds: float, *, with_peers: bool) -> dict[str, Any]:
    runs = [
        {"name": name, **_figures_json(each), "moves": run.measures.preemptions, "rounds": run.measures.cycles}
        for name, (each, run) in ours.items()
    ]
    if not with_peers:
        return {"overspill": runs, "cpu_seconds": round(seconds, 2)}
    best = best_of(trace)
    for one, (each, _) in zip(runs, ours.values(), strict=True):
        one["no_worse_than_gavels_best"] = dict(zip(_figures_json(best), each.no_worse(best), strict=True))
    peers = [{"name": name, **_figures_json(each)} for name, each in PEER[trace].items()]
    told = {"gavel": peers, "gavels_best_of_each": _figures_json(best), "overspill": runs}
    return {**told, "cpu_seconds": round(seconds, 2)}


def _figures_json(each: Figures) -> dict[str, float]:
    return {
        "completion_hours": round(each.completion_hours, 3),
        "makespan_hours": round(each.makespan_hours, 3),
        "usd": round(each.usd, 2),
    }


if __name__ == "__main__":
    sys.exit(main())
