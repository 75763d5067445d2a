"""A queue of keys to look at: level-triggered, without duplicates, one worker to a key at a time, retries with backoff.

The shape is that of client-go's workqueue; see `k8s.io/client-go/util/workqueue`.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Final

_FIRST_RETRY_SECONDS: Final = 0.05
_LONGEST_RETRY_SECONDS: Final = 30.0

_SHORT_OF_HOPELESS: Final = 6
"""After so many failures in a row (some three seconds) the queue counts as idle in spite of the key."""


class KeyQueue:
    """Bounded by the number of distinct keys, not by the number of events."""

    def __init__(self) -> None:
        self._ready: deque[str] = deque()
        self._dirty: set[str] = set()
        self._active: set[str] = set()
        self._failures: dict[str, int] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._wakeup = asyncio.Event()

    def __len__(self) -> int:
        """Keys that wait or are being worked on; not those that are set for later."""
        return len(self._dirty) + len(self._active)

    @property
    def later(self) -> int:
        """Keys that are set to be looked at shortly; not those that have failed so often that nobody waits for them."""
        return sum(self._failures.get(key, 0) < _SHORT_OF_HOPELESS for key in self._timers)

    def add(self, key: str) -> None:
        """Have `key` looked at (once more, if it is being looked at now)."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._active:
            self._ready.append(key)
            self._wakeup.set()

    def add_later(self, key: str, after_seconds: float) -> None:
        """Have `key` looked at in a while; an earlier look that is already set stays."""
        if after_seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        old = self._timers.get(key)
        if old is not None:
            if old.when() <= loop.time() + after_seconds:
                return
            old.cancel()
        self._timers[key] = loop.call_later(after_seconds, self._fire, key)

    async def get(self) -> str:
        while not self._ready:
            self._wakeup.clear()
            await self._wakeup.wait()
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._active.add(key)
        return key

    def done(self, key: str) -> None:
        """Work on `key` ended well."""
        self._failures.pop(key, None)
        self._finish(key)

    def retry(self, key: str, after_seconds: float | None = None) -> float:
        """Work on `key` failed: look again after a growing pause (or the one that the server named)."""
        count = self._failures.get(key, 0)
        self._failures[key] = count + 1
        pause = min(_FIRST_RETRY_SECONDS * 2 ** min(count, 20), _LONGEST_RETRY_SECONDS)
        pause = max(pause, after_seconds or 0.0) * random.uniform(0.5, 1.0)  # noqa: S311  (jitter, not a secret)
        old = self._timers.pop(key, None)
        if old is not None:
            old.cancel()
        self._timers[key] = asyncio.get_running_loop().call_later(pause, self._fire, key)
        self._finish(key)
        return float(pause)

    def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    def _fire(self, key: str) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _finish(self, key: str) -> None:
        self._active.discard(key)
        if key in self._dirty:
            self._ready.append(key)
            self._wakeup.set()
