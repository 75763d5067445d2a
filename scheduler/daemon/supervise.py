"""Loops that never die of what they read: an error is logged, counted, and the loop starts again after a pause."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from scheduler.daemon.telemetry import Telemetry
from scheduler.model.errors import FencedError, OverspillError

log = structlog.get_logger(__name__)
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 30.0
_HEALTHY_SECONDS: Final = 60.0


async def supervised(name: str, loop: Callable[[], Awaitable[None]], telemetry: Telemetry) -> None:
    """Run `loop` for ever; after a failure start it again with exponential backoff and jitter.

    A FencedError escapes: a process that is no longer the leader must stop as a whole.
    """
    clock = asyncio.get_running_loop().time
    pause = _FIRST_PAUSE_SECONDS
    while True:
        started = clock()
        try:
            await loop()
        except FencedError:
            raise
        except ExceptionGroup as group:
            fenced = group.subgroup(FencedError)
            if fenced is not None:
                raise FencedError("the leader Lease was lost") from group
            log.exception("loop_crashed", loop=name)
        except OverspillError as error:
            log.warning("loop_failed", loop=name, error=str(error)[:300])
        except Exception:  # a loop's edge: report with the traceback and go on
            log.exception("loop_crashed", loop=name)
        telemetry.loop_restarts.labels(name).inc()
        if clock() - started > _HEALTHY_SECONDS:
            pause = _FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  (jitter, not a secret)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def measure_lag(telemetry: Telemetry, every_seconds: float = 0.5) -> None:
    """Keep the metric of how late the event loop runs its timers."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + every_seconds
        await asyncio.sleep(every_seconds)
        telemetry.loop_lag.set(max(0.0, clock() - due))
