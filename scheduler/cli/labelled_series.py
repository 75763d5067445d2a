"""Labelled series in the formats of the Numenta Anomaly Benchmark: CSV files `timestamp,value` in a folder or a tar
archive, anomaly windows by file in one JSON file, and result files.

An archive is read in memory and never unpacked onto the disk.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import lzma
import math
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np

from scheduler.aiops.evaluation import LabelledSeries
from scheduler.aiops.nab import Scored
from scheduler.aiops.series import LARGEST_VALUE, Floats
from scheduler.cli.output import CommandError

MOST_FILES: Final = 10_000
MOST_FILE_BYTES: Final = 64 << 20
MOST_BYTES: Final = 1 << 30
DETECTOR: Final = "overspill"


def read_corpus(series: Path, labels: Path) -> tuple[tuple[LabelledSeries, ...], tuple[str, ...]]:
    """The series that the labels speak of, by name; and the names of those that they leave out.

    Raises: CommandError with the place of whatever cannot be used.
    """
    wanted = _read_labels(labels)
    texts = dict(_texts(series))
    absent = sorted(set(wanted) - set(texts))
    if absent:
        raise _wrong(f"{labels}: {absent[0][:120]!r} is labelled but not in {series}")
    if not wanted:
        raise _wrong(f"{labels}: labels no file")
    corpus = tuple(_series(name, texts[name], wanted[name], series, labels) for name in sorted(wanted))
    return corpus, tuple(sorted(set(texts) - set(wanted)))


def write_results(corpus: Sequence[LabelledSeries], files: Sequence[Scored], out: Path) -> None:
    """`OUT/overspill/GROUP/overspill_FILE.csv` with timestamp,value,anomaly_score,label, as NAB's own
    scorer reads them.

    A score s (-ln of a probability) is written as s / (1 + s), so that it lies between 0 and 1.
    """
    scored = {file.name: file.scores for file in files}
    try:
        for one in corpus:
            path = out / DETECTOR / PurePosixPath(one.name).parent / f"{DETECTOR}_{PurePosixPath(one.name).name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(path, one, scored[one.name])
    except OSError as error:
        raise CommandError(f"--out {out}: cannot be written: {error}") from error


def _write(path: Path, one: LabelledSeries, scores: Floats) -> None:
    labels = np.zeros(len(scores), dtype=np.int64)
    for first, last in one.windows:
        labels[first : last + 1] = 1
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("timestamp", "value", "anomaly_score", "label"))
        for at, value, score, label in zip(one.at_seconds, one.values, scores, labels, strict=True):
            stamp = datetime.fromtimestamp(float(at), UTC).replace(tzinfo=None).isoformat(sep=" ")
            writer.writerow((stamp, repr(float(value)), repr(float(score / (1.0 + score))), int(label)))


def _read_labels(path: Path) -> dict[str, list[tuple[float, float]]]:
    try:
        with path.open("rb") as file:
            text = file.read(MOST_FILE_BYTES + 1)
        found: Any = json.loads(text) if len(text) <= MOST_FILE_BYTES else None
    except FileNotFoundError as error:
        raise _wrong(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise _wrong(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(found, dict):
        raise _wrong(f"{path}: must be one JSON object of FILE: [[START, END], ...], of at most 64 MiB")
    return {_safe_name(name, path): _spans(spans, f"{path}: {name[:120]!r}") for name, spans in found.items()}


def _spans(spans: Any, place: str) -> list[tuple[float, float]]:
    if not (isinstance(spans, list) and all(isinstance(span, list) and len(span) == 2 for span in spans)):
        raise _wrong(f"{place}: must be a list of [START, END]")
    times = [(_time(span[0], place), _time(span[1], place)) for span in spans]
    for (_, end), (start, _) in itertools.pairwise(times):
        if start <= end:
            raise _wrong(f"{place}: windows must be in order and must not overlap")
    if any(start > end for start, end in times):
        raise _wrong(f"{place}: a window ends before it starts")
    return times


def _texts(series: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each CSV file, bounded in number and size."""
    if series.is_dir():
        found = _folder(series)
    elif series.is_file():
        found = _archive(series)
    else:
        raise _wrong(f"{series}: no such folder or archive")
    total = files = 0
    for name, content in found:
        files, total = files + 1, total + len(content)
        if files > MOST_FILES or total > MOST_BYTES:
            raise _wrong(f"{series}: more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB")
        try:
            yield name, content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise _wrong(f"{series}: {name}: not UTF-8 text") from error
    if not files:
        archives = sorted(series.glob("*.tar*")) if series.is_dir() else []
        instead = f"the archive {archives[0]}" if archives else "a folder or archive of GROUP/FILE.csv"
        raise _wrong(f"{series}: holds no .csv file; give {instead} to --series")


def _folder(series: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(series.rglob("*.csv")):
        if not path.is_file():
            continue
        name = path.relative_to(series).as_posix()
        try:
            with path.open("rb") as file:
                content = file.read(MOST_FILE_BYTES + 1)
        except OSError as error:
            raise _wrong(f"{path}: {error.strerror}") from error
        yield name, _bounded(content, f"{series}: {name}")


def _archive(series: Path) -> Iterator[tuple[str, bytes]]:
    """Regular files only: no link is followed."""
    try:
        with tarfile.open(series, "r:*") as archive:
            for count, member in enumerate(archive):
                if count > 10 * MOST_FILES:
                    raise _wrong(f"{series}: too many entries")
                if not member.isreg() or not member.name.endswith(".csv"):
                    continue
                name = _safe_name(member.name.removeprefix("./"), series)
                content = archive.extractfile(member)
                yield name, _bounded(content.read(MOST_FILE_BYTES + 1) if content else b"", f"{series}: {name}")
    except (tarfile.TarError, lzma.LZMAError, zlib.error, OSError, EOFError, ValueError) as error:
        raise _wrong(f"{series}: neither a folder nor a readable tar archive: {error}") from error


def _bounded(content: bytes, place: str) -> bytes:
    if len(content) > MOST_FILE_BYTES:
        raise _wrong(f"{place}: larger than {MOST_FILE_BYTES >> 20} MiB")
    return content


def _safe_name(name: str, place: Path) -> str:
    """Names become paths of result files."""
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise _wrong(f"{place}: {name[:120]!r} is no relative file name")
    return path.as_posix()


def _series(name: str, text: str, spans: list[tuple[float, float]], series: Path, labels: Path) -> LabelledSeries:
    place = f"{series}: {name}"
    reader = csv.reader(io.StringIO(text, newline=""))
    at: list[float] = []
    values: list[float] = []
    try:
        if [cell.strip() for cell in next(reader, [])] != ["timestamp", "value"]:
            raise _wrong(f"{place}:1: the header must be timestamp,value")
        for line, cells in enumerate(reader, start=2):
            if cells:
                _add(cells, at, values, f"{place}:{line}")
    except csv.Error as error:
        raise _wrong(f"{place}: not readable as CSV: {error}") from error
    if not at:
        raise _wrong(f"{place}: has no rows")
    times = np.array(at)
    windows = tuple(_rows(span, times, f"{labels}: {name!r}") for span in spans)
    return LabelledSeries(name, times, np.array(values), windows)


def _add(cells: list[str], at: list[float], values: list[float], place: str) -> None:
    if len(cells) != 2:
        raise _wrong(f"{place}: {len(cells)} cells where the header names 2")
    time = _time(cells[0], place)
    if at and time < at[-1]:
        raise _wrong(f"{place}: timestamp {cells[0][:40]!r} is before that of the line above; sort the file")
    try:
        value = float(cells[1])
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST_VALUE:
        raise _wrong(f"{place}: value {cells[1][:40]!r} is no number up to {LARGEST_VALUE:g}; leave the line out")
    at.append(time)
    values.append(value)


def _rows(span: tuple[float, float], at: Floats, place: str) -> tuple[int, int]:
    first, last = int(np.searchsorted(at, span[0], "left")), int(np.searchsorted(at, span[1], "right")) - 1
    if first > last:
        start = datetime.fromtimestamp(span[0], UTC).replace(tzinfo=None)
        raise _wrong(f"{place}: no row lies in the window that starts at {start}")
    return first, last


def _time(text: Any, place: str) -> float:
    """A timestamp without a zone is taken as UTC."""
    try:
        time = datetime.fromisoformat(str(text).strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise _wrong(f"{place}: {str(text)[:40]!r} is no timestamp such as 2014-04-10 07:15:00") from error


def _wrong(message: str) -> CommandError:
    return CommandError(message, exit_code=2)
