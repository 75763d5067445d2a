"""The plain first fit behind `throughput`: ridge regression of log steps per second."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from scheduler.predict.hardware import facts_of

if TYPE_CHECKING:
    from scheduler.predict.throughput import Configuration

Floats = NDArray[np.float64]
_WIDTHS = (0.2, 0.7, 2.0)
"""Log units to either end where the pair, only the workload, or not even it was seen."""


@dataclass(frozen=True, slots=True)
class Fit:
    names: tuple[str, ...]
    weights: Floats
    pairs: frozenset[tuple[str, str]]

    def predict(self, asked: Sequence[Configuration]) -> Floats:
        """3 x asked: low, median and high of log steps per second; NaN where nothing follows."""
        at = {name: index for index, name in enumerate(self.names)}
        middle = np.array([sum(self.weights[at[n]] * v for n, v in _terms(one) if n in at) for one in asked])
        models = {model for model, _ in self.pairs}
        width = np.array(
            [_WIDTHS[0 if (o.model, o.gpu) in self.pairs else 1 if o.model in models else 2] for o in asked]
        )
        return np.stack([middle - width, middle, middle + width])

    def state(self) -> dict[str, Any]:
        return {
            "names": list(self.names),
            "weights": self.weights.tolist(),
            "pairs": [list(pair) for pair in sorted(self.pairs)],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Fit:
        pairs = frozenset((str(model), str(gpu)) for model, gpu in state["pairs"])
        return cls(tuple(state["names"]), np.array(state["weights"], dtype=float), pairs)


def fit(cells: Sequence[tuple[Configuration, float]]) -> Fit | None:
    """Of (configuration, log steps per second); None of none."""
    if not cells:
        return None
    rows = [_terms(one) for one, _ in cells]
    names = tuple(sorted({name for row in rows for name, _ in row}))
    at = {name: index for index, name in enumerate(names)}
    x = np.zeros((len(rows), len(names)))
    for index, row in enumerate(rows):
        for name, value in row:
            x[index, at[name]] = value
    y = np.array([value for _, value in cells])
    penalty = np.where(np.array(names) == "1", 1e-6, 0.3)
    return Fit(
        names, np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ y), frozenset((c.model, c.gpu) for c, _ in cells)
    )


def _terms(one: Configuration) -> list[tuple[str, float]]:
    count, apart = math.log2(one.gpus), float(not one.consolidated)
    terms = [("1", 1.0), (f"model {one.model}", 1.0), (f"gpu {one.gpu}", 1.0), ("count", count), ("apart", apart),
             (f"apart {one.gpu}", apart), (f"pair {one.model} {one.gpu}", 0.5), ("share", math.log(one.share)),
             (f"count {one.gpu}", count), (f"count {one.model}", count)]  # fmt: skip
    if one.batch_size is not None:
        batch = math.log2(one.batch_size)
        terms += [("batch", batch), (f"batch {one.model}", batch)]
    facts = facts_of(one.gpu)
    if facts is not None:
        terms += [("flops", math.log(facts.fp32_tflops)), ("bandwidth", math.log(facts.memory_gb_per_s))]
    return terms
