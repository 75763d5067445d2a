"""What is left of runs that go on, foretold at fixed ages as the daemon would and compared with what came.

At an age the model says the distribution of lengths of runs alike by what is known then, given that this one is longer
than it has run (`scheduler.model.spread.left_seconds`). Intervals are calibrated by age and queue.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from scheduler.model.spread import LEVELS, left_seconds
from scheduler.predict.conformal import Calibration
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


def intervals(
    events: Iterable[tuple[float, int, bool]], asked: Sequence[Asked], left: Sequence[float], groups: Sequence[str]
) -> Floats:
    """Rows x 2, log seconds: 90 % intervals of what is left. `events`: (when, number in `asked`, whether it is over
    now) in order; `left`: what came; `groups`: of which each is calibrated with."""
    calibration, found = Calibration(), np.full((len(asked), 2), math.nan)
    overdue: list[tuple[float, int]] = []
    for at, number, over in events:
        while overdue and overdue[0][0] <= at:
            calibration.learn(groups[heapq.heappop(overdue)[1]], above=True)
        length, said = math.log(left[number]), asked[number].left
        if math.isnan(said[0]):
            continue
        if not over:
            found[number] = calibration.interval(groups[number], [math.log(each) for each in said])
            if length > found[number, 1]:
                heapq.heappush(overdue, (at + math.exp(found[number, 1]), number))
        elif length <= found[number, 1]:
            calibration.learn(groups[number], below=bool(length < found[number, 0]))
    return found
