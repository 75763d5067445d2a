"""What a clean fleet's scores look like, by group of series, so that all together raise as many false alarms a day as
the operator allows.

A group is all series of one metric. Each group's share of the allowance is the same (Bonferroni); above which score it
alarms follows from the tail of its own scores (`calibration.fit_tail`). A tail is learnt from a stretch of a day or
more; the threshold is the median over the last stretches', so that a bad day does not deafen for a week. Before its
first stretch is over, a group says nothing; the first, in which every series is new and full of firsts, counts only
until the second is over. That is the warm-up: a day of silence, then one of caution.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

import numpy as np

from scheduler.aiops.calibration import LEAST_PEAKS, Tail, alarm_threshold, fit_tail
from scheduler.aiops.series import Floats
from scheduler.model.ids import Instant

DAY_SECONDS: Final = 86400.0
LEARN_SECONDS: Final = DAY_SECONDS
MOST_STRETCHES: Final = 7
MOST_PEAKS: Final = 5000
"""Of one stretch of one group, the highest: a tail needs no more."""
FITTED_PEAKS: Final = 200
"""The tail is fitted to so many: the fewer, the less is extrapolated; its shape is then known to about 0.1."""


@dataclass(frozen=True, slots=True)
class Learnt:
    """A stretch that is over."""

    tail: Tail
    per_day: float
    """Samples of one series in a day."""


@dataclass(frozen=True, slots=True)
class Group:
    """One group's memory."""

    began_at: Instant
    samples: int = 0
    series: float = 0.0
    """Mean number of series that reported, over the stretch's rounds."""
    rounds: int = 0
    peaks: Floats = field(default_factory=lambda: np.empty(0))
    """Thinned scores above zero, of the stretch that goes on."""
    learnt: tuple[Learnt, ...] = ()
    """The latest stretches, oldest first."""
    settled: bool = False
    """Whether a stretch after the first is over."""


def observe(group: Group, scores: Floats, reported: int, now: Instant, learn_seconds: float) -> Group:
    """The group after a round: `scores` are those above zero that nothing known explains, `reported` how many series
    had a sample."""
    peaks = group.peaks
    if len(scores):
        peaks = np.concatenate([peaks, scores])
        if len(peaks) > 2 * MOST_PEAKS:
            peaks = np.sort(peaks)[-MOST_PEAKS:]
    rounds = group.rounds + 1
    series = group.series + (reported - group.series) / rounds
    going = replace(group, samples=group.samples + reported, series=series, rounds=rounds, peaks=peaks)
    took = now - group.began_at
    if took < learn_seconds or len(peaks) <= LEAST_PEAKS or not series:
        return going
    highest = np.sort(peaks)[-MOST_PEAKS:]
    done = Learnt(
        fit_tail(highest, going.samples, FITTED_PEAKS / going.samples), going.samples / series / took * DAY_SECONDS
    )
    before = group.learnt if group.settled else ()
    return Group(now, learnt=(*before, done)[-MOST_STRETCHES:], settled=bool(group.learnt))


def threshold(group: Group, series: int, alarms_per_day: float) -> float:
    """The score at which so many series of the group raise so many false alarms a day; infinity while nothing is
    known."""
    if not group.learnt or not series:
        return np.inf
    return median(
        alarm_threshold(one.tail, alarms_per_day=alarms_per_day, samples_per_day=one.per_day * series)
        for one in group.learnt
    )


def speaking(groups: Mapping[str, Group]) -> int:
    """How many groups have learnt enough to alarm."""
    return sum(bool(one.learnt) for one in groups.values())
