"""Durations predicted in arrival order, as the daemon would: a prediction uses only runs that ended before it.

Beside the model stand the baselines, each learning from the same runs at the same moments.
"""

from __future__ import annotations

import heapq
import math
from bisect import insort
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor

from scheduler.model.spread import LEVELS, MIDDLE
from scheduler.predict.conformal import Calibration
from scheduler.predict.durations import LEAST_EXAMPLES, DurationModel, Run
from scheduler.predict.forest import Floats, quantiles
from scheduler.predict.remaining_trial import AGES_SECONDS, Asked, Lengths

_REFIT_EVERY: Final = 1000
_BOOST_EVERY: Final = 4000
_LEVELS: Final = np.array(LEVELS)


@dataclass(frozen=True, slots=True)
class Ended:
    run: Run
    seconds: float
    queue: str


@dataclass(frozen=True, slots=True)
class Predictions:
    """Log seconds, one for each run; NaN where nothing could be said yet."""

    model: Floats
    low: Floats
    high: Floats
    baselines: dict[str, Floats]
    asked: list[Asked]
    """At each of `AGES_SECONDS` that a run reached, in the order of time."""


def predict_all(log: Sequence[Ended]) -> Predictions:
    """`log` in order of submission. The one number that is given is the median of the distribution."""
    size = len(log)
    model, given = np.full(size, math.nan), np.full((size, len(_LEVELS)), math.nan)
    base = {name: np.full(size, math.nan) for name in ("global_median", "group_median", "last_five", "boosting")}
    learner, medians, lengths, booster = DurationModel(), _Medians(), Lengths(), None
    rows: list[tuple[float, ...]] = []
    asked: list[Asked] = []
    waiting: list[tuple[Asked, tuple[float, ...]]] = []
    start = 0
    for at, index, age in in_order(log, AGES_SECONDS):
        one = log[index]
        if age is None:
            learner.finish(one.run.run_id, at, one.seconds)
            medians.learn(one)
            lengths.learn(one.run.groups[0], one.seconds)
            continue
        if age > 0:
            row = learner.history.features(replace(one.run, submitted_at=at))
            waiting.append((Asked(index, age, *lengths.left(one.run.groups[0], age)), row))
            continue
        if index - start >= _REFIT_EVERY:
            _fill(learner, booster, rows, slice(start, index), model, given, base["boosting"])
            asked, waiting = asked + _answered(learner, waiting), []
            learner.forest, start = learner.refit(at), index
            if booster is None or index % _BOOST_EVERY == 0:
                booster = _boosted(learner) or booster
        base["global_median"][index], base["group_median"][index] = medians.of(one.run)
        row = learner.submit(one.run)
        base["last_five"][index] = row[0]
        rows.append(row)
    _fill(learner, booster, rows, slice(start, size), model, given, base["boosting"])
    low, high = _intervals(log, given)
    return Predictions(model, low, high, base, asked + _answered(learner, waiting))


def in_order(log: Sequence[Ended], ages: Sequence[float] = ()) -> Iterator[tuple[float, int, float | None]]:
    """(when, number of the run, age in seconds): 0 as it is submitted, each of `ages` that it reaches, None as it
    ends."""
    going: list[tuple[float, int, int, float | None]] = []
    for index, one in enumerate(log):
        began = one.run.submitted_at
        while going and going[0][0] <= began:
            at, _, number, age = heapq.heappop(going)
            yield at, number, age
        yield began, index, 0.0
        for turn, age in enumerate(ages, 1):
            if age < one.seconds:
                heapq.heappush(going, (began + age, turn, index, age))
        heapq.heappush(going, (began + one.seconds, 0, index, None))


class _Medians:
    def __init__(self) -> None:
        self._all: list[float] = []
        self._groups: dict[str, list[float]] = defaultdict(list)

    def learn(self, one: Ended) -> None:
        insort(self._all, math.log(one.seconds))
        insort(self._groups[one.run.groups[0]], math.log(one.seconds))

    def of(self, run: Run) -> tuple[float, float]:
        every = self._all[len(self._all) // 2] if self._all else math.nan
        group = self._groups.get(run.groups[0])
        return every, group[len(group) // 2] if group else every


def _fill(
    learner: DurationModel,
    booster: HistGradientBoostingRegressor | None,
    rows: Sequence[tuple[float, ...]],
    part: slice,
    model: Floats,
    given: Floats,
    boosted: Floats,
) -> None:
    """Those submitted since the last refit, all at once: no forest changed between."""
    block = np.array(rows[part])
    if not len(block):
        return
    if booster is not None:
        boosted[part] = booster.predict(block)
    mass = learner.distributions(rows[part])
    if mass is None or learner.forest is None:
        return
    edges, base = learner.forest.edges, block[:, 0]
    given[part] = quantiles(mass, edges, _LEVELS) + base[:, None]
    model[part] = given[part][:, MIDDLE]


def _answered(learner: DurationModel, waiting: Sequence[tuple[Asked, tuple[float, ...]]]) -> list[Asked]:
    """With what the present forest says."""
    rows = [row for _, row in waiting]
    mass = learner.distributions(rows) if rows else None
    if mass is None or learner.forest is None:
        return [one for one, _ in waiting]
    logs = quantiles(mass, learner.forest.edges, _LEVELS) + np.array([row[0] for row in rows])[:, None]
    return [replace(one, logs=said) for (one, _), said in zip(waiting, logs, strict=True)]


def _boosted(learner: DurationModel) -> HistGradientBoostingRegressor | None:
    examples = learner.examples()
    if len(examples.targets) < LEAST_EXAMPLES:
        return None
    return HistGradientBoostingRegressor(max_iter=100, random_state=0).fit(examples.rows, examples.targets)


def _intervals(log: Sequence[Ended], given: Floats) -> tuple[Floats, Floats]:
    calibration = Calibration()
    low, high = np.full(len(log), math.nan), np.full(len(log), math.nan)
    overdue: list[tuple[float, int]] = []
    for now, index, age in in_order(log):
        one = log[index]
        while overdue and overdue[0][0] <= now:
            calibration.learn(log[heapq.heappop(overdue)[1]].queue, above=True)
        length = math.log(one.seconds)
        if math.isnan(given[index, 0]):
            continue
        if age is not None:
            low[index], high[index] = calibration.interval(one.queue, given[index].tolist())
            if length > high[index]:
                heapq.heappush(overdue, (now + math.exp(high[index]), index))
        elif length <= high[index]:
            calibration.learn(one.queue, below=bool(length < low[index]))
    return low, high
