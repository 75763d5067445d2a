"""A real Alertmanager of a test's own: loopback ports, one webhook receiver, gone when the test ends."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

READY_SECONDS = 30.0
TEMPLATES = Path("/usr/share/prometheus/alertmanager")


def alertmanager_command() -> list[str]:
    """Debian's, as `make servers` unpacks it or as the machine has it. Skips the test where there is none."""
    name = "prometheus-alertmanager"
    package = Path(sys.prefix) / "servers" / name
    if (package / "usr" / "bin" / name).is_file():
        return _unpacked(package, str(package / "usr" / "bin" / name))
    found = shutil.which(name) or shutil.which("alertmanager")
    if found is None:
        pytest.skip("no Alertmanager here: run `make servers`, or install Debian's package prometheus-alertmanager")
    return [found]


def _unpacked(package: Path, program: str) -> list[str]:
    """Debian's build reads its templates from a fixed place: it is shown a /usr/share of its own that has them there,
    in a namespace of its own. Skips the test where that is not permitted."""
    if TEMPLATES.is_dir():
        return [program]
    found = package / str(TEMPLATES).lstrip("/")
    place = f"mount -t tmpfs none /usr/share && mkdir -p {TEMPLATES.parent} && ln -s {found} {TEMPLATES}"
    command = ["unshare", "-rm", "sh", "-c", f'{place} && exec "$@"', "sh"]
    tried = subprocess.run([*command, "true"], capture_output=True, check=False) if shutil.which("unshare") else None
    if tried is None or tried.returncode:
        pytest.skip("no namespaces here for the unpacked Alertmanager: install Debian's prometheus-alertmanager")
    return [*command, program]


@asynccontextmanager
async def alertmanager(folder: Path, webhook: str, token_file: Path) -> AsyncIterator[str]:
    """Running and ready; its URL. It tells `webhook` of every alert as soon as it knows of it."""
    log = folder / "alertmanager.log"
    url, process = _start(alertmanager_command(), folder, _configuration(webhook, token_file), log)
    try:
        await _ready(url, process, log)
        yield url
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(
    program: list[str], folder: Path, configuration: dict[str, Any], log: Path
) -> tuple[str, subprocess.Popen[bytes]]:
    config = folder / "alertmanager.yml"
    config.write_text(yaml.safe_dump(configuration))
    port = _free_port()
    command = [
        *program,
        f"--config.file={config}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    return f"http://127.0.0.1:{port}", process


def _configuration(webhook: str, token_file: Path) -> dict[str, Any]:
    credentials = {"type": "Bearer", "credentials_file": str(token_file)}
    hook = {"url": webhook, "send_resolved": True, "http_config": {"authorization": credentials}}
    quick = {"group_wait": "10ms", "group_interval": "100ms", "repeat_interval": "1h"}
    return {
        "route": {"receiver": "overspill", "group_by": ["..."], **quick},
        "receivers": [{"name": "overspill", "webhook_configs": [hook]}],
    }


async def _ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_at = time.monotonic() + READY_SECONDS
    async with aiohttp.ClientSession() as http:
        while True:
            if process.poll() is not None or time.monotonic() > ends_at:
                pytest.fail(f"alertmanager did not get ready: {_tail(log)}")
            try:
                async with http.get(f"{url}/-/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
