"""A new revision takes over: a state machine, pure. One cluster after the other, share by share, judged at each.

    starting -> judging -> (next step: starting) -> ... -> keeping -> done: the new revision is the stable one
         |         |                                          |
         +---------+------------> back -> done: rejected <----+

`starting` waits for the replicas that the step's share needs, `judging` for the verdict, `keeping` keeps the old ones
beside. With the single step 1 (blue/green) all clusters change over at once. A revision that was rejected is not tried
again; one that its user takes back is dropped without a mark.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from scheduler.engine.serving.memory import MOST_REJECTED, Memory, Rollout
from scheduler.model.ids import ClusterId
from scheduler.model.serving import CanaryVerdict, ServiceView
from scheduler.model.serving_policy import RolloutRule

STARTING: Final = "starting"
JUDGING: Final = "judging"
KEEPING: Final = "keeping"
BACK: Final = "back"
GOOD: Final = "good"
BAD: Final = "bad"
UNDECIDED: Final = "undecided"
_UNASKED_STEPS: Final = 10
"""So many steps' time without enough requests to judge by, and it goes on: nobody was hurt."""
_NEVER_READY: Final = 3.0
"""Times the longest lead, and at least:"""
_NEVER_READY_SECONDS: Final = 900.0


@dataclass(frozen=True, slots=True)
class Shift:
    """What a rollout asks for now."""

    new: str
    shares: Mapping[ClusterId, float]
    """Part of a cluster's requests for which the new revision is to have replicas."""
    traffic: Mapping[ClusterId, float]
    """Part that goes to it now: while a step's replicas start, what the step before gave."""
    keep_old: bool = False
    """Whether the old revision's replicas stay although they get nothing."""


def advance(view: ServiceView, memory: Memory, ready: Mapping[tuple[ClusterId, str], bool]) -> Memory:
    """The memory with the rollout one step on, if it is time. `ready`: whether the replicas that a revision needs on a
    cluster for its present share are there; of those that need none, nothing is said."""
    wanted = view.service.revision
    if not memory.stable:
        return replace(memory, stable=_oldest(view))
    rollout = memory.rollout
    if rollout is None:
        if wanted in (memory.stable, *memory.rejected):
            return memory
        return replace(memory, rollout=_begin(view, memory.stable, wanted))
    if rollout.phase == BACK:
        return _gone(view, memory, rollout)
    if wanted != rollout.new:
        # Its user changed their mind: another new one begins anew, the old one ends it.
        why = "" if wanted == rollout.old else f"{wanted} came after it"
        return replace(memory, rollout=replace(rollout, phase=BACK, since=view.now, why=why))
    verdict = view.verdict if view.verdict is not None and view.verdict.revision == rollout.new else None
    if verdict is not None and verdict.outcome == BAD:
        rejected = (*memory.rejected, rollout.new)[-MOST_REJECTED:]
        back = replace(rollout, phase=BACK, since=view.now, why=verdict.text)
        return replace(memory, rollout=back, rejected=rejected, rejected_why=verdict.text)
    return _forward(view, memory, rollout, verdict, ready)


def _oldest(view: ServiceView) -> str:
    """What serves when nothing is remembered: the revision with most ready replicas, the older of equals."""
    count: dict[str, int] = {}
    for group in view.service.groups:
        count[group.revision] = count.get(group.revision, 0) + group.ready
    made = {one.name: one.created_at for one in view.service.revisions}
    running = [name for name, ready in count.items() if ready > 0]
    return min(running, key=lambda name: (-count[name], made.get(name, 0.0), name), default=view.service.revision)


def _begin(view: ServiceView, old: str, new: str) -> Rollout | None:
    """Where most replicas are ready comes first: there a small share is judged soonest. None: nothing runs, so that
    there is nothing to take over from."""
    count: dict[ClusterId, int] = {}
    for group in view.service.groups:
        if group.revision == old and group.ready > 0:
            count[group.pool.cluster] = count.get(group.pool.cluster, 0) + group.ready
    order = tuple(sorted(count, key=lambda cluster: (-count[cluster], cluster)))
    return Rollout(old, new, STARTING, order, since=view.now)


def _forward(
    view: ServiceView,
    memory: Memory,
    rollout: Rollout,
    verdict: CanaryVerdict | None,
    ready: Mapping[tuple[ClusterId, str], bool],
) -> Memory:
    rule, age = view.slo.rollout, view.now - (view.now if rollout.since is None else rollout.since)
    if not rollout.clusters:  # Nothing of the old one runs.
        return replace(memory, stable=rollout.new, rollout=None)
    changing = [(cluster, rollout.new) for cluster in _changing(rollout, rule)]
    if rollout.phase == STARTING:
        if all(ready.get(key, True) for key in changing):
            return replace(memory, rollout=replace(rollout, phase=JUDGING, since=view.now))
        longest = max((offer.lead_seconds for offer in view.offers), default=0.0)
        if age > max(_NEVER_READY * longest, _NEVER_READY_SECONDS):
            back = replace(rollout, phase=BACK, since=view.now, why=f"not ready after {age:.0f} s")
            rejected = (*memory.rejected, rollout.new)[-MOST_REJECTED:]
            return replace(memory, rollout=back, rejected=rejected, rejected_why=back.why)
        return memory
    if rollout.phase == KEEPING:
        return replace(memory, stable=rollout.new, rollout=None) if age >= rule.keep_old_seconds else memory
    if not any(key in ready for key in changing):  # Nothing runs there any more.
        return replace(memory, rollout=_next(view, rollout, rule))
    if age < rule.step_seconds:
        return memory
    judged = verdict is not None and verdict.outcome == GOOD and verdict.requests >= rule.least_requests
    unasked = (verdict is None or verdict.requests < rule.least_requests) and age >= _UNASKED_STEPS * rule.step_seconds
    return replace(memory, rollout=_next(view, rollout, rule)) if judged or unasked else memory


def _next(view: ServiceView, rollout: Rollout, rule: RolloutRule) -> Rollout:
    if rollout.step + 1 < len(rule.steps):
        return replace(rollout, phase=STARTING, step=rollout.step + 1, since=view.now)
    if len(rule.steps) > 1 and rollout.cluster + 1 < len(rollout.clusters):
        return replace(rollout, phase=STARTING, cluster=rollout.cluster + 1, step=0, since=view.now)
    return replace(rollout, phase=KEEPING, since=view.now)


def _changing(rollout: Rollout, rule: RolloutRule) -> tuple[ClusterId, ...]:
    """Clusters that change over in this step."""
    if len(rule.steps) == 1:
        return rollout.clusters
    return rollout.clusters[rollout.cluster : rollout.cluster + 1]


def _gone(view: ServiceView, memory: Memory, rollout: Rollout) -> Memory:
    """Back is done when nothing of the new revision is there."""
    if any(group.revision == rollout.new and group.wanted > 0 for group in view.service.groups):
        return memory
    return replace(memory, rollout=None)


def shift(view: ServiceView, memory: Memory) -> Shift | None:
    """The shares of the new revision now; None: nothing is changing over."""
    rollout, rule = memory.rollout, view.slo.rollout
    if rollout is None:
        return None
    if rollout.phase == BACK:
        return Shift(rollout.new, {}, {})
    everywhere = sorted({*rollout.clusters, *(offer.pool.cluster for offer in view.offers)})
    if rollout.phase == KEEPING:
        whole = dict.fromkeys(everywhere, 1.0)
        return Shift(rollout.new, whole, whole, keep_old=True)
    share = rule.steps[min(rollout.step, len(rule.steps) - 1)]
    if len(rule.steps) == 1:
        whole = dict.fromkeys(everywhere, share)
        return Shift(rollout.new, whole, whole if rollout.phase == JUDGING else {}, keep_old=True)
    done = dict.fromkeys(rollout.clusters[: rollout.cluster], 1.0)
    changing = rollout.clusters[rollout.cluster]
    before = rule.steps[rollout.step - 1] if rollout.step > 0 else 0.0
    return Shift(
        rollout.new, {**done, changing: share}, {**done, changing: share if rollout.phase == JUDGING else before}
    )
