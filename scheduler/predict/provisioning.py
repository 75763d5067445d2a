"""Start-up time of an offering's nodes, and the chance that a scale-up succeeds; both with priors.

Log times are normal with a normal-inverse-gamma prior (Gelman et al., "Bayesian Data Analysis", section 3.3), so a
prediction is Student's t; success is Bernoulli with a Beta prior (section 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

PRIOR_SECONDS: Final = 240.0
"""From request to a ready GPU node, for want of anything known."""
_PRIOR_RUNS: Final = 2.0
_PRIOR_SPREAD: Final = 0.5
"""Standard deviation of log seconds: two thirds lie within a factor of 1.65."""
_PRIOR_SUCCESSES, _PRIOR_FAILURES = 4.5, 0.5
PRIOR_AVAILABILITY: Final = _PRIOR_SUCCESSES / (_PRIOR_SUCCESSES + _PRIOR_FAILURES)
_LONGEST_SECONDS: Final = 86400.0
_WORST: Final = 3.0
"""Log units from the median that one start-up counts at most: a single outlier decides nothing."""
_HALF_LIFE_SECONDS: Final = 12 * 3600.0
"""In which what succeeded and failed loses half of its weight: capacity comes and goes within a day."""
_PRIOR_FAILING_SECONDS: Final = 600.0
_PRIOR_FAILING: Final = 2.0
"""Failed scale-ups that the prior of what one costs counts as."""
_LEFT_ALONE_SECONDS: Final = 300.0
"""After a failure the pool is left alone for at least so long."""


@dataclass(frozen=True, slots=True)
class Provisioning:
    """Of one offering. Values, so that learning gives a new one."""

    prior_seconds: float = PRIOR_SECONDS
    count: int = 0
    mean_log: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations of log seconds."""
    successes: float = 0.0
    failures: float = 0.0
    at: float = 0.0
    """As of when successes and failures are weighed; seconds since the epoch, 0: no time was told."""
    failing_sum: float = 0.0
    failing_count: float = 0.0
    """Seconds until scale-ups were known to have failed."""

    def aged(self, now: float) -> Provisioning:
        """As of `now`: chances are what they were lately. A time before the last one changes nothing."""
        if not math.isfinite(now) or now <= self.at:
            return self
        part = 1.0 if self.at == 0 else 0.5 ** ((now - self.at) / _HALF_LIFE_SECONDS)
        return replace(self, successes=self.successes * part, failures=self.failures * part, at=now)

    def started(self, seconds: float) -> Provisioning:
        """With one scale-up that came after `seconds`; times that cannot be teach nothing."""
        if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST_SECONDS):
            return self
        usual = math.log(self.quantile_seconds(0.5))
        value, count = min(usual + _WORST, max(usual - _WORST, math.log(seconds))), self.count + 1
        mean = self.mean_log + (value - self.mean_log) / count
        squares = self.squares + (value - self.mean_log) * (value - mean)
        return replace(self, count=count, mean_log=mean, squares=squares, successes=self.successes + 1)

    def refused(self, after_seconds: float | None = None) -> Provisioning:
        """With one scale-up that failed, known `after_seconds` (None: not told); it says nothing of how long nodes
        take that come."""
        failed = replace(self, failures=self.failures + 1)
        if after_seconds is None or not (math.isfinite(after_seconds) and 0 <= after_seconds <= _LONGEST_SECONDS):
            return failed
        return replace(failed, failing_sum=self.failing_sum + after_seconds, failing_count=self.failing_count + 1)

    @property
    def availability(self) -> float:
        """Chance that the next scale-up succeeds."""
        good = _PRIOR_SUCCESSES + self.successes
        return good / (good + _PRIOR_FAILURES + self.failures)

    @property
    def failing_seconds(self) -> float:
        """What a scale-up that fails is expected to cost: until that is known, and until the next one."""
        known = _PRIOR_FAILING * _PRIOR_FAILING_SECONDS + self.failing_sum
        return known / (_PRIOR_FAILING + self.failing_count) + _LEFT_ALONE_SECONDS

    @property
    def delay_seconds(self) -> float:
        """What failures are expected to add to the time until nodes are there, beyond those of any pool (the prior).

        Tries are independent with a chance of `availability` each, so that (1 - p) / p of them fail before the one that
        succeeds: the mean of the geometric distribution.
        """
        chance = self.availability
        usual = (1.0 - PRIOR_AVAILABILITY) / PRIOR_AVAILABILITY
        return max(0.0, (1.0 - chance) / chance - usual) * self.failing_seconds

    def state(self) -> list[Any]:
        """As JSON values."""
        return [
            self.prior_seconds, self.count, self.mean_log, self.squares, self.successes, self.failures,
            self.at, self.failing_sum, self.failing_count,
        ]  # fmt: skip

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> Provisioning:
        """Raises: ValueError, TypeError for what `state` did not write."""
        prior, count, mean, squares, successes, failures, *later = state
        at, failing, failed = (*later, 0.0, 0.0, 0.0)[:3]  # earlier versions told none of them
        numbers = (prior, mean, squares, successes, failures, at, failing, failed)
        counts = (count, squares, successes, failures, at, failing, failed)
        if not all(map(math.isfinite, numbers)) or prior <= 0 or min(counts) < 0:
            raise ValueError("start-up times that cannot be")
        return cls(
            float(prior), int(count), float(mean), float(squares), float(successes), float(failures),
            float(at), float(failing), float(failed),
        )  # fmt: skip

    def quantile_seconds(self, level: float) -> float:
        """Seconds within which nodes are ready with chance `level`, given that they come."""
        prior = math.log(self.prior_seconds)
        weight = _PRIOR_RUNS + self.count
        mean = (_PRIOR_RUNS * prior + self.count * self.mean_log) / weight
        shape = _PRIOR_RUNS / 2 + self.count / 2
        shift = _PRIOR_RUNS * self.count / weight * (self.mean_log - prior) ** 2
        scale = _PRIOR_RUNS / 2 * _PRIOR_SPREAD**2 + (self.squares + shift) / 2
        spread = math.sqrt(scale / shape * (1 + 1 / weight))
        if level == 0.5:
            return math.exp(min(30.0, mean))
        # Loaded where it is needed: the daemon starts without it.
        from scipy.special import stdtrit

        return math.exp(min(30.0, mean + spread * float(stdtrit(2 * shape, level))))
