"""How wide the throughput model's intervals have to be to hold: what was seen is foretold as if it had not been.

Split conformal prediction on residuals over their standard deviation (J. Lei et al., "Distribution-free predictive
inference for regression", Journal of the American Statistical Association 113, 2018, ch. 5.2), by how much is known of
what is asked. Each fold leaves out what such a question lacks: a whole model, a model but on one GPU, a model on a GPU
but for two configurations.

For a model never seen, a model is one draw however many rows it has: each model's residuals weigh the same (Y. Lee,
R. Barber and R. Willett, "Distribution-free inference with hierarchical data", 2023, hierarchical conformal prediction;
without its correction for few groups, which under nine models would widen without bound).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from scheduler.predict.throughput_fit import NORMAL_95, Margins, columns, learn_weights, solve
from scheduler.predict.throughput_kernels import Floats

if TYPE_CHECKING:
    from scheduler.predict.throughput import Configuration

Cells = Sequence[tuple["Configuration", float]]
Fold = tuple[list[int], list[int]]
"""Indices of what is known and of what is asked."""
_MOST_FOLDS: Final = 21
_MOST_CELLS: Final = 400
_FEWEST_MODELS: Final = 3
_LEVELS: Final = tuple(0.86 + 0.01 * step for step in range(14))
_HELD: Final = 0.9
_THIRDS: Final = 3
_NARROWEST, _WIDEST = 0.7, 4.0
_UNLEARNED: Final = 1.5


def learn_margins(cells: Cells) -> Margins:
    """Of a pair seen, of a model seen elsewhere, of a model never seen. From the newest 400 configurations; 1.5 where
    there is too little to learn it from."""
    cells = cells[-_MOST_CELLS:]
    weights = _weights_without(cells)
    few = _margin(cells, weights, few_seen(cells))
    some = _margin(cells, weights, elsewhere(cells))
    return few, some, _margin_of_new_models(cells, weights)


def _weights_without(cells: Cells) -> dict[str, Floats]:
    """For each model, weights learned without it and the others of its third."""
    names = sorted({one.model for one, _ in cells})
    found: dict[str, Floats] = {}
    for third in range(min(_THIRDS, len(names))):
        out = set(names[third::_THIRDS])
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
    """Each model seen on one GPU, and twice on another; asked for the rest there."""
    for known, asked in elsewhere(cells):
        for gpu in sorted({cells[at][0].gpu for at in asked}):
            there = [at for at in asked if cells[at][0].gpu == gpu]
            shown = [there[len(there) // 4], there[3 * len(there) // 4]]
            yield known + shown, [at for at in there if at not in shown]


def _margin(cells: Cells, weights: dict[str, Floats], folds: Iterator[Fold]) -> float:
    ratios = _ratios(cells, weights, folds)
    if len(ratios) < _FEWEST_MODELS:
        return _UNLEARNED
    level = _level(ratios)
    return _bounded(float(np.quantile(np.concatenate(ratios), level)))


def _margin_of_new_models(cells: Cells, weights: dict[str, Floats]) -> float:
    ratios = _ratios(cells, weights, models(cells))
    return _bounded(evenly_held(ratios, _HELD)) if len(ratios) >= _FEWEST_MODELS else _UNLEARNED


def evenly_held(groups: Sequence[Floats], held: float) -> float:
    """The least value that so much of the values lies at or under, each group counting the same; none is empty."""
    values = np.concatenate(groups)
    shares = np.concatenate([np.full(len(group), 1.0 / len(group) / len(groups)) for group in groups])
    order = np.argsort(values, kind="stable")
    at = np.searchsorted(np.cumsum(shares[order]), held - 1e-9)
    return float(values[order[min(int(at), len(values) - 1)]])


def _bounded(ratio: float) -> float:
    return float(np.clip(ratio / NORMAL_95, _NARROWEST, _WIDEST))


def _ratios(cells: Cells, weights: dict[str, Floats], folds: Iterator[Fold]) -> list[Floats]:
    """By model: how many standard deviations it was foretold wrong, over at most 21 folds."""
    every = [fold for fold in folds if fold[0] and fold[1]]
    chosen = sorted({round(at) for at in np.linspace(0, len(every) - 1, _MOST_FOLDS)}) if every else []
    ratios: dict[str, list[float]] = {}
    for known, asked in (every[at] for at in chosen):
        model = cells[asked[0]][0].model
        fitted = solve(*columns([cells[at] for at in known]), weights[model])
        said, spread = fitted.predict([cells[at][0] for at in asked])
        off = np.abs(said - np.array([cells[at][1] for at in asked])) / spread
        ratios.setdefault(model, []).extend(off.tolist())
    return [np.array(one) for one in ratios.values()]


def _level(ratios: Sequence[Floats]) -> float:
    """The least quantile of the other models' ratios that holds 90 % of each model's in turn: models are few, and the
    rows of one err together, so that the plain 90 % quantile would hold less of the next model."""
    for level in _LEVELS:
        held = 0
        for at, own in enumerate(ratios):
            others = np.concatenate([*ratios[:at], *ratios[at + 1 :]])
            held += int((own <= np.quantile(others, level)).sum())
        if held >= _HELD * sum(map(len, ratios)):
            return level
    return _LEVELS[-1]
