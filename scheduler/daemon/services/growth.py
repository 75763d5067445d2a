"""What counters grew by from one look to the next, each by the times of its own samples.

Differences and not a source's rates: those overlap from one look to the next, and a canary judged by them would count
each request several times. Lies pass as they are, for the engine to refuse: a counter below 0 has "grown" by that.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final

from scheduler.model.ids import Instant
from scheduler.predict.bounded import Recent

_MOST_SERIES: Final = 200_000
_LONGEST_SECONDS: Final = 900.0
"""What a counter was longer ago tells nothing of now."""


@dataclass(frozen=True, slots=True)
class Growth:
    """`since_birth`: nothing was told of it before, and it is spread over its owner's whole life."""

    amount: float
    seconds: float
    at: Instant
    since_birth: bool = False

    @property
    def per_second(self) -> float:
        return self.amount / self.seconds


class Counters:
    """Of many series. Bounded; changed in place by `grown`."""

    def __init__(self) -> None:
        self._last: Recent[Hashable, tuple[float, Instant]] = Recent(_MOST_SERIES)

    def grown(self, key: Hashable, value: float, at: Instant, born_at: Instant | None = None) -> Growth | None:
        """Since it was last told; None: nothing can be said yet, or nothing new was told.

        `born_at`: of whatever counts, so that one which was never told of counts from then.
        """
        before = self._last.get(key)
        if before is not None and at <= before[1]:
            return None
        self._last.put(key, (value, at))
        if before is not None and at - before[1] <= _LONGEST_SECONDS:
            return Growth(_increase(before[0], value), at - before[1], at)
        if born_at is None or at <= born_at:
            return None
        return Growth(value, at - born_at, at, since_birth=True)


def _increase(before: float, after: float) -> float:
    """One that fell was reset to 0 in between (as in `clusters.metrics`); below 0 no counter is."""
    if after < 0:
        return after
    return after - before if after >= before >= 0 else after


def per_second(growths: Iterable[Growth]) -> float:
    """Of all together; one that cannot be is what they all amount to."""
    rates = [each.per_second for each in growths]
    worst = min(rates, default=0.0)
    return worst if worst < 0 else sum(rates)
