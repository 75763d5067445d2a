"""Queues of keys with workers, and tasks that are restarted when they fail: no failure is ever lost in silence."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import structlog

from scheduler.model.errors import ExternalError, NotFoundError, RefusedError

_log = structlog.get_logger(__name__)
_FIRST_RETRY_SECONDS = 0.005
_LAST_RETRY_SECONDS = 5.0


class Supervisor:
    """Runs named loops; one that raises is logged and started again after a pause that doubles up to 5 s."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.restarts = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        task = asyncio.create_task(self._keep(name, loop), name=f"{self.name}/{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Cancel all loops and wait until they have ended."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        pause = 0.1
        while True:
            try:
                await loop()
                return
            except Exception:  # noqa: BLE001  (loop edge: logged, counted, restarted)
                self.restarts += 1
                _log.exception("loop failed; starting it again", cluster=self.name, loop=name, pause_seconds=pause)
            await asyncio.sleep(pause)
            pause = min(_LAST_RETRY_SECONDS, pause * 2)


class WorkQueue:
    """Keys to reconcile: each once however often it was added, never two workers on one key, retried with backoff."""

    def __init__(self, name: str, reconcile: Callable[[str], Awaitable[None]], *, workers: int = 4) -> None:
        self.name = name
        self._reconcile = reconcile
        self._workers = workers
        self._ready: deque[str] = deque()
        self._queued: set[str] = set()
        self._working: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._event = asyncio.Event()

    @property
    def busy(self) -> bool:
        """Whether there is anything to do now (retries that wait for their pause aside)."""
        return bool(self._queued or self._working)

    def add(self, key: str) -> None:
        if key in self._working:
            self._again.add(key)
        elif key not in self._queued:
            self._queued.add(key)
            self._ready.append(key)
            self._event.set()

    def add_later(self, key: str, wall_seconds: float) -> None:
        """Add after a pause of wall time; an earlier pause of the same key stands."""
        if key not in self._later:
            self._later[key] = asyncio.get_running_loop().call_later(wall_seconds, self._arrive, key)

    async def run(self) -> None:
        """Serve the queue with its workers for ever."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._workers):
                    group.create_task(self._work())
        finally:
            for handle in self._later.values():
                handle.cancel()
            self._later.clear()

    def _arrive(self, key: str) -> None:
        self._later.pop(key, None)
        self.add(key)

    async def _work(self) -> None:
        while True:
            while not self._ready:
                self._event.clear()
                await self._event.wait()
            key = self._ready.popleft()
            self._queued.discard(key)
            self._working.add(key)
            try:
                await self._attempt(key)
            finally:
                self._working.discard(key)
                if key in self._again:
                    self._again.discard(key)
                    self.add(key)

    async def _attempt(self, key: str) -> None:
        try:
            await self._reconcile(key)
            self._failures.pop(key, None)
        except NotFoundError:
            self._failures.pop(key, None)  # the object went away meanwhile; its DELETED event follows
        except RefusedError as error:
            self._failures.pop(key, None)
            _log.error("the API server refuses the write", queue=self.name, key=key, error=str(error))
        except ExternalError as error:
            self._retry(key, str(error))
        except Exception:  # noqa: BLE001  (loop edge)
            _log.exception("reconcile failed", queue=self.name, key=key)
            self._retry(key, "unexpected")

    def _retry(self, key: str, why: str) -> None:
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(_LAST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(failures, 12))
        _log.debug("reconcile put off", queue=self.name, key=key, error=why, pause_seconds=pause)
        self.add_later(key, pause)
