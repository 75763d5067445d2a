"""How good the bank is on labelled series: one pass over all of them, one setting, one threshold."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.aiops import nab
from scheduler.aiops.bank import new_bank, observe
from scheduler.aiops.series import Floats, samples


@dataclass(frozen=True, slots=True)
class LabelledSeries:
    name: str
    at_seconds: Floats
    """Never falling."""
    values: Floats
    windows: tuple[tuple[int, int], ...]
    """First and last row of each anomaly, ordered and apart."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    files: tuple[nab.Scored, ...]
    best: Mapping[str, nab.Best]
    """By profile."""
    found: tuple[nab.Detections, ...]
    """By file, at the standard profile's threshold."""

    @property
    def windows(self) -> int:
        return sum(one.windows for one in self.found)

    @property
    def precision(self) -> float | None:
        """Found windows among found windows and false alarms; None without any alarm."""
        hits = sum(one.found for one in self.found)
        alarms = hits + sum(one.false_alarms for one in self.found)
        return hits / alarms if alarms else None

    @property
    def recall(self) -> float | None:
        """Found windows among all; None without any window."""
        return sum(one.found for one in self.found) / self.windows if self.windows else None

    @property
    def delay(self) -> float | None:
        """Median share of the window that has passed at the first alarm in it; None when none was found."""
        delays = [delay for one in self.found for delay in one.delays]
        return float(np.median(delays)) if delays else None


def score_series(corpus: Sequence[LabelledSeries], detectors: Sequence[str] | None = None) -> tuple[Floats, ...]:
    """A score for each row of each series, from that row and earlier ones alone. No series knows of another."""
    if not corpus:
        return ()
    rows = max(len(one.values) for one in corpus)
    at = np.zeros((rows, len(corpus)))
    values = np.full((rows, len(corpus)), np.nan)
    for column, one in enumerate(corpus):
        length = len(one.values)
        at[:length, column], at[length:, column] = one.at_seconds, one.at_seconds[-1] if length else 0.0
        values[:length, column] = one.values
    bank = new_bank(len(corpus), detectors)
    scores = np.zeros_like(values)
    for row in range(rows):
        bank, told = observe(bank, samples(at[row], values[row]))
        scores[row] = told.score
    return tuple(scores[: len(one.values), column] for column, one in enumerate(corpus))


def evaluate(files: Sequence[nab.Scored]) -> Evaluation:
    """Best thresholds by profile, and what the standard one finds. The order of `files` does not matter."""
    ordered = tuple(sorted(files, key=lambda file: file.name))
    best = {name: nab.best_threshold(ordered, profile) for name, profile in sorted(nab.PROFILES.items())}
    threshold = best["standard"].threshold
    return Evaluation(ordered, best, tuple(nab.detections(file, threshold) for file in ordered))


def tuned_on(name: str) -> bool:
    """Whether a file of that name belongs to the half that settings may be tuned on: the first byte of its name's
    SHA-256 is even."""
    return hashlib.sha256(name.encode()).digest()[0] % 2 == 0
