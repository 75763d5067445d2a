"""A real Prometheus of a test's own: loopback port, own configuration and data, gone when the test ends."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import yaml

READY_SECONDS = 30.0


@dataclass(frozen=True)
class Scraped:
    """One job of the configuration: where its page is, and the labels that its target gets."""

    name: str
    url: str
    labels: Mapping[str, str]


@dataclass(frozen=True)
class RunningPrometheus:
    url: str
    """With the route prefix."""

    async def query(self, promql: str) -> list[dict[str, object]]:
        """The result of an instant query, as it comes."""
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{self.url}/api/v1/query", params={"query": promql}) as answer,
        ):
            body = await answer.json()
        assert body["status"] == "success", body
        return list(body["data"]["result"])

    async def until(self, promql: str, *, seconds: float = READY_SECONDS) -> None:
        """Return once the query has a result. Fails the test at the deadline."""
        ends_at = time.monotonic() + seconds
        while not await self.query(promql):
            assert time.monotonic() < ends_at, f"nothing for {promql} within {seconds} s"
            await asyncio.sleep(0.05)


def prometheus_binary() -> Path:
    """Debian's, as `make servers` unpacks it or as the machine has it. Skips the test where there is none."""
    unpacked = Path(sys.prefix) / "servers" / "prometheus" / "usr" / "bin" / "prometheus"
    found = str(unpacked) if unpacked.is_file() else shutil.which("prometheus")
    if found is None:
        pytest.skip("no prometheus here: run `make servers`, or install Debian's package prometheus")
    return Path(found)


def promtool_binary() -> Path:
    """Debian's, as `make servers` unpacks it or as the machine has it. Skips the test where there is none."""
    unpacked = Path(sys.prefix) / "servers" / "prometheus" / "usr" / "bin" / "promtool"
    found = str(unpacked) if unpacked.is_file() else shutil.which("promtool")
    if found is None:
        pytest.skip("no prometheus here: run `make servers`, or install Debian's package prometheus")
    return Path(found)


@asynccontextmanager
async def prometheus(
    folder: Path, jobs: Sequence[Scraped], *, prefix: str = "", more: Mapping[str, object] | None = None
) -> AsyncIterator[RunningPrometheus]:
    """Running, ready, and scraping each job once a second; `more` of its configuration."""
    running, process = _start(prometheus_binary(), folder, jobs, prefix, more or {})
    try:
        await _ready(running, process, folder / "log")
        yield running
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, 10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(
    binary: Path, folder: Path, jobs: Sequence[Scraped], prefix: str, more: Mapping[str, object]
) -> tuple[RunningPrometheus, subprocess.Popen[bytes]]:
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump({**_configuration(jobs), **more}))
    port = _free_port()
    command = [
        str(binary),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--web.external-url=http://127.0.0.1:{port}{prefix}",
        "--log.level=warn",
        "--rules.alert.resend-delay=1s",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    return RunningPrometheus(f"http://127.0.0.1:{port}{prefix}"), process


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _configuration(jobs: Sequence[Scraped]) -> dict[str, object]:
    scrapes = []
    for job in jobs:
        host, _, path = job.url.removeprefix("http://").partition("/")
        target = {"targets": [host], "labels": dict(job.labels)}
        scrapes.append({"job_name": job.name, "metrics_path": f"/{path}", "static_configs": [target]})
    often = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    return {"global": often, "scrape_configs": scrapes}


async def _ready(running: RunningPrometheus, process: subprocess.Popen[bytes], log: Path) -> None:
    ends_at = time.monotonic() + READY_SECONDS
    async with aiohttp.ClientSession() as http:
        while True:
            if process.poll() is not None or time.monotonic() > ends_at:
                pytest.fail(f"prometheus did not get ready: {_tail(log)}")
            try:
                async with http.get(f"{running.url}/-/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
