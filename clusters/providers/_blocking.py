"""Blocking SDK calls in a bounded pool of threads, one pool per provider, never the default executor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, TypeVar

from scheduler.model.errors import OutcomeUnknownError, TransientError

_THREADS: Final = 4
_WAITING: Final = 64

T = TypeVar("T")


class BlockingCalls:
    """Runs one provider's SDK calls.

    A call that outlives `limit_seconds` keeps its thread until the SDK's own, shorter, time limits end it.
    """

    def __init__(self, name: str, *, limit_seconds: float, threads: int = _THREADS, waiting: int = _WAITING) -> None:
        self._name = name
        self._limit_seconds = limit_seconds
        self._most = threads + waiting
        self._unfinished = 0
        self._executor = ThreadPoolExecutor(max_workers=threads, thread_name_prefix=f"provider-{name}")

    async def run(self, action: str, function: Callable[[], T], *, writes: bool = False) -> T:
        """What `function` returns. `action` names the call in errors.

        Raises: what `function` raises; at the limit OutcomeUnknownError for a call that writes and TransientError for
        one that reads; TransientError when too many calls wait already.
        """
        if self._unfinished >= self._most:
            raise TransientError(f"{self._name}: {action}: {self._unfinished} calls wait already", code="Saturated")
        try:
            started = self._executor.submit(function)
        except RuntimeError as error:  # closed; the standard library has no type of its own for it
            raise TransientError(f"{self._name}: {action}: {error}", code="Closed") from error
        self._unfinished += 1
        loop = asyncio.get_running_loop()

        def finished(_: Future[T]) -> None:
            # Runs in the pool's thread; the loop may be gone by then, and the count with it.
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._release)

        started.add_done_callback(finished)
        try:
            async with asyncio.timeout(self._limit_seconds):
                return await asyncio.wrap_future(started)
        except TimeoutError as error:
            text = f"{self._name}: {action}: no answer within {self._limit_seconds:g} s"
            if writes and not started.cancelled():
                raise OutcomeUnknownError(text, code="Timeout") from error
            raise TransientError(text, code="Timeout") from error

    def _release(self) -> None:
        self._unfinished -= 1

    async def close(self) -> None:
        """Start nothing more. Threads still in a call end with it."""
        self._executor.shutdown(wait=False, cancel_futures=True)
