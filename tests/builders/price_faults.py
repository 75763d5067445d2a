"""An HTTP server on loopback whose next answers can be scripted to go wrong, for fakes of price APIs."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from clusters.sandbox.clouds.running import RunningCloud

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Script:
    """Answers that come before the API's own, each once, in order."""

    def __init__(self) -> None:
        self._next: deque[Answer] = deque()
        self._last: Answer | None = None

    def status(self, status: int, body: str = "", **headers: str) -> None:
        async def answer(_: web.Request) -> web.Response:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            return web.Response(status=status, text=body, headers=named)

        self._next.append(answer)

    def body(self, body: bytes) -> None:
        """A success whose body is this, whatever it is."""

        async def answer(_: web.Request) -> web.Response:
            return web.Response(body=body, content_type="application/json")

        self._next.append(answer)

    def cut_off(self, body: bytes) -> None:
        """A success that promises more bytes than it sends."""

        async def answer(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": str(len(body) + 100)})
            await response.prepare(request)
            await response.write(body)
            assert request.transport is not None
            request.transport.abort()
            return response

        self._next.append(answer)

    def always(self, body: bytes) -> None:
        """From now on every answer is a success with this body, whatever it is."""
        self._next.clear()
        self.body(body)
        self._last = self._next.popleft()

    def take(self) -> Answer | None:
        return self._next.popleft() if self._next else self._last


@asynccontextmanager
async def serving(handler: Answer, script: Script) -> AsyncIterator[str]:
    """The base URL of a server that gives scripted answers first, then `handler`'s."""

    async def handle(request: web.Request) -> web.StreamResponse:
        await request.read()
        return await (script.take() or handler)(request)

    app = web.Application(client_max_size=1 << 20)
    app.router.add_route("*", "/{path:.*}", handle)
    running = RunningCloud(settings={})
    try:
        yield await running.serve_http(app)
    finally:
        await running.stop()
