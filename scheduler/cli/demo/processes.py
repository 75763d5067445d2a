"""The demo's two child processes: the sandbox and the daemon, started, watched and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path
from typing import Final

from scheduler.cli.output import CommandError

_STOP_SECONDS: Final = 10.0
_TAIL_BYTES: Final = 4096


class Child:
    """`overspill ARGUMENTS...` as a process of its own, its output in a log file."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.log = log
        self._process = process

    @classmethod
    async def start(cls, name: str, arguments: list[str], log: Path) -> Child:
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "scheduler.cli.main",
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,  # Ctrl-C is for the demo, which stops its children in order
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self._process.pid

    def check(self) -> None:
        """Raises: CommandError with the last line of its log when it has ended."""
        if self._process.returncode is not None:
            raise CommandError(f"the {self.name} ended with status {self._process.returncode}: {self.last_line()}")

    async def ended(self) -> int:
        """Its exit status, once it has ended."""
        return await self._process.wait()

    def last_line(self) -> str:
        """Of its log; empty when it wrote none."""
        with self.log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def resident_mib(self) -> float | None:
        """Resident memory now; None where the system does not tell (no /proc) or the process is gone."""
        try:
            for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) / 1024
        except OSError:
            return None
        return None

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if it has not ended ten seconds later."""
        if self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await self._process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
