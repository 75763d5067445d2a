"""How long workloads will wait on each member's own capacity: said when each begins to wait, held against what came.

Looked at after each round of metrics, in a thread where the federation is large; what is said is corrected by how far
off it was on that member before (`scheduler.predict.ratios`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.learning.runs import RunStarted
from scheduler.daemon.state.mirror import Mirror
from scheduler.engine.lines import member_lines, waiting
from scheduler.engine.world import World
from scheduler.model.ids import ClusterId, Instant, Uid
from scheduler.model.policy import PolicySet
from scheduler.model.ports import Predictor
from scheduler.model.snapshot import Snapshot
from scheduler.predict.bounded import Recent
from scheduler.predict.learned import LearnedPredictor
from scheduler.predict.learning import WAIT_OFFSET_SECONDS
from scheduler.predict.waits import Going, Line, Waiting, waits

MOST_WAITING: Final = 500
"""Of whom it is said at any time; the others are too far behind."""
_OFF_LOOP: Final = 200
_MOST_SAID: Final = 20_000


@dataclass(frozen=True, slots=True)
class _Said:
    queued_at: Instant
    at: Instant
    seconds: dict[str, float]
    """By member, uncorrected, from `at`."""


class WaitBook:
    """Belongs to the event loop."""

    def __init__(self, mirror: Mirror, policies: LivePolicies, predictor: Callable[[], Predictor]) -> None:
        self._mirror = mirror
        self._policies = policies
        self._predictor = predictor
        self._first: Recent[Uid, _Said] = Recent(_MOST_SAID)
        self._latest: tuple[Instant, dict[str, dict[str, float]]] = (0.0, {})
        self.on_wait: Callable[[ClusterId, float, float], None] = lambda cluster, said, waited: None
        """One has started: what was said when it began to wait, and how long it did from then on."""

    async def look(self) -> None:
        """One round."""
        snapshot, policies, predictor = self._mirror.snapshot(()), self._policies.current, self._predictor()
        if len(snapshot.workloads) > _OFF_LOOP:
            found = await asyncio.to_thread(_said, snapshot, policies, predictor)
        else:
            found = _said(snapshot, policies, predictor)
        self._latest = snapshot.now, found
        for workload in snapshot.workloads:
            uid = workload.ref.uid
            known = self._first.get(uid)
            if uid in found and (known is None or known.queued_at != workload.queued_at):
                self._first.put(uid, _Said(workload.queued_at, snapshot.now, found[uid]))

    def started(self, started: RunStarted) -> None:
        """A wait is over; one for capacity that was bought says nothing of the line."""
        said = self._first.pop(started.workload.ref.uid)
        cluster = started.placement.cluster
        if said is None or started.placement.bought or said.queued_at != started.workload.queued_at:
            return
        if cluster in said.seconds and started.at >= said.at:
            self.on_wait(cluster, said.seconds[cluster], started.at - said.at)

    def said(self) -> Collection[Uid]:
        """Of whom a wait was said in the last round: not more than `MOST_WAITING`."""
        return [Uid(uid) for uid in self._latest[1]]

    def of(self, uid: Uid) -> list[dict[str, Any]]:
        """What is said now of one that waits, by member: median and p90 in seconds, corrected; [] where nothing is."""
        at, found = self._latest
        known = self._predictor()
        told = []
        for cluster, seconds in sorted(found.get(uid, {}).items()):
            correction = known.wait_correction(cluster) if isinstance(known, LearnedPredictor) else None
            low, high = (1.0, 1.0) if correction is None else (correction.median, correction.p90)
            told.append(
                {
                    "cluster": cluster,
                    "expected_seconds": _corrected(seconds, low),
                    "p90_seconds": _corrected(seconds, high),
                    "observed": 0 if correction is None else correction.count,
                    "as_of": at,
                }
            )
        return told


def _corrected(seconds: float, factor: float) -> float:
    return round(max(0.0, (seconds + WAIT_OFFSET_SECONDS) * factor - WAIT_OFFSET_SECONDS), 1)


def _said(snapshot: Snapshot, policies: PolicySet, predictor: Predictor) -> dict[str, dict[str, float]]:
    world = World(snapshot, policies, predictor)
    lines = {
        str(name): Line(one.free_gpus, (Going(gpus, left) for gpus, left in one.going))
        for name, one in member_lines(world).items()
    }
    asked = [
        Waiting(each.uid, each.gpus, each.run_seconds, frozenset(map(str, each.members)))
        for each in waiting(world, MOST_WAITING)
    ]
    return waits(lines, asked)
