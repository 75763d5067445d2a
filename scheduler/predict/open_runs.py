"""Runs that have not ended, and what was said of each when it began: held against what comes.

Their intervals are calibrated here: a run that outlives its interval has missed it at once. Mutable, for one thread.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any, Final

from scheduler.model.spread import drawn
from scheduler.model.traits import NO_TRAITS, Traits
from scheduler.predict.bounded import Recent
from scheduler.predict.conformal import Calibration
from scheduler.predict.learned import SOURCES, Span
from scheduler.predict.throughput import Configuration

MOST_OPEN: Final = 20_000
UNSURE: Final = math.log(3.0)
"""Half the width of a user's own expectation, before outcomes have told how far they are off."""


@dataclass(frozen=True, slots=True)
class OpenRun:
    """A run that has not ended, and what was said of it when it began. Log seconds."""

    at: float
    queue: str
    gpu: str
    steps: float | None
    configuration: Configuration | None
    said: Mapping[str, float]
    source: str | None
    low: float
    high: float
    outlived: bool = False
    speed_told: bool = False
    """Its own metric has taught its speed: the mean over the whole run, start-up and all, would teach it worse."""
    traits: Traits = NO_TRAITS

    @property
    def group(self) -> str:
        """Whose intervals are calibrated together."""
        return f"{self.source}|{self.queue}"

    @property
    def until(self) -> float:
        """When its interval is outlived."""
        return self.at + math.exp(min(50.0, self.high))


class OpenRuns:
    """Bounded: 20,000 runs; of more, the one that began first is forgotten."""

    def __init__(self) -> None:
        self.calibration = Calibration()
        self._runs: Recent[str, OpenRun] = Recent(MOST_OPEN)
        self._ends: list[tuple[float, str]] = []
        """When intervals are outlived."""

    def get(self, uid: str) -> OpenRun | None:
        return self._runs.get(uid)

    def pop(self, uid: str) -> OpenRun | None:
        return self._runs.pop(uid)

    def put(self, uid: str, run: OpenRun) -> None:
        """One that has begun; watched until it outlives its interval, where it has one."""
        self._runs.put(uid, run)
        if run.source is None or run.outlived:
            return
        heapq.heappush(self._ends, (run.until, uid))
        if len(self._ends) > 2 * MOST_OPEN:
            self._ends = [one for one in self._ends if one[1] in self._runs]
            heapq.heapify(self._ends)

    def told_speed(self, uid: str) -> None:
        """Its own metric has taught its speed."""
        if (run := self._runs.get(uid)) is not None:
            self._runs.put(uid, replace(run, speed_told=True))

    def interval(self, source: str, queue: str, span: Span) -> tuple[float, float]:
        """Ends of the 90 % interval, in log seconds."""
        low, median, high = (math.log(each) for each in (span.low, span.median, span.high))
        if low == high:
            low, high = median - UNSURE, median + UNSURE
        return self.calibration.interval(f"{source}|{queue}", span.logs or drawn(low, median, high))

    def outlive(self, now: float) -> None:
        """Runs that still go on after the end of their interval have missed it: that is learned at once."""
        while self._ends and self._ends[0][0] <= now:
            at, uid = heapq.heappop(self._ends)
            run = self._runs.get(uid)
            if run is not None and not run.outlived and run.until <= at:
                self._runs.put(uid, replace(run, outlived=True))
                self.calibration.learn(run.group, above=True)

    def judge(self, run: OpenRun, length: float) -> bool:
        """Whether the log seconds that it took lay in its interval; the calibration learns of it."""
        below, above = length < run.low, length > run.high or run.outlived
        if not run.outlived:
            self.calibration.learn(run.group, below=below, above=above)
        return not (below or above)

    def state(self) -> list[Any]:
        """Of the runs, as JSON values, the oldest first."""
        return [[uid, *_told(one)] for uid, one in self._runs.items()]

    def read(self, state: Sequence[Any]) -> None:
        """Raises: ValueError, TypeError for what `state` did not write."""
        for uid, *told in state:
            self.put(str(uid), _read(told))


def _told(one: OpenRun) -> list[Any]:
    where = one.configuration
    told = (
        None
        if where is None
        else [where.model, where.batch_size, where.gpu, where.gpus, where.consolidated, where.share]
    )
    ends = [None if math.isnan(each) else each for each in (one.low, one.high)]
    return [
        one.at, one.queue, one.gpu, one.steps, told, dict(one.said), one.source, *ends, one.outlived, one.speed_told,
        list(astuple(one.traits)),
    ]  # fmt: skip


def _read(told: list[Any]) -> OpenRun:
    at, queue, gpu, steps, where, said, source, low, high, outlived, *later = told
    configuration = None if where is None else Configuration(*where)
    least, most = (math.nan if each is None else float(each) for each in (low, high))
    if source is not None and (source not in SOURCES or source not in said or not math.isfinite(least + most)):
        raise ValueError("an open run that cannot be")
    return OpenRun(
        float(at),
        str(queue),
        str(gpu),
        steps,
        configuration,
        {str(name): float(value) for name, value in said.items()},
        source,
        least,
        most,
        bool(outlived),
        # Earlier versions told neither.
        speed_told=bool(later[0]) if later else False,
        traits=_read_traits(*later[1]) if len(later) > 1 else NO_TRAITS,
    )


def _read_traits(parameters: Any, length: Any, precision: Any, framework: Any) -> Traits:
    return Traits(
        None if parameters is None else float(parameters),
        None if length is None else int(length),
        None if precision is None else str(precision),
        None if framework is None else str(framework),
    )
