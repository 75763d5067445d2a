"""Command lines in processes of their own that need not import everything anew: forked from a server that has."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import tempfile
import threading
from typing import Final

_PRELOADED: Final = [
    "scheduler.cli.main",
    "scheduler.cli.gathered",
    "scheduler.daemon.doctor",
    "scheduler.daemon.main",
    "clusters.providers.aks",
    "clusters.providers.eks",
    "clusters.providers.gke",
]
_CONTEXT: Final = multiprocessing.get_context("forkserver")
_FIRST: Final = threading.Lock()
_warm = False


async def overspill(*arguments: str, seconds: float = 120.0) -> tuple[int, str]:
    """(exit status, what it printed on both streams) of the command with these arguments.

    Raises: TimeoutError when it has not ended after `seconds`; it is killed.
    """
    await asyncio.to_thread(_warm_up)
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    with tempfile.NamedTemporaryFile("r", errors="replace") as printed:
        child = _CONTEXT.Process(target=_run, args=(arguments, printed.name), daemon=True)
        child.start()
        loop.add_reader(child.sentinel, ended.set)
        try:
            async with asyncio.timeout(seconds):
                await ended.wait()
        finally:
            loop.remove_reader(child.sentinel)
            child.kill()
            child.join()
        return child.exitcode or 0, printed.read()


def _warm_up() -> None:
    """Have the server import: seconds, in which the caller's event loop goes on."""
    global _warm
    with _FIRST:
        if not _warm:
            _CONTEXT.set_forkserver_preload(_PRELOADED)
            first = _CONTEXT.Process(target=int)
            first.start()
            first.join()
            _warm = True


def _run(arguments: tuple[str, ...], printed: str) -> None:
    from scheduler.cli.main import main

    file = os.open(printed, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(file, stream.fileno())
    sys.argv = ["overspill", *arguments]
    main()
