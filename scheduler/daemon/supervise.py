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
_MEASURED_EVERY_SECONDS: Final = 0.5


class Pulse:
    """Which loops keep failing, and how late the event loop is. Times by one monotonic clock."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._failing: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._measured: tuple[float, float] | None = None

    def started(self, name: str) -> None:
        """The loop runs (again)."""
        self._started[name] = self._clock()

    def failed(self, name: str) -> None:
        """It ended, and will be started again."""
        if not self._is_up(name):
            self._failing.setdefault(name, self._clock())
        else:
            self._failing[name] = self._clock()

    def measured(self, lag_seconds: float) -> None:
        """How late a timer ran just now."""
        self._measured = (self._clock(), lag_seconds)

    def failing_seconds(self, name: str) -> float:
        """For how long the loop has not stayed up for a minute; 0: it is well, or has not been started."""
        since = self._failing.get(name)
        return 0.0 if since is None or self._is_up(name) else self._clock() - since

    @property
    def lag_seconds(self) -> float:
        """As last measured, or for how long a measurement is overdue."""
        if self._measured is None:
            return 0.0
        at, lag = self._measured
        return max(lag, self._clock() - at - _MEASURED_EVERY_SECONDS)

    def _is_up(self, name: str) -> bool:
        started = self._started.get(name)
        return started is not None and self._clock() - started > _HEALTHY_SECONDS


async def supervised(name: str, loop: Callable[[], Awaitable[None]], telemetry: Telemetry, pulse: Pulse) -> None:
    """Run `loop` for ever; after a failure start it again with exponential backoff and jitter.

    A FencedError escapes: a process that is no longer the leader must stop as a whole.
    """
    clock = asyncio.get_running_loop().time
    pause = _FIRST_PAUSE_SECONDS
    while True:
        started = clock()
        pulse.started(name)
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
        pulse.failed(name)
        if clock() - started > _HEALTHY_SECONDS:
            pause = _FIRST_PAUSE_SECONDS
        await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  (jitter, not a secret)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def measure_lag(telemetry: Telemetry, pulse: Pulse) -> None:
    """Keep the metric of how late the event loop runs its timers."""
    clock = asyncio.get_running_loop().time
    while True:
        due = clock() + _MEASURED_EVERY_SECONDS
        await asyncio.sleep(_MEASURED_EVERY_SECONDS)
        lag = max(0.0, clock() - due)
        telemetry.loop_lag.set(lag)
        pulse.measured(lag)
