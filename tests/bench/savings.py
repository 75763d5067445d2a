"""What weighing money against time saves on the Philly log. Run: python -m tests.bench.savings [--days N] [--seeds N].

Days 40 onward of the log, which nothing was tuned on (tuning looked at days 20 to 34), over an on-prem cluster that the
load fills and three clouds at the catalogue's prices (tests/bench/philly/). Prints `overspill simulate`'s own table and
JSON: every baseline, the threshold rule at each of its settings, and the clairvoyant bound.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scheduler.cli.main import invoke
from scheduler.simulate.readers import read_trace

HERE = Path(__file__).parent / "philly"
TRACE = Path("../shared/data/traces/philly_jobs.csv.gz")
FIRST_DAY = 40.0
GPUS_A_NODE = 8


def owned_nodes(days: float) -> int:
    """So many that what the jobs could do within the window, each from its arrival on, is 100 % of what they could.

    Counting whole runs would size the cluster by a few that go on for weeks, and leave it idle.
    """
    window = read_trace(TRACE).window(FIRST_DAY * 86400, days * 86400)
    gpu_seconds = sum(min(job.run_seconds, days * 86400 - job.arrival_seconds) * job.gpus for job in window.jobs)
    return round(gpu_seconds / (days * 86400) / GPUS_A_NODE)


def main() -> int:
    parser = argparse.ArgumentParser(description="Savings on the Philly log, beside every baseline.")
    parser.add_argument("--days", type=float, default=4.0)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--value", default="0.25", choices=("0.25", "1.00"), help="USD for each GPU-hour until done.")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if not TRACE.exists():
        print(f"skipped: {TRACE} is not there")
        return 0
    nodes = owned_nodes(options.days)
    print(f"days {FIRST_DAY:g} to {FIRST_DAY + options.days:g}, {nodes} owned nodes of {GPUS_A_NODE} GPUs")
    arguments = ["simulate", "--trace", str(TRACE), "--federation", str(HERE / "federation.yaml")]
    arguments += ["--policies", str(HERE / f"value-{options.value}"), "--baseline", "all", "--bound", "--gather", "60"]
    arguments += ["--from", f"{FIRST_DAY:g}", "--days", f"{options.days:g}", "--nodes", f"onprem/a100={nodes}"]
    for seed in range(1, options.seeds + 1):
        arguments += ["--seed", str(seed)]
    return invoke([*arguments, "--json"] if options.json else arguments)


if __name__ == "__main__":
    sys.exit(main())
