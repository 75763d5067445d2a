"""How fast a workload runs on a GPU model, a number of GPUs and a spread: what was seen, and what follows from it.

`observe` is cheap and remembers; `refit` is heavy and runs off the loop; `predict` answers from both. A configuration
that was seen is answered by the median of its own last observations; others by `throughput_fit`, which also takes in
what was seen since it was made. Nothing here reads a clock or a file.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from scheduler.predict.throughput_fit import Fit

STATE_VERSION: Final = 2
_KEPT_OF_A_CELL: Final = 9
_MOST_CELLS: Final = 4_000
_MOST_PENDING: Final = 200
_MOST_ANSWERS: Final = 200_000
_HIGHEST_STEPS_PER_S: Final = 1e7
_LOWEST_STEPS_PER_S: Final = 1e-7
_ABSURD: Final = math.log(8.0)
"""So far from the median of its own configuration a speed is not believed, until others say the same."""
_SURPRISING: Final = 4.0
"""Standard deviations from what is foretold for a configuration that was never seen; and a factor of three at least."""
_BELIEVED: Final = 3
_MOVED: Final = 0.1
"""Log units: a configuration that moved less since the fit tells it nothing new."""
_OWN_NOISE: Final = 0.03
"""Log units, one standard deviation: runs of one configuration beside each other, at the least."""
_NORMAL_95: Final = 1.6449
_ANYONE: Final = "\0"


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
    those observed last, nine observations of each, and 200,000 answers."""

    def __init__(self) -> None:
        self._cells: dict[Configuration, _Cell] = {}
        self._fit: Fit | None = None
        self._fitted: dict[Configuration, float] = {}
        self._pending: dict[Configuration, None] = {}
        """What the fit does not know yet."""
        self._answers: dict[str, dict[Configuration, Spread]] = {}
        self.refused = 0
        """Observations that taught nothing, as they cannot be, or contradict what is known."""

    def observe(self, configuration: Configuration, steps_per_second: float, said: Spread | None = None) -> None:
        """Under 5 ms. `said`: what was foretold of it, where that is known already. Refuses (and counts) what is not
        finite, not positive, of no possible configuration, more than eight times off the median of its own
        configuration, or beyond anything foretold for one that was never seen; three in a row that agree with each
        other are believed."""
        key = _normal(configuration)
        if key is None or not _LOWEST_STEPS_PER_S < steps_per_second < _HIGHEST_STEPS_PER_S:
            self.refused += 1
            return
        value = math.log(steps_per_second)
        # A cell that is kept is never changed, so that a fork has what it had.
        known = self._cells.get(key)
        cell = _Cell() if known is None else _Cell(known.logs.copy(), list(known.doubted))
        if self._doubts(key, cell, value, said):
            self.refused += 1
            cell.doubted = [*(one for one in cell.doubted if abs(one - value) <= _ABSURD / 2), value]
            self._keep(key, cell)
            if len(cell.doubted) < _BELIEVED:
                return
            self.refused -= _BELIEVED
            cell.logs.clear()
            cell.logs.extend(cell.doubted)
        else:
            cell.logs.append(value)
        cell.doubted = []
        self._keep(key, cell)
        self._note(key, median(cell.logs))

    def fork(self) -> ThroughputModel:
        """A copy that goes its own way from here on. Under a millisecond: they share what neither changes, and each
        model's answers until one of them learns of that model."""
        twin = ThroughputModel()
        twin._cells, twin._pending, twin._answers = self._cells.copy(), self._pending.copy(), self._answers.copy()
        twin._fit, twin._fitted, twin.refused = self._fit, self._fitted, self.refused
        return twin

    def __len__(self) -> int:
        """Configurations that were observed."""
        return len(self._cells)

    def has_seen(self, model: str) -> bool:
        """Whether anything of the model is known, on any GPU, to what predicts others from it."""
        known = self._fit is not None and model in self._fit.models
        return known or any(key.model == model for key in self._pending)

    def refit(self) -> None:
        """Learns across workloads and GPUs. Seconds: not for the event loop."""
        from scheduler.predict.throughput_fit import fit

        self._take(fit([(key, median(cell.logs)) for key, cell in self._cells.items() if cell.logs]))

    def observed(self, configuration: Configuration) -> Spread | None:
        """By what was seen of this very configuration alone; None: nothing was."""
        key = _normal(configuration)
        return None if key is None else self._own(key)

    def predict(self, configuration: Configuration) -> Spread | None:
        """None where nothing is known that it could follow from, or for a configuration that cannot be."""
        return self.predict_many([configuration])[0]

    def predict_many(self, configurations: Sequence[Configuration]) -> list[Spread | None]:
        """As `predict`, in the order given. Each unlike configuration is worked out once (models never seen are all
        alike) and remembered until something is learned of its model: so 1,000 classes on 500 offerings cost as many
        answers as there are unlike pairs of class and (GPU model, GPUs, spread)."""
        keys = [_normal(one) for one in configurations]
        seen = set() if self._fit is None else {*self._fit.models, *(key.model for key in self._pending)}
        answers: dict[Configuration | None, Spread | None] = {None: None}
        asked: dict[Configuration, list[Configuration]] = {}
        for key in dict.fromkeys(keys):
            if key is not None and (known := self._own(key)) is not None:
                answers[key] = known
            elif key is not None:
                asked.setdefault(key if key.model in seen else _anyone(key), []).append(key)
        if self._fit is not None:
            self._work_out([one for one in asked if one not in self._answers.get(one.model, {})])
        for one, same in asked.items():
            answers |= dict.fromkeys(same, self._answers.get(one.model, {}).get(one))
        return [answers[key] for key in keys]

    def state(self) -> dict[str, Any]:
        """All that was learned, as JSON values."""
        return {
            "version": STATE_VERSION,
            "refused": self.refused,
            "cells": [[*_fields(key), list(cell.logs)] for key, cell in self._cells.items() if cell.logs],
            "fit": None
            if self._fit is None
            else {
                "cells": [_fields(key) for key in self._fit.cells],
                "log_seconds": self._fit.log_seconds.tolist(),
                "weights": self._fit.weights.tolist(),
                "margins": self._fit.margins.state(),
            },
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> ThroughputModel:
        """Works the fit out anew from what it was fitted to, without learning it again: up to seconds. Raises:
        ValueError for another version, or for anything that `state` does not say."""
        if not isinstance(state, Mapping) or state.get("version") != STATE_VERSION:
            raise ValueError(f"this is no throughput state of version {STATE_VERSION}; learn it anew")
        from scheduler.predict.throughput_fit import fit_from_state

        model = cls()
        try:
            for *names, logs in state["cells"]:
                cell = _Cell()
                cell.logs.extend(_finite(value) for value in logs)
                model._keep(_read(names), cell)
            fitted = state["fit"]
            if fitted is not None:
                model._take(fit_from_state(fitted, [_read(names) for names in fitted["cells"]]))
            model.refused = int(state["refused"])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"throughput state is damaged: {error!r}; learn it anew") from error
        for key, cell in model._cells.items():
            model._note(key, median(cell.logs))
        return model

    def _doubts(self, key: Configuration, cell: _Cell, value: float, said: Spread | None) -> bool:
        if cell.logs:
            return abs(value - median(cell.logs)) > _ABSURD
        if self._fit is None:
            return False
        if said is None:
            said = self.predict(key)
        if said is None:
            return False
        middle = math.log(said.median)
        spread = (math.log(said.high) - middle) / _NORMAL_95
        return abs(value - middle) > max(math.log(3.0), _SURPRISING * spread)

    def _keep(self, key: Configuration, cell: _Cell) -> None:
        self._cells.pop(key, None)
        self._cells[key] = cell
        while len(self._cells) > _MOST_CELLS:
            gone = next(iter(self._cells))
            del self._cells[gone]
            self._pending.pop(gone, None)

    def _note(self, key: Configuration, value: float) -> None:
        """What the fit does not know yet is used by the next prediction."""
        fitted = self._fitted.get(key)
        if fitted is not None and abs(fitted - value) < _MOVED:
            return
        self._pending.pop(key, None)
        self._pending[key] = None
        while len(self._pending) > _MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        self._answers.pop(key.model, None)

    def _take(self, fitted: Fit | None) -> None:
        self._fit = fitted
        self._pending.clear()
        self._answers.clear()
        self._fitted = {}
        if fitted is not None:
            for key, seconds in zip(fitted.cells, fitted.log_seconds.tolist(), strict=True):
                self._fitted[key] = math.log(key.gpus) - seconds

    def _own(self, key: Configuration) -> Spread | None:
        cell = self._cells.get(key)
        if cell is None or not cell.logs:
            return None
        middle = median(cell.logs)
        off = 1.4826 * median(abs(value - middle) for value in cell.logs)
        width = max(_OWN_NOISE, off) * _NORMAL_95 * math.sqrt(1 + 1 / len(cell.logs))
        return Spread(math.exp(middle - width), math.exp(middle), math.exp(middle + width))

    def _work_out(self, asked: Sequence[Configuration]) -> None:
        if not asked:
            return
        said, spread = self._log_answers(asked)
        if sum(map(len, self._answers.values())) + len(asked) > _MOST_ANSWERS:
            self._answers.clear()
        for key, middle, off in zip(asked, said, spread, strict=True):
            width = _NORMAL_95 * off
            self._answers.setdefault(key.model, {})[key] = Spread(
                math.exp(middle - width), math.exp(middle), math.exp(middle + width)
            )

    def _log_answers(self, asked: Sequence[Configuration]) -> tuple[list[float], list[float]]:
        """Log steps per second, and standard deviations wide enough for 90 % intervals that hold."""
        assert self._fit is not None
        models = {key.model for key in asked}
        seen = [(key, median(self._cells[key].logs)) for key in self._pending if key.model in models]
        said, spread = self._fit.update(seen, asked) if seen else self._fit.predict(asked)
        spread = spread * self._fit.margin(asked, [key for key, _ in seen])
        return said.tolist(), spread.tolist()


def _normal(one: Configuration) -> Configuration | None:
    """The same for configurations that are the same, None for one that cannot be."""
    if one.gpus < 1 or not 0 < one.share <= 1 or (one.batch_size is not None and one.batch_size < 1):
        return None
    gpu, consolidated = one.gpu.strip().lower(), one.consolidated or one.gpus == 1
    if gpu == one.gpu and consolidated == one.consolidated:
        return one
    return Configuration(one.model, one.batch_size, gpu, one.gpus, consolidated, one.share)


def _anyone(key: Configuration) -> Configuration:
    """A model that was never seen, in place of `key`'s: of such, nothing but the place is known."""
    return Configuration(_ANYONE, None, key.gpu, key.gpus, key.consolidated, key.share)


def _fields(key: Configuration) -> list[Any]:
    return [key.model, key.batch_size, key.gpu, key.gpus, key.consolidated, key.share]


def _read(names: Iterable[Any]) -> Configuration:
    """Raises: ValueError, TypeError."""
    model, batch, gpu, gpus, consolidated, share = names
    key = _normal(
        Configuration(
            str(model), None if batch is None else int(batch), str(gpu), int(gpus), bool(consolidated), float(share)
        )
    )
    if key is None:
        raise ValueError(f"{model} on {gpu} cannot be run so")
    return key


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("not all numbers are finite")
    return number
