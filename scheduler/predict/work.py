"""How fast a workload that was never seen runs, from what it declares: its arithmetic over what the GPU can do.

Training takes about six operations a parameter and token (J. Kaplan et al., "Scaling Laws for Neural Language Models",
2020, 2.1: two forward, four backward). What part of a GPU's peak is reached is the efficiency (model FLOPs utilisation:
A. Chowdhery et al., "PaLM", 2022, 4.1 and appendix B: 21 to 46 % of large models; small ones reach far less). It is
normal in its logarithm with an unknown mean and variance, learned from the models that were seen, each counting once:
the predictive distribution is Student's t (Gelman et al., "Bayesian Data Analysis", 3rd ed., 3.3), its 95 % quantile
expanded in 1 / degrees of freedom (Abramowitz and Stegun, 26.7.5).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from types import MappingProxyType
from typing import Any, Final

from scheduler.model.traits import Traits
from scheduler.predict.bounded import Recent
from scheduler.predict.hardware import facts_of
from scheduler.predict.throughput import Configuration, Spread

_OPERATIONS: Final = 6.0
_PRIOR_LOG_EFFICIENCY: Final = math.log(0.25)
_PRIOR_LOG_SD: Final = 0.8
_PRIOR_MODELS: Final = 2.0
"""So many models the prior mean is worth."""
_PRIOR_FREEDOM: Final = 4.0
_OF_A_FRAMEWORK: Final = 3
"""Models of one framework from which on it speaks for itself."""
_NORMAL_95: Final = 1.6449
_MOST_MODELS: Final = 1000
_KEPT: Final = 9
_LOWEST, _HIGHEST = math.log(1e-7), math.log(2.0)
"""An efficiency beyond is a wrong annotation."""


def log_peak_speed(traits: Traits, one: Configuration) -> float | None:
    """Log steps per second if the GPUs did nothing but the workload's own arithmetic; None: it declares too little, or
    the GPU is not listed. Precision not said: half-way between FP32 and FP16."""
    facts = facts_of(one.gpu)
    if facts is None or traits.parameters is None or traits.sequence_length is None or one.batch_size is None:
        return None
    full, half = facts.fp32_tflops, facts.fp16_tflops or facts.tf32_tflops or facts.fp32_tflops
    if full is None or half is None:
        return None
    tflops = {
        "fp32": full, "tf32": facts.tf32_tflops or full, "fp16": half, "bf16": half, "fp8": half,
    }.get(traits.precision or "", math.sqrt(full * half))  # fmt: skip
    operations = _OPERATIONS * traits.parameters * traits.sequence_length * one.batch_size
    return math.log(one.gpus * one.share * tflops * 1e12 / operations)


@dataclass(frozen=True, slots=True)
class _Normal:
    """Log efficiency of a model never seen: its median, and how far its 95 % quantile is from it."""

    middle: float
    width: float


def _posterior(logs: Sequence[float]) -> _Normal:
    """Of a normal with a conjugate prior, by one value for each model."""
    count = len(logs)
    mean = sum(logs) / count if count else _PRIOR_LOG_EFFICIENCY
    weight, freedom = _PRIOR_MODELS + count, _PRIOR_FREEDOM + count
    middle = (_PRIOR_MODELS * _PRIOR_LOG_EFFICIENCY + count * mean) / weight
    off = _PRIOR_MODELS * count / weight * (mean - _PRIOR_LOG_EFFICIENCY) ** 2
    squares = _PRIOR_FREEDOM * _PRIOR_LOG_SD**2 + sum((each - mean) ** 2 for each in logs) + off
    heavier = 1.0 + (_NORMAL_95**2 + 1.0) / (4.0 * freedom)
    return _Normal(middle, _NORMAL_95 * heavier * math.sqrt(squares / freedom * (1.0 + 1.0 / weight)))


_OF_NOBODY: Final = _posterior(())


@dataclass(frozen=True, slots=True)
class Efficiency:
    """What is known of models never seen. Not changed by anybody."""

    of_any: _Normal = _OF_NOBODY
    by_framework: Mapping[str, _Normal] = field(default_factory=lambda: MappingProxyType({}))

    def speed(self, traits: Traits, one: Configuration) -> Spread | None:
        """Steps per second; None where `log_peak_speed` is. What exchanging gradients takes is not known of it."""
        peak = log_peak_speed(traits, one)
        if peak is None:
            return None
        known = self.by_framework.get(traits.framework or "", self.of_any)
        middle = peak + known.middle
        return Spread(math.exp(middle - known.width), math.exp(middle), math.exp(middle + known.width))


def surer(one: Spread | None, other: Spread | None) -> Spread | None:
    """Whose interval is narrower, in logarithms."""
    if one is None or other is None:
        return one if other is None else other
    return one if one.high / one.low <= other.high / other.low else other


class Efficiencies:
    """Of models that were seen and declare what they are. Bounded: 1,000 models, nine observations of each."""

    def __init__(self) -> None:
        self._models: Recent[str, tuple[str, tuple[float, ...]]] = Recent(_MOST_MODELS)
        """Framework ("": not known), and logs."""

    def learn(self, traits: Traits, one: Configuration, steps_per_second: float) -> None:
        """What cannot be, or can only be a wrong declaration, teaches nothing."""
        peak = log_peak_speed(traits, one)
        if peak is None or not 0 < steps_per_second < math.inf:
            return
        reached = math.log(steps_per_second) - peak
        if _LOWEST <= reached <= _HIGHEST:
            _, before = self._models.get(one.model) or ("", ())
            self._models.put(one.model, (traits.framework or "", (*before, reached)[-_KEPT:]))

    def view(self) -> Efficiency:
        """As of now."""
        by_framework: dict[str, list[float]] = {}
        every = []
        for framework, logs in self._models.values():
            every.append(median(logs))
            by_framework.setdefault(framework, []).append(every[-1])
        spoken = {
            name: _posterior(logs) for name, logs in by_framework.items() if name and len(logs) >= _OF_A_FRAMEWORK
        }
        return Efficiency(_posterior(every), MappingProxyType(spoken))

    def state(self) -> list[Any]:
        """As JSON values."""
        return [[model, framework, list(logs)] for model, (framework, logs) in self._models.items()]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> Efficiencies:
        """Raises: ValueError, TypeError for what `state` did not write."""
        found = cls()
        for model, framework, logs in state:
            read = tuple(float(each) for each in logs)
            if not 0 < len(read) <= _KEPT or not all(_LOWEST <= each <= _HIGHEST for each in read):
                raise ValueError("efficiencies that cannot be")
            found._models.put(str(model), (str(framework), read))
        return found
