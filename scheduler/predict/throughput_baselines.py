"""What learned throughput is measured beside. Each takes what is known (configuration, log steps per second) and says
log steps per second of what is asked; NaN where its rule says nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Final

import numpy as np

from scheduler.predict.hardware import facts_of
from scheduler.predict.throughput import Configuration
from scheduler.predict.throughput_kernels import Floats, Integers, log2_batch

Known = Mapping[Configuration, float]
Baseline = Callable[[Known, Sequence[Configuration]], Floats]
_SWEEPS: Final = 25
_RIDGE: Final = 0.1


def hardware_ratio(known: Known, asked: Sequence[Configuration]) -> Floats:
    """The rule of thumb: what it does on a GPU where it was seen, at the nearest batch size and count, times the ratio
    of peak FP32 rates."""
    return np.array([_from_elsewhere(known, one, _fp32_ratio) for one in asked])


def nearest_neighbour(known: Known, asked: Sequence[Configuration]) -> Floats:
    """What it does elsewhere, times what changing GPU did at the same count and spread to the model most like it: the
    one whose speed there changes most alike with count and spread."""
    curves = {key: _curve(known, *key) for key in dict.fromkeys((o.model, o.batch_size, o.gpu) for o in known)}

    def ratio(seen: Configuration, one: Configuration) -> float:
        own = curves[seen.model, seen.batch_size, seen.gpu]
        best, found = math.inf, math.nan
        for (model, batch, gpu), other in curves.items():
            if gpu != seen.gpu or model == one.model:
                continue
            there, here = (known.get(_moved(one, model, batch, name)) for name in (one.gpu, seen.gpu))
            shared = own.keys() & other.keys()
            if there is None or here is None or not shared:
                continue
            far = sum(abs(own[place] - other[place]) for place in shared) / len(shared)
            if far < best:
                best, found = far, there - here
        return found

    return np.array([_from_elsewhere(known, one, ratio) for one in asked])


def factorised(rank: int) -> Baseline:
    """Low-rank completion of log speed, workloads x (GPU, count, spread), by alternating ridge regressions. Row and
    column means are rank 1 (a product of speeds), each further rank a product of logs. So Gavel estimates what it has
    not measured (D. Narayanan et al., OSDI 2020, after Quasar)."""

    def complete(known: Known, asked: Sequence[Configuration]) -> Floats:
        every = [*known, *asked]
        works, places = [(one.model, one.batch_size) for one in every], [_place(one) for one in every]
        return factorise(rank, works, places, np.array(list(known.values())))

    return complete


def factorise(rank: int, rows: Sequence[Hashable], columns: Sequence[Hashable], values: Floats) -> Floats:
    """What belongs at the cells (row, column) after the first `len(values)`, whose values are known."""
    row, heights = _numbered(rows)
    column, widths = _numbered(columns)
    count, mean = len(values), float(values.mean())
    draw = np.random.default_rng(0)
    left = np.column_stack([np.zeros(heights), np.ones(heights), draw.normal(0, 0.1, (heights, rank - 1))])
    right = np.column_stack([np.ones(widths), np.zeros(widths), draw.normal(0, 0.1, (widths, rank - 1))])
    for _ in range(_SWEEPS):
        _regress(left, right, row[:count], column[:count], values - mean, fixed=1)
        _regress(right, left, column[:count], row[:count], values - mean, fixed=0)
    return np.asarray(mean + np.einsum("ij,ij->i", left[row[count:]], right[column[count:]]))


def _numbered(names: Sequence[Hashable]) -> tuple[Integers, int]:
    numbers = {name: at for at, name in enumerate(dict.fromkeys(names))}
    return np.array([numbers[name] for name in names]), len(numbers)


def gradient_boosting(known: Known, asked: Sequence[Configuration]) -> Floats:
    """Plain scikit-learn boosting on the same columns and the data sheet; its settings are not searched."""
    from sklearn.ensemble import GradientBoostingRegressor

    models, gpus = ({name: at for at, name in enumerate(sorted({get(one) for one in known}))} for get in (_model, _gpu))

    def features(one: Configuration) -> list[float]:
        facts = facts_of(one.gpu)
        sheet = [float(gpus.get(one.gpu, -1))] * 2
        if facts is not None and facts.fp32_tflops is not None and facts.memory_gb_per_s is not None:
            sheet = [math.log(facts.fp32_tflops), math.log(facts.memory_gb_per_s)]
        at = models.get(one.model, -1)
        own = [float(at), *(float(at == other) for other in range(len(models)))]
        return [*own, log2_batch(one), math.log2(one.gpus), float(one.consolidated), *sheet]

    model = GradientBoostingRegressor(n_estimators=300, max_depth=4, learning_rate=0.05, random_state=0)
    model.fit([features(one) for one in known], list(known.values()))
    return np.asarray(model.predict([features(one) for one in asked]))


BASELINES: Final[Mapping[str, Baseline]] = {
    "hardware_ratio": hardware_ratio,
    "nearest_neighbour": nearest_neighbour,
    "factorisation_rank_1": factorised(1),
    "factorisation_rank_2": factorised(2),
    "gradient_boosting": gradient_boosting,
}


def _from_elsewhere(known: Known, one: Configuration, ratio: Callable[[Configuration, Configuration], float]) -> float:
    """From the nearest configuration of the model on another GPU; counts scale as if there were nothing to exchange."""
    elsewhere = [seen for seen in known if seen.model == one.model and seen.gpu != one.gpu]
    if not elsewhere:
        return math.nan
    seen = min(elsewhere, key=lambda other: (_apart(other, one), other.gpu))
    return known[seen] + math.log(one.gpus / seen.gpus) + ratio(seen, one)


def _fp32_ratio(seen: Configuration, one: Configuration) -> float:
    here, there = facts_of(seen.gpu), facts_of(one.gpu)
    if here is None or there is None or not here.fp32_tflops or not there.fp32_tflops:
        return math.nan
    return math.log(there.fp32_tflops / here.fp32_tflops)


def _apart(left: Configuration, right: Configuration) -> float:
    batch, count = abs(log2_batch(left) - log2_batch(right)), abs(math.log2(left.gpus / right.gpus))
    return batch + count + (left.consolidated != right.consolidated)


def _curve(known: Known, model: str, batch: int | None, gpu: str) -> dict[tuple[int, bool], float]:
    """Log speed at each count and spread, beside that of one GPU."""
    own = {
        (one.gpus, one.consolidated): value
        for one, value in known.items()
        if (one.model, one.batch_size, one.gpu) == (model, batch, gpu)
    }
    alone = own.get((1, True), 0.0)
    return {place: value - alone for place, value in own.items()}


def _moved(one: Configuration, model: str, batch: int | None, gpu: str) -> Configuration:
    return Configuration(model, batch, gpu, one.gpus, one.consolidated, one.share)


def _place(one: Configuration) -> tuple[str, int, bool]:
    return one.gpu, one.gpus, one.consolidated


def _model(one: Configuration) -> str:
    return one.model


def _gpu(one: Configuration) -> str:
    return one.gpu


def _regress(of: Floats, on: Floats, mine: Integers, theirs: Integers, values: Floats, fixed: int) -> None:
    """Ridge regression of each row of `of` in place; its column `fixed` is 1 and stays."""
    free = [at for at in range(of.shape[1]) if at != fixed]
    for row in np.unique(mine):
        which = mine == row
        design = on[theirs[which]]
        gram = design[:, free].T @ design[:, free] + _RIDGE * np.eye(len(free))
        of[row, free] = np.linalg.solve(gram, design[:, free].T @ (values[which] - design[:, fixed]))
