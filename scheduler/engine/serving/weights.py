"""Traffic weights: as much to each cluster as what is ready there carries, and of that the new revision's share.

Where more is asked than all carry, those that hold the SLO get what they can, and those that do not, all the rest: one
that was slow has a backlog or is slower than is thought, and shared out evenly it would take the others with it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

from scheduler.engine.serving.capacity import Rated, by_cluster
from scheduler.model.ids import ClusterId, PoolRef
from scheduler.model.serving import WEIGHT_TOTAL, ReplicaGroup, TrafficWeight, apportion

_FINE: Final = 1_000_000
Counting = Callable[[ReplicaGroup], int]


def traffic(
    rated: Sequence[Rated],
    groups: Sequence[ReplicaGroup],
    new: str,
    shares: Mapping[ClusterId, float],
    need_per_second: float,
    counted: Collection[str],
) -> tuple[TrafficWeight, ...]:
    """Weights that add up to WEIGHT_TOTAL; empty: nothing is ready, so that what is set had better stay.

    `shares`: which part of a cluster's requests the revision `new` is to get, where it may get any; all others go to
    what else is there. Where only one of both is ready it gets all. Closed clusters, and revisions that are not
    `counted`, get what the others cannot carry; clusters that do not answer, nothing.
    """
    closed = {one.offer.pool for one in rated if not one.offer.open}
    silent = {one.offer.pool for one in rated if not one.offer.reachable}
    for counting in (_warm, _ready):
        usable = [group for group in groups if group.pool not in silent and counting(group) > 0]
        if not usable:
            continue
        good = [
            group
            for group in usable
            if group.pool not in closed
            and group.revision in counted
            # Where the new revision is to get everything, the old one only helps out.
            and (group.revision == new or shares.get(group.pool.cluster, 0.0) < 1.0)
        ]
        last = [group for group in usable if group not in good]
        opened = _carried(rated, good, counting)
        everything = sum(opened.values())
        opened = _rest_to_slow(rated, good, opened, need_per_second)
        parts = _split(rated, good, new, shares, opened, counting, need_per_second) if good else {}
        if (last and everything < need_per_second) or not good:
            rest = _carried(rated, last, counting)
            # What the good ones lack, in parts of all.
            lacking = (
                1.0 if not good else min(1.0, sum(rest.values()) / need_per_second, 1 - everything / need_per_second)
            )
            parts = {key: part * (1.0 - lacking) for key, part in parts.items()}
            for key, part in _split(rated, last, new, shares, rest, counting, need_per_second).items():
                parts[key] = parts.get(key, 0.0) + lacking * part
        found = apportion([TrafficWeight(*key, round(_FINE * part)) for key, part in parts.items()], WEIGHT_TOTAL)
        if found:
            return tuple(one for one in found if one.weight > 0)
    return ()


def _warm(group: ReplicaGroup) -> int:
    return group.ready if group.warm is None else min(group.warm, group.ready)


def _ready(group: ReplicaGroup) -> int:
    return group.ready


def _carried(rated: Sequence[Rated], groups: Sequence[ReplicaGroup], counting: Counting) -> dict[ClusterId, float]:
    """What these replicas carry by cluster; where the SLO cannot be held at all, as much as they do."""
    counts: dict[PoolRef, int] = {}
    for group in groups:
        counts[group.pool] = counts.get(group.pool, 0) + counting(group)
    found = by_cluster(rated, counts)
    speeds = {one.offer.pool: one.most_per_second for one in rated}
    if sum(found.values()) <= 0:
        found = {}
        for pool, count in sorted(counts.items()):
            found[pool.cluster] = found.get(pool.cluster, 0.0) + count * (speeds.get(pool) or 1.0)
    return found


def _rest_to_slow(
    rated: Sequence[Rated], groups: Sequence[ReplicaGroup], carried: dict[ClusterId, float], need: float
) -> dict[ClusterId, float]:
    """What each cluster is to get: what it carries, and of what nobody carries as much as it was too slow for."""
    used = {group.pool for group in groups}
    slow = {one.offer.pool.cluster for one in rated if one.offer.pool in used and one.factor < 1.0}
    weak = sum(value for cluster, value in carried.items() if cluster in slow)
    sound = sum(carried.values()) - weak
    if need <= weak + sound or weak <= 0 or sound <= 0:
        return carried
    more = (need - sound) / weak
    return {cluster: value * more if cluster in slow else value for cluster, value in carried.items()}


def _split(
    rated: Sequence[Rated],
    groups: Sequence[ReplicaGroup],
    new: str,
    shares: Mapping[ClusterId, float],
    whole: Mapping[ClusterId, float],
    counting: Counting,
    need: float,
) -> dict[tuple[ClusterId, str], float]:
    """Parts of all traffic by cluster and revision, adding up to 1."""
    everything = sum(whole.values())
    found: dict[tuple[ClusterId, str], float] = {}
    for cluster, value in sorted(whole.items()):
        here = [group for group in groups if group.pool.cluster == cluster]
        fresh = [group for group in here if group.revision == new]
        old = [group for group in here if group.revision != new]
        part = value / everything
        share = shares.get(cluster, 0.0)
        if fresh and old:
            carries = _carried(rated, fresh, counting).get(cluster, 0.0)
            share = min(share, carries / (part * need)) if need > 0 and share < 1 else share
        else:
            share = 1.0 if fresh else 0.0
        counted = {group.revision: 0 for group in old}
        for group in old:
            counted[group.revision] += counting(group)
        if share > 0:
            found[cluster, new] = part * share
        for revision, count in sorted(counted.items()):
            if share < 1:
                found[cluster, revision] = part * (1.0 - share) * count / sum(counted.values())
    return found
