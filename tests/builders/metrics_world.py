"""Small makers for tests of metrics: queries, sources, clocks, and HTTP servers that answer as a test says."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

from clusters.metrics import load_metrics_source
from scheduler.model.ids import ClusterId, Instant
from scheduler.model.metrics import MAX, MetricQuery, MetricsSource, Reading
from scheduler.model.ports import Clock

NOW: Instant = 1_790_000_000.0
EAST = ClusterId("east")


@dataclass
class SetClock:
    """Says what it is told to."""

    at: Instant = NOW

    def now(self) -> Instant:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


def query(name: str = "x_ratio", **changes: Any) -> MetricQuery:
    base: dict[str, Any] = {
        "name": name,
        "unit": "ratio",
        "promql": "x",
        "families": (("x", 1.0),),
        "labels": ("node",),
        "max_age_seconds": 120.0,
        "combine": MAX,
    }
    return MetricQuery(**{**base, **changes})


def source(type_name: str, clock: Clock, *, base_dir: Path | None = None, **settings: Any) -> MetricsSource:
    """As the daemon makes it: camelCase settings from the federation file."""
    module = load_metrics_source(type_name)
    context = {"base_dir": base_dir} if base_dir else None
    checked = module.Settings.model_validate({"type": type_name, **settings}, context=context)
    return module.create(checked, cluster=EAST, clock=clock)


@asynccontextmanager
async def opened(type_name: str, clock: Clock | None = None, **settings: Any) -> AsyncIterator[MetricsSource]:
    made = source(type_name, clock or SetClock(), **settings)
    try:
        yield made
    finally:
        await made.close()


async def read_one(made: MetricsSource, asked: MetricQuery | None = None) -> Reading:
    (reading,) = await made.read([asked or query()])
    return reading


def vector(*rows: tuple[dict[str, str], float, str]) -> bytes:
    """The answer of a Prometheus API: labels, time, value."""
    result = [{"metric": labels, "value": [at, value]} for labels, at, value in rows]
    return orjson.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


@dataclass
class Seen:
    method: str
    raw_path: str
    headers: dict[str, str]
    form: dict[str, str]
    body: bytes
    request: web.Request = field(repr=False)


Answer = Callable[[Seen], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def serving(answer: Answer, *, tls: Any = None) -> AsyncIterator[str]:
    """An HTTP server on loopback that gives every request to `answer`; its URL."""

    async def handle(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        form = {k: str(v) for k, v in (await request.post()).items()} if request.method == "POST" else {}
        seen = Seen(
            request.method,
            request.raw_path,
            dict(request.headers),
            {**dict(request.query), **form},
            body,
            request,
        )
        return await answer(seen)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        port = runner.addresses[0][1]
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def fixed(body: bytes, *, status: int = 200, headers: dict[str, str] | None = None) -> Answer:
    async def answer(_: Seen) -> web.StreamResponse:
        return web.Response(body=body, status=status, headers={"Content-Type": "application/json", **(headers or {})})

    return answer


def sequence(bodies: Sequence[bytes], content_type: str = "text/plain; version=0.0.4") -> Answer:
    """One after the other; the last one for ever."""
    left = list(bodies)

    async def answer(_: Seen) -> web.StreamResponse:
        body = left.pop(0) if len(left) > 1 else left[0]
        return web.Response(body=body, headers={"Content-Type": content_type})

    return answer
