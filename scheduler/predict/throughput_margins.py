"""How wide the throughput model's intervals have to be to hold: what was seen is foretold as if it had not been.

Split conformal prediction on residuals over what they were expected to be (J. Lei et al., "Distribution-free predictive
inference for regression", Journal of the American Statistical Association 113, 2018, ch. 5.2), by how much is known of
what is asked: a residual is divided by its standard deviation and by its model's `Fit.excess`. Each fold leaves out
what such a question lacks: a whole model, a model but on one GPU, a model on a GPU but for two configurations; the
variances that it is foretold with are learned without that model (cross-conformal prediction: V. Vovk,
"Cross-conformal predictors", Annals of Mathematics and Artificial Intelligence 74, 2015).

Each GPU model has its own margin (Mondrian conformal prediction: V. Vovk, A. Gammerman and G. Shafer, "Algorithmic
Learning in a Random World", 2005, ch. 4.5), of which n models stand n / (n + 2) of the way from the margin of all
(partial pooling: A. Gelman and J. Hill, "Data Analysis Using Regression and Multilevel Models", 2006, ch. 12.2). Every
row weighs the same, as in what is promised: 90 % of outcomes. A correction for few models (a quantile of n + 1 instead
of n) would widen without bound under nine of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from scheduler.predict.margins import Known, Margins
from scheduler.predict.throughput_fit import NORMAL_95, columns, learn_weights, solve
from scheduler.predict.throughput_kernels import Floats

if TYPE_CHECKING:
    from scheduler.predict.throughput import Configuration

Cells = Sequence[tuple["Configuration", float]]
Fold = tuple[list[int], list[int]]
"""Indices of what is known and of what is asked."""
_MOST_FOLDS: Final = 42
_MOST_CELLS: Final = 400
_FEWEST_MODELS: Final = 3
_ALONE: Final = 2
"""Models seen on a GPU at which its margin stands half-way between all GPUs' and its own."""
_HELD: Final = 0.9
_PARTS: Final = 6
_NARROWEST, _WIDEST = 0.7, 4.0
_UNLEARNED: Final = 1.5


@dataclass(frozen=True, slots=True)
class Missed:
    """How far off what was foretold of a model in a fold was, over what was expected, and on which GPU."""

    model: str
    gpus: tuple[str, ...]
    ratios: Floats


def learn_margins(cells: Cells) -> Margins:
    """Of a pair seen, of a model seen elsewhere, of a model never seen; on any GPU and by GPU. From the newest 400
    configurations; 1.5 where there is too little to learn it from."""
    cells = cells[-_MOST_CELLS:]
    weights = _weights_without(cells)
    missed = [_missed(cells, weights, folds(cells)) for folds in (few_seen, elsewhere, models)]
    few, some, none = (margin(one) for one in missed)
    gpus = sorted({one.gpu for one, _ in cells})
    by_gpu: dict[str, Known] = {}
    for gpu in gpus:
        own = [margin(one, gpu) for one in missed]
        by_gpu[gpu] = own[0], own[1], own[2]
    return Margins((few, some, none), by_gpu)


def _weights_without(cells: Cells) -> dict[str, Floats]:
    """For each model, weights learned without it and, where there are more than six, the others of its sixth."""
    names = sorted({one.model for one, _ in cells})
    found: dict[str, Floats] = {}
    for part in range(min(_PARTS, len(names))):
        out = set(names[part::_PARTS])
        learned = learn_weights(*columns([cell for cell in cells if cell[0].model not in out]))
        found |= dict.fromkeys(out, learned)
    return found


def models(cells: Cells) -> Iterator[Fold]:
    """Each model wholly unseen."""
    for model in sorted({one.model for one, _ in cells}):
        own = [one.model == model for one, _ in cells]
        yield [at for at, is_own in enumerate(own) if not is_own], [at for at, is_own in enumerate(own) if is_own]


def elsewhere(cells: Cells) -> Iterator[Fold]:
    """Each model seen on one GPU only; asked on all others."""
    for model, gpu in sorted({(one.model, one.gpu) for one, _ in cells}):
        known = [at for at, (one, _) in enumerate(cells) if one.model != model or one.gpu == gpu]
        yield known, [at for at, (one, _) in enumerate(cells) if one.model == model and one.gpu != gpu]


def few_seen(cells: Cells) -> Iterator[Fold]:
    """Each model seen on one GPU, and twice on another, as it happens; asked for the rest there."""
    draw = np.random.default_rng(0)  # always the same: chosen evenly, they would tell more than what happens to be seen
    for known, asked in elsewhere(cells):
        for gpu in sorted({cells[at][0].gpu for at in asked}):
            there = [at for at in asked if cells[at][0].gpu == gpu]
            shown = [there[at] for at in sorted(draw.permutation(len(there))[:2].tolist())]
            yield known + shown, [at for at in there if at not in shown]


def margin(missed: Sequence[Missed], gpu: str | None = None) -> float:
    """That 90 % of what was missed lies within; `gpu`: shrunk from all towards what was missed there, on the log
    scale."""
    every = _by_model(missed)
    if len(every) < _FEWEST_MODELS:
        return _UNLEARNED
    found = _held(every)
    own = [] if gpu is None else _by_model(missed, gpu)
    if len(own) >= _FEWEST_MODELS:
        part = len(own) / (len(own) + _ALONE)
        found = found ** (1.0 - part) * _held(own) ** part
    return float(np.clip(found, _NARROWEST, _WIDEST))


def _held(by_model: Sequence[Floats]) -> float:
    return evenly_held([np.concatenate(by_model)], _HELD) / NORMAL_95


def _by_model(missed: Sequence[Missed], gpu: str | None = None) -> list[Floats]:
    found: dict[str, list[float]] = {}
    for one in missed:
        there = [ratio for ratio, at in zip(one.ratios.tolist(), one.gpus, strict=True) if gpu in (None, at)]
        if there:
            found.setdefault(one.model, []).extend(there)
    return [np.array(each) for each in found.values()]


def evenly_held(groups: Sequence[Floats], held: float) -> float:
    """The least value that so much of the values lies at or under, each group counting the same; none is empty. Source:
    Y. Lee, R. Barber and R. Willett, "Distribution-free inference with hierarchical data", 2023, hierarchical conformal
    prediction; without its correction for few groups."""
    values = np.concatenate(groups)
    shares = np.concatenate([np.full(len(group), 1.0 / len(group) / len(groups)) for group in groups])
    order = np.argsort(values, kind="stable")
    at = np.searchsorted(np.cumsum(shares[order]), held - 1e-9)
    return float(values[order[min(int(at), len(values) - 1)]])


def _missed(cells: Cells, weights: dict[str, Floats], folds: Iterator[Fold]) -> list[Missed]:
    """Over at most 42 folds."""
    every = [fold for fold in folds if fold[0] and fold[1]]
    chosen = sorted({round(at) for at in np.linspace(0, len(every) - 1, _MOST_FOLDS)}) if every else []
    found = []
    for known, asked in (every[at] for at in chosen):
        there = [cells[at][0] for at in asked]
        fitted = solve(*columns([cells[at] for at in known]), weights[there[0].model])
        said, spread = fitted.predict(there)
        off = np.abs(said - np.array([cells[at][1] for at in asked]))
        ratios = off / spread / fitted.excess.get(there[0].model, 1.0)
        found.append(Missed(there[0].model, tuple(one.gpu for one in there), ratios))
    return found
