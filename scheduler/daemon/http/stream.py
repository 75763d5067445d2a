"""Decisions as they are taken, for whoever listens (server-sent events).

One bounded ring for all listeners, each with its own place in it: one that is slow misses some and is told so, and
holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any, Final

from scheduler.daemon.placing.decisions import to_json
from scheduler.model.plan import Decision

HELD: Final = "held"
"""Told by nobody: a long backlog is held again in every cycle."""
KEPT: Final = 500
LISTENERS_AT_MOST: Final = 32


class DecisionStream:
    """Belongs to the event loop."""

    def __init__(self, epoch: str) -> None:
        """`epoch` tells this process's events from those of the one before."""
        self._epoch = epoch
        self._ring: deque[Decision] = deque(maxlen=KEPT)
        self._count = 0
        self._news = asyncio.Event()
        self.listeners = 0
        self.closed = False

    def add(self, decision: Decision) -> None:
        if decision.outcome == HELD:
            return
        self._ring.append(decision)
        self._count += 1
        self._wake()

    def close(self) -> None:
        """Have every listener go."""
        self.closed = True
        self._wake()

    @property
    def news(self) -> asyncio.Event:
        """Set once something comes after this moment."""
        return self._news

    def _wake(self) -> None:
        if self.listeners:
            news, self._news = self._news, asyncio.Event()
            news.set()

    def since(self, last: int) -> tuple[list[dict[str, Any]], int, int]:
        """What came after number `last`, oldest first; the number of the newest; how many of them are gone."""
        first_kept = self._count - len(self._ring)
        begin = max(last, first_kept)
        told = [told_of(decision) for decision in list(self._ring)[begin - first_kept :]]
        return told, self._count, begin - last

    def place(self, last_event_id: str, back: int = 50) -> int:
        """Where a listener goes on that has seen that event; one that is new begins `back` events ago."""
        epoch, _, number = last_event_id.rpartition("-")
        if epoch == self._epoch and number.isascii() and number.isdigit() and len(number) < 16:
            return min(int(number), self._count)
        return max(0, self._count - back, self._count - len(self._ring))

    def event_id(self, number: int) -> str:
        return f"{self._epoch}-{number}"


def told_of(decision: Decision) -> dict[str, Any]:
    """A decision in short, as JSON values."""
    chosen = decision.chosen
    return {
        "id": decision.id,
        "at": decision.at,
        "workload": to_json(decision.workload),
        "queue": decision.queue,
        "outcome": decision.outcome,
        "reason": to_json(decision.reason),
        "sentence": decision.sentence,
        "pool": None if chosen is None else str(chosen.pool),
        "capacity_type": None if chosen is None else chosen.capacity_type,
        "expected_cost_usd": None if chosen is None else to_json(chosen.expected_cost_usd),
        "expected_start_seconds": None if chosen is None else chosen.expected_start_seconds,
    }
