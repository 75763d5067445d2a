"""What runs made of what they were given: how busy their GPUs were, how much memory they took of one, and how often
they began again.

`Use` is of one attempt while it goes on, `Uses` what was learned of runs that ended. Utilisation is a share (0 to 1),
memory in bytes of one GPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from scheduler.predict.bounded import Recent

MODEL: Final = "model"
MOST_USES: Final = 2000
"""Queues, GPU models and models together; about 200 bytes each."""
_FEWEST_LOOKS: Final = 3
"""Before the mean of an attempt tells anything: the first minutes load data."""
_MOST_BYTES: Final = 1e14
_MEMORY_FADES: Final = 0.99
"""The most memory that was seen loses so much with each run that took less: what is no longer run is forgotten."""


@dataclass(frozen=True, slots=True)
class Use:
    """Of one attempt, as far as it was looked at."""

    looks: int = 0
    busy_sum: float = 0.0
    """Of the mean utilisation of its GPUs at each look."""
    memory_bytes: float | None = None
    """The most that one of its GPUs held at a look; None: nobody said."""

    def looked(self, busy: Sequence[float], memory: Iterable[float]) -> Use:
        """With one look at its GPUs; what cannot be is passed over."""
        able = [one for one in busy if math.isfinite(one) and 0.0 <= one <= 1.5]
        known = [one for one in memory if math.isfinite(one) and 0.0 <= one <= _MOST_BYTES]
        most = max([*known, *([] if self.memory_bytes is None else [self.memory_bytes])], default=None)
        if not able:
            return replace(self, memory_bytes=most)
        return Use(self.looks + 1, self.busy_sum + min(1.0, sum(able) / len(able)), most)

    @property
    def busy(self) -> float | None:
        """Mean utilisation; None: it was hardly looked at."""
        return self.busy_sum / self.looks if self.looks >= _FEWEST_LOOKS else None

    def state(self) -> list[Any]:
        """As JSON values."""
        return [self.looks, self.busy_sum, self.memory_bytes]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> Use:
        """Raises: ValueError, TypeError for what `state` did not write."""
        looks, busy, memory = state
        usable = 0 <= busy <= looks and (memory is None or 0 <= memory <= _MOST_BYTES)
        if not usable:
            raise ValueError("a use that cannot be")
        return cls(int(looks), float(busy), None if memory is None else float(memory))


NO_USE: Final = Use()


@dataclass(frozen=True, slots=True)
class Usage:
    """Of runs that ended."""

    runs: int = 0
    restarts: int = 0
    """Attempts beyond the first, of all of them."""
    busy_runs: int = 0
    """Whose utilisation is known."""
    busy_mean: float = 0.0
    memory_bytes: float | None = None
    """The most that one GPU of such a run held lately."""

    def ended(self, use: Use, restarts: int) -> Usage:
        """With one more."""
        count, mean = self.busy_runs, self.busy_mean
        if use.busy is not None:
            # The newest hundred count.
            count, mean = count + 1, mean + (use.busy - mean) / min(count + 1, 100)
        most = self.memory_bytes
        if use.memory_bytes is not None:
            most = use.memory_bytes if most is None else max(use.memory_bytes, most * _MEMORY_FADES)
        return Usage(self.runs + 1, self.restarts + max(0, restarts), count, mean, most)


class Uses:
    """By what (`records.QUEUE`, `records.GPU`, `MODEL`) and name."""

    def __init__(self) -> None:
        self._by: Recent[tuple[str, str], Usage] = Recent(MOST_USES)

    def learn(self, what: str, name: str, use: Use, restarts: int) -> None:
        """One run that ended, however it did."""
        self._by.put((what, name), (self._by.get((what, name)) or Usage()).ended(use, restarts))

    def of(self, what: str) -> dict[str, Usage]:
        """By name."""
        return {name: usage for (kind, name), usage in sorted(self._by.items()) if kind == what}

    def state(self) -> list[Any]:
        """As JSON values."""
        return [
            [*key, one.runs, one.restarts, one.busy_runs, one.busy_mean, one.memory_bytes]
            for key, one in self._by.items()
        ]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> Uses:
        """Raises: ValueError, TypeError for what `state` did not write."""
        found = cls()
        for what, name, runs, restarts, busy_runs, mean, memory in state:
            usable = 0 <= busy_runs <= runs and restarts >= 0 and 0 <= mean <= 1
            if not usable or not (memory is None or 0 <= memory <= _MOST_BYTES):
                raise ValueError("uses that cannot be")
            held = None if memory is None else float(memory)
            found._by.put((str(what), str(name)), Usage(int(runs), int(restarts), int(busy_runs), float(mean), held))
        return found
