"""A first predictor: what the user says of the run, and what is known of the pool. Nothing is learned here."""

from __future__ import annotations

from typing import Final

from scheduler.model.cluster import NodePool
from scheduler.model.ports import Prediction
from scheduler.model.workload import Workload

POD_START_SECONDS: Final = 15.0
"""From binding to running: image pull and start-up, for want of anything measured."""


class FirstPredictor:
    """Run time from the `expected-duration` hint; start time from the pool's provisioning time."""

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction:
        """Unknown stays None: a run without a hint or without an end, a provisioning time that nobody knows."""
        run = None if workload.runs_forever else workload.hints.expected_seconds
        if new_nodes == 0:
            return Prediction(run, POD_START_SECONDS)
        if pool.provisioning_seconds is None:
            return Prediction(run, None)
        return Prediction(run, pool.provisioning_seconds + POD_START_SECONDS)
