"""Two workloads on one GPU: what part of the speed that it has alone each keeps, and whether both fit.

`observe` is cheap and remembers; `refit` is heavy and runs off the loop (`sharing_fit` holds the numbers); `predict`
answers by what was seen of that very pair, else by the fit. Nothing here reads a clock or a file.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from scheduler.predict.bounded import Recent

if TYPE_CHECKING:
    from scheduler.predict.sharing_fit import SharingFit

STATE_VERSION: Final = 1
MOST_PAIRS: Final = 1_000
"""Pairs that are kept, those observed last; a refit takes about a second."""
_KEPT_OF_A_PAIR: Final = 5
_MOST_COMPANY: Final = 32
_NORMAL_95: Final = 1.6449
_OWN_NOISE: Final = 0.05
"""Log units, one standard deviation: runs of one pair beside each other, at the least."""
_LEAST_KEPT, _MOST_KEPT = 0.01, 1.25
"""A part kept outside of these is a fault of measurement, and teaches nothing."""


@dataclass(frozen=True, slots=True)
class Alone:
    """A workload as it runs alone on a GPU: the class that its users name, the batch size on a GPU (None: it has none,
    or it is not known), steps per second."""

    model: str
    batch_size: int | None
    steps_per_second: float


@dataclass(frozen=True, slots=True)
class Beside:
    """`own` beside `other` on one `gpu`, each with its speed alone there."""

    own: Alone
    other: Alone
    gpu: str


@dataclass(frozen=True, slots=True)
class Kept:
    """Part of its speed alone, over 0 up to 1, that it stays under with a chance of 5 %, 50 % and 95 %."""

    low: float
    median: float
    high: float


_Pair = tuple[str, int | None, str, int | None, str]


@dataclass(frozen=True, slots=True)
class _Seen:
    beside: Beside
    """With the speeds alone that were known last."""
    logs: tuple[float, ...]


class SharingModel:
    """Learns from each observation of a run beside another; across workloads and GPUs at each refit."""

    def __init__(self) -> None:
        self._seen: Recent[_Pair, _Seen] = Recent(MOST_PAIRS)
        self._fit: SharingFit | None = None
        self._company: dict[str, deque[Alone]] = {}
        self.refused = 0
        """Observations that taught nothing, as they cannot be."""

    def __len__(self) -> int:
        """Pairs that were observed, each direction for itself."""
        return len(self._seen)

    def observe(self, beside: Beside, steps_per_second: float) -> None:
        """`steps_per_second` of `beside.own` while the other ran on the same GPU. Microseconds."""
        if not _possible(beside) or not 0 < steps_per_second < math.inf:
            self.refused += 1
            return
        kept = steps_per_second / beside.own.steps_per_second
        if not _LEAST_KEPT <= kept <= _MOST_KEPT:
            self.refused += 1
            return
        before = self._seen.get(_key(beside))
        logs = (*(() if before is None else before.logs), math.log(min(1.0, kept)))
        self._keep(_Seen(beside, logs[-_KEPT_OF_A_PAIR:]))

    def refit(self) -> None:
        """Learns across pairs. Seconds: not for the event loop."""
        from scheduler.predict.sharing_fit import fit

        self._fit = fit([(one.beside, median(one.logs)) for _, one in self._seen.items()])

    def fork(self) -> SharingModel:
        """A copy that goes its own way from here on."""
        twin = SharingModel()
        for key, one in self._seen.items():
            twin._seen.put(key, one)
        twin._company = {gpu: company.copy() for gpu, company in self._company.items()}
        twin._fit, twin.refused = self._fit, self.refused
        return twin

    def predict(self, beside: Beside) -> Kept | None:
        """None before anything was learned, or for a pair that cannot be."""
        if not _possible(beside):
            return None
        seen = self._seen.get(_key(beside))
        if seen is not None:
            return _kept(median(seen.logs), max(_OWN_NOISE, _scatter(seen.logs)))
        if self._fit is None:
            return None
        middle, spread = self._fit.predict([beside])
        return _kept(float(middle[0]), float(spread[0]))

    def beside_anyone(self, own: Alone, gpu: str, others: int = 1) -> Kept | None:
        """Of `others` neighbours of whom nothing is known: as beside those seen last on that GPU, each as likely.

        With several, what each takes adds up in time, (1 / kept - 1) each: an assumption, nothing was measured of
        more than two. None before anything was learned of that GPU.
        """
        company = self._company.get(gpu)
        if self._fit is None or not company or others < 1:
            return None
        asked = [Beside(own, other, gpu) for other in company]
        if not _possible(asked[0]):
            return None
        middles, spreads = self._fit.predict(asked)
        middle, spread = float(middles.mean()), math.sqrt(float((spreads**2).mean() + middles.var()))
        one = _kept(middle, spread)
        return Kept(*(1.0 / (1.0 + others * (1.0 / part - 1.0)) for part in (one.low, one.median, one.high)))

    def state(self) -> dict[str, Any]:
        """All that was learned, as JSON values."""
        return {
            "version": STATE_VERSION,
            "refused": self.refused,
            "seen": [[*_told(one.beside), list(one.logs)] for _, one in self._seen.items()],
            "weights": None if self._fit is None else self._fit.weights.tolist(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> SharingModel:
        """Works the fit out anew, without learning its weights again. Raises: ValueError for another version, or for
        anything that `state` does not say."""
        if not isinstance(state, Mapping) or state.get("version") != STATE_VERSION:
            raise ValueError(f"this is no state of shared runs of version {STATE_VERSION}; learn it anew")
        model = cls()
        try:
            for told in state["seen"]:
                model._keep(_read(told))
            model.refused = int(state["refused"])
            if state["weights"] is not None:
                model._solve([float(weight) for weight in state["weights"]])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"state of shared runs is damaged: {error!r}; learn it anew") from error
        return model

    def _solve(self, weights: Sequence[float]) -> None:
        from scheduler.predict.sharing_fit import fit, prior_weights

        log_variances = np.array(weights, dtype=float)
        if log_variances.shape != prior_weights().shape or not np.isfinite(log_variances).all():
            raise ValueError("weights that cannot be")
        self._fit = fit([(one.beside, median(one.logs)) for _, one in self._seen.items()], log_variances)

    def _keep(self, seen: _Seen) -> None:
        self._seen.put(_key(seen.beside), seen)
        company = self._company.setdefault(seen.beside.gpu, deque(maxlen=_MOST_COMPANY))
        other = seen.beside.other
        same = [one for one in company if (one.model, one.batch_size) == (other.model, other.batch_size)]
        for one in same:
            company.remove(one)
        company.append(other)
        while len(self._company) > _MOST_COMPANY:
            del self._company[next(iter(self._company))]


def _possible(one: Beside) -> bool:
    return all(
        0 < each.steps_per_second < math.inf and (each.batch_size is None or each.batch_size >= 1)
        for each in (one.own, one.other)
    )


def _key(one: Beside) -> _Pair:
    return one.own.model, one.own.batch_size, one.other.model, one.other.batch_size, one.gpu


def _scatter(logs: Sequence[float]) -> float:
    middle = median(logs)
    return 1.4826 * median(abs(one - middle) for one in logs)


def _kept(middle: float, spread: float) -> Kept:
    low, most, high = (min(1.0, math.exp(middle + step * _NORMAL_95 * spread)) for step in (-1, 0, 1))
    return Kept(low, most, high)


def _told(one: Beside) -> list[Any]:
    return [*(each for side in (one.own, one.other) for each in _side(side)), one.gpu]


def _side(one: Alone) -> tuple[str, int | None, float]:
    return one.model, one.batch_size, one.steps_per_second


def _read(told: Sequence[Any]) -> _Seen:
    """Raises: ValueError, TypeError."""
    own, own_batch, own_speed, other, other_batch, other_speed, gpu, logs = told
    sides = [
        Alone(str(model), None if batch is None else int(batch), float(speed))
        for model, batch, speed in ((own, own_batch, own_speed), (other, other_batch, other_speed))
    ]
    seen = _Seen(Beside(sides[0], sides[1], str(gpu)), tuple(float(one) for one in logs)[-_KEPT_OF_A_PAIR:])
    if not _possible(seen.beside) or not seen.logs or not all(math.log(_LEAST_KEPT) <= one <= 0 for one in seen.logs):
        raise ValueError("a shared run that cannot be")
    return seen
