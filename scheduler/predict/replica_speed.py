"""What a replica of a service can do, learned from what replicas did on one kind of GPU, and carried over to others.

Fitted where latency was seen to rise with load (`serving.fit_replica`). What its user says of it counts as much as
`BELIEF` measurements: a replica that is first seen while it has too much to do is slow, and without that would be taken
for one that never can hold the SLO, be given up, and never be measured again. Where nobody has said anything, a
replica is taken to be at `CAUTION` of what it can do where it was seen to do most, so that more load brings more
replicas. To other GPUs it is carried over by their memory bandwidth, which bounds how fast tokens are generated
(R. Pope et al., "Efficiently Scaling Transformer Inference", MLSys 2023, section 2.1).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from scheduler.model.serving import ReplicaSpeed
from scheduler.predict.hardware import facts_of
from scheduler.predict.serving import fit_replica

CAUTION: Final = 0.8
"""Utilisation at the highest load that was seen."""
BELIEF: Final = 12
"""Measurements that outweigh what is said; one comes every thirty seconds."""
_MOST_POINTS: Final = 288
_LEAST_LOAD: Final = 1e-6


class SpeedLearner:
    """Of one service on one kind of GPU. Changed in place; bounded."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float, float | None]] = deque(maxlen=_MOST_POINTS)
        """(requests per second and replica, p95 of whole requests, p95 until the first token), seconds."""

    def learn(self, load: float, p95_seconds: float, first_token_seconds: float | None = None) -> None:
        """One interval; what cannot be is passed over."""
        if not (math.isfinite(load) and load > _LEAST_LOAD and math.isfinite(p95_seconds) and p95_seconds > 0):
            return
        first = first_token_seconds
        if first is not None and not (math.isfinite(first) and 0 < first <= p95_seconds):
            first = None
        self._points.append((load, p95_seconds, first))

    def speed(self, said: ReplicaSpeed | None = None) -> ReplicaSpeed | None:
        """`said`: by its user, of this GPU. None: nothing was seen, and nothing said."""
        if not self._points:
            return said
        firsts = [first for _, _, first in self._points if first is not None]
        idle_first = min(firsts, default=None)
        loads = [load for load, _, _ in self._points]
        latencies = [1000.0 * p95 for _, p95, _ in self._points]
        if said is not None:
            fitted = fit_replica(loads, latencies, (1000.0 * said.idle_p95_seconds, said.most_per_second), BELIEF)
            if fitted is None:
                return said
            idle_first = said.idle_first_token_seconds if idle_first is None else idle_first
            return replace(
                said,
                most_per_second=fitted.most_per_second,
                idle_p95_seconds=fitted.idle_ms / 1000.0,
                idle_first_token_seconds=idle_first,
            )
        fitted = fit_replica(loads, latencies)
        highest, fastest = max(load for load, _, _ in self._points), min(p95 for _, p95, _ in self._points)
        if fitted is not None and fitted.most_per_second >= highest:
            return ReplicaSpeed(fitted.most_per_second, min(fastest, fitted.idle_ms / 1000.0), idle_first)
        return ReplicaSpeed(highest / CAUTION, fastest, idle_first)

    def state(self) -> list[list[float | None]]:
        """As JSON values."""
        return [list(point) for point in self._points]

    @classmethod
    def from_state(cls, state: Sequence[Sequence[Any]]) -> SpeedLearner:
        """Raises: ValueError, TypeError for what `state` did not write."""
        found = cls()
        for load, p95, first in state:
            found.learn(float(load), float(p95), None if first is None else float(first))
        return found


def speed_on(gpu: str | None, known: Mapping[str, ReplicaSpeed]) -> ReplicaSpeed | None:
    """On a GPU ("": none), from what is known on others, of several the nearest in speed. None: nothing can be said."""
    name = gpu or ""
    if name in known:
        return known[name]
    ratios = {other: ratio for other in sorted(known) if (ratio := _ratio(name, other)) is not None}
    if not ratios:
        return None
    nearest = min(ratios, key=lambda other: (abs(math.log(ratios[other])), other))
    ratio, base = ratios[nearest], known[nearest]
    first = base.idle_first_token_seconds
    return replace(
        base,
        most_per_second=base.most_per_second * ratio,
        idle_p95_seconds=base.idle_p95_seconds / ratio,
        idle_first_token_seconds=None if first is None else first / ratio,
    )


def _ratio(gpu: str, other: str) -> float | None:
    """How much faster `gpu` is; None: not known."""
    if not gpu or not other:
        return None
    one, two = facts_of(gpu), facts_of(other)
    if one is None or two is None or one.memory_gb_per_s is None or two.memory_gb_per_s is None:
        return None
    return one.memory_gb_per_s / two.memory_gb_per_s
