"""Gavel's job logs (model, batch_size, scale_factor, total_steps, arrival_s) with its measured throughputs.

The throughput table, `gavel_throughput.csv` (model, batch_size, scale_factor, gpu, consolidated, steps_per_s), lies
beside the log. Run times are on a V100; the other models' speeds are relative to it, as measured on one server.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Final

from scheduler.model.errors import InvalidObjectError
from scheduler.simulate.readers._pods import gpu_pods
from scheduler.simulate.table import Row, Table, open_table
from scheduler.simulate.trace import Trace, TraceJob, Training

COLUMNS: Final = ("model", "batch_size", "scale_factor", "total_steps", "arrival_s")
TABLE: Final = "gavel_throughput.csv"
_GPU_NAMES: Final = {"k80": "K80", "p100": "P100", "v100": "V100"}
_REFERENCE: Final = "V100"
Throughputs = dict[str, dict[str, float]]


def read(table: Table) -> Trace:
    """The queue is the log's `vc` or `trace` column.

    A job with more GPUs than were measured takes as many steps a second as with the most that were: data-parallel
    training steps with larger batches, hardly faster. Raises: InvalidObjectError for a job of an unmeasured model.
    """
    throughputs = read_throughputs(table.path.parent / TABLE)
    known = dict(throughputs)
    jobs: list[TraceJob] = []
    for row in table.rows():
        scale = row.count("scale_factor", least=1, most=1024)
        profile = profile_of(row.text("model"), row.text("batch_size"), scale)
        measured = known.get(profile) or _nearest(throughputs, row.text("model"), row.text("batch_size"), scale)
        if measured is None:
            raise InvalidObjectError(f"{row.place}: {TABLE} has no throughput of {profile}")
        known[profile] = measured
        seconds = row.number("total_steps", least=1, most=1e12) / reference_of(measured)
        jobs.append(
            TraceJob(
                "",
                row.number("arrival_s"),
                seconds,
                row.text("vc") or row.text("trace", "default"),
                gpu_pods(scale, tuple(sorted(measured))),
                profile,
                checkpoint_seconds=1.0,
                training=_training(row, reference_of(measured)),
            )
        )
    speeds = {
        profile: {gpu: each / reference_of(measured) for gpu, each in sorted(measured.items())}
        for profile, measured in sorted(known.items())
    }
    return Trace(table.path.name, tuple(jobs), speeds)


def _training(row: Row, steps_per_second: float) -> Training:
    batch_size = row.count("batch_size", least=1, most=2**31) if row.text("batch_size") else None
    return Training(row.text("model"), batch_size, steps_per_second)


def _nearest(throughputs: Throughputs, model: str, batch_size: str, scale: int) -> dict[str, float] | None:
    smaller = (each for each in range(scale - 1, 0, -1) if profile_of(model, batch_size, each) in throughputs)
    found = next(smaller, None)
    return None if found is None else throughputs[profile_of(model, batch_size, found)]


def profile_of(model: str, batch_size: str, scale: int) -> str:
    return f"{model}/{batch_size}/{scale}"


def reference_of(measured: dict[str, float]) -> float:
    """Steps a second on a V100, or on the fastest where it does not fit there."""
    return measured.get(_REFERENCE) or max(measured.values())


def read_throughputs(path: Path) -> Throughputs:
    """Steps a second by profile and GPU model, consolidated on one server; where it does not fit (0) it is left out.

    Raises: InvalidObjectError with file and line.
    """
    found: Throughputs = defaultdict(dict)
    for row in open_table(path).rows():
        rate = row.number("steps_per_s", most=1e9)
        if rate > 0 and row.count("consolidated", most=1) == 1:
            profile = profile_of(row.text("model"), row.text("batch_size"), row.count("scale_factor", least=1))
            found[profile][_GPU_NAMES.get(row.text("gpu").lower(), row.text("gpu"))] = rate
    return dict(found)
