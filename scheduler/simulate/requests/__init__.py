"""Readers of recorded request logs, one module a format. The columns of a file's header say which one reads it.

A module offers `COLUMNS` (those that it needs) and `read(table) -> RequestLog`. Adding a format is adding a file.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from scheduler.model.errors import InvalidObjectError
from scheduler.simulate.serving.log import RequestLog
from scheduler.simulate.table import open_table


def request_reader_names() -> tuple[str, ...]:
    return tuple(sorted(found.name for found in pkgutil.iter_modules(__path__) if not found.name.startswith("_")))


def read_requests(path: Path) -> RequestLog:
    """The requests of a CSV file (or .csv.gz) in any known format, in order of time.

    Raises: InvalidObjectError with file and line for whatever cannot be understood, and for a file without a request.
    """
    table = open_table(path)
    readers = {name: _reader(name) for name in request_reader_names()}
    fitting = {name: reader for name, reader in readers.items() if set(reader.COLUMNS) <= set(table.columns)}
    if not fitting:
        known = "; ".join(f"{name}: {','.join(reader.COLUMNS)}" for name, reader in sorted(readers.items()))
        raise InvalidObjectError(f"{path}:1: no known request log has these columns; known are {known}")
    # The format that explains most of the columns is meant.
    name = max(sorted(fitting), key=lambda each: len(fitting[each].COLUMNS))
    log: RequestLog = fitting[name].read(table)
    if not len(log):
        raise InvalidObjectError(f"{path}: holds no request")
    return log


def _reader(name: str) -> Any:
    return importlib.import_module(f"{__name__}.{name}")
