"""The numbers behind `sharing`: what part of its own speed a workload keeps beside another one on the same GPU.

Its logarithm is a sum of what the workload suffers (its sensitivity) and what its neighbour does to it (its pressure),
each by model, batch size, GPU and how heavy a step is: the two-sided account of interference of J. Mars et al.,
"Bubble-Up: increasing utilization in modern warehouse scale computers via sensible co-locations" (MICRO 2011), with
each side learned from pairs instead of probed. The sides are parts of one Gaussian process (`throughput_kernels`;
Rasmussen and Williams, 2006), so that a workload never seen beside any other is foretold from its GPU and its step
time. Whether a pair fits at all is an additive account too: logistic regression on what either takes up.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.predict.throughput_kernels import Floats, Integers, covariance, product
from scheduler.predict.throughput_margins import evenly_held

if TYPE_CHECKING:
    from scheduler.predict.sharing import Alone, Beside

PARTS: Final = (
    "1", "gpu", "own", "other", "own*gpu", "other*gpu", "own*own_near", "other*other_near", "own*own_near*gpu",
    "other*other_near*gpu", "own*own_batch*gpu", "other*other_batch*gpu", "own_level", "other_level",
    "own_level*gpu", "other_level*gpu", "own*other", "own*other*gpu",
    "own*other*own_near*other_near", "own*other*own_near*other_near*gpu",
)  # fmt: skip
_VARIANCE_BY_ORDER: Final = (0.3, 0.09, 0.03, 0.015, 0.009, 0.006)
_NOISE_VARIANCE: Final = 0.003
_NEAR_OCTAVES, _LEVEL_LENGTH = 1.0, 1.5
"""Length scales: of log2 batch size, and of log seconds of a step alone."""
MOST_FITTED: Final = 2_000
_MOST_WEIGHED: Final = 450
_FEWEST: Final = 8
_NORMAL_95: Final = 1.6449
_HELD: Final = 0.9
_FEWEST_OF_A_GPU: Final = 50
_NARROWEST, _WIDEST, _UNLEARNED = 0.3, 6.0, 1.5
_RIDGE: Final = 0.3
_USUAL_LOG2_BATCH: Final = 5.0


@dataclass(frozen=True, slots=True)
class Columns:
    """Runs beside others as columns, equally long; models and GPUs as numbers, unknown ones below 0."""

    gpu: Integers
    own: Integers
    other: Integers
    own_log2_batch: Floats
    other_log2_batch: Floats
    own_level: Floats
    """Log seconds of a step alone on that GPU."""
    other_level: Floats

    def __len__(self) -> int:
        return len(self.gpu)

    def part(self, which: NDArray[np.intp]) -> Columns:
        return Columns(*(getattr(self, name)[which] for name in self.__slots__))


def columns(asked: Sequence[Beside], models: dict[str, int], gpus: dict[str, int]) -> Columns:
    new = {name: -1 - at for at, name in enumerate(models_of(asked))}
    strange = {name: -1 - at for at, name in enumerate(sorted({one.gpu for one in asked}))}
    own, other = [one.own for one in asked], [one.other for one in asked]

    def numbers(sides: Sequence[Alone]) -> Integers:
        return np.array([models.get(one.model, new[one.model]) for one in sides], dtype=int)

    def octaves(sides: Sequence[Alone]) -> Floats:
        return np.array([_USUAL_LOG2_BATCH if one.batch_size is None else math.log2(one.batch_size) for one in sides])

    def levels(sides: Sequence[Alone]) -> Floats:
        return np.array([-math.log(one.steps_per_second) for one in sides])

    gpu = np.array([gpus.get(one.gpu, strange[one.gpu]) for one in asked], dtype=int)
    return Columns(gpu, numbers(own), numbers(other), octaves(own), octaves(other), levels(own), levels(other))


def models_of(asked: Sequence[Beside]) -> list[str]:
    """The names of all models, on either side, in order."""
    return sorted({side.model for one in asked for side in (one.own, one.other)})


def _likenesses(left: Columns, right: Columns) -> dict[str, Floats]:
    def same(name: str) -> Floats:
        return np.asarray(getattr(left, name)[:, None] == getattr(right, name)[None], dtype=np.float64)

    def near(name: str, length: float) -> Floats:
        apart = getattr(left, name)[:, None] - getattr(right, name)[None]
        return np.asarray(np.exp(-0.5 * (apart / length) ** 2), dtype=np.float64)

    return {
        "1": np.ones((len(left), len(right))),
        **{name: same(name) for name in ("gpu", "own", "other")},
        **{f"{side}_batch": same(f"{side}_log2_batch") for side in ("own", "other")},
        **{f"{side}_near": near(f"{side}_log2_batch", _NEAR_OCTAVES) for side in ("own", "other")},
        **{f"{side}_level": near(f"{side}_level", _LEVEL_LENGTH) for side in ("own", "other")},
    }


def prior_weights() -> Floats:
    """Log variances of the parts and of the noise before anything is seen."""
    orders = [0 if part == "1" else 1 + part.count("*") for part in PARTS]
    return np.log([*(_VARIANCE_BY_ORDER[order] for order in orders), _NOISE_VARIANCE])


Margins = dict[str, float]
"""What standard deviations are multiplied by for 90 % intervals that hold: `batch|GPU` where both models were seen
beside each other, `pair|GPU` where each was beside others, `model|GPU` where one was not; without a GPU: on any."""


@dataclass(frozen=True, slots=True)
class SharingFit:
    rows: Columns
    mean: float
    weights: Floats
    alpha: Floats
    inverse: Floats
    models: dict[str, int]
    gpus: dict[str, int]
    together: frozenset[tuple[int, int]]
    """Models seen beside each other, the smaller number first."""
    margins: Margins

    def predict(self, asked: Sequence[Beside]) -> tuple[Floats, Floats]:
        """Log of the part kept, and its standard deviation, wide enough for 90 % intervals that hold."""
        rows = columns(asked, self.models, self.gpus)
        weights = np.exp(self.weights)
        cross = covariance(PARTS, weights[:-1], _likenesses(rows, self.rows))
        explained = np.einsum("ij,ij->i", cross @ self.inverse, cross)
        spread = np.sqrt(np.maximum(weights[:-1].sum() - explained, 0.0) + weights[-1])
        return self.mean + cross @ self.alpha, spread * np.array([self._margin(one) for one in asked])

    def _margin(self, one: Beside) -> float:
        own, other = self.models.get(one.own.model), self.models.get(one.other.model)
        kind = "model"
        if own is not None and other is not None:
            kind = "batch" if (min(own, other), max(own, other)) in self.together else "pair"
        return self.margins.get(f"{kind}|{one.gpu}", self.margins.get(kind, _UNLEARNED))


def fit(seen: Sequence[tuple[Beside, float]], weights: Floats | None = None) -> SharingFit | None:
    """Of (run beside another, log of the part kept); the newest 2,000, in any order. None of fewer than eight.
    `weights`: variances that are taken, not learned anew. Seconds: not for the event loop."""
    kept = sorted(seen[-MOST_FITTED:], key=lambda each: (repr(each[0]), each[1]))
    if len(kept) < _FEWEST:
        return None
    asked, values = [one for one, _ in kept], np.array([value for _, value in kept])
    models = {name: at for at, name in enumerate(models_of(asked))}
    gpus = {name: at for at, name in enumerate(sorted({one.gpu for one in asked}))}
    rows = columns(asked, models, gpus)
    if weights is None:
        weights = learn_weights(rows, values)
    total = covariance(PARTS, np.exp(weights[:-1]), _likenesses(rows, rows))
    total[np.diag_indices(len(rows))] += math.exp(weights[-1])
    inverse: Floats = np.asarray(np.linalg.inv(total), dtype=float)
    mean = float(values.mean())
    alpha: Floats = np.asarray(inverse @ (values - mean), dtype=float)
    margins = _margins(asked, rows, alpha, inverse)
    return SharingFit(rows, mean, weights, alpha, inverse, models, gpus, frozenset(_couples(rows)), margins)


def learn_weights(rows: Columns, values: Floats) -> Floats:
    """Log variances under which what was seen is likeliest (Rasmussen and Williams, 2006, eq. 5.8 and 5.9), with a
    log-normal prior; from at most 450."""
    from scipy.optimize import minimize

    from scheduler.predict.throughput_fit import unlikeliness

    step = max(1, math.ceil(len(values) / _MOST_WEIGHED))
    rows, values = rows.part(np.arange(0, len(values), step)), values[::step]
    alike, lower = _likenesses(rows, rows), np.tril_indices(len(values))
    stacked = np.stack([part[lower] for part in (*(product(name, alike) for name in PARTS), np.eye(len(values)))])
    start = prior_weights()
    found = minimize(
        unlikeliness,
        start,
        args=(stacked, values - values.mean(), lower, start),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-12.0, 3.0)] * len(start),
        options={"maxiter": 20},
    )
    return np.asarray(found.x)


def _margins(asked: Sequence[Beside], rows: Columns, alpha: Floats, inverse: Floats) -> Margins:
    """Split conformal prediction on residuals over their standard deviations (J. Lei et al., 2018, ch. 5.2): each pair
    of workloads, each of models, and each model with all its pairs, foretold from the rest. Models, of which there are
    few, count the same each (`evenly_held`); of pairs, each row does."""
    found: Margins = {}
    gpus = np.array([one.gpu for one in asked])
    kinds = (("batch", _workloads(rows)), ("pair", _pairs(rows)), ("model", _each_model(rows)))
    for kind, groups in ((kind, list(groups)) for kind, groups in kinds):
        off = [(which, _left_out(which, alpha, inverse)) for which in groups if len(which) < len(rows)]
        if len(off) < 3:
            continue
        found[kind] = _margin(kind, [ratios for _, ratios in off])
        for gpu in sorted(set(gpus)):
            there = [ratios[gpus[which] == gpu] for which, ratios in off]
            there = [ratios for ratios in there if len(ratios)]
            if sum(map(len, there)) >= _FEWEST_OF_A_GPU and len(there) >= 3:
                found[f"{kind}|{gpu}"] = _margin(kind, there)
    return found


def _margin(kind: str, groups: Sequence[Floats]) -> float:
    ratio = evenly_held(groups if kind == "model" else [np.concatenate(groups)], _HELD)
    return float(np.clip(ratio / _NORMAL_95, _NARROWEST, _WIDEST))


def _pairs(rows: Columns) -> Iterator[NDArray[np.intp]]:
    """Both directions, all batch sizes and GPUs of two models."""
    yield from _alike(_couples(rows))


def _couples(rows: Columns) -> list[tuple[int, int]]:
    return [(min(both), max(both)) for both in zip(rows.own.tolist(), rows.other.tolist(), strict=True)]


def _workloads(rows: Columns) -> Iterator[NDArray[np.intp]]:
    """Both directions, on all GPUs, of two models each at one batch size."""
    own = zip(rows.own.tolist(), rows.own_log2_batch.tolist(), strict=True)
    other = zip(rows.other.tolist(), rows.other_log2_batch.tolist(), strict=True)
    yield from _alike([(min(both), max(both)) for both in zip(own, other, strict=True)])


def _alike(names: Sequence[Hashable]) -> Iterator[NDArray[np.intp]]:
    """Where each name stands."""
    places: dict[Hashable, list[int]] = {}
    for at, name in enumerate(names):
        places.setdefault(name, []).append(at)
    yield from (np.array(found) for found in places.values())


def _each_model(rows: Columns) -> Iterator[NDArray[np.intp]]:
    for model in sorted({*rows.own.tolist(), *rows.other.tolist()}):
        yield np.flatnonzero((rows.own == model) | (rows.other == model))


def _left_out(which: NDArray[np.intp], alpha: Floats, inverse: Floats) -> Floats:
    """How many standard deviations a group is off, foretold from all others at the weights learned with it: eq. 5.12 of
    Rasmussen and Williams, 2006, for a block."""
    block = np.linalg.inv(inverse[np.ix_(which, which)])
    return np.asarray(np.abs(block @ alpha[which]) / np.sqrt(np.diag(block)))


@dataclass(frozen=True, slots=True)
class FitsFit:
    """Whether two workloads find room on one GPU: chance = logistic(own + other - what the GPU has)."""

    weights: Floats
    names: dict[tuple[str, ...], int]

    def chance(self, asked: Sequence[Beside]) -> Floats:
        """That both run at once, 0 to 1. A model never seen takes up what models usually do."""
        return 1.0 / (1.0 + np.exp(np.clip(self._design(asked) @ self.weights, -30, 30)))

    def _design(self, asked: Sequence[Beside]) -> Floats:
        return _fits_design(asked, self.names)


def fit_fits(seen: Sequence[tuple[Beside, bool]]) -> FitsFit:
    """Ridge logistic regression by Newton's method (T. Hastie et al., "The Elements of Statistical Learning", 2009,
    ch. 4.4), of (pair, whether it ran)."""
    names: dict[tuple[str, ...], int] = {}
    for one, _ in seen:
        for key in _fits_keys(one):
            names.setdefault(key, len(names))
    design = _fits_design([one for one, _ in seen], names)
    refused = np.array([0.0 if ran else 1.0 for _, ran in seen])
    penalty = np.full(design.shape[1], _RIDGE)
    penalty[0] = 1e-6
    weights = np.zeros(design.shape[1])
    for _ in range(25):
        chance = 1.0 / (1.0 + np.exp(-np.clip(design @ weights, -30, 30)))
        curve = np.maximum(chance * (1.0 - chance), 1e-6)
        slope = design.T @ (chance - refused) + penalty * weights
        step = np.linalg.solve((design * curve[:, None]).T @ design + np.diag(penalty), slope)
        weights = weights - step
        if float(np.abs(step).max()) < 1e-6:
            break
    return FitsFit(weights, names)


def _fits_keys(one: Beside) -> Iterator[tuple[str, ...]]:
    yield ("gpu", one.gpu)
    for side in (one.own, one.other):
        yield ("model", side.model)
        yield ("work", side.model, str(side.batch_size))
        yield ("grows", side.model)


def _fits_design(asked: Sequence[Beside], names: dict[tuple[str, ...], int]) -> Floats:
    """A bias, then one column for each GPU, model, model with its batch size and model's growth with it."""
    design = np.zeros((len(asked), 1 + len(names)))
    design[:, 0] = 1.0
    for row, one in enumerate(asked):
        for side in (one.own, one.other):
            batch = 0.0 if side.batch_size is None else math.log2(side.batch_size) - _USUAL_LOG2_BATCH
            for key, value in (
                (("model", side.model), 1.0),
                (("work", side.model, str(side.batch_size)), 1.0),
                (("grows", side.model), batch),
            ):
                if key in names:
                    design[row, 1 + names[key]] += value
        if ("gpu", one.gpu) in names:
            design[row, 1 + names["gpu", one.gpu]] = 1.0
    return design
