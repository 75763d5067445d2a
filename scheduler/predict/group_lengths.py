"""How long runs alike take, told ahead for each group, so that a prediction is a look-up.

Mutable, for one thread; `view` gives what is told now.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np

from scheduler.model.spread import HIGH, LEVELS, LOW, MIDDLE
from scheduler.predict.bounded import Recent
from scheduler.predict.durations import DurationModel, Run
from scheduler.predict.forest import quantiles
from scheduler.predict.learned import LEAST_ALIKE, Span
from scheduler.predict.open_runs import UNSURE

MOST_LENGTHS: Final = 4096
"""Groups of runs alike whose length is told; about 200 bytes each."""
_LEVELS: Final = np.array(LEVELS)


class GroupLengths:
    """Spans of seconds by the finest group of runs alike, and by queue and GPUs."""

    def __init__(self) -> None:
        self._told: Recent[str, Span] = Recent(MOST_LENGTHS)
        self._due: dict[str, tuple[int, Run]] | None = None
        """What is to be told at the end of `together`: for each group, of which level and as of which run."""

    def view(self) -> Mapping[str, Span]:
        """Changes with this."""
        return self._told.view()

    @contextmanager
    def together(self, model: DurationModel) -> Iterator[None]:
        """For many runs at once: what is told meanwhile is told of each group once, at the end, as of its last run.
        Until then the groups are told of as before."""
        self._due = {}
        try:
            yield
        finally:
            due, self._due = self._due, None
            for name, (level, run) in due.items():
                self._put(name, level, run, model)

    def tell(self, run: Run, model: DurationModel) -> None:
        """Of the runs alike this one, and of its queue and GPUs, as of its submission."""
        fine, coarse, queue = run.groups
        for name, level, groups in ((fine, 0, run.groups), (coarse, 1, ("", coarse, queue))):
            if self._due is None:
                self._put(name, level, replace(run, groups=groups), model)
            else:
                self._due.pop(name, None)
                self._due[name] = level, replace(run, groups=groups)

    def _put(self, name: str, level: int, run: Run, model: DurationModel) -> None:
        if model.history.finished(level, run.groups[level]) >= LEAST_ALIKE:
            self._told.put(name, _span(model.history.features(run), model))

    def tell_all(self, now: float, model: DurationModel) -> None:
        """After a refit, of what is going: others are told when one of them starts."""
        for run in model.runs_going(MOST_LENGTHS // 4):
            self.tell(replace(run, submitted_at=now), model)

    def state(self) -> list[Any]:
        """As JSON values."""
        return [[name, span.low, span.median, span.high, *span.shape] for name, span in self._told.items()]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> GroupLengths:
        """Raises: ValueError, TypeError for what `state` did not write."""
        found = cls()
        for name, *numbers in state:
            found._told.put(str(name), _read([float(each) for each in numbers]))
        return found


def _span(row: tuple[float, ...], model: DurationModel) -> Span:
    mass = model.distributions([row])
    if mass is None or model.forest is None:
        # Too few runs for a forest: the last five alike, as far off as they usually are.
        return Span(math.exp(row[0] - UNSURE), math.exp(row[0]), math.exp(row[0] + UNSURE))
    logs = tuple((quantiles(mass, model.forest.edges, _LEVELS)[0] + row[0]).tolist())
    shape = tuple(each - logs[MIDDLE] for each in logs)
    return Span(math.exp(logs[LOW]), math.exp(logs[MIDDLE]), math.exp(logs[HIGH]), shape)


def _read(numbers: list[float]) -> Span:
    """Seconds at 5, 50 and 95 %, and the shape; none where there was no forest (earlier versions: always)."""
    (low, median, high), shape = numbers[:3], numbers[3:]
    usable = 0 < low <= median <= high < math.inf and all(map(math.isfinite, shape)) and shape == sorted(shape)
    if not usable or len(shape) not in (0, len(LEVELS)):
        raise ValueError("lengths that cannot be")
    return Span(low, median, high, tuple(shape))
