"""Start-up time of an offering's nodes, and the chance that a scale-up succeeds; both with priors.

Log times are normal with a normal-inverse-gamma prior (Gelman et al., "Bayesian Data Analysis", section 3.3), so a
prediction is Student's t; success is Bernoulli with a Beta prior (section 2.4).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

PRIOR_SECONDS: Final = 240.0
"""From request to a ready GPU node, for want of anything known."""
_PRIOR_RUNS: Final = 2.0
_PRIOR_SPREAD: Final = 0.5
"""Standard deviation of log seconds: two thirds lie within a factor of 1.65."""
_PRIOR_SUCCESSES, _PRIOR_FAILURES = 4.5, 0.5
_LONGEST_SECONDS: Final = 86400.0


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

    def started(self, seconds: float) -> Provisioning:
        """With one scale-up that came after `seconds`; times that cannot be teach nothing."""
        if not (math.isfinite(seconds) and 0 < seconds <= _LONGEST_SECONDS):
            return self
        value, count = math.log(seconds), self.count + 1
        mean = self.mean_log + (value - self.mean_log) / count
        squares = self.squares + (value - self.mean_log) * (value - mean)
        return Provisioning(self.prior_seconds, count, mean, squares, self.successes + 1, self.failures)

    def refused(self) -> Provisioning:
        """With one scale-up for which there was no capacity; it says nothing of the time."""
        return Provisioning(
            self.prior_seconds, self.count, self.mean_log, self.squares, self.successes, self.failures + 1
        )

    @property
    def availability(self) -> float:
        """Chance that the next scale-up succeeds."""
        good = _PRIOR_SUCCESSES + self.successes
        return good / (good + _PRIOR_FAILURES + self.failures)

    def state(self) -> list[Any]:
        """As JSON values."""
        return [self.prior_seconds, self.count, self.mean_log, self.squares, self.successes, self.failures]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> Provisioning:
        """Raises: ValueError, TypeError for what `state` did not write."""
        prior, count, mean, squares, successes, failures = state
        numbers = (prior, mean, squares, successes, failures)
        if not all(map(math.isfinite, numbers)) or prior <= 0 or min(count, squares, successes, failures) < 0:
            raise ValueError("start-up times that cannot be")
        return cls(float(prior), int(count), float(mean), float(squares), float(successes), float(failures))

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
