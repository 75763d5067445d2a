"""The forecast of one pool as arrays: how many pods of a shape it will hold at each instant, all instants at once.

Only for gangs of one pod set without extended resources: for these the counts say exactly what the packer would do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from scheduler.engine.packing import Bin
from scheduler.engine.table import Floats, room_for
from scheduler.model.ids import Instant
from scheduler.model.resources import Resources
from scheduler.model.workload import PodSet

Freed = tuple[str, int, Resources]
"""A node, the number of the instant at which it has more room, and how much; negative: what is spoken for there."""


class Timeline:
    """Good for as long as the room and what is known of its future stay as they are."""

    def __init__(self, ends: Sequence[Instant], ready: Sequence[Bin], freed: Iterable[Freed]) -> None:
        """`ends`: the instants in order; `ready`: the nodes that are there."""
        self.ends = ends
        self._ready = ready
        self._picky = any(each.taints for each in ready)
        index = {each.key: number for number, each in enumerate(ready)}
        rows = [(index[name], at, _row(amount)) for name, at, amount in freed if name in index]
        # Each node begins with what it has free now; then its rows in the order of time, added up.
        node = np.array([*range(len(ready)), *(row[0] for row in rows)], dtype=np.int64)
        at = np.array([*[0] * len(ready), *(row[1] for row in rows)], dtype=np.int64)
        # Whole numbers: of all nodes added up, bytes are more than a float keeps exactly.
        amounts = np.array([*map(_free, ready), *(row[2] for row in rows)], dtype=np.int64).reshape(len(node), 4)
        order = np.lexsort((at, node))
        self._node, self._at = node[order], at[order]
        self._first = np.append(True, np.diff(self._node) > 0)[: len(node)]
        added = np.cumsum(amounts[order], axis=0)
        before = (added - amounts[order])[self._first]
        self._free: Floats = (added - before[self._node]).astype(np.float64)

    def first(self, pod_set: PodSet, elsewhere: float) -> Instant | None:
        """When there is room for all pods beyond `elsewhere`, which go on nodes that are not there yet; None: never."""
        pods = room_for(self._free, pod_set.requests)
        if self._picky or pod_set.node_selector or pod_set.excluded_nodes:
            pods *= self._admits(pod_set)[self._node]
        more = np.diff(pods, prepend=0.0)
        more[self._first] = pods[self._first]
        enough = elsewhere + np.cumsum(np.bincount(self._at, more, len(self.ends))) >= pod_set.count
        return self.ends[int(np.argmax(enough))] if enough.any() else None

    def _admits(self, pod_set: PodSet) -> Floats:
        """(nodes,) 1 where labels and taints let the pods in."""
        return np.array([float(each.admits(pod_set)) for each in self._ready])


def _free(bin_: Bin) -> tuple[int, int, int, int]:
    return bin_.gpus, bin_.cpu_milli, bin_.memory_bytes, bin_.pods


def _row(amount: Resources) -> tuple[int, int, int, int]:
    return amount.gpus, amount.cpu_milli, amount.memory_bytes, amount.pods
