"""Readers of recorded job logs, one module a format. The columns of a file's header say which one reads it.

A module offers `COLUMNS` (those that it needs) and `read(table) -> Trace`; a job that the log does not name is called
"". Adding a format is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from scheduler.model.errors import InvalidObjectError
from scheduler.simulate.table import Table, open_table
from scheduler.simulate.trace import Trace, TraceJob


def reader_names() -> tuple[str, ...]:
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")))


def read_trace(path: Path) -> Trace:
    """The jobs of a CSV file (or .csv.gz) in any known format, in order of arrival; the same for every order of rows.

    Raises: InvalidObjectError with file and line for whatever cannot be understood, and for a file without a job.
    """
    table = open_table(path)
    readers = {name: _reader(name) for name in reader_names()}
    fitting = {name: reader for name, reader in readers.items() if set(reader.COLUMNS) <= set(table.columns)}
    if not fitting:
        known = "; ".join(f"{name}: {','.join(reader.COLUMNS)}" for name, reader in sorted(readers.items()))
        raise InvalidObjectError(f"{path}:1: no known job log has these columns; known are {known}")
    # The format that explains most of the columns is meant.
    name = max(sorted(fitting), key=lambda each: len(fitting[each].COLUMNS))
    trace: Trace = fitting[name].read(table)
    if not trace.jobs:
        raise InvalidObjectError(f"{path}: holds no job")
    return Trace(trace.name, _named(path, sorted(trace.jobs, key=_order)), trace.speeds)


def _order(job: TraceJob) -> tuple[object, ...]:
    """Arrival, then what tells jobs apart, so that the order of the file's rows does not matter."""
    return job.arrival_seconds, job.name, job.queue, job.gpus, job.run_seconds, job.profile, repr(job.pod_sets)


def _named(path: Path, jobs: Iterable[TraceJob]) -> tuple[TraceJob, ...]:
    """Jobs without a name are numbered as they come. Raises: InvalidObjectError when two have the same name."""
    named = tuple(job if job.name else replace(job, name=f"job-{number:06d}") for number, job in enumerate(jobs))
    name, count = Counter(job.name for job in named).most_common(1)[0]
    if count > 1:
        raise InvalidObjectError(f"{path}: {count} jobs are called {name[:60]!r}; give each its own name, or none")
    return named


def _reader(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")


__all__ = ["Table", "read_trace", "reader_names"]
