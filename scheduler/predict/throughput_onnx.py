"""The fitted throughput model as an ONNX graph, so that others can ask it without Python.

Input `configurations` (rows x 9, float64), in the order of COLUMNS; the metadata of the graph says which number each
model and GPU has, in JSON. Output `steps_per_second` (rows x 3): 5 %, 50 % and 95 %, as `Fit.predict` and its margins
say; what was observed since the fit, and the medians of configurations that were seen, are not in it.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from scheduler.predict.throughput import Configuration
from scheduler.predict.throughput_fit import NORMAL_95, TRANSFER_MEAN, Fit
from scheduler.predict.throughput_kernels import (
    COMPUTE,
    FAR_OCTAVES,
    LEVEL_LENGTH,
    NEAR_OCTAVES,
    OWN_PLACE,
    TRANSFER,
    Floats,
    Rows,
)

COLUMNS: Final = ("model", "gpu", "log2_batch", "log2_gpus", "spread", "log_share", "level", "speed", "margin")
_OPSET: Final = 18


def inputs(fitted: Fit, asked: Sequence[Configuration]) -> Floats:
    """What the graph is asked with: rows x 9."""
    rows = fitted.rows_of(asked)
    return np.column_stack([*(getattr(rows, name) for name in COLUMNS[:-1]), fitted.margin(asked)]).astype(np.float64)


def to_onnx(fitted: Fit) -> bytes:
    """The serialised graph. Raises: ModuleNotFoundError without the extra `onnx` (skl2onnx)."""
    from skl2onnx.common.data_types import DoubleTensorType

    graph = _Graph(fitted)
    model = graph.steps().to_onnx(
        {"configurations": DoubleTensorType([None, len(COLUMNS)])},
        outputs=[("steps_per_second", DoubleTensorType([None, 3]))],
        target_opset=_OPSET,
    )
    said = {
        "columns": list(COLUMNS),
        "models": dict(fitted.models),
        "gpus": dict(fitted.gpus),
        "spread": {"one GPU": 0, "one node": 1, "several nodes": 2},
    }
    entry = model.metadata_props.add()
    entry.key, entry.value = "overspill", json.dumps(said)
    return bytes(model.SerializeToString())


class _Graph:
    """Mirrors `Fit.predict` operator by operator; names as there."""

    def __init__(self, fitted: Fit) -> None:
        from skl2onnx.algebra import onnx_ops

        self._ops = onnx_ops
        self._fit = fitted
        self._columns = {
            name: self._op("Gather", "configurations", np.array([at]), axis=1) for at, name in enumerate(COLUMNS)
        }

    def steps(self) -> Any:
        """low, median, high."""
        fitted, op = self._fit, self._op
        alike = self._likenesses(fitted.rows)
        weights = np.exp(fitted.weights)
        compute = self._summed(_terms(COMPUTE, weights), alike)
        transfer = self._summed(_terms(TRANSFER, weights[len(COMPUTE) :]), alike)
        sheet = op("Add", self._columns["speed"], self._columns["log_share"])
        log_compute = op("Sub", op("Add", self._weighed(compute, fitted.own), _one(fitted.compute_mean)), sheet)
        log_transfer = op("Add", self._weighed(transfer, 1 - fitted.own), _one(TRANSFER_MEAN))
        several = self._several()
        exchanged = op("Mul", op("Exp", log_transfer), several)
        seconds = op("Add", op("Exp", log_compute), exchanged)
        own = op("Div", op("Exp", log_compute), seconds)
        rest = op("Sub", _one(1.0), own)
        cross = op(
            "Add",
            op("Mul", op("Mul", compute, _row(fitted.own)), own),
            op("Mul", op("Mul", transfer, _row(1 - fitted.own)), rest),
        )
        gained = op("Mul", op("MatMul", cross, fitted.inverse), cross)
        explained = op("ReduceSum", gained, np.array([1]), keepdims=1)
        left = op("Max", op("Sub", self._before(own, rest, several, weights), explained), _one(0.0))
        width = op("Mul", op("Sqrt", op("Add", left, _one(float(weights[-1])))), self._columns["margin"])
        width = op("Mul", width, _one(NORMAL_95))
        log_steps = op("Sub", op("Mul", self._columns["log2_gpus"], _one(math.log(2.0))), op("Log", seconds))
        ends = [op("Sub", log_steps, width), log_steps, op("Add", log_steps, width)]
        return op("Exp", op("Concat", *ends, axis=1), output_names=["steps_per_second"])

    def _op(self, kind: str, *inputs: Any, **attributes: Any) -> Any:
        return getattr(self._ops, f"Onnx{kind}")(*inputs, op_version=_OPSET, **attributes)

    def _weighed(self, covariance: Any, part: Floats) -> Any:
        return self._op("MatMul", covariance, (part * self._fit.alpha)[:, None])

    def _several(self) -> Any:
        return self._number(self._op("Greater", self._columns["spread"], _one(0.5)))

    def _number(self, truth: Any) -> Any:
        return self._op("Cast", truth, to=11)  # 11: DOUBLE

    def _same(self, name: str, values: Any) -> Any:
        return self._number(self._op("Equal", self._columns[name], _row(np.asarray(values, dtype=float))))

    def _bell(self, name: str, values: Floats, length: float) -> Any:
        off = self._op("Mul", self._op("Sub", self._columns[name], _row(values)), _one(1.0 / length))
        return self._op("Exp", self._op("Mul", self._op("Mul", off, off), _one(-0.5)))

    def _likenesses(self, rows: Rows) -> dict[str, Any]:
        op = self._op
        spread = op("Mul", op("Mul", self._same("spread", rows.spread), _row(rows.spread > 0)), self._several())
        count = op(
            "Add",
            op("Mul", self._bell("log2_gpus", rows.log2_gpus, 1.0), _one(1.0 - OWN_PLACE)),
            op("Mul", self._near_zero("log2_gpus", rows.log2_gpus), _one(OWN_PLACE)),
        )
        return {
            "model": self._same("model", rows.model),
            "gpu": self._same("gpu", rows.gpu),
            "spread": spread,
            "place": op("Mul", spread, count),
            "batch": self._near_zero("log2_batch", rows.log2_batch),
            "near": self._bell("log2_batch", rows.log2_batch, NEAR_OCTAVES),
            "far": self._bell("log2_batch", rows.log2_batch, FAR_OCTAVES),
            "level": self._bell("level", rows.level, LEVEL_LENGTH),
            "share": op("Mul", self._columns["log_share"], _row(rows.log_share)),
        }

    def _near_zero(self, name: str, values: Floats) -> Any:
        off = self._op("Abs", self._op("Sub", self._columns[name], _row(values)))
        return self._number(self._op("Less", off, _one(1e-9)))

    def _before(self, own: Any, rest: Any, several: Any, weights: Floats) -> Any:
        """`Fit._variance`."""
        op = self._op
        one = op("Add", op("Mul", own, _one(0.0)), _one(1.0))
        diagonal = dict.fromkeys(("model", "gpu", "batch", "near", "far", "level"), one)
        shares = op("Mul", self._columns["log_share"], self._columns["log_share"])
        diagonal |= {"place": several, "spread": several, "share": shares}
        compute = self._summed(_terms(COMPUTE, weights), diagonal)
        transfer = self._summed(_terms(TRANSFER, weights[len(COMPUTE) :]), diagonal)
        return op("Add", op("Mul", op("Mul", own, own), compute), op("Mul", op("Mul", rest, rest), transfer))

    def _summed(self, terms: list[tuple[frozenset[str], float]], alike: dict[str, Any]) -> Any:
        """As in `throughput_kernels`: Horner's rule, the most frequent likeness first."""
        counts = Counter(name for names, _ in terms for name in names)
        if not counts:
            return _one(sum(weight for _, weight in terms))
        common = max(counts, key=lambda name: (counts[name], name))
        within = [(names - {common}, weight) for names, weight in terms if common in names]
        without = [(names, weight) for names, weight in terms if common not in names]
        product = self._op("Mul", alike[common], self._summed(within, alike))
        return self._op("Add", product, self._summed(without, alike)) if without else product


def _terms(parts: Sequence[str], weights: Floats) -> list[tuple[frozenset[str], float]]:
    return [(frozenset(part.split("*")) - {"1"}, float(weight)) for part, weight in zip(parts, weights, strict=False)]


def _one(value: float) -> Floats:
    return np.array([[value]], dtype=np.float64)


def _row(values: Any) -> Floats:
    return np.asarray(values, dtype=np.float64)[None, :]
