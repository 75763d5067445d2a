"""How good predictions were, by day and by queue or GPU model: what `overspill model show` tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from scheduler.predict.bounded import Recent

MOST_RECORDS: Final = 10_000
"""Days x names; the one that nothing was added to for longest is forgotten."""
QUEUE, GPU, SOURCE = "queue", "gpu", "source"
_DAY: Final = 86400.0
_WORST: Final = 20.0
"""Log units that one prediction counts at most."""


@dataclass(frozen=True, slots=True)
class Record:
    runs: int
    error_sum: float
    """Of absolute log errors."""
    covered: int
    """Runs that ended within their 90 % interval."""

    @property
    def error(self) -> float:
        """Mean absolute log error: 0.1 is about 10 % off, 0.69 a factor of two."""
        return self.error_sum / self.runs

    @property
    def coverage(self) -> float:
        return self.covered / self.runs


class Records:
    """Counts by (day since the epoch, what, name)."""

    def __init__(self) -> None:
        self._by: Recent[tuple[int, str, str], Record] = Recent(MOST_RECORDS)

    def add(self, at: float, what: str, name: str, log_error: float, covered: bool) -> None:
        """One run that ended; what is not finite is passed over."""
        if not math.isfinite(log_error) or not math.isfinite(at):
            return
        key = (int(at // _DAY), what, name)
        old = self._by.get(key) or Record(0, 0.0, 0)
        error = min(_WORST, abs(log_error))
        self._by.put(key, Record(old.runs + 1, old.error_sum + error, old.covered + covered))

    def by_day(self, what: str) -> dict[str, list[tuple[int, Record]]]:
        """By name, the days in order."""
        found: dict[str, list[tuple[int, Record]]] = {}
        for (day, kind, name), record in sorted(self._by.items()):
            if kind == what:
                found.setdefault(name, []).append((day, record))
        return found

    def total(self, what: str, since: float = -math.inf) -> dict[str, Record]:
        """By name, over all days kept that end after `since` (seconds since the epoch)."""
        found: dict[str, Record] = {}
        for name, days in self.by_day(what).items():
            for day, one in days:
                if (day + 1) * _DAY > since:
                    old = found.get(name) or Record(0, 0.0, 0)
                    found[name] = Record(old.runs + one.runs, old.error_sum + one.error_sum, old.covered + one.covered)
        return found

    def state(self) -> list[Any]:
        """As JSON values."""
        return [[*key, one.runs, one.error_sum, one.covered] for key, one in self._by.items()]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> Records:
        """Raises: ValueError, TypeError for what `state` did not write."""
        records = cls()
        for day, what, name, runs, error, covered in state:
            if not (runs > 0 and 0 <= covered <= runs and math.isfinite(error)):
                raise ValueError("counts that cannot be")
            records._by.put((int(day), str(what), str(name)), Record(int(runs), float(error), int(covered)))
        return records
