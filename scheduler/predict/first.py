"""A first predictor: what the user says of the run, and what is known of the pool. Nothing is learned here."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Final

from scheduler.model.cluster import SPOT, NodePool
from scheduler.model.ports import Prediction
from scheduler.model.workload import Workload

POD_START_SECONDS: Final = 15.0
"""From binding to running: image pull and start-up, for want of anything measured."""


SPOT_RECLAIMS_PER_HOUR: Final = 0.03
"""Of one node, for want of anything observed: about once in a day and a half."""
RESTART_SECONDS: Final = 60.0
"""Loading a checkpoint and warming up again."""
_LONGEST_SECONDS: Final = 10 * 365 * 86400.0


class FirstPredictor:
    """Run time from the `expected-duration` hint; start time from the pool's provisioning time."""

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction:
        """Unknown stays None: a run without a hint or without an end, a provisioning time that nobody knows."""
        run = None if workload.runs_forever else workload.hints.expected_seconds
        lost = 0.0
        if run is not None and pool.capacity_type == SPOT:
            lost = lost_to_reclaims(run, SPOT_RECLAIMS_PER_HOUR, workload.hints.checkpoint_every_seconds)
        if new_nodes == 0:
            return Prediction(run, POD_START_SECONDS, lost)
        if pool.provisioning_seconds is None:
            return Prediction(run, None, lost)
        return Prediction(run, pool.provisioning_seconds + POD_START_SECONDS, lost)

    def alike(self, pool: NodePool) -> Hashable:
        """All that a prediction looks at of a pool."""
        return pool.capacity_type == SPOT, pool.provisioning_seconds


def lost_to_reclaims(run_seconds: float, reclaims_per_hour: float, checkpoint_seconds: float | None) -> float:
    """Seconds beyond `run_seconds` that a run is expected to take where reclaims come as a Poisson process.

    Each stretch of work between checkpoints (the whole run without them) is done again from its beginning until it
    passes undisturbed: (exp(hazard x stretch) - 1) / hazard each, times exp(hazard x restart). Source: J. T. Daly, "A
    higher order estimate of the optimum checkpoint interval", Future Generation Computer Systems 22 (2006), eq. 13.
    """
    hazard = reclaims_per_hour / 3600.0
    if hazard <= 0 or run_seconds <= 0:
        return 0.0
    stretch = run_seconds if checkpoint_seconds is None else min(run_seconds, max(1.0, checkpoint_seconds))
    exponent = hazard * stretch
    if exponent > 30.0:
        return _LONGEST_SECONDS
    total = run_seconds / stretch * math.expm1(exponent) / hazard * math.exp(hazard * RESTART_SECONDS)
    return min(_LONGEST_SECONDS, max(0.0, total - run_seconds))
