"""What equal workloads have in common, numbered, and what is predicted of them: by value, so that it holds for as long
as the predictor is the same, from one cycle to the next.

Numbers say nothing but whether two are equal: which they are depends on who was seen before.
"""

from __future__ import annotations

from collections.abc import Hashable
from operator import attrgetter
from typing import Final, NamedTuple

from scheduler.engine.packing import Shape, make_shape
from scheduler.engine.remaining import of_part
from scheduler.model.cluster import NodePool
from scheduler.model.ports import GroupingPredictor, Prediction, Predictor
from scheduler.model.workload import Hints, PodSet, Workload

_FEW: Final = 10_000


class Traits(NamedTuple):
    """What equal workloads have in common: all that filters, predictor and objective may look at."""

    queue: str
    kind: str
    namespace: str
    shape: int
    hints: Hints
    labels: tuple[tuple[str, str], ...]
    runs_forever: bool
    part_left: float
    """Of its work: what its present attempt, or its next one, has to do."""


class Census:
    """Of the workloads that one predictor is asked about."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        # Asked once for all pools: whether something keeps a protocol takes long to find out.
        self.likeness = predictor.alike if isinstance(predictor, GroupingPredictor) else attrgetter("ref")
        """What the predictor looks at of a pool; of one that does not say, each pool is like no other."""
        self._seen: dict[tuple[int, float], int] = {}
        """By object, and the part of its work that is left: the number of its traits."""
        self._kept: list[Workload] = []
        """Those objects, so that no two have one id."""
        self._shapes: dict[tuple[PodSet, ...], Shape] = {}
        self._shape_of: dict[int, tuple[tuple[PodSet, ...], Shape]] = {}
        self._traits: dict[Traits, int] = {}
        self._traits_of: dict[tuple[str, str, str, int, int, int, bool, float], int] = {}
        self._alike: dict[Hashable, int] = {}
        self._predictions: dict[tuple[int, int, int], Prediction] = {}

    def is_crowded(self, present: int) -> bool:
        """Whether most of those whom it knows are no longer there."""
        return len(self._seen) > _FEW + 2 * present

    def shape_of(self, workload: Workload) -> Shape:
        # Equal pod sets are mostly one object, and an object is found faster than its equal.
        known = self._shape_of.get(id(workload.pod_sets))
        if known is None:
            shape = self._shapes.get(workload.pod_sets)
            if shape is None:
                shape = self._shapes[workload.pod_sets] = make_shape(len(self._shapes), workload)
            known = self._shape_of[id(workload.pod_sets)] = workload.pod_sets, shape
        return known[1]

    def traits_of(self, workload: Workload, part_left: float) -> int:
        """The number of what equal workloads have in common."""
        key = id(workload), part_left
        known = self._seen.get(key)
        if known is None:
            known = self._seen[key] = self._number(workload, part_left)
            self._kept.append(workload)
        return known

    def _number(self, workload: Workload, part_left: float) -> int:
        ref = workload.ref
        by_id = (
            workload.queue,
            ref.kind,
            ref.namespace,
            id(workload.pod_sets),
            id(workload.hints),
            id(workload.labels),
            workload.runs_forever,
            part_left,
        )
        number = self._traits_of.get(by_id)
        if number is None:
            traits = Traits(
                workload.queue,
                ref.kind,
                ref.namespace,
                self.shape_of(workload).number,
                workload.hints,
                workload.labels,
                workload.runs_forever,
                part_left,
            )
            number = self._traits_of[by_id] = self._traits.setdefault(traits, len(self._traits))
        return number

    def alike(self, pool: NodePool) -> int:
        """The number of what the predictor looks at of the pool: one prediction serves all that are alike."""
        same = self.likeness(pool)
        return self._alike.setdefault(same, len(self._alike))

    def predict(self, workload: Workload, part_left: float, pool: NodePool, alike: int, new_nodes: int) -> Prediction:
        """Of its present attempt, or its next one, wherever its data is. `alike`: the pool's number."""
        key = self.traits_of(workload, part_left), alike, new_nodes
        known = self._predictions.get(key)
        if known is None:
            whole = self.predictor.predict(workload, pool, new_nodes)
            known = self._predictions[key] = of_part(whole, part_left)
        return known
