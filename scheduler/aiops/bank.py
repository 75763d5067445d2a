"""The detector bank: every detector over every series, one vectorised step a round of samples.

    samples -> detectors -> calibration by series -> the most surprising -> bursts thinned -> score

The score is -ln of a probability: 0 is nothing, 10 is one in 22,000. What becomes an alarm is `alarm_threshold`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.aiops import calibration
from scheduler.aiops.detectors import detector_names, load_detector
from scheduler.aiops.series import Columns, Field, Floats, Samples, adopt, bytes_per_series, empty, select
from scheduler.model.errors import InvalidObjectError

BURST = "burst"
_TAIL = ".tail"


@dataclass(frozen=True, slots=True)
class Bank:
    """What is remembered of `rows` series: columns by detector, by detector's tail, and of bursts."""

    rows: int
    detectors: tuple[str, ...]
    parts: Mapping[str, Columns]


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one round; an entry per series."""

    score: Floats
    """-ln probability, bursts thinned; 0 where there is nothing to tell."""
    raw: Floats
    """The same before thinning; NaN where no detector could tell."""
    detector: NDArray[np.int64]
    """Which of the bank's detectors was the most surprised; -1 where none could tell."""


def new_bank(rows: int, detectors: Sequence[str] | None = None) -> Bank:
    """A bank that knows nothing. By default with every detector there is. Raises: InvalidObjectError."""
    names = detector_names() if detectors is None else tuple(sorted(set(detectors)))
    return Bank(rows, names, {part: empty(fields, rows) for part, fields in _layout(names).items()})


def observe(bank: Bank, samples: Samples) -> tuple[Bank, Scores]:
    """The bank after one round, and what it thinks of it. Raises: InvalidObjectError when the rows do not match."""
    if len(samples.values) != bank.rows:
        raise InvalidObjectError(f"{len(samples.values)} samples for a bank of {bank.rows} series")
    arrived = ~np.isnan(samples.values)
    parts: dict[str, Columns] = {}
    best = np.full(bank.rows, np.nan)
    which = np.full(bank.rows, -1, dtype=np.int64)
    for number, name in enumerate(bank.detectors):
        detector, tail = load_detector(name), bank.parts[name + _TAIL]
        parts[name], surprise = detector.step(bank.parts[name], samples)
        parts[name + _TAIL], score = calibration.calibrate(tail, surprise, arrived)
        score = np.where(tail["count"] >= detector.SPEAKS_AFTER, score, np.nan)
        better = (score > best) | (np.isnan(best) & ~np.isnan(score))
        best = np.where(better, score, best)
        which = np.where(better, number, which)
    parts[BURST], thinned = calibration.thin(bank.parts[BURST], best)
    return Bank(bank.rows, bank.detectors, parts), Scores(thinned, best, which)


def rearrange(bank: Bank, rows: Sequence[int]) -> Bank:
    """A bank whose series i is the old series `rows[i]`, or a new one where that is negative."""
    chosen = np.asarray(rows, dtype=np.int64)
    layout = _layout(bank.detectors)
    parts = {part: select(fields, bank.parts[part], chosen) for part, fields in layout.items()}
    return Bank(len(chosen), bank.detectors, parts)


def stored(bank: Bank) -> dict[str, Floats]:
    """The bank as flat arrays, named PART@VERSION/COLUMN, to be kept somewhere."""
    return {
        f"{part}@{_version(part)}/{name}": column
        for part, columns in sorted(bank.parts.items())
        for name, column in sorted(columns.items())
    }


def restored(arrays: Mapping[str, Floats], detectors: Sequence[str] | None = None) -> Bank:
    """The bank that `stored` gave. A detector of another version, or a new one, starts anew.

    Raises: InvalidObjectError for arrays that do not belong together.
    """
    names = detector_names() if detectors is None else tuple(sorted(set(detectors)))
    rows = len(next(iter(arrays.values()))) if arrays else 0
    parts: dict[str, Columns] = {}
    for part, fields in _layout(names).items():
        prefix = f"{part}@{_version(part)}/"
        found = {key.removeprefix(prefix): column for key, column in arrays.items() if key.startswith(prefix)}
        parts[part] = adopt(fields, found, where=part) if found else empty(fields, rows)
    if any(len(column) != rows for columns in parts.values() for column in columns.values()):
        raise InvalidObjectError("stored detector state: its columns have different numbers of series")
    return Bank(rows, names, parts)


def detector_bytes(name: str) -> int:
    """State of one series in one detector, its tail included."""
    return bytes_per_series(load_detector(name).FIELDS) + bytes_per_series(calibration.FIELDS)


def _layout(detectors: Sequence[str]) -> dict[str, tuple[Field, ...]]:
    layout: dict[str, tuple[Field, ...]] = {BURST: calibration.BURST_FIELDS}
    for name in detectors:
        layout[name] = load_detector(name).FIELDS
        layout[name + _TAIL] = calibration.FIELDS
    return layout


def _version(part: str) -> int:
    """A tail is worth nothing without the detector that it was learnt from."""
    return calibration.VERSION if part == BURST else load_detector(part.removesuffix(_TAIL)).VERSION
