"""Which jobs the demo submits, and when: a recorded arrival log, or jobs drawn from published distributions. Pure but
for reading the log."""

from __future__ import annotations

import csv
import gzip
import math
import random
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Final, TypeVar

from scheduler.model.errors import InvalidObjectError

COLUMNS: Final = ("arrival_s", "duration_s", "num_gpus", "vc")
_ValueT = TypeVar("_ValueT")
_QUEUE_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,51}[a-z0-9])?")
_MAX_GPUS: Final = 4096
_MAX_SECONDS: Final = 10 * 365 * 86400.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One job: submitted `at_seconds` after the start, runs `run_seconds` once all its pods run."""

    name: str
    at_seconds: float
    run_seconds: float
    gpus: int
    queue: str
    hint_seconds: float
    """What its user believes that it takes; never exactly right."""


def read_trace(path: Path, *, first: int = 0, count: int | None = None, seed: int = 0) -> tuple[Arrival, ...]:
    """`count` jobs (None: all) of a CSV or gzipped CSV file with the columns of `COLUMNS`, `first` rows left out.

    Arrivals are counted from the earliest one taken, which is at 0. Blank lines are skipped.
    Raises: InvalidObjectError naming file and line for anything else than such a file.
    """
    try:
        with _open(path) as file:
            rows = list(islice(_rows(path, csv.reader(file)), first, None if count is None else first + count))
    except FileNotFoundError as error:
        raise InvalidObjectError(f"{path}: no such trace file") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise InvalidObjectError(f"{path}: not readable as a CSV file ({error}); a gzipped one ends in .gz") from error
    if not rows:
        raise InvalidObjectError(f"{path}: no job after its first {first} rows")
    origin = min(row[0] for row in rows)
    hints = random.Random(f"hints-{seed}")  # noqa: S311  (drawn numbers, not secrets)
    return tuple(
        Arrival(f"job-{first + number:05d}", at - origin, run, gpus, queue, _hint(run, hints))
        for number, (at, run, gpus, queue) in sorted(enumerate(rows, start=1), key=lambda item: (item[1][0], item[0]))
    )


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _rows(path: Path, reader: Iterator[list[str]]) -> Iterator[tuple[float, float, int, str]]:
    line = 1
    try:
        header = next(reader, None)
        if header is None:
            raise InvalidObjectError(f"{path}: the file is empty; expected the columns {','.join(COLUMNS)}")
        names = [name.strip().lstrip("\ufeff") for name in header]
        missing = [name for name in COLUMNS if name not in names]
        if missing:
            raise InvalidObjectError(f"{path}:1: no column {missing[0]}; expected {','.join(COLUMNS)}")
        places = [names.index(name) for name in COLUMNS]
        for line, cells in enumerate(reader, start=2):
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(names):
                raise InvalidObjectError(f"{path}:{line}: {len(cells)} cells where the header names {len(names)}")
            arrival, run, gpus, queue = (cells[place].strip() for place in places)
            yield (
                _seconds(arrival, f"{path}:{line}: arrival_s", least=0.0),
                _seconds(run, f"{path}:{line}: duration_s", least=0.001),
                _gpu_count(gpus, f"{path}:{line}: num_gpus"),
                _queue(queue, f"{path}:{line}: vc"),
            )
    except csv.Error as error:
        raise InvalidObjectError(f"{path}:{line}: {error}") from error


def _seconds(text: str, place: str, *, least: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= _MAX_SECONDS:
        raise InvalidObjectError(f"{place}: {text[:40]!r} is not a number of seconds from {least:g} on")
    return value


def _gpu_count(text: str, place: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= _MAX_GPUS or len(text) > 9:
        raise InvalidObjectError(f"{place}: {text[:40]!r} is not a whole number of GPUs from 1 to {_MAX_GPUS}")
    return int(text)


def _queue(text: str, place: str) -> str:
    if not _QUEUE_NAME.fullmatch(text):
        raise InvalidObjectError(f"{place}: {text[:40]!r} is no queue name (lower-case letters, digits and dashes)")
    return text


def _hint(run_seconds: float, draws: random.Random) -> float:
    """The true time with a lognormal error: half the users are within about a third, a few are wrong by a factor 3."""
    return max(1.0, run_seconds * draws.lognormvariate(0.0, 0.5))


_GPU_SHARES: Final = ((1, 0.939), (2, 0.019), (4, 0.023), (8, 0.017), (16, 0.002))
"""GPUs of a job, by share of the jobs."""
_RUN_QUANTILES: Final = (
    (0.05, 48.0), (0.10, 61.0), (0.25, 178.0), (0.35, 582.0), (0.50, 1359.0), (0.65, 2170.0), (0.75, 2770.0),
    (0.85, 5472.0), (0.90, 10795.0),
)  # fmt: skip
"""Run times in seconds, by quantile; the longest tenth is cut off so that a demo ends."""
_SWEEP_RUN_SECONDS: Final = (900.0, 2700.0)
_QUEUES: Final = (("research", 0.5), ("vision", 0.3), ("students", 0.2))
_SPAN_SECONDS: Final = 5400.0
_SWEEP_AT: Final = 0.4
_SWEEP_SHARE: Final = 0.3


def draw_jobs(count: int, *, seed: int = 0) -> tuple[Arrival, ...]:
    """`count` jobs over an hour and a half, the same for the same seed; sorted by arrival, the first at 0.

    Single jobs arrive as a Poisson process with the GPU counts and run times of Microsoft's Philly log, as measured on
    its first 70 days (msr-fiddle/philly-traces; 62,194 jobs: 93.9 % use one GPU, the median runs 23 minutes, the ninth
    decile three hours); heavy tails and arrivals are described in Jeon et al., "Analysis of Large-Scale Multi-Tenant
    GPU Clusters for DNN Training Workloads", USENIX ATC 2019. In the middle `vision` submits a sweep of 8-GPU runs
    within minutes, and one gang of 16 GPUs: the log's own mix would not fill an on-prem cluster with so few jobs.
    """
    draws = random.Random(f"jobs-{seed}")  # noqa: S311  (drawn numbers, not secrets)
    hints = random.Random(f"hints-{seed}")  # noqa: S311
    sweep = round(count * _SWEEP_SHARE)
    singles = count - sweep
    found: list[tuple[float, float, int, str]] = []
    at = 0.0
    for _ in range(singles):
        queue = _pick(_QUEUES, draws.random())
        found.append((at, _draw_run(draws.random()), _pick(_GPU_SHARES, draws.random()), queue))
        at += draws.expovariate(singles / _SPAN_SECONDS)
    for number in range(sweep):
        start = _SPAN_SECONDS * _SWEEP_AT + draws.uniform(0.0, 240.0)
        found.append((start, draws.uniform(*_SWEEP_RUN_SECONDS), 16 if number == 0 else 8, "vision"))
    found.sort()
    origin = found[0][0] if found else 0.0
    return tuple(
        Arrival(f"{queue}-{number:03d}", start - origin, run, gpus, queue, _hint(run, hints))
        for number, (start, run, gpus, queue) in enumerate(found, start=1)
    )


def _pick(shares: Sequence[tuple[_ValueT, float]], draw: float) -> _ValueT:
    left = draw * sum(share for _, share in shares)
    for value, share in shares:
        left -= share
        if left < 0:
            return value
    return shares[-1][0]


def _draw_run(draw: float) -> float:
    """The quantile function of the run time, log-linear between the known quantiles."""
    lowest, highest = _RUN_QUANTILES[0][0], _RUN_QUANTILES[-1][0]
    wanted = lowest + draw * (highest - lowest)
    right = min(max(bisect_right(_RUN_QUANTILES, (wanted, math.inf)), 1), len(_RUN_QUANTILES) - 1)
    (share_a, run_a), (share_b, run_b) = _RUN_QUANTILES[right - 1], _RUN_QUANTILES[right]
    part = (wanted - share_a) / (share_b - share_a)
    return float(round(math.exp(math.log(run_a) + part * (math.log(run_b) - math.log(run_a)))))
