"""Deadlines: the instant by which a workload is to be done, and how sure that has to be."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist
from typing import Final

from scheduler.engine.filters import Ask
from scheduler.model.ids import Instant
from scheduler.model.ports import Prediction
from scheduler.model.workload import Workload

PRIOR_LOG_SD: Final = 0.5
"""Taken where a predictor does not say how sure it is: nine runs in ten end within 1.9 times the median."""


def deadline_of(workload: Workload, ask: Ask) -> Instant | None:
    """The earlier of the user's and the policy's deadline; None: there is none."""
    limit = ask.policy.constraints.deadline_seconds
    by_policy = None if limit is None else workload.created_at + limit
    given = [each for each in (workload.hints.deadline_at, by_policy) if each is not None]
    return min(given, default=None)


def has_deadline(ask: Ask) -> bool:
    """Whether the workloads of the class have deadlines; those of the policy differ by when each was made."""
    return ask.policy.constraints.deadline_seconds is not None or ask.workload.hints.deadline_at is not None


def late_factor(prediction: Prediction, ask: Ask) -> float:
    """How many times its median a run may take and still be in time in so many cases as the policy's `confidence` asks.

    Run times are taken for log-normal: exp(z x sd of the log), z the quantile of the standard normal distribution. 1 at
    a confidence of one half, whatever the spread.
    """
    sd = PRIOR_LOG_SD if prediction.run_log_sd is None else prediction.run_log_sd
    return math.exp(_quantile(ask.policy.constraints.deadline_confidence) * sd)


@lru_cache(maxsize=64)
def _quantile(confidence: float) -> float:
    return NormalDist().inv_cdf(confidence)
