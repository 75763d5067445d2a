"""Microsoft's Philly job log as cut by the Sia project: arrival_s, duration_s, num_gpus, vc (the queue)."""

from __future__ import annotations

from typing import Final

from scheduler.simulate.readers._pods import gpu_pods
from scheduler.simulate.table import Table
from scheduler.simulate.trace import Trace, TraceJob

COLUMNS: Final = ("arrival_s", "duration_s", "num_gpus", "vc")


def read(table: Table) -> Trace:
    """Durations are what the jobs took on the cluster that the log was taken from."""
    jobs = [
        TraceJob(
            name="",
            arrival_seconds=row.number("arrival_s"),
            run_seconds=row.number("duration_s", least=0.001),
            queue=row.text("vc", "default"),
            pod_sets=gpu_pods(row.count("num_gpus", least=1, most=4096)),
        )
        for row in table.rows()
    ]
    return Trace(table.path.name, tuple(jobs))
