"""How long a run will take, from the history of runs like it. Everything here is as of the run's own submission.

`History` turns what is known at a moment (finished runs alike, the ages of those still going, bursts) into features;
`DurationModel` learns from finished runs and says the distribution of a new one's length.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.predict import arrays
from scheduler.predict.bounded import Recent
from scheduler.predict.forest import Floats, Forest, fit_forest, quantiles

LONGEST_SECONDS: Final = 10 * 365 * 86400.0
MOST_GROUPS: Final = 8192
"""About 4 kB each; the one that nothing was submitted to or ended in for longest is forgotten."""
MOST_GOING: Final = 50_000
"""Runs that have not ended; the one that began first is forgotten."""
_MOST_GOING_IN_A_GROUP: Final = 1000
_MOST_CENSORED: Final = 2000
_MOST_STOPPED: Final = 500
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
    going: Recent[str, float] = field(default_factory=lambda: Recent(_MOST_GOING_IN_A_GROUP))
    """Submission of those that have not finished."""
    mean: float = 0.0
    count: int = 0


class History:
    """Recent runs by group. Bounded: 8,192 groups, of each 20 finished, 50 submissions, and 1,000 that are going."""

    def __init__(self) -> None:
        self._groups: Recent[tuple[int, str], _Group] = Recent(MOST_GROUPS)

    def features(self, run: Run) -> tuple[float, ...]:
        """Finite numbers, equally many for runs with equally many groups and numbers; the first is the base: what the
        last five runs alike took, as log seconds."""
        now = run.submitted_at
        row = [*run.numbers, (now % 86400.0) / 3600.0, (now // 86400.0) % 7]
        groups = [self._groups.get((level, name)) or _Group() for level, name in enumerate(run.groups)]
        base = _base(groups)
        for group in groups:
            row += _described(group, now, base)
        return base, *row

    def finished(self, level: int, name: str) -> int:
        """How many runs of the group have told their length; 0 for one that is not known (any more)."""
        group = self._groups.get((level, name))
        return 0 if group is None else group.count

    def submit(self, run: Run) -> None:
        for level, name in enumerate(run.groups):
            group = self._groups.touch((level, name), _Group)
            group.submitted.append(run.submitted_at)
            group.going.put(run.run_id, run.submitted_at)

    def resume(self, run: Run) -> None:
        """It is still going, and its submission is known already."""
        for level, name in enumerate(run.groups):
            self._groups.touch((level, name), _Group).going.put(run.run_id, run.submitted_at)

    def finish(self, run: Run, ended_at: float, log_seconds: float | None) -> None:
        """`log_seconds` None: it failed or was stopped; it is gone and teaches no length."""
        for level, name in enumerate(run.groups):
            group = self._groups.touch((level, name), _Group)
            group.going.pop(run.run_id)
            if log_seconds is not None:
                group.finished.append((ended_at, log_seconds))
                group.count += 1
                group.mean += (log_seconds - group.mean) / min(group.count, 100)

    def state(self) -> list[Any]:
        """As JSON values; the group that was touched last comes last. Without those going: `resume` them."""
        return [
            [level, name, [list(one) for one in group.finished], list(group.submitted), group.mean, group.count]
            for (level, name), group in self._groups.items()
        ]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> History:
        """Raises: ValueError, TypeError for what `state` did not write."""
        history = cls()
        for level, name, finished, submitted, mean, count in state:
            group = _Group(mean=_finite(mean), count=int(count))
            group.finished.extend((_finite(at), _finite(value)) for at, value in finished)
            group.submitted.extend(map(_finite, submitted))
            history._groups.put((int(level), str(name)), group)
        return history


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not finite")
    return float(value)


def _described(group: _Group, now: float, base: float) -> list[float]:
    """Lengths and ages beside `base`, so that what holds for short runs can be learned from long ones."""
    recent = [value for _, value in group.finished]
    last = recent[::-1][:_LAST]
    row = [value - base for value in last] + [0.0] * (_LAST - len(last))
    ages = sorted(math.log1p(max(0.0, now - at)) for _, at in list(group.going.items())[-50:])
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
class Examples:
    """What a forest is fitted to: features by row as they were at submission, log seconds; oldest finished first."""

    rows: Floats
    targets: Floats

    def until(self, count: int) -> Examples:
        """The `count` oldest."""
        return Examples(self.rows[:count], self.targets[:count])

    def since(self, count: int) -> Examples:
        """All but the `count` oldest."""
        return Examples(self.rows[count:], self.targets[count:])


@dataclass(frozen=True, slots=True)
class Going:
    """Runs that have not ended: features by row as they were at submission, and log seconds that they have run."""

    rows: Floats
    ages: Floats


LEAST_EXAMPLES: Final = 50
_LEAST_WEIGHT: Final = 0.099
"""Beside 1 for the newest: the 10,000 newest are all taken, and of older ones so few that 100,000 are 14,000."""
_OUTLIVED: Final = 0.7
_REST: Final = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


def fit(
    examples: Examples,
    going: Going | None = None,
    before: Forest | None = None,
    *,
    trees: int = 40,
    leaf: int = 6,
    half: float = 3000.0,
) -> Forest | None:
    """A forest of log seconds beside each row's base; None under 50 runs. A run counts half as much as one that ended
    `half` runs later.

    A run that is still going after 70 % of those like it would have ended (as `before` says) is told as what is left of
    its distribution. Source: B. Efron, "The two sample problem with censored data" (1967): mass moves to the right.
    """
    count = len(examples.targets)
    if count < LEAST_EXAMPLES:
        return None
    kept, weights = thinned(0.5 ** (np.arange(count)[::-1] / half), _LEAST_WEIGHT)
    rows = examples.rows[kept]
    targets = examples.targets[kept] - rows[:, 0]
    if going is not None and before is not None and len(going.ages) and before.columns <= rows.shape[1]:
        more, rest = _rest(going, before)
        rows, targets = np.concatenate([rows, more]), np.concatenate([targets, rest])
        weights = np.concatenate([weights, np.full(len(rest), 1.0 / len(_REST))])
    return fit_forest(rows, targets, weights, trees=trees, leaf=leaf)


def thinned(weights: Floats, least: float) -> tuple[NDArray[np.intp], Floats]:
    """Indices that are kept, rising, and what each counts then: of those that count less than `least`, one for each
    `least` that they come to together, which counts as much, so that every stretch of them counts what it did, to
    within `least`. Source: systematic sampling in proportion to size (W. Madow, "On the theory of systematic sampling,
    II", Annals of Mathematical Statistics 20, 1949), from a fixed start."""
    light = weights < least
    turns = np.floor(np.cumsum(np.where(light, weights, 0.0)) / least + 0.5)
    kept = np.flatnonzero(~light | (np.diff(turns, prepend=0.0) > 0))
    return kept, np.maximum(weights[kept], least)


def _rest(going: Going, before: Forest) -> tuple[Floats, Floats]:
    mass, ages = before.distribution(going.rows), going.ages - going.rows[:, 0]
    cumulative = np.concatenate([np.zeros((len(mass), 1)), np.cumsum(mass, axis=1)], axis=1)
    gone = np.array([np.interp(age, before.edges, row) for age, row in zip(ages, cumulative, strict=True)])
    late = np.flatnonzero(gone >= _OUTLIVED)
    levels = gone[late, None] + _REST * (1.0 - gone[late, None])
    rest = np.maximum(quantiles(mass[late], before.edges, levels), ages[late, None]) if len(late) else np.empty((0, 5))
    # Nobody like it ever took so long: a little longer than it has.
    beyond = gone[late] >= 1.0 - 1e-9
    rest[beyond] = ages[late][beyond, None] + 0.1 + 0.5 * _REST
    return np.repeat(going.rows[late], len(_REST), axis=0), rest.ravel()


class _Ring:
    """The newest `most` rows, all of one width; rows of another width begin anew."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen = 0
        self._rows = np.empty((0, 0), dtype=np.float32)
        """As exact as the forest looks at them."""
        self._targets = np.empty(0)

    def add(self, row: tuple[float, ...], target: float) -> None:
        if self._rows.shape[1] != len(row):
            size = min(1024, self.most)
            self._rows, self._targets, self.seen = np.empty((size, len(row)), dtype=np.float32), np.empty(size), 0
        if self.seen == len(self._rows) < self.most:
            more = min(self.most, 2 * self.seen) - self.seen
            self._rows = np.concatenate([self._rows, np.empty((more, len(row)), dtype=np.float32)])
            self._targets = np.concatenate([self._targets, np.empty(more)])
        at = self.seen % self.most
        self._rows[at], self._targets[at] = row, target
        self.seen += 1

    def examples(self) -> Examples:
        """Copies, the oldest first."""
        kept, first = min(self.seen, self.most), self.seen % self.most if self.seen > self.most else 0
        order = (np.arange(kept) + first) % max(1, kept)
        return Examples(self._rows[order].astype(np.float64), self._targets[order])


class DurationModel:
    """Learns from each finished run at once (history), and by a forest that is fitted anew at intervals.

    Bounded: the newest `keep` finished runs, 50,000 that are going, and the history.
    """

    def __init__(self, *, keep: int = 10_000) -> None:
        self.history = History()
        self.forest: Forest | None = None
        self._rows = _Ring(keep)
        self._going: Recent[str, tuple[Run, tuple[float, ...]]] = Recent(MOST_GOING)
        self._stopped: deque[tuple[tuple[float, ...], float]] = deque(maxlen=_MOST_STOPPED)
        """Features and log seconds of runs that were stopped before their end: they would have taken longer."""

    @property
    def examples_seen(self) -> int:
        """Finished runs that taught a length, since the features were last changed."""
        return self._rows.seen

    def submit(self, run: Run) -> tuple[float, ...]:
        """The run's features as of now; it counts as going from here on."""
        row = self.history.features(run)
        self.history.submit(run)
        self._going.put(run.run_id, (run, row))
        return row

    def finish(self, run_id: str, ended_at: float, seconds: float | None, *, at_least: float | None = None) -> None:
        """Unknown runs, and lengths that cannot be, teach nothing; `seconds` None: it did not come to its own end, and
        tells at most that it would have taken longer than `at_least`: its length is censored there."""
        known = self._going.pop(run_id)
        if known is None:
            return
        run, row = known
        log_seconds = math.log(seconds) if seconds is not None and usable_seconds(seconds) else None
        self.history.finish(run, ended_at, log_seconds)
        if log_seconds is not None:
            self._rows.add(row, log_seconds)
        elif seconds is None and at_least is not None and usable_seconds(at_least):
            self._stopped.append((row, math.log(at_least)))

    def examples(self) -> Examples:
        """Copies of what is kept of finished runs, to be fitted elsewhere."""
        return self._rows.examples()

    def run_of(self, run_id: str) -> Run | None:
        """One that is going."""
        known = self._going.get(run_id)
        return None if known is None else known[0]

    def runs_going(self, most: int) -> list[Run]:
        """One of each group of runs alike, the oldest, `most` at most."""
        found: dict[str, Run] = {}
        for known in self._going.values():
            run = known[0]
            if len(found) >= most:
                break
            found.setdefault(run.groups[0], run)
        return list(found.values())

    def going(self, now: float) -> Going | None:
        """The 2,000 that have been going for longest, and those that were stopped last; None: there are none."""
        known = [
            (row, math.log(max(1.0, now - run.submitted_at)))
            for run, row in islice(self._going.values(), _MOST_CENSORED)
        ]
        known += [one for one in self._stopped if not known or len(one[0]) == len(known[0][0])]
        if not known:
            return None
        return Going(np.array([row for row, _ in known]), np.array([age for _, age in known]))

    def refit(self, now: float) -> Forest | None:
        """A forest of the runs kept; None under 50 of them."""
        return fit(self.examples(), self.going(now), self.forest)

    def distributions(self, rows: Sequence[tuple[float, ...]]) -> Floats | None:
        """By row over the forest's bins, beside each row's base; None: there is no forest for such rows."""
        if self.forest is None or self.forest.columns > len(rows[0]):
            return None
        return self.forest.distribution(np.array(rows))

    def state(self) -> dict[str, Any]:
        """As JSON values."""
        examples = self.examples()
        return {
            "history": self.history.state(),
            "rows": arrays.to_json(examples.rows.astype("f4")),
            "targets": arrays.to_json(examples.targets),
            "going": [
                [run.run_id, run.submitted_at, list(run.groups), list(run.numbers), list(row)]
                for run, row in self._going.values()
            ],
            "stopped": [[list(row), age] for row, age in self._stopped],
            "forest": None if self.forest is None else self.forest.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, keep: int = 10_000) -> DurationModel:
        """Raises: ValueError, KeyError, TypeError for what `state` did not write."""
        model = cls(keep=keep)
        model.history = History.from_state(state["history"])
        rows, targets = arrays.from_json(state["rows"]).astype("f8"), arrays.from_json(state["targets"]).astype("f8")
        if (
            rows.ndim != 2
            or targets.shape != rows.shape[:1]
            or not (np.isfinite(rows).all() and np.isfinite(targets).all())
        ):
            raise ValueError("rows and targets that do not fit together")
        for row, target in zip(rows, targets.tolist(), strict=True):
            model._rows.add(tuple(row.tolist()), target)
        for run_id, at, groups, numbers, row in state["going"]:
            run = Run(str(run_id), _finite(at), tuple(map(str, groups)), tuple(map(_finite, numbers)))
            model.history.resume(run)
            model._going.put(run.run_id, (run, tuple(map(_finite, row))))
        for row, age in state.get("stopped", ()):  # earlier versions kept none
            model._stopped.append((tuple(map(_finite, row)), _finite(age)))
        if state["forest"] is not None:
            model.forest = Forest.from_state(state["forest"])
        return model
