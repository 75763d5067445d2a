"""A CSV file, bounded, each of whose cells knows its place, so that a mistake in it is one clear line."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from scheduler.model.errors import InvalidObjectError

MOST_ROWS: Final = 2_000_000
_LONGEST_SECONDS: Final = 20 * 365 * 86400.0
_LONGEST_CELL: Final = 4096


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the file by column name."""

    place: str
    """File and line, for messages."""
    cells: dict[str, str]

    def text(self, column: str, default: str = "") -> str:
        return self.cells.get(column, "").strip() or default

    def number(self, column: str, *, least: float = 0.0, most: float = _LONGEST_SECONDS) -> float:
        """Raises: InvalidObjectError when it is none, or outside `least`..`most`."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise InvalidObjectError(
                f"{self.place}: {column}: {text[:40]!r} is not a number from {least:g} to {most:g}"
            )
        return value

    def optional(self, column: str, *, least: float = 0.0, most: float = _LONGEST_SECONDS) -> float | None:
        """None for an empty cell, or a column that is not there."""
        return self.number(column, least=least, most=most) if self.text(column) else None

    def count(self, column: str, *, least: int = 0, most: int = 65_536) -> int:
        """A whole number. Raises: InvalidObjectError."""
        value = self.number(column, least=least, most=most)
        if value != int(value):
            raise InvalidObjectError(f"{self.place}: {column}: {self.text(column)[:40]!r} is not a whole number")
        return int(value)


@dataclass(frozen=True, slots=True)
class Table:
    path: Path
    columns: tuple[str, ...]

    def rows(self) -> Iterator[Row]:
        """Every line that is not blank. Raises: InvalidObjectError."""
        try:
            with _open(self.path) as file:
                reader = csv.reader(file)
                next(reader, None)
                for number, cells in enumerate(reader, start=2):
                    if not any(cell.strip() for cell in cells):
                        continue
                    place = f"{self.path}:{number}"
                    if number > MOST_ROWS:
                        raise InvalidObjectError(f"{place}: more than {MOST_ROWS} lines; cut the file")
                    if len(cells) != len(self.columns):
                        told = f"{len(cells)} cells where the header names {len(self.columns)}"
                        raise InvalidObjectError(f"{place}: {told}")
                    if any(len(cell) > _LONGEST_CELL for cell in cells):
                        raise InvalidObjectError(f"{place}: a cell is longer than {_LONGEST_CELL} characters")
                    yield Row(place, dict(zip(self.columns, cells, strict=True)))
        except csv.Error as error:
            raise InvalidObjectError(f"{self.path}: {error}") from error
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise _unreadable(self.path, error) from error


def open_table(path: Path) -> Table:
    """The file's columns; its rows are read later. Raises: InvalidObjectError."""
    try:
        with _open(path) as file:
            header = next(csv.reader(file), None)
    except FileNotFoundError as error:
        raise InvalidObjectError(f"{path}: no such file") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise _unreadable(path, error) from error
    if header is None:
        raise InvalidObjectError(f"{path}: the file is empty; the first line must name the columns")
    return Table(path, tuple(name.strip().lstrip("\ufeff") for name in header))


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def _unreadable(path: Path, error: Exception) -> InvalidObjectError:
    return InvalidObjectError(f"{path}: not readable as a CSV file ({error}); a gzipped one ends in .gz")
