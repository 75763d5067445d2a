"""How long a run will take, from the history of runs like it. Everything here is as of the run's own submission.

`History` turns what is known at a moment (finished runs alike, the ages of those still going, bursts) into features;
`DurationModel` learns from finished runs and says the distribution of a new one's length.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from scheduler.predict.forest import Floats, Forest, fit_forest, quantiles

LONGEST_SECONDS: Final = 10 * 365 * 86400.0
_LAST: Final = 5
_UNSEEN: Final = -1.0
_PRIOR_LOG_SECONDS: Final = math.log(1800.0)


@dataclass(frozen=True, slots=True)
class Run:
    """What is known of a run when it is submitted."""

    run_id: str
    submitted_at: float
    """Seconds since any fixed moment."""
    groups: tuple[str, ...]
    """What it shares with others, finest first, e.g. queue and GPUs, then queue. Runs alike share all."""
    numbers: tuple[float, ...] = ()
    """What was asked for, in any units that do not change."""


@dataclass(slots=True)
class _Group:
    finished: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=20))
    """(when it ended, log seconds)."""
    submitted: deque[float] = field(default_factory=lambda: deque(maxlen=50))
    going: dict[str, float] = field(default_factory=dict)
    """Submission of those that have not finished."""
    mean: float = 0.0
    count: int = 0


class History:
    """Recent runs by group. Bounded: 20 finished and 50 submissions a group; those still going."""

    def __init__(self) -> None:
        self._groups: dict[tuple[int, str], _Group] = {}

    def features(self, run: Run) -> tuple[float, ...]:
        """Finite numbers, equally many for runs with equally many groups and numbers; the first is the base: what the
        last five runs alike took, as log seconds."""
        now = run.submitted_at
        row = [*run.numbers, (now % 86400.0) / 3600.0, (now // 86400.0) % 7]
        groups = [self._groups.get((level, name), _Group()) for level, name in enumerate(run.groups)]
        base = _base(groups)
        for group in groups:
            row += _described(group, now, base)
        return base, *row

    def submit(self, run: Run) -> None:
        for level, name in enumerate(run.groups):
            group = self._groups.setdefault((level, name), _Group())
            group.submitted.append(run.submitted_at)
            group.going[run.run_id] = run.submitted_at

    def finish(self, run: Run, ended_at: float, log_seconds: float | None) -> None:
        """`log_seconds` None: it failed or was stopped; it is gone and teaches no length."""
        for level, name in enumerate(run.groups):
            group = self._groups.setdefault((level, name), _Group())
            group.going.pop(run.run_id, None)
            if log_seconds is not None:
                group.finished.append((ended_at, log_seconds))
                group.count += 1
                group.mean += (log_seconds - group.mean) / min(group.count, 100)


def _described(group: _Group, now: float, base: float) -> list[float]:
    """Lengths and ages beside `base`, so that what holds for short runs can be learned from long ones."""
    recent = [value for _, value in group.finished]
    last = recent[::-1][:_LAST]
    row = [value - base for value in last] + [0.0] * (_LAST - len(last))
    ages = sorted(math.log1p(max(0.0, now - at)) for at in list(group.going.values())[-50:])
    tail = sorted(last)
    wide = sorted(recent)
    row += [
        tail[len(tail) // 2] - base if tail else 0.0,
        wide[len(wide) // 2] - base if wide else 0.0,
        wide[len(wide) // 10] - base if wide else 0.0,
        wide[-1 - len(wide) // 10] - base if wide else 0.0,
        tail[-1] - tail[0] if tail else _UNSEEN,
        group.mean - base if group.count else 0.0,
        math.log1p(group.count),
        math.log1p(max(0.0, now - group.finished[-1][0])) if group.finished else 20.0,
        math.log1p(max(0.0, now - group.submitted[-1])) if group.submitted else 20.0,
        float(sum(now - at <= 60.0 for at in group.submitted)),
        float(sum(now - at <= 900.0 for at in group.submitted)),
        math.log1p(len(group.going)),
        ages[0] - base if ages else -20.0,
        ages[len(ages) // 2] - base if ages else -20.0,
        ages[-1] - base if ages else -20.0,
    ]
    return row


def _base(groups: Sequence[_Group]) -> float:
    """Log seconds: the median of the last five of the finest group that has any."""
    for group in groups:
        if group.finished:
            last = sorted(value for _, value in list(group.finished)[-_LAST:])
            return last[len(last) // 2] if len(last) % 2 else (last[len(last) // 2 - 1] + last[len(last) // 2]) / 2
    return _PRIOR_LOG_SECONDS


def usable_seconds(seconds: float) -> bool:
    """Whether a length can be learned from: finite, positive, under ten years."""
    return math.isfinite(seconds) and 0 < seconds <= LONGEST_SECONDS


@dataclass(frozen=True, slots=True)
class Estimate:
    """A distribution of seconds as `mass` between `edges` of log seconds."""

    mass: Floats
    edges: Floats

    def quantile(self, level: float) -> float:
        """Seconds that the run stays under with chance `level`."""
        return float(np.exp(quantiles(self.mass[None], self.edges, np.array([level]))[0, 0]))

    def remaining(self, age_seconds: float, level: float) -> float | None:
        """Seconds still to go, given that it has run `age_seconds`; None where no like run ever took so long."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.mass)])
        gone = float(np.interp(math.log(max(age_seconds, 1e-9)), self.edges, cumulative))
        if gone >= 1.0 - 1e-9:
            return None
        return max(0.0, self.quantile(gone + level * (1.0 - gone)) - max(0.0, age_seconds))


class DurationModel:
    """Learns from each finished run at once (history), and by a forest that is fitted anew at intervals."""

    def __init__(self, *, keep: int = 10_000) -> None:
        self.history = History()
        self.forest: Forest | None = None
        self._rows: deque[tuple[tuple[float, ...], float]] = deque(maxlen=keep)
        self._going: dict[str, tuple[Run, tuple[float, ...]]] = {}

    def submit(self, run: Run) -> tuple[float, ...]:
        """The run's features as of now; it counts as going from here on."""
        row = self.history.features(run)
        self.history.submit(run)
        self._going[run.run_id] = run, row
        return row

    def finish(self, run_id: str, ended_at: float, seconds: float | None) -> None:
        """Unknown runs, and lengths that cannot be, teach nothing; `seconds` None: it did not come to its own end."""
        known = self._going.pop(run_id, None)
        if known is None:
            return
        run, row = known
        log_seconds = math.log(seconds) if seconds is not None and usable_seconds(seconds) else None
        self.history.finish(run, ended_at, log_seconds)
        if log_seconds is not None:
            self._rows.append((row, log_seconds))

    def examples(self) -> tuple[Floats, Floats]:
        """Features by row as they were at submission, and log seconds; oldest finished first."""
        return np.array([row for row, _ in self._rows]), np.array([value for _, value in self._rows])

    def refit(self, *, trees: int = 20, leaf: int = 4, half: float = 3000.0) -> Forest | None:
        """A forest of the runs kept; None under 50 of them."""
        if len(self._rows) < 50:
            return None
        rows, targets = self.examples()
        targets = targets - rows[:, 0]
        weights = 0.5 ** (np.arange(len(targets))[::-1] / half)
        return fit_forest(rows, targets, weights, trees=trees, leaf=leaf)

    def distributions(self, rows: Sequence[tuple[float, ...]]) -> Floats | None:
        return None if self.forest is None else self.forest.distribution(np.array(rows))
