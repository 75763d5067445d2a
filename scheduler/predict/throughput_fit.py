"""The numbers behind `throughput`: step time as own work plus exchange of gradients, each a Gaussian process.

A worker's step takes seconds = exp(compute) + exp(transfer), and n workers make n / seconds steps per second. Compute
and transfer are sums of the parts in `throughput_kernels`. The log of the sum is linearised about the present estimate
until it settles (Gauss-Newton; Rasmussen and Williams, 2006, ch. 3.4), the variances of the parts are those under which
the observations are likeliest (ch. 5.4.1, eq. 5.8 and 5.9) with a log-normal prior by the order of the part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.predict.margins import Margins
from scheduler.predict.throughput_kernels import (
    COMPUTE,
    TRANSFER,
    Floats,
    Rows,
    covariance,
    gpu_speed,
    likenesses,
    log2_batch,
    prior_weights,
    product,
    rows_of,
)

if TYPE_CHECKING:
    from scheduler.predict.throughput import Configuration

MOST_FITTED: Final = 1_000
"""Configurations; the work grows with their cube."""
_MOST_WEIGHED: Final = 450
"""Configurations that the variances are learned from."""
TRANSFER_MEAN: Final = math.log(0.03)
_WEIGHT_SPREAD: Final = 1.0
"""Standard deviation of the prior of log variances."""
_CHUNK: Final = 256
"""Rows worked out together: small enough for their matrices to stay in the cache."""
NORMAL_95: Final = 1.6449
_AS_EXPECTED: Final = 40
"""Configurations that a model's excess is shrunk by."""
_LEAST_EXCESS, _MOST_EXCESS = 0.5, 2.0
_UNLIT: Final = 1e-8
_UNLIKE: Final = 100.0
"""Log seconds: a level that is not known is like no other."""


@dataclass(frozen=True, slots=True)
class Levels:
    """How heavy a step of a workload is: log seconds on one GPU with what its GPU does to all workloads taken off."""

    known: Mapping[tuple[str, float], float]
    usual: float

    def of(self, configurations: Sequence[Configuration]) -> Floats:
        """Of batch sizes not seen: that of the nearest one seen; of models not seen: unlike any that was."""
        batches: dict[str, list[float]] = {}
        for model, batch in self.known:
            batches.setdefault(model, []).append(batch)
        values = []
        for one in configurations:
            at = log2_batch(one)
            seen = batches.get(one.model)
            nearest = min(seen, key=lambda batch: (abs(batch - at), batch)) if seen else None
            values.append(self.usual + _UNLIKE if nearest is None else self.known[one.model, nearest])
        return np.array(values)


Lower = tuple[NDArray[np.intp], NDArray[np.intp]]
_PLAIN: Final = Margins()


@dataclass(frozen=True, slots=True)
class Learned:
    weights: Floats
    """Log variances of compute parts, transfer parts, noise."""
    margins: Margins


@dataclass(frozen=True, slots=True)
class Fit:
    """All that a prediction needs; arrays are one element for each configuration that was fitted."""

    cells: tuple[Configuration, ...]
    log_seconds: Floats
    weights: Floats
    """Log variances of compute parts, transfer parts, noise."""
    levels: Levels
    compute_mean: float
    rows: Rows
    own: Floats
    """How much of each step is own work, 0 to 1: the slope of log seconds over log compute."""
    alpha: Floats
    inverse: Floats
    models: Mapping[str, int]
    gpus: Mapping[str, int]
    pairs: frozenset[tuple[str, str]]
    margins: Margins
    excess: Mapping[str, float]
    """By model: how far off its known speeds are, each foretold from all others, over how far they should be."""

    def margin(self, asked: Sequence[Configuration], seen: Sequence[Configuration] = ()) -> Floats:
        """What standard deviations are multiplied by for 90 % intervals that hold."""
        pairs = self.pairs | {(one.model, one.gpu) for one in seen}
        models = {model for model, _ in pairs}
        return np.array(
            [
                self.margins.of(one.gpu)[0 if (one.model, one.gpu) in pairs else 1 if one.model in models else 2]
                * self.excess.get(one.model, 1.0)
                for one in asked
            ]
        )

    def left_one_out(self) -> Floats:
        """Of each configuration fitted, how far off its log seconds would be foretold from all others (at the weights
        learned with it): Rasmussen and Williams, 2006, eq. 5.12."""
        return self.alpha / np.diag(self.inverse)

    def predict(self, asked: Sequence[Configuration]) -> tuple[Floats, Floats]:
        """Log steps per second and its standard deviation, one each."""
        found = [self._predict(asked[at : at + _CHUNK]) for at in range(0, len(asked), _CHUNK)]
        return np.concatenate([mean for mean, _ in found]), np.concatenate([spread for _, spread in found])

    def _predict(self, asked: Sequence[Configuration]) -> tuple[Floats, Floats]:
        rows = self.rows_of(asked)
        mean, _, cross, before = self._posterior(rows)
        explained = np.einsum("ij,ij->i", cross @ self.inverse, cross)
        noise = math.exp(self.weights[-1])
        spread = np.sqrt(np.maximum(before - explained, 0.0) + noise)
        return rows.log2_gpus * math.log(2.0) - mean, spread

    def update(
        self, seen: Sequence[tuple[Configuration, float]], asked: Sequence[Configuration]
    ) -> tuple[Floats, Floats]:
        """As `predict`, knowing also `seen` (configuration, log steps per second) that came after the fit; exact but
        for the linearisation. Cubic in `seen`."""
        both = self.rows_of([one for one, _ in seen] + list(asked))
        count = len(seen)
        mean, own, cross, before = self._posterior(both)
        new, old = np.arange(count), np.arange(count, len(both))
        gained = cross @ self.inverse
        shared = self._prior(both, both.part(new), own, own[new]) - gained @ cross[new].T
        within, across = shared[new], shared[old]
        noise = math.exp(self.weights[-1])
        log_gpus = both.log2_gpus * math.log(2.0)
        missed = log_gpus[new] - np.array([value for _, value in seen]) - mean[new]
        solved = np.linalg.solve(within + noise * np.eye(count), np.column_stack([missed, across.T]))
        left = before[old] - np.einsum("ij,ij->i", gained[old], cross[old])
        left = left - np.einsum("ij,ji->i", across, solved[:, 1:])
        return log_gpus[old] - mean[old] - across @ solved[:, 0], np.sqrt(np.maximum(left, 0.0) + noise)

    def rows_of(self, asked: Sequence[Configuration]) -> Rows:
        return rows_of(asked, dict(self.models), dict(self.gpus), self.levels.of(asked))

    def _posterior(self, rows: Rows) -> tuple[Floats, Floats, Floats, Floats]:
        """Log seconds, share of own work, covariance with what was fitted, variance before it was seen."""
        alike = likenesses(rows, self.rows)
        compute = covariance(COMPUTE, np.exp(self.weights[: len(COMPUTE)]), alike)
        transfer = covariance(TRANSFER, np.exp(self.weights[len(COMPUTE) : -1]), alike)
        log_compute = _compute_mean(self.compute_mean, rows) + compute @ (self.own * self.alpha)
        log_transfer = TRANSFER_MEAN + transfer @ ((1 - self.own) * self.alpha)
        mean, own = _joined(log_compute, log_transfer, rows)
        cross = own[:, None] * compute * self.own + (1 - own)[:, None] * transfer * (1 - self.own)
        return mean, own, cross, self._variance(rows, own)

    def _variance(self, rows: Rows, own: Floats) -> Floats:
        """Before anything is seen: each part at full likeness, but for the share and the place of one GPU."""
        several = (rows.spread > 0).astype(float)
        diagonal = {name: np.ones(len(rows)) for name in ("1", "model", "gpu", "batch", "near", "far", "level")}
        diagonal |= {"place": several, "spread": several, "share": rows.log_share**2}
        weights = np.exp(self.weights)
        compute = covariance(COMPUTE, weights[: len(COMPUTE)], diagonal)
        transfer = covariance(TRANSFER, weights[len(COMPUTE) : -1], diagonal)
        return np.asarray(own**2 * compute + (1 - own) ** 2 * transfer)

    def _prior(self, left: Rows, right: Rows, own_left: Floats, own_right: Floats) -> Floats:
        alike = likenesses(left, right)
        compute = covariance(COMPUTE, np.exp(self.weights[: len(COMPUTE)]), alike)
        transfer = covariance(TRANSFER, np.exp(self.weights[len(COMPUTE) : -1]), alike)
        return np.outer(own_left, own_right) * compute + np.outer(1 - own_left, 1 - own_right) * transfer


def fit(cells: Sequence[tuple[Configuration, float]], like: Learned | None = None) -> Fit | None:
    """Of (configuration, log steps per second), in any order; the newest last where there are over 1,000, of which the
    newest are taken. None of none. `like`: weights and margins that are taken, not learned anew."""
    kept = list(cells)[-MOST_FITTED:]
    if not kept:
        return None
    kept.sort(key=lambda cell: (repr(cell[0]), cell[1]))
    if like is None:
        like = learn(kept)
    return solve(*columns(kept), like.weights, like.margins)


def columns(cells: Sequence[tuple[Configuration, float]]) -> tuple[tuple[Configuration, ...], Floats]:
    """Configurations, and log seconds of a worker's step."""
    return tuple(one for one, _ in cells), np.array([math.log(one.gpus) - value for one, value in cells])


def solve(
    configurations: Sequence[Configuration], log_seconds: Floats, weights: Floats, margins: Margins = _PLAIN
) -> Fit:
    """The estimate under `weights`."""
    names = {name: index for index, name in enumerate(sorted({one.model for one in configurations}))}
    gpus = {name: index for index, name in enumerate(sorted({one.gpu for one in configurations}))}
    levels = learn_levels(configurations, log_seconds)
    rows = rows_of(configurations, names, gpus, levels.of(configurations))
    alike = likenesses(rows, rows)
    compute = covariance(COMPUTE, np.exp(weights[: len(COMPUTE)]), alike)
    transfer = covariance(TRANSFER, np.exp(weights[len(COMPUTE) : -1]), alike)
    mean = _usual(rows, log_seconds)
    at = _start(rows, log_seconds, mean)
    for _ in range(10):
        own, target = _linearised(at, rows, log_seconds, mean)
        total = np.outer(own, own) * compute + np.outer(1 - own, 1 - own) * transfer
        total[np.diag_indices(len(rows))] += math.exp(weights[-1])
        alpha: Floats = np.asarray(np.linalg.solve(total, target), dtype=float)
        moved = (
            _compute_mean(mean, rows) + compute @ (own * alpha) - at[0],
            TRANSFER_MEAN + transfer @ ((1 - own) * alpha) - at[1],
        )
        at = (at[0] + np.clip(moved[0], -1.0, 1.0), at[1] + np.clip(moved[1], -1.0, 1.0))
    pairs = frozenset((one.model, one.gpu) for one in configurations)
    inverse: Floats = np.asarray(np.linalg.inv(total), dtype=float)
    return Fit(
        tuple(configurations),
        log_seconds,
        weights,
        levels,
        mean,
        rows,
        own,
        alpha,
        inverse,
        names,
        gpus,
        pairs,
        margins,
        _excess(configurations, alpha**2 / np.diag(inverse)),
    )


def _excess(configurations: Sequence[Configuration], squares: Floats) -> dict[str, float]:
    """By model, from the squares of standardised leave-one-out residuals (Rasmussen and Williams, 2006, eq. 5.12): the
    root of their mean, as if 40 more were as expected, between a half and two."""
    own: dict[str, list[float]] = {}
    for one, square in zip(configurations, squares.tolist(), strict=True):
        own.setdefault(one.model, []).append(square)
    means = {model: (_AS_EXPECTED + sum(each)) / (_AS_EXPECTED + len(each)) for model, each in own.items()}
    return {model: min(max(math.sqrt(mean), _LEAST_EXCESS), _MOST_EXCESS) for model, mean in means.items()}


def learn(cells: Sequence[tuple[Configuration, float]]) -> Learned:
    from scheduler.predict.throughput_margins import learn_margins

    weights = learn_weights(*columns(cells))
    return Learned(weights, learn_margins(cells))


def learn_weights(configurations: Sequence[Configuration], log_seconds: Floats) -> Floats:
    """Log variances of the parts and of the noise under which the observations are likeliest; those of at most 450."""
    from scipy.optimize import minimize

    step = max(1, math.ceil(len(configurations) / _MOST_WEIGHED))
    configurations, log_seconds = configurations[::step], log_seconds[::step]
    weights = prior_weights()
    if len(configurations) < 8:
        return weights
    for _ in range(2):
        fitted = solve(configurations, log_seconds, weights)
        own, alike = fitted.own, likenesses(fitted.rows, fitted.rows)
        both, exchanged = np.outer(own, own), np.outer(1 - own, 1 - own)
        parts = [both * product(part, alike) for part in COMPUTE]
        parts += [exchanged * product(part, alike) for part in TRANSFER]
        total = sum(weight * part for weight, part in zip(np.exp(weights), parts, strict=False))
        target = total @ fitted.alpha + math.exp(weights[-1]) * fitted.alpha
        lower = np.tril_indices(len(own))
        stacked = np.stack([part[lower] for part in (*parts, np.eye(len(own)))])
        weights = minimize(
            unlikeliness,
            weights,
            args=(stacked, target, lower, prior_weights()),
            jac=True,
            method="L-BFGS-B",
            bounds=[(-12.0, 3.0)] * len(weights),
            options={"maxiter": 15},
        ).x
    return np.asarray(weights)


def learn_levels(configurations: Sequence[Configuration], log_seconds: Floats) -> Levels:
    """Ridge regression of one-GPU step times on workload, GPU, and model on GPU."""
    alone = [(c, v) for c, v in zip(configurations, log_seconds, strict=True) if c.gpus == 1 and c.share == 1.0]
    if not alone:
        alone = list(zip(configurations, log_seconds, strict=True))
    values = np.array([value + gpu_speed(one.gpu) for one, value in alone])
    mean = float(values.mean())
    columns: dict[tuple[object, ...], int] = {}
    penalties: list[float] = []
    marks = []
    for row, (one, _) in enumerate(alone):
        for key, penalty in (
            (("level", one.model, log2_batch(one)), 0.01),
            (("gpu", one.gpu), 0.01),
            (("on", one.model, one.gpu), 0.3),
        ):
            if key not in columns:
                columns[key] = len(penalties)
                penalties.append(penalty)
            marks.append((row, columns[key]))
    design = np.zeros((len(alone), len(penalties)))
    design[tuple(np.array(marks).T)] = 1.0
    solved = np.linalg.solve(design.T @ design + np.diag(penalties), design.T @ (values - mean))
    known = {(str(key[1]), float(str(key[2]))): mean + solved[at] for key, at in columns.items() if key[0] == "level"}
    return Levels(known, mean)


def fit_from_state(state: Mapping[str, Any], cells: Sequence[Configuration]) -> Fit:
    """The fit that `state` was made of; `cells` are its configurations. Raises: ValueError."""
    log_seconds, weights = np.array(state["log_seconds"], dtype=float), np.array(state["weights"], dtype=float)
    if len(cells) != len(log_seconds) or weights.shape != prior_weights().shape or len(cells) > MOST_FITTED:
        raise ValueError("the arrays do not belong together")
    if not (np.isfinite(log_seconds).all() and np.isfinite(weights).all()):
        raise ValueError("not all numbers are finite")
    return solve(tuple(cells), log_seconds, weights, Margins.from_state(state["margins"]))


def _usual(rows: Rows, log_seconds: Floats) -> float:
    alone = rows.spread == 0
    values = log_seconds + rows.speed + rows.log_share
    return float(np.median(values[alone] if alone.any() else values))


def _compute_mean(usual: float, rows: Rows) -> Floats:
    """A step takes as long as the GPU's data sheet and its share of the GPU say, before anything else is known."""
    return usual - rows.speed - rows.log_share


def _joined(log_compute: Floats, log_transfer: Floats, rows: Rows) -> tuple[Floats, Floats]:
    """Log seconds of both together, and the share of own work; one GPU exchanges nothing."""
    several = rows.spread > 0
    together = np.where(several, np.logaddexp(log_compute, log_transfer), log_compute)
    return together, np.where(several, np.exp(log_compute - together), 1.0)


def _linearised(at: tuple[Floats, Floats], rows: Rows, log_seconds: Floats, mean: float) -> tuple[Floats, Floats]:
    """Share of own work, and what the weighted sum of both processes, less their means, has to come to."""
    together, own = _joined(*at, rows)
    target = log_seconds - together
    target = target + own * (at[0] - _compute_mean(mean, rows)) + (1 - own) * (at[1] - TRANSFER_MEAN)
    return own, target


def _start(rows: Rows, log_seconds: Floats, mean: float) -> tuple[Floats, Floats]:
    """Own work as on one GPU where that was seen, the rest is exchange."""
    keys = list(zip(rows.model.tolist(), rows.gpu.tolist(), rows.log2_batch.tolist(), strict=True))
    alone = {key: value for key, several, value in zip(keys, rows.spread, log_seconds, strict=True) if not several}
    compute = np.array([alone.get(key, value - 0.3) for key, value in zip(keys, log_seconds, strict=True)])
    several = rows.spread > 0
    compute = np.where(several, np.minimum(compute, log_seconds - 0.05), log_seconds)
    seconds = np.exp(log_seconds)
    exchange = np.log(np.maximum(seconds - np.exp(compute), 0.03 * seconds))
    return compute, np.where(several, exchange, TRANSFER_MEAN)


def unlikeliness(weights: Floats, parts: Floats, target: Floats, lower: Lower, prior: Floats) -> tuple[float, Floats]:
    """Negative log posterior of the log variances, and its gradient. `parts` are lower triangles, one a row; `prior`
    the log variances expected."""
    from scipy.linalg import cho_factor, cho_solve

    variances = np.exp(weights)
    total = np.zeros((len(target), len(target)))
    total[lower] = variances @ parts
    total[np.diag_indices(len(target))] += _UNLIT
    factor = cho_factor(total, lower=True)
    inverse = cho_solve(factor, np.eye(len(target)))
    alpha = inverse @ target
    value = 0.5 * float(target @ alpha) + float(np.log(np.diag(factor[0])).sum())
    twice = 2.0 * (inverse - np.outer(alpha, alpha)) - np.diag(np.diag(inverse) - alpha**2)
    slope = 0.5 * variances * (parts @ twice[lower])
    off = (weights - prior) / _WEIGHT_SPREAD
    return value + 0.5 * float(off @ off), slope + off / _WEIGHT_SPREAD
