"""Which source knows a queue's run times best: mean absolute log errors of each, newer runs counting more."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scheduler.predict.bounded import Recent
from scheduler.predict.learned import HINT, HISTORY, SOURCES, WORK

MOST_QUEUES: Final = 1000
_PRIOR: Final = {WORK: 0.25, HISTORY: 0.7, HINT: 0.8}
"""Mean absolute log errors before any run of the queue has ended; in the order of `SOURCES`."""
_PRIOR_RUNS: Final = 5
_MEMORY: Final = 50
_WORST: Final = 5.0
"""Log units that one run counts at most: a single outlier does not decide."""


@dataclass(frozen=True, slots=True)
class _Error:
    mean: float
    runs: int = _PRIOR_RUNS

    def with_one(self, error: float) -> _Error:
        runs = min(_MEMORY, self.runs + 1)
        return _Error(self.mean + (min(_WORST, error) - self.mean) / runs, runs)


class SourceErrors:
    """By queue. Values are replaced, never changed."""

    def __init__(self) -> None:
        self._queues: Recent[str, Mapping[str, _Error]] = Recent(MOST_QUEUES)

    def learn(self, queue: str, log_errors: Mapping[str, float]) -> None:
        """Of one run, for each source that had said something."""
        known = self._queues.get(queue) or {name: _Error(error) for name, error in _PRIOR.items()}
        told = {name: abs(error) for name, error in log_errors.items() if math.isfinite(error)}
        self._queues.put(queue, {n: one.with_one(told[n]) if n in told else one for n, one in known.items()})

    def order(self, queue: str) -> tuple[str, ...]:
        """The best first; ties as in `SOURCES`."""
        known = self._queues.get(queue)
        return SOURCES if known is None else tuple(sorted(SOURCES, key=lambda name: known[name].mean))

    def orders(self) -> dict[str, tuple[str, ...]]:
        """Of all queues."""
        return {queue: self.order(queue) for queue, _ in self._queues.items()}

    def errors(self) -> dict[str, dict[str, float]]:
        """Mean absolute log error by queue and source."""
        return {queue: {name: one.mean for name, one in known.items()} for queue, known in self._queues.items()}

    def state(self) -> list[Any]:
        """As JSON values."""
        return [[q, {name: [one.mean, one.runs] for name, one in known.items()}] for q, known in self._queues.items()]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> SourceErrors:
        """Raises: ValueError, KeyError, TypeError for what `state` did not write."""
        found = cls()
        for queue, known in state:
            read = {name: _Error(float(known[name][0]), int(known[name][1])) for name in SOURCES}
            if not all(math.isfinite(one.mean) and one.mean >= 0 and one.runs > 0 for one in read.values()):
                raise ValueError("errors that cannot be")
            found._queues.put(str(queue), read)
        return found
