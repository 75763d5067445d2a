"""What configurations have in common, as covariances: the parts that the throughput model is a sum of.

A part is a product of simple likenesses: the same model, the same GPU, a near batch size, the same place (number of
GPUs and spread), a near level (how heavy a step is). Sharing between workloads and GPUs is the intrinsic
coregionalisation model (Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, ch. 4.2 and 9.1). The
more likenesses a part multiplies, the less it is expected to matter: effect heredity (M. Hamada and C. Wu, Journal of
Quality Technology 24, 1992).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from scheduler.predict.hardware import facts_of

if TYPE_CHECKING:
    from scheduler.predict.throughput import Configuration

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

COMPUTE: Final = (
    "1", "model", "model*far", "model*batch", "gpu", "gpu*model", "gpu*model*near", "gpu*model*far", "gpu*level",
    "place", "gpu*place", "gpu*place*level", "model*place", "model*gpu*place", "model*gpu*place*near",
    "model*place*near", "gpu*model*batch", "model*gpu*level", "share", "model*share",
)  # fmt: skip
"""Parts of the log of a worker's own time for a step."""
TRANSFER: Final = (
    "1", "model", "place", "spread", "gpu*spread", "gpu*place", "model*spread", "model*place", "model*far",
    "model*gpu", "model*gpu*spread", "model*gpu*place", "model*far*place", "model*gpu*far*place", "spread*level",
    "place*level",
)  # fmt: skip
"""Parts of the log of the time that a step spends on exchanging gradients; only where there are several GPUs."""
_VARIANCE_BY_ORDER: Final = (1.0, 0.5, 0.1, 0.03, 0.01)
_NOISE_VARIANCE: Final = 0.003
NEAR_OCTAVES, FAR_OCTAVES, LEVEL_LENGTH = 0.7, 3.0, 1.2
"""Length scales: of log2 batch size, and of the level (log seconds)."""
OWN_PLACE: Final = 0.7
"""Of what a number of GPUs does, this part is its own, the rest like its neighbours': machines differ by size."""
USUAL_LOG2_BATCH: Final = 5.0
"""Where a workload has no batch size: 32."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Configurations as columns of numbers, equally long."""

    model: Integers
    gpu: Integers
    """Models and GPUs as numbers; those not known have numbers of their own, below 0."""
    log2_batch: Floats
    log2_gpus: Floats
    spread: Integers
    """0: one GPU, 1: several in one node, 2: several across nodes."""
    log_share: Floats
    level: Floats
    speed: Floats
    """Log of the GPU's data sheet speed; 0 where it has none here."""

    def __len__(self) -> int:
        return len(self.model)

    def part(self, which: Integers) -> Rows:
        return Rows(*(getattr(self, name)[which] for name in self.__slots__))


def rows_of(
    configurations: Sequence[Configuration], models: dict[str, int], gpus: dict[str, int], level: Floats
) -> Rows:
    """Names that `models` and `gpus` lack get numbers below 0, the same name the same number."""
    new: dict[str, int] = {}
    unknown = [new.setdefault(one.model, -1 - len(new)) for one in configurations]
    other: dict[str, int] = {}
    strange = [other.setdefault(one.gpu, -1 - len(other)) for one in configurations]
    gpus_of_each = np.array([float(one.gpus) for one in configurations])
    return Rows(
        model=np.array([models.get(one.model, at) for one, at in zip(configurations, unknown, strict=True)], dtype=int),
        gpu=np.array([gpus.get(one.gpu, at) for one, at in zip(configurations, strange, strict=True)], dtype=int),
        log2_batch=np.array([log2_batch(one) for one in configurations]),
        log2_gpus=np.log2(np.maximum(gpus_of_each, 1.0)),
        spread=np.array([0 if one.gpus == 1 else 1 if one.consolidated else 2 for one in configurations], dtype=int),
        log_share=np.log([one.share for one in configurations]),
        level=level,
        speed=np.array([gpu_speed(one.gpu) for one in configurations]),
    )


def log2_batch(one: Configuration) -> float:
    return USUAL_LOG2_BATCH if one.batch_size is None else math.log2(one.batch_size)


def gpu_speed(gpu: str) -> float:
    """Log of the geometric mean of FP32 rate (TFLOPS) and memory bandwidth (100 GB/s); 2.0, a V100's or so, where the
    GPU is not listed: what is not known is taken for usual, and learned from data alone."""
    facts = facts_of(gpu)
    if facts is None or facts.fp32_tflops is None or facts.memory_gb_per_s is None:
        return 2.0
    return 0.5 * (math.log(facts.fp32_tflops) + math.log(facts.memory_gb_per_s / 100.0))


def likenesses(left: Rows, right: Rows) -> dict[str, Floats]:
    """Left x right each, from 0 to 1 (`share`: a product of logs)."""
    several = np.outer(left.spread > 0, right.spread > 0)
    spread = _same(left.spread, right.spread) * several
    count = left.log2_gpus[:, None] - right.log2_gpus[None]
    batch = left.log2_batch[:, None] - right.log2_batch[None]
    return {
        "1": np.ones((len(left), len(right))),
        "model": _same(left.model, right.model),
        "gpu": _same(left.gpu, right.gpu),
        "spread": spread,
        "place": spread * ((1.0 - OWN_PLACE) * np.exp(-0.5 * count**2) + OWN_PLACE * (np.abs(count) < 1e-9)),
        "batch": (np.abs(batch) < 1e-9).astype(float),
        "near": np.exp(-0.5 * (batch / NEAR_OCTAVES) ** 2),
        "far": np.exp(-0.5 * (batch / FAR_OCTAVES) ** 2),
        "level": np.exp(-0.5 * ((left.level[:, None] - right.level[None]) / LEVEL_LENGTH) ** 2),
        "share": np.outer(left.log_share, right.log_share),
    }


def covariance(parts: tuple[str, ...], weights: Floats, alike: dict[str, Floats]) -> Floats:
    """The weighted sum of `parts`, with likenesses that parts share taken out before them."""
    return np.broadcast_to(_summed(_plan(parts), weights, alike), alike["1"].shape).copy()


@dataclass(frozen=True, slots=True)
class _Plan:
    """`common` times `within`, and `without` beside it; no `common`: the sum of the weights at `own`."""

    common: str = ""
    within: _Plan | None = None
    without: _Plan | None = None
    own: tuple[int, ...] = ()


@lru_cache(maxsize=8)
def _plan(parts: tuple[str, ...]) -> _Plan:
    return _planned([(frozenset(part.split("*")) - {"1"}, index) for index, part in enumerate(parts)])


def _planned(terms: list[tuple[frozenset[str], int]]) -> _Plan:
    """Horner's rule for several variables: the most frequent factor first."""
    counts = Counter(name for names, _ in terms for name in names)
    if not counts:
        return _Plan(own=tuple(index for _, index in terms))
    common = max(counts, key=lambda name: (counts[name], name))
    within = [(names - {common}, index) for names, index in terms if common in names]
    without = [(names, index) for names, index in terms if common not in names]
    return _Plan(common, _planned(within), _planned(without) if without else None)


def _summed(plan: _Plan, weights: Floats, alike: dict[str, Floats]) -> Floats | float:
    if plan.within is None:
        return sum(float(weights[index]) for index in plan.own)
    product = alike[plan.common] * _summed(plan.within, weights, alike)
    return product if plan.without is None else product + _summed(plan.without, weights, alike)


def product(part: str, alike: dict[str, Floats]) -> Floats:
    first, *others = part.split("*")
    value = alike[first].astype(np.float64)
    for name in others:
        value *= alike[name]
    return value


def prior_weights() -> Floats:
    """Log variances expected of the parts before anything is seen: compute, transfer, noise."""
    orders = [0 if part == "1" else 1 + part.count("*") for part in (*COMPUTE, *TRANSFER)]
    return np.log([*(_VARIANCE_BY_ORDER[order] for order in orders), _NOISE_VARIANCE])


def _same(left: Integers, right: Integers) -> Floats:
    return np.asarray(left[:, None] == right[None], dtype=np.float64)
