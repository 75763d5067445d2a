"""How good learned throughput is on a measured table: what is held out, and how the model is asked for it.

Weights and margins used in a fold are learned without the fold's model, whatever else of it is known there: nothing is
chosen on what is reported. `Holdout`s differ in what stays known of the model whose speed is asked:

- pair: the model on one other GPU only (all its batch sizes, counts and spreads there; none on the GPU asked).
- pair-batch: the looser reading, in which a "model" is a model with its batch size: that one is known on one other GPU
  only, the same model at other batch sizes everywhere.
- two, two-batch: the same, and two configurations on the GPU asked, drawn by the seed.
- model: nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from scheduler.model.traits import NO_TRAITS, Traits
from scheduler.predict.throughput import Configuration, Spread
from scheduler.predict.throughput_baselines import BASELINES
from scheduler.predict.throughput_fit import NORMAL_95, Learned, fit, learn
from scheduler.predict.throughput_kernels import Floats
from scheduler.predict.work import Efficiencies, surer

Table = Mapping[Configuration, float]
"""Steps per second, positive."""
HOLDOUTS: Final = ("pair", "pair-batch", "two", "two-batch", "model")
FEWEST_MODELS: Final = 3
_NONE: Final[Mapping[str, Traits]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Fold:
    known: tuple[Configuration, ...]
    asked: tuple[Configuration, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One element for each configuration asked, in the order of the folds; steps per second."""

    actual: Floats
    median: Floats
    low: Floats
    high: Floats
    asked: tuple[Configuration, ...]
    baselines: Mapping[str, Floats]
    """NaN where the baseline says nothing."""


def folds(table: Table, holdout: str, seed: int) -> Iterator[Fold]:
    """In the order of model, batch size and GPUs. Raises: ValueError for a holdout that there is not."""
    if holdout not in HOLDOUTS:
        raise ValueError(f"no holdout {holdout!r}; there are {', '.join(HOLDOUTS)}")
    draw = np.random.default_rng(seed)
    every = sorted(table, key=repr)
    finely = holdout.endswith("-batch")
    for name in dict.fromkeys(_work(one, finely) for one in every):
        own = [one for one in every if _work(one, finely) == name]
        rest = [one for one in every if _work(one, finely) != name]
        if holdout == "model":
            yield Fold(tuple(rest), tuple(own))
            continue
        gpus = sorted({one.gpu for one in own})
        for seen in gpus:
            known = rest + [one for one in own if one.gpu == seen]
            if holdout.startswith("pair"):
                yield Fold(tuple(known), tuple(one for one in own if one.gpu != seen))
                continue
            for gpu in (other for other in gpus if other != seen):
                there = [one for one in own if one.gpu == gpu]
                shown = {there[at] for at in draw.permutation(len(there))[:2]}
                yield Fold((*known, *sorted(shown, key=repr)), tuple(one for one in there if one not in shown))


def evaluate(table: Table, holdout: str, seed: int, traits: Mapping[str, Traits] = _NONE) -> Outcome:
    """The model and its baselines, over all folds. `traits` by model: what is declared of it, for folds that know
    nothing else of it. Raises: ValueError for under three models."""
    if len({one.model for one in table}) < FEWEST_MODELS:
        raise ValueError(f"under {FEWEST_MODELS} models: nothing can be learned from the others")
    logs = {one: float(np.log(steps)) for one, steps in table.items()}
    learned: dict[str, Learned] = {}
    actual: list[float] = []
    asked: list[Configuration] = []
    said: list[Floats] = []
    other: dict[str, list[Floats]] = {name: [] for name in BASELINES}
    for fold in folds(table, holdout, seed):
        known = {one: logs[one] for one in fold.known}
        if not fold.asked or not known:
            continue
        model = fold.asked[0].model
        if model not in learned:
            learned[model] = learn(sorted(((o, v) for o, v in logs.items() if o.model != model), key=repr))
        answer = _ask(known, fold.asked, learned[model])
        if model in traits and not any(one.model == model for one in known):
            answer = _by_arithmetic(table, fold, traits, answer)
        said.append(answer)
        for name, baseline in BASELINES.items():
            other[name].append(baseline(known, fold.asked))
        actual += [table[one] for one in fold.asked]
        asked += fold.asked
    if not said:
        raise ValueError("nothing can be held out: each model is known on one GPU only, or in too few configurations")
    low, middle, high = np.exp(np.concatenate(said, axis=1))
    baselines = {name: np.exp(np.concatenate(values)) for name, values in other.items()}
    return Outcome(np.array(actual), middle, low, high, tuple(asked), baselines)


def all_but_one(table: Table) -> Floats:
    """Absolute relative errors of each configuration foretold from all others of the table. Its weights have seen them
    all: what this model cannot do here, it cannot do where less is known."""
    logs = sorted(((one, float(np.log(steps))) for one, steps in table.items()), key=repr)
    fitted = fit(logs)
    assert fitted is not None
    return np.abs(np.expm1(fitted.left_one_out()))


def _ask(known: Mapping[Configuration, float], asked: Sequence[Configuration], like: Learned) -> Floats:
    """3 x asked: low, median and high of log steps per second."""
    fitted = fit(list(known.items()), like)
    assert fitted is not None
    middle, spread = fitted.predict(asked)
    width = NORMAL_95 * spread * fitted.margin(asked)
    return np.stack([middle - width, middle, middle + width])


def _by_arithmetic(table: Table, fold: Fold, traits: Mapping[str, Traits], otherwise: Floats) -> Floats:
    """As the daemon answers for a model that was never seen: the surer of both, in the order that was asked."""
    seen = Efficiencies()
    for one in fold.known:
        seen.learn(traits.get(one.model, NO_TRAITS), one, table[one])
    known, found = seen.view(), otherwise.copy()
    for at, one in enumerate(fold.asked):
        told = surer(known.speed(traits[one.model], one), Spread(*np.exp(otherwise[:, at]).tolist()))
        assert told is not None
        found[:, at] = np.log([told.low, told.median, told.high])
    return found


def _work(one: Configuration, finely: bool) -> tuple[str, int | None]:
    return one.model, one.batch_size if finely else None
