"""Which of the divided replicas run which revision: the new one as many as its share of a cluster's requests needs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scheduler.engine.serving.capacity import by_cluster, carried
from scheduler.engine.serving.question import Counts, Question
from scheduler.engine.serving.rollout import Shift
from scheduler.model.ids import ClusterId, PoolRef
from scheduler.model.serving import ReplicaGroup


class Slot(NamedTuple):
    """The replicas of one revision on one pool."""

    pool: PoolRef
    revision: str


SlotCounts = Mapping[Slot, int]


def slot_targets(
    question: Question, target: Counts, stable: str, shift: Shift | None, groups: Sequence[ReplicaGroup]
) -> dict[Slot, int]:
    """Replicas to head for, by pool and revision."""
    if shift is None:
        return {Slot(pool, stable): count for pool, count in target.items() if count > 0}
    found: dict[Slot, int] = {}
    for cluster in sorted({pool.cluster for pool in target}):
        here = {pool: count for pool, count in target.items() if pool.cluster == cluster and count > 0}
        share = shift.shares.get(cluster, 0.0)
        fresh: dict[Slot, int] = {}
        _put(fresh, here, shift.new, _least_for(question, target, here, cluster, share))
        found.update(fresh)
        for pool, count in here.items():
            if (rest := count - fresh.get(Slot(pool, shift.new), 0)) > 0:
                found[Slot(pool, stable)] = rest
    if shift.keep_old:
        for group in groups:
            if group.revision == stable and shift.shares.get(group.pool.cluster, 0.0) > 0:
                slot = Slot(group.pool, stable)
                found[slot] = max(found.get(slot, 0), group.wanted)
    return found


def _least_for(question: Question, target: Counts, here: Counts, cluster: ClusterId, share: float) -> int:
    """Replicas of the new revision that carry the share: a small group shares its queue worse than a large one, so that
    a share of the replicas would be too few for the same share of the requests."""
    whole = sum(here.values())
    if share <= 0 or whole == 0:
        return 0
    if share >= 1.0:
        return whole
    everywhere = carried(question.rated, target)
    if everywhere <= 0:
        return math.ceil(share * whole)
    part = by_cluster(question.rated, target).get(cluster, 0.0) / everywhere
    needed = share * part * min(question.near_per_second, everywhere)
    for count in range(max(1, math.ceil(share * whole)), whole):
        trial: dict[Slot, int] = {}
        _put(trial, here, "", count)
        if carried(question.rated, {slot.pool: number for slot, number in trial.items()}) >= needed:
            return count
    return whole


def _put(found: dict[Slot, int], here: Counts, revision: str, count: int) -> None:
    """`count` replicas over the cluster's pools, the largest first."""
    for pool, most in sorted(here.items(), key=lambda item: (-item[1], item[0])):
        part = min(most, count)
        if part > 0:
            found[Slot(pool, revision)] = part
        count -= part


def by_pool(counts: SlotCounts) -> dict[PoolRef, int]:
    found: dict[PoolRef, int] = {}
    for slot, count in counts.items():
        found[slot.pool] = found.get(slot.pool, 0) + count
    return found
