"""How good what is foretold of two workloads on one GPU is, on a measured table: what is held out, and beside whom.

A pair is held out as a whole: both workloads, in either order, on every GPU. `Holdout`s:

- pair: all pairs of two models, whatever their batch sizes, a tenth of them at a time, drawn by the seed. Each of both
  models is known beside others.
- pair-batch: the looser reading, in which a model is a model with its batch size.
- model: every pair that the model is in, at any batch size: it was never seen beside anybody, only alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from scheduler.predict.sharing import Alone, Beside
from scheduler.predict.sharing_fit import columns, fit, fit_fits, models_of
from scheduler.predict.throughput_baselines import factorise
from scheduler.predict.throughput_kernels import Floats

HOLDOUTS: Final = ("pair", "pair-batch", "model")
_TENTHS: Final = 10
_NORMAL_95: Final = 1.6449
Known = Mapping[Beside, float]
"""Log of the part kept."""
Baseline = Callable[[Known, Sequence[Beside]], Floats]


@dataclass(frozen=True, slots=True)
class Trial:
    """One element for each run beside another that was held out: parts of the speed alone."""

    asked: tuple[Beside, ...]
    actual: Floats
    median: Floats
    low: Floats
    high: Floats
    baselines: Mapping[str, Floats]
    fits: Floats
    """Of each pair asked, fitting or not: whether it does, the chance that it does, and how often pairs on its GPU do;
    3 x pairs."""


def evaluate(kept: Mapping[Beside, float], refused: Sequence[Beside], holdout: str, seed: int) -> Trial:
    """`kept`: parts of the speed alone, positive; `refused`: pairs that do not fit, in both directions.

    Raises: ValueError for a holdout that there is not, or too small a table.
    """
    table = {one: float(np.log(min(1.0, part))) for one, part in sorted(kept.items(), key=lambda each: repr(each[0]))}
    every = [*table, *sorted(refused, key=repr)]
    asked: list[Beside] = []
    said: list[Floats] = []
    other: dict[str, list[Floats]] = {name: [] for name in BASELINES}
    fits: list[Floats] = []
    for out in folds(every, holdout, seed):
        known = {one: value for one, value in table.items() if one not in out}
        held = [one for one in table if one in out]
        fitted = fit(list(known.items()))
        if fitted is None:
            continue
        fits.append(_fits([one for one in every if one not in out], [one for one in every if one in out], table))
        if not held:
            continue
        asked += held
        middle, spread = fitted.predict(held)
        width = _NORMAL_95 * spread
        said.append(np.minimum(0.0, np.stack([middle - width, middle, middle + width])))
        for name, baseline in BASELINES.items():
            other[name].append(np.minimum(0.0, baseline(known, held)))
    if len(asked) < 2:
        raise ValueError("too few pairs to hold some out")
    low, median, high = np.exp(np.concatenate(said, axis=1))
    actual = np.exp(np.array([table[one] for one in asked]))
    baselines = {name: np.exp(np.concatenate(values)) for name, values in other.items()}
    return Trial(tuple(asked), actual, median, low, high, baselines, np.concatenate(fits, axis=1))


def folds(every: Sequence[Beside], holdout: str, seed: int) -> Iterator[frozenset[Beside]]:
    """What is held out each time. Raises: ValueError."""
    if holdout not in HOLDOUTS:
        raise ValueError(f"no holdout {holdout!r}; there are {', '.join(HOLDOUTS)}")
    if holdout == "model":
        for name in sorted({one.own.model for one in every}):
            yield frozenset(one for one in every if name in (one.own.model, one.other.model))
        return
    names = {one: _pair(one, finely=holdout == "pair-batch") for one in every}
    pairs = sorted(set(names.values()))
    drawn = np.random.default_rng(seed).permutation(len(pairs))
    tenth = {pairs[at]: number % _TENTHS for number, at in enumerate(drawn.tolist())}
    for number in range(min(_TENTHS, len(pairs))):
        yield frozenset(one for one in every if tenth[names[one]] == number)


def _pair(one: Beside, *, finely: bool) -> tuple[str, str]:
    first, second = sorted(f"{side.model}|{side.batch_size if finely else ''}" for side in (one.own, one.other))
    return first, second


def _fits(known: Sequence[Beside], asked: Sequence[Beside], table: Known) -> Floats:
    chance = fit_fits([(one, one in table) for one in known]).chance(asked)
    usual = {gpu: np.mean([one in table for one in known if one.gpu == gpu]) for gpu in {one.gpu for one in known}}
    often = [float(usual.get(one.gpu, 1.0)) for one in asked]
    return np.array([[float(one in table) for one in asked], chance.tolist(), often])


def gpu_median(known: Known, asked: Sequence[Beside]) -> Floats:
    """The median of its GPU."""
    usual = {gpu: float(np.median([v for k, v in known.items() if k.gpu == gpu])) for gpu in {k.gpu for k in known}}
    anywhere = float(np.median(list(known.values())))
    return np.array([usual.get(one.gpu, anywhere) for one in asked])


def half(known: Known, asked: Sequence[Beside]) -> Floats:
    """Half of the GPU, half of the speed."""
    return np.full(len(asked), np.log(0.5))


def nearest(known: Known, asked: Sequence[Beside]) -> Floats:
    """The known run on that GPU that is most like it: by models first, then by batch sizes and step times."""
    by_gpu: dict[str, list[tuple[Beside, float]]] = {}
    for one, value in known.items():
        by_gpu.setdefault(one.gpu, []).append((one, value))
    found = []
    for one in asked:
        there = by_gpu.get(one.gpu) or list(known.items())
        found.append(min(there, key=lambda each: (_apart(each[0], one), repr(each[0])))[1])
    return np.array(found)


def _apart(left: Beside, right: Beside) -> float:
    far = 0.0
    for one, other in ((left.own, right.own), (left.other, right.other)):
        far += 3.0 * (one.model != other.model)
        far += abs(float(np.log(one.steps_per_second / other.steps_per_second)))
        if one.batch_size and other.batch_size:
            far += abs(float(np.log2(one.batch_size / other.batch_size)))
    return far


def factorised(rank: int) -> Baseline:
    """Low-rank completion of the log of what is kept, workloads x (neighbours on a GPU), as Gavel and Quasar complete
    what they have not measured (D. Narayanan et al., OSDI 2020, ch. 6)."""

    def complete(known: Known, asked: Sequence[Beside]) -> Floats:
        def side(one: Alone) -> tuple[str, int | None]:
            return one.model, one.batch_size

        rows = [side(one.own) for one in (*known, *asked)]
        cells = [(*side(one.other), one.gpu) for one in (*known, *asked)]
        return factorise(rank, rows, cells, np.array(list(known.values())))

    return complete


def gradient_boosting(known: Known, asked: Sequence[Beside]) -> Floats:
    """Plain scikit-learn boosting on the same columns; its settings are not searched."""
    from sklearn.ensemble import GradientBoostingRegressor

    models = {name: at for at, name in enumerate(models_of(list(known)))}
    gpus = {name: at for at, name in enumerate(sorted({one.gpu for one in known}))}

    def features(every: Sequence[Beside]) -> Floats:
        rows = columns(every, models, gpus)
        marks = [side == at for side in (rows.own, rows.other) for at in models.values()]
        batches, levels = (rows.own_log2_batch, rows.other_log2_batch), (rows.own_level, rows.other_level)
        return np.column_stack([rows.gpu, *marks, *batches, *levels, levels[0] - levels[1]])

    model = GradientBoostingRegressor(n_estimators=300, max_depth=4, learning_rate=0.05, random_state=0)
    model.fit(features(list(known)), list(known.values()))
    return np.asarray(model.predict(features(asked)))


BASELINES: Final[Mapping[str, Baseline]] = {
    "median_by_gpu": gpu_median,
    "half": half,
    "nearest_neighbour": nearest,
    "factorisation_rank_1": factorised(1),
    "factorisation_rank_2": factorised(2),
    "gradient_boosting": gradient_boosting,
}
