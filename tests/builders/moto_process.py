"""A moto server in a process of its own: AWS's APIs, as far as moto has them, on a free loopback port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_READY: Final = re.compile(r"Running on (http://127\.0\.0\.1:\d+)")
_GOODBYE_SECONDS: Final = 10.0


@contextmanager
def moto_process() -> Iterator[str]:
    """Its base URL, while it runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    )
    assert process.stdout is not None
    try:
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if found := _READY.search(line):
                yield found[1]
                return
        raise RuntimeError(f"moto did not start: {''.join(said)[-2000:]}")
    finally:
        process.terminate()
        try:
            process.wait(_GOODBYE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
