"""Weighted dominant shares: whose turn it is.

Source: Ghodsi et al., "Dominant Resource Fairness" (NSDI 2011): the queue whose largest share of any resource, divided
by its weight, is smallest goes next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from decimal import Decimal

from scheduler.model.cluster import Cluster
from scheduler.model.resources import Resources, total


def federation_capacity(clusters: Iterable[Cluster]) -> Resources:
    """Everything that available members have or could buy: the nodes there are, or the pool's maximum if larger."""
    parts: list[Resources] = []
    for cluster in clusters:
        if not cluster.available:
            continue
        there = [node for node in cluster.nodes if node.pool is not None and not node.deleting]
        parts += [node.allocatable for node in there]
        counted = Counter(node.pool for node in there)
        for pool in cluster.pools:
            more = pool.max_nodes - counted[pool.ref.pool]
            if pool.scaling == "managed" and more > 0:
                parts.append(pool.node_resources.times(more))
    return total(parts)


def dominant_share(used: Resources, capacity: Resources) -> float:
    """The largest fraction of any resource of the federation that is used; 0 when nothing is."""
    pairs = [
        (used.gpus, capacity.gpus),
        (used.cpu_milli, capacity.cpu_milli),
        (used.memory_bytes, capacity.memory_bytes),
    ]
    if used.extended:
        there = dict(capacity.extended)
        pairs.extend((amount, there.get(name, 0)) for name, amount in used.extended)
    # What the federation (no longer) has any of cannot be shared fairly; it counts as all of it.
    return max(0.0, *((amount / total if total > 0 else 1.0) for amount, total in pairs if amount > 0), 0.0)


def weighted_share(share: float, weight: Decimal) -> float:
    """`share` divided by the queue's weight; a queue without weight goes last."""
    return share / float(weight) if weight > 0 else float("inf")
