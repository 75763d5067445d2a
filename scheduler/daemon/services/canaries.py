"""Judges of the revisions that are being rolled out, one for each service, fed with what was measured."""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.aiops.canary import CanaryJudge
from scheduler.model.division import Division
from scheduler.model.ids import Instant, Uid, WorkloadRef
from scheduler.model.serving import CanaryVerdict, RevisionMetrics, ServiceView
from scheduler.predict.bounded import Recent

_MOST_SERVICES = 1000
Step = tuple[str, str, int, int]
"""Old revision, new one, number of the cluster, number of the step."""


@dataclass(slots=True)
class _Judged:
    judge: CanaryJudge
    step: Step
    since: Instant
    seen: dict[tuple[str, str, str], Instant] = field(default_factory=dict)
    """By cluster, pool and revision, the last interval that was taken up."""


class Canaries:
    """See `ports.Canary`. Belongs to the event loop."""

    def __init__(self) -> None:
        self._judged: Recent[Uid, _Judged] = Recent(_MOST_SERVICES)

    def verdict(self, ref: WorkloadRef, revision: str) -> CanaryVerdict | None:
        """Of the revision in its present step; None: nobody judges it."""
        found = self._judged.get(ref.uid)
        return None if found is None or found.step[1] != revision else found.judge.verdict()

    def looked(self, view: ServiceView, division: Division, memory_step: Step | None) -> None:
        """After each look. A step is judged by intervals that began after it did: what was measured before is of the
        step before."""
        uid = view.service.ref.uid
        if memory_step is None:
            self._judged.pop(uid)
            return
        found = self._judged.get(uid)
        if found is None or found.step[:2] != memory_step[:2]:
            old, new = memory_step[:2]
            found = _Judged(CanaryJudge(old, new, view.slo.rollout), memory_step, view.now)
        elif found.step != memory_step:
            found.judge.restart()
            found.step, found.since = memory_step, view.now
        self._judged.put(uid, found)
        fresh = [one for one in view.service.metrics if _is_new(one, found)]
        found.judge.learn(fresh, {one.pool.cluster: one.speed for one in view.offers if one.speed is not None})


def _is_new(one: RevisionMetrics, found: _Judged) -> bool:
    key = one.cluster, one.pool or "", one.revision
    if one.at <= found.seen.get(key, found.since) or one.at - one.interval_seconds < found.since - 1.0:
        return False
    found.seen[key] = one.at
    return True
