"""Waiting for whichever comes first: something happened, or a time has come."""

from __future__ import annotations

import asyncio

from scheduler.model.ids import Instant
from scheduler.model.ports import Clock


async def happened_or_due(event: asyncio.Event, clock: Clock, due: Instant | None) -> None:
    """Return when `event` is set or, if `due` is given, when the clock has reached it. The event is not cleared."""
    if due is None:
        await event.wait()
        return
    waiters = {
        asyncio.ensure_future(event.wait()),
        asyncio.ensure_future(clock.sleep(max(0.0, due - clock.now()))),
    }
    try:
        await asyncio.wait(waiters, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for waiter in waiters:
            waiter.cancel()
        await asyncio.gather(*waiters, return_exceptions=True)
