"""How fast a workload runs on a GPU model, a number of GPUs and a spread: what was seen, and what follows from it.

`observe` is cheap and remembers; `refit` is heavy and runs off the loop; `predict` answers from both. A configuration
that was seen is answered by the median of its own last observations; others by `throughput_fit`, moved to agree with
what was seen of the same workload on the same GPU since. Nothing here reads a clock or a file.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

import numpy as np

from scheduler.predict.throughput_fit import Fit, fit

STATE_VERSION: Final = 1
_KEPT_OF_A_CELL: Final = 9
_MOST_CELLS: Final = 4_000
_HIGHEST_STEPS_PER_S: Final = 1e7
_LOWEST_STEPS_PER_S: Final = 1e-7
_ABSURD: Final = math.log(8.0)
"""So far from the median of its own configuration a speed is not believed, until others say the same."""
_BELIEVED: Final = 3
_OWN_NOISE: Final = 0.03
"""Log units, one standard deviation: runs of one configuration beside each other, for want of enough of them."""
_NORMAL_95: Final = 1.6449


@dataclass(frozen=True, slots=True)
class Configuration:
    """What is run where. `model` is the workload's class; `batch_size` is per GPU, None where it has none or it is not
    known; `gpu` is a GPU model in any spelling; `consolidated` says that all GPUs are in one node; `share` is the part
    of each GPU that it gets, over 0 up to 1."""

    model: str
    batch_size: int | None
    gpu: str
    gpus: int
    consolidated: bool = True
    share: float = 1.0


@dataclass(frozen=True, slots=True)
class Spread:
    """Steps per second that it stays under with a chance of 5 %, 50 % and 95 %."""

    low: float
    median: float
    high: float


@dataclass(slots=True)
class _Cell:
    logs: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_OF_A_CELL))
    doubted: list[float] = field(default_factory=list)


class ThroughputModel:
    """Learns from each observation at once, and across workloads and GPUs at each refit. Keeps 4,000 configurations,
    those observed last, and nine observations of each."""

    def __init__(self) -> None:
        self._cells: OrderedDict[Configuration, _Cell] = OrderedDict()
        self._fit: Fit | None = None
        self.refused = 0
        """Observations that taught nothing, as they cannot be or contradict their own configuration's."""

    def observe(self, configuration: Configuration, steps_per_second: float) -> None:
        """Under 5 ms. Refuses (and counts) what is not finite, not positive, of no possible configuration, or more than
        eight times off the median of its own configuration; three in a row that agree with each other are a new level.
        """
        key = _normal(configuration)
        if key is None or not _LOWEST_STEPS_PER_S < steps_per_second < _HIGHEST_STEPS_PER_S:
            self.refused += 1
            return
        value = math.log(steps_per_second)
        cell = self._cells.setdefault(key, _Cell())
        self._cells.move_to_end(key)
        while len(self._cells) > _MOST_CELLS:
            self._cells.popitem(last=False)
        if cell.logs and abs(value - median(cell.logs)) > _ABSURD:
            self.refused += 1
            cell.doubted = [one for one in cell.doubted if abs(one - value) <= _ABSURD] + [value]
            if len(cell.doubted) < _BELIEVED:
                return
            cell.logs.clear()
            cell.logs.extend(cell.doubted)
            self.refused -= _BELIEVED
        else:
            cell.logs.append(value)
        cell.doubted = []

    def refit(self) -> None:
        """Learns across workloads and GPUs. Seconds: not for the event loop."""
        self._fit = fit([(key, median(cell.logs)) for key, cell in self._cells.items() if cell.logs])

    def predict(self, configuration: Configuration) -> Spread | None:
        """None where nothing is known that it could follow from, or for a configuration that cannot be."""
        return self.predict_many([configuration])[0]

    def predict_many(self, configurations: Sequence[Configuration]) -> list[Spread | None]:
        """As `predict`, in the order given; each unlike configuration is worked out once."""
        keys = [_normal(one) for one in configurations]
        unlike = list(dict.fromkeys(key for key in keys if key is not None))
        answers = {key: self._own(key) for key in unlike}
        asked = [key for key in unlike if answers[key] is None]
        if self._fit is not None and asked:
            low, middle, high = np.exp(self._fit.predict(asked))
            for index, key in enumerate(asked):
                if math.isfinite(middle[index]):
                    answers[key] = Spread(float(low[index]), float(middle[index]), float(high[index]))
        return [None if key is None else answers[key] for key in keys]

    def state(self) -> dict[str, Any]:
        """All that was learned, as JSON values."""
        return {
            "version": STATE_VERSION,
            "refused": self.refused,
            "cells": [
                [key.model, key.batch_size, key.gpu, key.gpus, key.consolidated, key.share, list(cell.logs)]
                for key, cell in self._cells.items()
                if cell.logs
            ],
            "fit": None if self._fit is None else self._fit.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ThroughputModel:
        """Raises: ValueError for another version, or for anything that `state` does not say."""
        if state.get("version") != STATE_VERSION:
            raise ValueError(f"throughput state of version {state.get('version')}, not {STATE_VERSION}; learn it anew")
        model = cls()
        try:
            for *names, logs in state["cells"]:
                for value in logs:
                    model.observe(Configuration(*names), math.exp(value))
            model.refused = int(state["refused"])
            model._fit = None if state["fit"] is None else Fit.from_state(state["fit"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"throughput state is damaged: {error!r}; learn it anew") from error
        return model

    def _own(self, key: Configuration) -> Spread | None:
        cell = self._cells.get(key)
        if cell is None or not cell.logs:
            return None
        middle, width = median(cell.logs), _OWN_NOISE * _NORMAL_95 * math.sqrt(1 + 1 / len(cell.logs))
        return Spread(math.exp(middle - width), math.exp(middle), math.exp(middle + width))


def _normal(one: Configuration) -> Configuration | None:
    """The same for configurations that are the same, None for one that cannot be."""
    if one.gpus < 1 or not 0 < one.share <= 1 or (one.batch_size is not None and one.batch_size < 1):
        return None
    consolidated = one.consolidated or one.gpus == 1
    return Configuration(one.model, one.batch_size, one.gpu.strip().lower(), one.gpus, consolidated, one.share)
