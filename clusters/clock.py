"""Clocks: the system's, and the sandbox's virtual one, which several processes share through a small mapped file."""

from __future__ import annotations

import asyncio
import math
import mmap
import struct
import time
from pathlib import Path
from typing import Final

from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

_LAYOUT: Final = struct.Struct("<8sQdddd")
"""Magic, sequence number (odd while being written), wall origin (s), virtual origin (s), speed, reach (s)."""
_MAGIC: Final = b"OVSCLK02"
_NAP_SECONDS: Final = 0.05
"""Longest wall time that a sleeper of the shared clock stays unaware of a leap."""
_LEAST_NAP_SECONDS: Final = 0.001
"""Shortest one: a clock that waits to be wound must not be asked in a busy loop."""
_BOOT_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_STRIDE_SECONDS: Final = 0.01
_TURNS: Final = 20
"""`keep_in_step`: wall time of one stride, and the turns of the event loop that it takes at least."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> Instant:
        return time.time()  # noqa: TID251  (the one place where the shell reads the wall clock)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class BootClock:
    """Seconds since the machine started, for leases: nobody sets it, and it goes on while the machine is suspended, as
    others' clocks do meanwhile. Where there is none (not Linux), the monotonic clock."""

    def now(self) -> Instant:
        return time.clock_gettime(_BOOT_CLOCK)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class SharedClock:
    """A virtual clock that runs `speed` times as fast as the wall's and can leap ahead, read from a mapped file.

    The sandbox writes the file (`create`, `leap`, `wind`); daemons read it. A torn read is retried by its sequence
    number. Once wound, it stands still after the given wall time until it is wound again.
    """

    def __init__(self, path: Path) -> None:
        """Raises: InvalidObjectError when the file is missing or is no clock file."""
        try:
            with path.open("r+b") as file:
                self._map = mmap.mmap(file.fileno(), _LAYOUT.size)
        except (OSError, ValueError) as error:
            raise InvalidObjectError(f"{path}: no clock file ({error}); start `overspill sandbox` first") from error
        if self._map[:8] != _MAGIC:
            raise InvalidObjectError(f"{path}: not a clock file; start `overspill sandbox` first")

    @classmethod
    def create(cls, path: Path, *, start: Instant, speed: float) -> SharedClock:
        """Make (or reset) the file: virtual time is `start` now and runs at `speed`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_LAYOUT.pack(_MAGIC, 0, time.time(), start, speed, math.inf))  # noqa: TID251
        return cls(path)

    @property
    def speed(self) -> float:
        return self._read()[2]

    def now(self) -> Instant:
        return self._at(time.time())  # noqa: TID251

    def leap(self, to: Instant) -> None:
        """Move to `to` at once; never backwards. Only the sandbox calls this."""
        wall = time.time()  # noqa: TID251
        self._set(wall, max(self._at(wall), to), self._read()[3])

    def wind(self, seconds: float) -> None:
        """Let it run on for `seconds` of wall time from now, then stand still. Only the sandbox calls this."""
        wall = time.time()  # noqa: TID251
        self._set(wall, self._at(wall), seconds)

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` of virtual time have passed; leaps are noticed within 50 ms of wall time."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0:  # noqa: ASYNC110  (no event tells of time in another process)
            await asyncio.sleep(max(_LEAST_NAP_SECONDS, min(_NAP_SECONDS, left / self.speed)))

    def _at(self, wall: float) -> Instant:
        wall_origin, virtual_origin, speed, reach = self._read()
        return virtual_origin + min(wall - wall_origin, reach) * speed

    def _set(self, wall: float, virtual: Instant, reach: float) -> None:
        """`virtual` as of `wall`, one reading of the clock: what another thread read between never lies ahead."""
        _, sequence, _, _, speed, _ = _LAYOUT.unpack(self._map[:])
        struct.pack_into("<Q", self._map, 8, sequence + 1)
        struct.pack_into("<dddd", self._map, 16, wall, virtual, speed, reach)
        struct.pack_into("<Q", self._map, 8, sequence + 2)

    def _read(self) -> tuple[float, float, float, float]:
        while True:
            _, before, wall_origin, virtual_origin, speed, reach = _LAYOUT.unpack(self._map[:])
            if before % 2 == 0 and struct.unpack_from("<Q", self._map, 8)[0] == before:
                return wall_origin, virtual_origin, speed, reach


async def keep_in_step(clock: SharedClock) -> None:
    """Let the clock run no faster than this event loop gets its work done, for ever.

    Each stride of wall time needs a number of turns of the loop: idle, they take a fraction of it; while the loop (or a
    thread that holds the interpreter) is busy, time stands still between strides. So what needs a number of steps of a
    program in this process takes about the same virtual time on a slow machine as on a fast one.
    """
    while True:
        clock.wind(_STRIDE_SECONDS)
        await asyncio.sleep(_STRIDE_SECONDS)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
