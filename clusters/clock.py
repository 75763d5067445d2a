"""Clocks: the system's, and the sandbox's virtual one, which several processes share through a small mapped file."""

from __future__ import annotations

import asyncio
import mmap
import struct
import time
from pathlib import Path
from typing import Final

from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

_LAYOUT: Final = struct.Struct("<8sQddd")
"""Magic, sequence number (odd while being written), wall origin (s), virtual origin (s), speed."""
_MAGIC: Final = b"OVSCLK01"
_NAP_SECONDS: Final = 0.05
"""Longest wall time that a sleeper of the shared clock stays unaware of a leap."""


class SystemClock:
    """The machine's own clock."""

    def now(self) -> Instant:
        return time.time()  # noqa: TID251  (the one place where the shell reads the wall clock)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))


class SharedClock:
    """A virtual clock that runs `speed` times as fast as the wall's and can leap ahead, read from a mapped file.

    The sandbox writes the file (`create`, `leap`); daemons read it. A torn read is retried by its sequence number.
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
        path.write_bytes(_LAYOUT.pack(_MAGIC, 0, time.time(), start, speed))  # noqa: TID251
        return cls(path)

    @property
    def speed(self) -> float:
        return self._read()[2]

    def now(self) -> Instant:
        wall_origin, virtual_origin, speed = self._read()
        return virtual_origin + (time.time() - wall_origin) * speed  # noqa: TID251

    def leap(self, to: Instant) -> None:
        """Move to `to` at once; never backwards. Only the sandbox calls this."""
        wall = time.time()  # noqa: TID251
        wall_origin, virtual_origin, speed = self._read()
        sequence = _LAYOUT.unpack(self._map[:])[1]
        reached = virtual_origin + (wall - wall_origin) * speed
        struct.pack_into("<Q", self._map, 8, sequence + 1)
        struct.pack_into("<dd", self._map, 16, wall, max(reached, to))
        struct.pack_into("<Q", self._map, 8, sequence + 2)

    async def sleep(self, seconds: float) -> None:
        """Return once `seconds` of virtual time have passed; leaps are noticed within 50 ms of wall time."""
        until = self.now() + seconds
        while (left := until - self.now()) > 0:  # noqa: ASYNC110  (no event tells of time in another process)
            await asyncio.sleep(min(_NAP_SECONDS, left / self.speed))

    def _read(self) -> tuple[float, float, float]:
        while True:
            _, before, wall_origin, virtual_origin, speed = _LAYOUT.unpack(self._map[:])
            if before % 2 == 0 and struct.unpack_from("<Q", self._map, 8)[0] == before:
                return wall_origin, virtual_origin, speed
