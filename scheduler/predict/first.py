"""A first predictor: what the user says of the run, and what is known of the pool. Nothing is learned here."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Final

from scheduler.model.cluster import SPOT, NodePool
from scheduler.model.ports import Prediction
from scheduler.model.resources import Resources
from scheduler.model.workload import PodSet, Workload

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
            hazard = SPOT_RECLAIMS_PER_HOUR * nodes_spanned(workload.pod_sets, pool.node_resources)
            lost = lost_to_reclaims(run, hazard, workload.hints.checkpoint_every_seconds)
        if new_nodes == 0:
            return Prediction(run, POD_START_SECONDS, lost)
        if pool.provisioning_seconds is None:
            return Prediction(run, None, lost)
        return Prediction(run, pool.provisioning_seconds + POD_START_SECONDS, lost)

    def alike(self, pool: NodePool) -> Hashable:
        """All that a prediction looks at of a pool."""
        return pool.node_resources if pool.capacity_type == SPOT else None, pool.provisioning_seconds


def nodes_spanned(pod_sets: Sequence[PodSet], node: Resources) -> int:
    """Over how many empty nodes a gang is spread at least; 1 where it does not fit or the node's size is not known.

    A gang stops when any of its nodes is reclaimed, so its hazard is that of one node times so many.
    """
    asked = sum((each.requests.times(each.count) for each in pod_sets), Resources())
    sizes = [(asked.gpus, node.gpus), (asked.cpu_milli, node.cpu_milli), (asked.memory_bytes, node.memory_bytes)]
    least = max((math.ceil(total / size) for total, size in sizes if size > 0), default=1)
    return max(1, least, *(_nodes_for(each, node) for each in pod_sets))


def _nodes_for(pod_set: PodSet, node: Resources) -> int:
    pod = pod_set.requests
    pairs = ((pod.gpus, node.gpus), (pod.cpu_milli, node.cpu_milli), (pod.memory_bytes, node.memory_bytes))
    fitting = min((size // asked for asked, size in pairs if asked > 0), default=0)
    return math.ceil(pod_set.count / fitting) if fitting else 1


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
