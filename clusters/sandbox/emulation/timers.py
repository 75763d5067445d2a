"""A heap of things to happen at instants of virtual time, fired in that order however far the clock leaps."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from scheduler.model.ids import Instant
from scheduler.model.ports import Clock

_log = structlog.get_logger(__name__)
_BATCH = 256
"""Timers fired before other tasks get their turn."""


@dataclass(slots=True, eq=False)
class Timer:
    """A pending action; `action` is None once it has fired or was cancelled."""

    due: Instant
    action: Callable[[Instant], None] | None
    quiet: bool

    def cancel(self) -> None:
        self.action = None


class Timers:
    """Calls actions with their own due time, in order of due time (ties: in the order they were set).

    One instance serves all clusters of a sandbox, so that the order holds across them. Actions are synchronous and
    short: they change memory and queue keys; writing is done by workers.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heap: list[tuple[Instant, int, Timer]] = []
        self._sequence = itertools.count()
        self._wake = asyncio.Event()

    def at(self, due: Instant, action: Callable[[Instant], None], *, quiet: bool = False) -> Timer:
        """Have `action(due)` called at `due`. `quiet`: nothing that a leap of the clock must stop for."""
        timer = Timer(due, action, quiet)
        heapq.heappush(self._heap, (due, next(self._sequence), timer))
        if self._heap[0][2] is timer:
            self._wake.set()
        return timer

    def next_due(self) -> Instant | None:
        """When the next timer fires that is not quiet; None when there is none."""
        self._drop_cancelled()
        if self._heap and not self._heap[0][2].quiet:
            return self._heap[0][0]
        return min((due for due, _, timer in self._heap if timer.action and not timer.quiet), default=None)

    def wake(self) -> None:
        """Look at the clock again now: it has leapt."""
        self._wake.set()

    def fire_due(self, limit: int = _BATCH) -> int:
        """Fire what is due by now, at most `limit` of them; how many fired."""
        now, fired = self._clock.now(), 0
        while self._heap and self._heap[0][0] <= now and fired < limit:
            due, _, timer = heapq.heappop(self._heap)
            action, timer.action = timer.action, None
            if action is None:
                continue
            fired += 1
            try:
                action(due)
            except Exception:  # noqa: BLE001  (loop edge: one faulty action must not stop time)
                _log.exception("timer action failed", due=due)
        return fired

    async def run(self) -> None:
        """Fire for ever."""
        while True:
            self._wake.clear()
            if self.fire_due():
                await asyncio.sleep(0)
                continue
            self._drop_cancelled()
            if not self._heap:
                await self._wake.wait()
                continue
            await self._sleep_until(self._heap[0][0])

    async def _sleep_until(self, due: Instant) -> None:
        sleeping = asyncio.ensure_future(self._clock.sleep(max(0.0, due - self._clock.now())))
        waking = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((sleeping, waking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sleeping.cancel()
            waking.cancel()
            await asyncio.gather(sleeping, waking, return_exceptions=True)

    def _drop_cancelled(self) -> None:
        while self._heap and self._heap[0][2].action is None:
            heapq.heappop(self._heap)
