"""What is left of runs that go on, foretold at fixed ages as the daemon would and compared with what came.

At an age the model says the distribution of lengths of runs alike by what is known then, given that this one is longer
than it has run (`scheduler.model.spread.left_seconds`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from scheduler.model.spread import HIGH, LEVELS, LOW, MIDDLE, left_seconds
from scheduler.predict.forest import Floats

AGES_SECONDS: Final = (600.0, 3600.0, 21_600.0)
LAST_FIVE, GLOBAL = "last_five", "global_median"


@dataclass(frozen=True, slots=True)
class Asked:
    """Of a run that has gone on for `age` seconds: what is left of it, in seconds. NaN: nothing could be said."""

    index: int
    age: float
    last_five: float
    global_median: float
    logs: Floats | None = None
    """Of the whole length, as in `scheduler.model.spread`, without what its age tells."""

    @property
    def left(self) -> tuple[float, ...]:
        """At all levels, given its age."""
        if self.logs is None or not np.isfinite(self.logs).all():
            return (math.nan,) * len(LEVELS)
        logs = self.logs.tolist()
        return tuple(max(1e-3, left_seconds(logs, self.age, level)) for level in LEVELS)


@dataclass(slots=True)
class Lengths:
    """Finished runs, for the baselines: of those longer than the age the median, less the age."""

    every: list[float] = field(default_factory=list)
    """Sorted seconds."""
    last: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=5)))

    def learn(self, group: str, seconds: float) -> None:
        self.every.insert(bisect_right(self.every, seconds), seconds)
        self.last[group].append(seconds)

    def left(self, group: str, age: float) -> tuple[float, float]:
        """By the last five alike (where none was so long: by all), and by all."""
        first = bisect_right(self.every, age)
        longer = self.every[first + (len(self.every) - first) // 2] - age if first < len(self.every) else math.nan
        own = sorted(each for each in self.last.get(group, ()) if each > age)
        return (own[len(own) // 2] - age if own else longer), longer


def remaining_scores(asked: Sequence[Asked], seconds: Sequence[float]) -> dict[str, Any]:
    """Of what was asked at one age; `seconds`: the whole lengths. median_ape and mean_ape are shares, mean_log_error of
    natural logs of the seconds left, coverage_90 of the 90 % interval, median_held how often less than the median was
    left (wanted: half)."""
    left = np.array(seconds) - np.array([one.age for one in asked])
    said = np.array([one.left for one in asked])
    inside = (left >= said[:, LOW]) & (left <= said[:, HIGH])
    baselines = {LAST_FIVE: [one.last_five for one in asked], GLOBAL: [one.global_median for one in asked]}
    return {
        "runs": len(asked),
        **_errors(said[:, MIDDLE], left),
        "coverage_90": float(inside.mean()),
        "median_held": float((left <= said[:, MIDDLE]).mean()),
        "baselines": {name: _errors(np.array(values), left) for name, values in baselines.items()},
    }


def _errors(said: Floats, left: Floats) -> dict[str, float]:
    off = np.abs(said - left) / left
    logs = np.abs(np.log(np.maximum(said, 1.0)) - np.log(np.maximum(left, 1.0)))
    return {"median_ape": float(np.median(off)), "mean_ape": float(off.mean()), "mean_log_error": float(logs.mean())}
