"""What weighing money against time saves on the Philly log.

Run: python -m tests.bench.savings [--first-days 40,44] [--days N] [--seeds N] [--json].

Windows of the log that nothing was tuned on (tuning looked at days 20 to 34), each over an on-prem cluster that its
load fills and three clouds at the catalogue's prices (tests/bench/philly/). For each window `overspill simulate`'s own
table: every baseline, the threshold rule at each of its settings, and the clairvoyant bound. Then, over all windows and
seeds, what each policy saves against each baseline at the setting that was best for it in that very window. Time is
worth the same for all in the comparison, whatever a policy believes: `prompt` has each workload's hour worth 3 USD
beside that of its GPUs, so that short jobs wait less.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.table import Table

from scheduler.cli.output import console
from scheduler.cli.simulate import SimulateOptions, prepare
from scheduler.cli.simulate_view import shown_progress, tables
from scheduler.simulate.comparison import gap_percent, savings, standings
from scheduler.simulate.readers import read_trace
from scheduler.simulate.study import Findings, contenders, run_study

HERE = Path(__file__).parent / "philly"
TRACE = Path("../shared/data/traces/philly_jobs.csv.gz")
GPUS_A_NODE = 8
TUNED_ON = (20.0, 34.0)


@dataclass(frozen=True, slots=True)
class Row:
    """Of a policy against one baseline in one window: mean percent over the seeds, p95 waits in seconds."""

    window: float
    policy: str
    family: str
    setting: str
    saved_percent: float | None
    p95_wait_difference_seconds: float | None


def owned_nodes(first_day: float, days: float) -> int:
    """So many that what the jobs could do within the window, each from its arrival on, is 100 % of what they could.

    Counting whole runs would size the cluster by a few that go on for weeks, and leave it idle.
    """
    window = read_trace(TRACE).window(first_day * 86400, days * 86400)
    gpu_seconds = sum(min(job.run_seconds, days * 86400 - job.arrival_seconds) * job.gpus for job in window.jobs)
    return round(gpu_seconds / (days * 86400) / GPUS_A_NODE)


def policies_of(value: str) -> tuple[str, ...]:
    names = (f"value-{value}", f"value-{value}-prompt")
    return tuple(name for name in names if (HERE / name).is_dir())


def study_window(first_day: float, options: argparse.Namespace) -> Findings:
    nodes = owned_nodes(first_day, options.days)
    study, _ = prepare(
        SimulateOptions(
            federation=HERE / "federation.yaml",
            policies=tuple(HERE / name for name in policies_of(options.value)),
            trace=TRACE,
            baselines=("all",),
            bound=True,
            seeds=tuple(range(1, options.seeds + 1)),
            first_day=first_day,
            days=options.days,
            nodes=(f"onprem/a100={nodes}",),
            gather_seconds=60.0,
            usd_per_gpu_hour=float(options.value),
        )
    )
    with shown_progress(sum(1 for _ in contenders(study)) * len(study.seeds) + 1) as progress:
        findings = run_study(study, progress)
    if not options.json:
        print(f"days {first_day:g} to {first_day + options.days:g}, {nodes} owned nodes of {GPUS_A_NODE} GPUs")
        console().print(tables(findings))
    return findings


def rows_of(first_day: float, findings: Findings) -> list[Row]:
    everyone = standings(findings)
    families = {one.name: one.family for one in everyone}
    return [
        Row(
            first_day,
            policy.name,
            families.get(each.baseline, each.baseline),
            each.baseline,
            each.mean_percent,
            each.p95_wait_seconds,
        )
        for policy in everyone
        if policy.kind == "policy"
        for each in savings(policy, everyone)
    ]


def summary(rows: Iterable[Row], gaps: list[float]) -> dict[str, Any]:
    """By baseline, over the windows: percent saved, and p95 wait of the policy less the baseline's."""
    found: dict[str, Any] = {}
    by_family: dict[str, list[Row]] = {}
    for row in rows:
        by_family.setdefault(row.family, []).append(row)
    for family, theirs in sorted(by_family.items()):
        saved = [row.saved_percent for row in theirs if row.saved_percent is not None]
        waits = [row.p95_wait_difference_seconds for row in theirs if row.p95_wait_difference_seconds is not None]
        if len(saved) < len(theirs):
            found[family] = {"windows": len(saved), "of": len(theirs)}
            continue
        found[family] = {
            "windows": len(saved),
            "saved_percent_mean": round(mean(saved), 2),
            "saved_percent_median": round(median(saved), 2),
            "saved_percent_least": round(min(saved), 2),
            "saved_percent_most": round(max(saved), 2),
            "p95_wait_difference_seconds_median": round(median(waits), 1) if waits else None,
        }
    return {"against": found, "gap_to_bound_percent_mean": round(mean(gaps), 2) if gaps else None}


def summary_table(policy: str, summed: dict[str, Any]) -> Table:
    title = f"Saved by {policy} over all windows, against each baseline at its best setting in each window"
    table = Table(title=title, box=None)
    for heading in ("against", "mean", "median", "least", "most", "p95 wait, median difference"):
        table.add_column(heading, justify="left" if heading == "against" else "right")
    for family, one in summed["against"].items():
        if "saved_percent_mean" not in one:
            table.add_row(family, f"comparable in {one['windows']} of {one['of']}", "", "", "", "")
            continue
        wait = one["p95_wait_difference_seconds_median"]
        percents = [f"{one[f'saved_percent_{which}']:+.1f}%" for which in ("mean", "median", "least", "most")]
        table.add_row(family, *percents, "-" if wait is None else f"{wait / 60:+.1f} min")
    return table


def first_days(text: str) -> tuple[float, ...]:
    days = tuple(float(part) for part in text.split(","))
    if any(TUNED_ON[0] <= day < TUNED_ON[1] for day in days):
        raise argparse.ArgumentTypeError(f"days {TUNED_ON[0]:g} to {TUNED_ON[1]:g} were tuned on; report others")
    return days


def main() -> int:
    parser = argparse.ArgumentParser(description="Savings on the Philly log, beside every baseline.")
    parser.add_argument("--first-days", type=first_days, default=(36.0, 40.0, 44.0, 48.0, 52.0))
    parser.add_argument("--days", type=float, default=2.0)
    parser.add_argument("--seeds", type=int, default=1, help="For each window.")
    parser.add_argument("--value", default="0.25", choices=("0.25", "1.00"), help="USD for each GPU-hour until done.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not TRACE.exists():
        print(f"skipped: {TRACE} is not there")
        return 0
    rows: list[Row] = []
    gaps: dict[str, list[float]] = {name: [] for name in policies_of(options.value)}
    for day in options.first_days:
        findings = study_window(day, options)
        rows += rows_of(day, findings)
        for one in standings(findings):
            gap = gap_percent(one, findings)
            if one.kind == "policy" and gap is not None:
                gaps[one.name].append(gap)
    summed = {name: summary((row for row in rows if row.policy == name), theirs) for name, theirs in gaps.items()}
    if not options.json:
        for name, saved in summed.items():
            console().print(summary_table(name, saved))
            print(f"above the clairvoyant bound: {saved['gap_to_bound_percent_mean']} % on average")
    told = {"first_days": list(options.first_days), "days": options.days, "seeds": options.seeds}
    print(json.dumps({**told, "policies": summed}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
