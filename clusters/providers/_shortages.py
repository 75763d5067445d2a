"""Shortages with a beginning: clouds say that nodes are lacking, few of them say since when."""

from __future__ import annotations

from scheduler.model.cluster import Shortage
from scheduler.model.ports import Clock


class ShortageLedger:
    """Remembers when each pool's present shortage was first seen."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._present: dict[str, Shortage] = {}

    def note(self, pool: str, kind: str | None, text: str) -> Shortage | None:
        """The shortage of `pool` as it is now; `kind` None: there is none any more. A change of kind begins anew."""
        if kind is None:
            self._present.pop(pool, None)
            return None
        before = self._present.get(pool)
        since = before.since if before is not None and before.kind == kind else self._clock.now()
        self._present[pool] = Shortage(kind, text, since)
        return self._present[pool]
