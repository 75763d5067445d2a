"""Judges a new revision beside the old one: latency, errors and cost, on the same pools, in the same intervals.

What is compared is the mean of whole steps, not single intervals. Its surprise is told as the detectors tell theirs:
-ln of the probability, by the old revision's own spread, of a difference that large (`detectors._moments.upper_tail`).
The load is made equal: replicas that serve one request each are compared by what they are busy for, without the wait
for one; others by latency less what their load explains, latency = idle / (1 - load / most).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from scheduler.aiops.detectors._moments import upper_tail
from scheduler.model.ids import ClusterId
from scheduler.model.serving import CanaryVerdict, ReplicaSpeed, RevisionMetrics
from scheduler.model.serving_policy import RolloutRule

GOOD: Final = "good"
BAD: Final = "bad"
UNDECIDED: Final = "undecided"
SURPRISE: Final = 9.0
"""Nats, about one chance in eight thousand: each step is looked at some twenty times."""
_SURE: Final = 3.0
"""Nats by which a revision must be better than what is allowed to be called good: one chance in twenty."""
_LEAST_SPREAD: Final = 0.05
"""Squared coefficient of variation of a request, at least."""
_MOST_PLACES: Final = 256
_Place = tuple[ClusterId, str]
"""A cluster and a pool; "": any of its pools."""


@dataclass(slots=True)
class _Sums:
    """Of one revision on one pool."""

    requests: int = 0
    seconds: float = 0.0
    squares: float = 0.0
    """Of interval means, each as often as it has requests."""
    intervals: int = 0
    errors: int = 0
    usd: float = 0.0
    priced: int = 0

    @property
    def mean(self) -> float:
        return self.seconds / self.requests if self.requests else math.nan

    def spread(self) -> float:
        """Squared coefficient of variation of one request, from how interval means scatter."""
        if self.intervals < 3 or not self.mean > 0:
            return 1.0
        scatter = max(0.0, self.squares - self.requests * self.mean**2) / (self.intervals - 1)
        return max(_LEAST_SPREAD, scatter / self.mean**2)


class CanaryJudge:
    """Changed in place. One for each rollout; `restart` at each step, so that a step is judged by itself."""

    def __init__(self, old: str, new: str, rule: RolloutRule) -> None:
        self.old, self.new, self._rule = old, new, rule
        self._sums: dict[tuple[_Place, str], _Sums] = {}

    def restart(self) -> None:
        """Forget the step before."""
        self._sums = {}

    def learn(self, metrics: Iterable[RevisionMetrics], speeds: Mapping[ClusterId, ReplicaSpeed] | None = None) -> None:
        """One interval of both; what cannot be is passed over. `speeds`: how latency grows with load, by cluster."""
        for one in sorted(metrics, key=lambda each: (each.cluster, each.revision)):
            if one.revision not in (self.old, self.new) or not one.requests or one.requests < 0:
                continue
            seconds = _at_no_load(one, (speeds or {}).get(one.cluster))
            if seconds is None or len(self._sums) >= 2 * _MOST_PLACES:
                continue
            sums = self._sums.setdefault(((one.cluster, one.pool or ""), one.revision), _Sums())
            sums.requests += one.requests
            sums.seconds += seconds * one.requests
            sums.squares += seconds * seconds * one.requests
            sums.intervals += 1
            sums.errors += min(one.requests, max(0, one.errors or 0))
            if one.usd_per_request is not None and math.isfinite(one.usd_per_request):
                sums.usd += one.usd_per_request * one.requests
                sums.priced += one.requests

    def verdict(self) -> CanaryVerdict:
        """Bad needs a difference beyond what is allowed that chance does not make; good, that more than what is allowed
        is unlikely in all three."""
        both = [
            (self._sums[place, self.old], self._sums[place, self.new])
            for place in sorted({place for place, _ in self._sums})
            if (place, self.old) in self._sums and (place, self.new) in self._sums
        ]
        count = sum(new.requests for _, new in both)
        if not both:
            return CanaryVerdict(self.new, UNDECIDED, "no requests of both revisions in one place yet", count)
        found = (self._latency(both), self._errors(both), self._cost(both))
        for outcome, text in found:
            if outcome == BAD:
                return CanaryVerdict(self.new, BAD, text, count)
        outcome = GOOD if all(one == GOOD for one, _ in found) else UNDECIDED
        return CanaryVerdict(self.new, outcome, "; ".join(text for _, text in found if text), count)

    def _latency(self, both: list[tuple[_Sums, _Sums]]) -> tuple[str, str]:
        """The places' log ratios, each weighted by the inverse of its variance."""
        total = precision = 0.0
        for old, new in both:
            variance = max(old.spread(), _LEAST_SPREAD) * (1.0 / old.requests + 1.0 / new.requests)
            total += math.log(new.mean / old.mean) / variance
            precision += 1.0 / variance
        ratio, error = total / precision, math.sqrt(1.0 / precision)
        allowed = math.log1p(self._rule.max_slower)
        text = f"latency {100 * math.expm1(ratio):+.0f} % at the same load"
        if ratio > allowed and _surprise(ratio / error) >= SURPRISE:
            return BAD, f"{text}, allowed {100 * self._rule.max_slower:+.0f} %"
        return GOOD if _surprise((allowed - ratio) / error) >= _SURE else UNDECIDED, text

    def _errors(self, both: list[tuple[_Sums, _Sums]]) -> tuple[str, str]:
        """A Poisson count against the old one's rate, with one error more there, so that none is not surely none."""
        old, new = (sum(pair[side].requests for pair in both) for side in (0, 1))
        failed_old, failed_new = (sum(pair[side].errors for pair in both) for side in (0, 1))
        rise = failed_new / new - failed_old / old
        text = f"errors {100 * rise:+.2f} points"
        if rise <= self._rule.max_error_ratio_rise:
            return GOOD, text
        if _poisson_surprise(failed_new, new * (failed_old + 1.0) / old) >= SURPRISE:
            return BAD, f"{text}, allowed {100 * self._rule.max_error_ratio_rise:+.2f}"
        return UNDECIDED, text

    def _cost(self, both: list[tuple[_Sums, _Sums]]) -> tuple[str, str]:
        """Of a request; a price is no sample, so there is no chance in it beyond the requests'."""
        old, new = (sum(pair[side].priced for pair in both) for side in (0, 1))
        if not old or not new:
            return GOOD, ""
        usd = [sum(pair[side].usd for pair in both) for side in (0, 1)]
        if not usd[0] > 0:
            return GOOD, ""
        ratio = usd[1] / new / (usd[0] / old) - 1.0
        text = f"cost {100 * ratio:+.0f} %"
        dear = ratio > self._rule.max_dearer
        if dear and new >= self._rule.least_requests:
            return BAD, f"{text} a request, allowed {100 * self._rule.max_dearer:+.0f} %"
        return UNDECIDED if dear else GOOD, text


def _surprise(deviations: float) -> float:
    return float(upper_tail(np.array([deviations]))[0])


def _poisson_surprise(count: int, mean: float) -> float:
    """-ln P(X >= count) of a Poisson variable, by the series of its upper tail; 0 at or below the mean."""
    if count <= mean:
        return 0.0
    first = count * math.log(mean) - mean - math.lgamma(count + 1.0)
    term, total, index = 1.0, 1.0, count
    while term > 1e-12 * total:
        index += 1
        term *= mean / index
        total += term
    return -(first + math.log(total))


def _at_no_load(one: RevisionMetrics, speed: ReplicaSpeed | None) -> float | None:
    """Mean seconds of a request as they would be without load; None: cannot be told."""
    mean = one.mean_latency_seconds
    if mean is None or not (math.isfinite(mean) and mean > 0):
        return None
    if speed is None:
        return mean
    if speed.pooled:
        busy = mean - (one.mean_first_token_seconds or 0.0)
        return busy if busy > 0 else None
    if not one.replicas or not one.requests or one.interval_seconds <= 0:
        return mean
    load = one.requests / one.interval_seconds / one.replicas / speed.most_per_second
    return mean * (1.0 - min(0.95, max(0.0, load)))
