"""Throughput of a model on a GPU model, number of GPUs and spread: a Gaussian process in log space.

Log throughput is a sum of parts, each a Gaussian process of its own (Rasmussen and Williams, "Gaussian Processes for
Machine Learning", ch. 2 and 5; the sharing between models and GPUs is the intrinsic coregionalisation model, ch. 9.1):
model, GPU, batch size, number of GPUs and spread, and the products that say how they act on each other. The weights of
the parts are those under which the observations are likeliest. What does not fit in memory (0) teaches nothing here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

Floats = NDArray[np.float64]
_PARTS: Final = 10
_HIGHEST_STEPS_PER_S: Final = 1e7
_NORMAL_95: Final = 1.6449


@dataclass(frozen=True, slots=True)
class Setting:
    """What is run where. `batch_size` None: unknown."""

    model: str
    batch_size: float | None
    gpus: int
    gpu: str
    same_node: bool


@dataclass(frozen=True, slots=True)
class Throughput:
    """Steps per second: the median and the ends of the 90 % interval, one element for each setting asked for."""

    median: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True, slots=True)
class ThroughputModel:
    settings: tuple[Setting, ...]
    weights: Floats
    """Of the parts, then of the noise: variances of log throughput."""
    mean: float
    alpha: Floats
    factor: Floats

    def predict(self, settings: Sequence[Setting]) -> Throughput:
        """For settings seen or not; unseen models and GPUs fall back to what all have in common, with wide ends."""
        cross = np.tensordot(self.weights[:-1], _parts(settings, self.settings), axes=1)
        log_median = self.mean + cross @ self.alpha
        explained = np.einsum("ij,ji->i", cross, cho_solve((self.factor, True), cross.T))
        spread = _NORMAL_95 * np.sqrt(np.maximum(float(self.weights.sum()) - explained, 1e-9))
        return Throughput(np.exp(log_median), np.exp(log_median - spread), np.exp(log_median + spread))


def fit(settings: Sequence[Setting], steps_per_s: Sequence[float]) -> ThroughputModel | None:
    """None when no observation is usable (finite, above 0 and below 10 million steps per second)."""
    usable = [(s, y) for s, y in zip(settings, steps_per_s, strict=True) if 0 < y < _HIGHEST_STEPS_PER_S]
    if not usable:
        return None
    usable.sort(key=lambda pair: (repr(pair[0]), pair[1]))
    seen = tuple(setting for setting, _ in usable)
    logs = np.log([y for _, y in usable])
    mean = float(np.median(logs))
    parts = np.concatenate([_parts(seen, seen), np.eye(len(seen))[None]])
    start = np.log(np.full(_PARTS + 1, 0.2))
    start[-1] = math.log(0.01)
    found = minimize(
        _unlikeliness,
        start,
        args=(parts, logs - mean),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-9.0, 3.0)] * (_PARTS + 1),
        options={"maxiter": 25},
    )
    weights = np.exp(found.x)
    factor = np.linalg.cholesky(np.tensordot(weights, parts, axes=1))
    return ThroughputModel(seen, weights, mean, cho_solve((factor, True), logs - mean), factor)


def _unlikeliness(log_weights: Floats, parts: Floats, values: Floats) -> tuple[float, Floats]:
    """Negative log marginal likelihood and its gradient (Rasmussen and Williams, eq. 5.8 and 5.9)."""
    weights = np.exp(log_weights)
    factor = cho_factor(np.tensordot(weights, parts, axes=1), lower=True)
    inverse = cho_solve(factor, np.eye(len(values)))
    alpha = inverse @ values
    value = 0.5 * float(values @ alpha) + float(np.log(np.diag(factor[0])).sum())
    slope = inverse - np.outer(alpha, alpha)
    return value, 0.5 * weights * np.einsum("ij,kij->k", slope, parts)


def _parts(rows: Sequence[Setting], columns: Sequence[Setting]) -> Floats:
    """Covariances of the parts, (parts, rows, columns)."""

    def equal(of: str) -> Floats:
        left, right = ([getattr(s, of) for s in side] for side in (rows, columns))
        return np.array([[float(a == b) for b in right] for a in left]).reshape(len(rows), len(columns))

    def near(left: Floats, right: Floats, length: float) -> Floats:
        return np.asarray(np.exp(-0.5 * ((left[:, None] - right[None]) / length) ** 2))

    model, gpu = equal("model"), equal("gpu")
    batch = near(_log_batch(rows), _log_batch(columns), 2.5)
    count = near(_log_gpus(rows), _log_gpus(columns), 1.0)
    place = count * near(_apart(rows), _apart(columns), 0.7)
    return np.stack(
        [model, gpu, model * batch, batch * gpu, place, place * gpu, model * gpu, model * place,
         model * gpu * batch, model * gpu * batch * place]
    )  # fmt: skip


def _log_batch(settings: Sequence[Setting]) -> Floats:
    return np.log2([s.batch_size if s.batch_size and s.batch_size > 0 else 32.0 for s in settings])


def _log_gpus(settings: Sequence[Setting]) -> Floats:
    return np.log2([float(max(1, s.gpus)) for s in settings])


def _apart(settings: Sequence[Setting]) -> Floats:
    return np.array([float(s.gpus > 1 and not s.same_node) for s in settings])
