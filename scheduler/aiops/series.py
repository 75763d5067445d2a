"""The state of many series as arrays: one row per series, one column per remembered number.

A detector declares its columns (`Field`); a step takes columns and a batch of samples and gives new columns. Nothing
is changed in place, so that a step can be repeated or thrown away. No I/O and no clock live here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.model.errors import InvalidObjectError

Floats = NDArray[np.floating[Any]]
Columns = Mapping[str, Floats]

MOST_SERIES: Final = 2_000_000
"""Rows of one bank; more belong into a bank of their own."""
LARGEST_VALUE: Final = 1e30
"""Beyond it squares and single precision overflow, and nothing is measured."""


@dataclass(frozen=True, slots=True)
class Field:
    """One remembered number of each series, or `width` of them. New rows hold `fill`."""

    name: str
    fill: float = 0.0
    width: int = 1
    single: bool = False
    """Single precision: for wide columns."""

    @property
    def dtype(self) -> type[np.float32] | type[np.float64]:
        return np.float32 if self.single else np.float64

    @property
    def bytes(self) -> int:
        return np.dtype(self.dtype).itemsize * self.width

    def shape(self, rows: int) -> tuple[int, ...]:
        return (rows,) if self.width == 1 else (rows, self.width)


@dataclass(frozen=True, slots=True)
class Samples:
    """One sample of each series at most; all arrays have one entry per series, in the order of the rows."""

    at_seconds: Floats
    """When the sample was taken, or, where none arrived, now. Unix time, UTC."""
    values: Floats
    """NaN: none arrived."""
    limits: Floats
    """The value at which what is measured is exhausted; NaN: there is none."""
    peers: NDArray[np.int64]
    """Number of the group of siblings; negative: there is none."""


def samples(
    at_seconds: Sequence[float] | Floats,
    values: Sequence[float] | Floats,
    limits: Sequence[float] | Floats | None = None,
    peers: Sequence[int] | NDArray[np.int64] | None = None,
) -> Samples:
    """A checked batch. A value beyond LARGEST_VALUE counts as none. Raises: InvalidObjectError when lengths differ."""
    taken = np.asarray(values, dtype=np.float64)
    rows = len(taken)
    batch = Samples(
        np.asarray(at_seconds, dtype=np.float64),
        np.where(np.abs(taken) <= LARGEST_VALUE, taken, np.nan),
        np.full(rows, np.nan) if limits is None else np.asarray(limits, dtype=np.float64),
        np.full(rows, -1, dtype=np.int64) if peers is None else np.asarray(peers, dtype=np.int64),
    )
    if not len(batch.at_seconds) == len(batch.limits) == len(batch.peers) == rows:
        raise InvalidObjectError("samples: times, values, limits and peers must be of one length")
    if not np.isfinite(batch.at_seconds).all():
        raise InvalidObjectError("samples: every row needs a time, also where no value arrived")
    return batch


def empty(fields: Sequence[Field], rows: int) -> Columns:
    """Columns of `rows` series of which nothing is known. Raises: InvalidObjectError for too many."""
    if not 0 <= rows <= MOST_SERIES:
        raise InvalidObjectError(f"{rows} series in one bank; at most {MOST_SERIES}")
    return MappingProxyType({field.name: np.full(field.shape(rows), field.fill, field.dtype) for field in fields})


def select(fields: Sequence[Field], columns: Columns, rows: NDArray[np.int64]) -> Columns:
    """Columns whose row i is the old row `rows[i]`, or a new one where that is negative."""
    fresh = empty(fields, len(rows))
    kept = np.flatnonzero(rows >= 0)
    for field in fields:
        fresh[field.name][kept] = columns[field.name][rows[kept]]
    return fresh


def adopt(fields: Sequence[Field], columns: Mapping[str, Floats], *, where: str) -> Columns:
    """Columns that were stored somewhere, checked against what is expected.

    Raises: InvalidObjectError, naming the column, for one that is missing, too many, or of another shape or type.
    """
    if set(columns) != {field.name for field in fields}:
        raise InvalidObjectError(f"{where}: columns {sorted(columns)}; wanted {sorted(f.name for f in fields)}")
    rows = len(next(iter(columns.values()))) if columns else 0
    for field in fields:
        column = columns[field.name]
        if column.shape != field.shape(rows) or column.dtype != field.dtype or rows > MOST_SERIES:
            raise InvalidObjectError(f"{where}: column {field.name!r} is {column.dtype}{column.shape}")
    return MappingProxyType(dict(columns))


def bytes_per_series(fields: Sequence[Field]) -> int:
    """State of one series in bytes."""
    return sum(field.bytes for field in fields)
