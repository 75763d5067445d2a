"""Requests per second some minutes ahead: how many at most, with a given confidence.

Works on the square root of counts, where a Poisson count has the same spread at every level (Anscombe 1948). Simple
forecasts are mixed by how they did (`experts`); the margin is the quantile of the errors that were made where the
forecast was about as high, a local split-conformal interval (Lei et al. 2018), so that confidence means what it says.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from scheduler.predict.experts import Experts

INTERVAL_SECONDS: Final = 60.0
_DAY: Final = 1440
"""Intervals of a day."""
_MOST: Final = 2 * _DAY
_MOST_ERRORS: Final = 4 * _DAY
_ALIKE: Final = 300
"""Errors that were made at the forecasts nearest to this one: so many at most, and at most half of all."""
_LEAST_ERRORS: Final = 30
_LEAST_SEEN: Final = 15
"""Intervals. What is said before so many were seen tells nothing of how well it is known later: a service that begins
goes from nothing to all it will ever be asked."""
_UNTRIED: Final = 2.0
"""Standard deviations of a Poisson count, while too few errors are known."""
_SPANS: Final = {"of2": 2.0, "of5": 5.0, "of15": 15.0, "of60": 60.0}
_EXPERTS: Final = ("last", *_SPANS, "rising", "season", "season and now")
_WORST: Final = 30.0
_MOST_LEADS: Final = 16
_SAVED_LEADS: Final = 4
_SAVED_ERRORS: Final = 2 * _ALIKE
"""Of each lead, the newest: what a state holds is bounded by some 60 KB of JSON."""
_LARGEST_ROOT: Final = 1e9
_NEAR: Final = 15
"""Intervals about the same time a day before."""


class DemandForecaster:
    """Of one service. Changed in place; bounded."""

    def __init__(self) -> None:
        self._roots: deque[float] = deque(maxlen=_MOST)
        self._at: float | None = None
        self._means = dict.fromkeys(_SPANS, 0.0)
        self._leads: dict[int, _Lead] = {}

    def learn(self, at: float, per_second: float) -> None:
        """The rate of the interval that ended at `at`, in the order of time; what cannot be is passed over. Intervals
        that are missing are taken for as the last one was."""
        if not (math.isfinite(at) and math.isfinite(per_second) and per_second >= 0):
            return
        if self._at is not None and at < self._at + 0.5 * INTERVAL_SECONDS:
            return
        root = math.sqrt(per_second * INTERVAL_SECONDS + 0.375)
        missed = 0 if self._at is None else round((at - self._at) / INTERVAL_SECONDS) - 1
        for value in [self._roots[-1]] * min(missed, _MOST) + [root] if self._roots else [root]:
            self._append(value)
        self._at = at

    def _append(self, root: float) -> None:
        for name, span in _SPANS.items():
            weight = max(1.0 / span, 1.0 / (len(self._roots) + 1.0))
            self._means[name] += weight * (root - self._means[name])
        self._roots.append(root)
        for steps, lead in self._leads.items():
            lead.arrived(root)
            lead.say(self._said(steps), sure=self._seen_enough)

    def expected(self, ahead_seconds: float, confidence: float) -> float | None:
        """Requests per second that are not exceeded so far ahead, in `confidence` of all cases; None: nothing known.

        The first time a lead is asked for, nothing is known of its errors, and a Poisson count's are taken.
        """
        if not self._roots:
            return None
        steps = max(1, math.ceil(ahead_seconds / INTERVAL_SECONDS))
        lead = self._leads.get(steps)
        if lead is None:
            if len(self._leads) >= _MOST_LEADS:
                del self._leads[next(iter(self._leads))]
            lead = self._leads[steps] = _Lead(steps)
            lead.say(self._said(steps), sure=self._seen_enough)
        root = lead.high(confidence)
        return max(0.0, root * root - 0.375) / INTERVAL_SECONDS

    @property
    def _seen_enough(self) -> bool:
        return len(self._roots) >= _LEAST_SEEN

    @property
    def at(self) -> float | None:
        """When the last interval ended; None: nothing was learned."""
        return self._at

    def state(self) -> dict[str, Any]:
        """As JSON values, bounded: of the errors only the newest, of the leads those that were asked for last."""
        leads = list(self._leads.items())[-_SAVED_LEADS:]
        return {
            "at": self._at,
            "roots": [round(root, 4) for root in self._roots],
            "means": {name: round(mean, 6) for name, mean in self._means.items()},
            "leads": {str(steps): lead.state() for steps, lead in leads},
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> DemandForecaster:
        """Raises: ValueError, KeyError, TypeError, AttributeError for what `state` did not write."""
        found = cls()
        roots = [float(root) for root in state["roots"]][-_MOST:]
        found._at = None if state["at"] is None else float(state["at"])
        found._means = {name: float(state["means"][name]) for name in _SPANS}
        _check([*roots, *found._means.values()], 0.0)
        if (found._at is None) != (not roots) or not math.isfinite(found._at or 0.0):
            raise ValueError("a demand without its time")
        found._roots.extend(roots)
        for steps, one in list(state["leads"].items())[-_SAVED_LEADS:]:
            if not 1 <= int(steps) <= _MOST or not roots:
                raise ValueError(f"a lead of {steps} intervals")
            lead = found._leads[int(steps)] = _Lead.from_state(int(steps), one)
            lead.say(found._said(int(steps)), sure=found._seen_enough)
        return found

    def _said(self, steps: int) -> dict[str, float]:
        roots = self._roots
        said = {"last": roots[-1], **self._means}
        said["rising"] = max(0.0, roots[-1] + (self._means["of2"] - self._means["of15"]))
        if len(roots) > _DAY + _NEAR:
            then = self._about(_DAY - steps)
            before = self._about(_DAY)
            said["season"] = then
            said["season and now"] = max(0.0, self._means["of15"] + then - before)
        return said

    def _about(self, ago: int) -> float:
        """Mean of some intervals about so many before the last."""
        end = len(self._roots) - ago + _NEAR // 2
        values = [self._roots[index] for index in range(max(0, end - _NEAR), min(len(self._roots), end))]
        return sum(values) / len(values)


class _Lead:
    """What was said of one distance ahead, and how far that was off."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._mix = Experts(_EXPERTS, _WORST)
        self._open: deque[tuple[Mapping[str, float], float, bool]] = deque(maxlen=steps)
        """What was said of the intervals that are still to come, with the mixture, and whether enough had been seen
        for it; oldest first."""
        self._levels = np.zeros(_MOST_ERRORS)
        self._errors = np.zeros(_MOST_ERRORS)
        self._known = 0

    def state(self) -> dict[str, Any]:
        known = min(self._known, _MOST_ERRORS)
        newest = [(self._known - known + index) % _MOST_ERRORS for index in range(known)][-_SAVED_ERRORS:]
        return {
            "levels": [round(float(self._levels[index]), 4) for index in newest],
            "errors": [round(float(self._errors[index]), 4) for index in newest],
            "losses": [round(self._mix.losses[name], 6) for name in _EXPERTS],
        }

    @classmethod
    def from_state(cls, steps: int, state: Mapping[str, Any]) -> _Lead:
        """What had been said of intervals to come is forgotten: nothing is learned of those."""
        found = cls(steps)
        levels, errors, losses = (list(map(float, state[name])) for name in ("levels", "errors", "losses"))
        _check(levels, -_LARGEST_ROOT)
        _check(errors, -_LARGEST_ROOT)
        _check(losses, 0.0)
        if len(levels) != len(errors) or len(levels) > _SAVED_ERRORS or len(losses) != len(_EXPERTS):
            raise ValueError("a forecast that cannot be")
        found._known = len(levels)
        found._levels[: found._known], found._errors[: found._known] = levels, errors
        found._mix.losses = dict(zip(_EXPERTS, losses, strict=True))
        return found

    def arrived(self, root: float) -> None:
        if len(self._open) < self._steps:
            return
        said, mixed, sure = self._open.popleft()
        if not sure:
            return
        self._mix.learn(said, root)
        index = self._known % _MOST_ERRORS
        self._levels[index], self._errors[index] = mixed, root - mixed
        self._known += 1

    def say(self, said: Mapping[str, float], *, sure: bool) -> None:
        mixed = self._mix.mixed(said)
        self._open.append((said, 0.0 if mixed is None else mixed, sure))

    def high(self, confidence: float) -> float:
        """Of what was said last: with the margin."""
        mixed = self._open[-1][1]
        known = min(self._known, _MOST_ERRORS)
        if known < _LEAST_ERRORS:
            return mixed + 0.5 * _UNTRIED
        alike = max(_LEAST_ERRORS, min(_ALIKE, known // 2))
        errors = self._errors[:known]
        if known > alike:
            errors = errors[np.argpartition(np.abs(self._levels[:known] - mixed), alike)[:alike]]
        # The finite-sample quantile of split-conformal prediction.
        rank = min(len(errors) - 1, math.ceil(confidence * (len(errors) + 1)) - 1)
        return max(0.0, mixed + float(np.partition(errors, rank)[rank]))


def _check(values: Sequence[float], least: float) -> None:
    """Raises: ValueError."""
    if not all(math.isfinite(value) and least <= value <= _LARGEST_ROOT for value in values):
        raise ValueError("a demand that cannot be")
