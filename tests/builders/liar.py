"""An HTTP proxy that for a while tells anything but the truth: what a broken load balancer, a full disk or a hostile
cluster may answer. Seeded; it garbles, but it does not forge (no well-formed object that says something false)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
import orjson
from aiohttp import web

_NOT_TEXT: Final[tuple[Any, ...]] = (0, -1, 2**62, 1e300, True, ["x"], {"x": [{}]})
_JUNK: Final[tuple[Any, ...]] = (
    *_NOT_TEXT,
    [],
    "",
    "abc",
    "NaN",
    "-5",
    "1e99",
    "9" * 400,
    "0001-01-01T00:00:00Z",
    "\u0000",
)
_IDENTITY: Final = frozenset(
    {"name", "namespace", "uid", "labels", "annotations", "kind", "items", "type", "status", "conditions"}
)
"""What says which object is meant: junk of the wrong type only, for another text would be a forgery."""
_HTML: Final = b"<html><head><title>502</title></head><body><h1>Bad Gateway</h1></body></html>"
_STATUS_410: Final = {"kind": "Status", "status": "Failure", "reason": "Expired", "message": "too old", "code": 410}

Lie = Callable[["Liar", web.Request, bytes], Awaitable[web.StreamResponse]]


class Liar:
    """Stands before `target`; passes everything on while `lying` is off."""

    def __init__(self, target: str, session: aiohttp.ClientSession, seed: int, lies: tuple[Lie, ...]) -> None:
        self.target = target.rstrip("/")
        self.url = ""
        self.lying = False
        self.told: Counter[str] = Counter()
        self._session = session
        self._lies = lies
        self._random = random.Random(seed)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if not self.lying or self._random.random() < 0.3:
            return await self._pass_on(request, body)
        lie = self._random.choice(self._lies)
        self.told[lie.__name__] += 1
        return await lie(self, request, body)

    async def _pass_on(self, request: web.Request, body: bytes, *, garble: float = 0.0) -> web.StreamResponse:
        async with self._asked(request, body) as answer:
            response = web.StreamResponse(status=answer.status, headers=_kept(answer.headers))
            await response.prepare(request)
            async for line in answer.content:
                if garble and self._random.random() < garble:
                    await response.write(self._garbled(line))
                else:
                    await response.write(line)
            return response

    def _asked(self, request: web.Request, body: bytes) -> Any:
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection")}
        headers["Accept-Encoding"] = "identity"
        return self._session.request(
            request.method, self.target + request.raw_path, data=body or None, headers=headers, allow_redirects=False
        )

    async def _whole(self, request: web.Request, body: bytes) -> tuple[int, bytes]:
        """What the target says, cut short where it goes on for ever."""
        async with self._asked(request, body) as answer:
            if request.query.get("watch"):
                return answer.status, (await answer.content.read(200)) if answer.content.total_bytes else b""
            return answer.status, await answer.read()

    def _garbled(self, text: bytes) -> bytes:
        """One field somewhere within is junk; what is no JSON is cut in half."""
        try:
            parsed = orjson.loads(text)
        except orjson.JSONDecodeError:
            return text[: len(text) // 2]
        if isinstance(parsed, dict):
            self._spoil(parsed)
        return orjson.dumps(parsed) + b"\n"

    def _spoil(self, parsed: dict[str, Any]) -> None:
        place: Any = parsed
        sacred = False
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = self._random.choice(keys)
            sacred = sacred or key in _IDENTITY - {"items"}
            inner = place[key]
            if isinstance(inner, dict | list) and inner and self._random.random() < 0.85:
                place = inner
                continue
            place[key] = self._random.choice(_NOT_TEXT if sacred or key in _IDENTITY else _JUNK)
            return


async def server_error(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.json_response({"kind": "Status", "reason": "InternalError", "message": "boom"}, status=500)


async def bad_gateway(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.Response(body=_HTML, status=502, content_type="text/html")


async def page_of_html(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.Response(body=_HTML, status=200, content_type="text/html")


async def foreign_404(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.Response(body=b"404 page not found\n", status=404)


async def throttled(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.Response(status=429, headers={"Retry-After": "1"})


async def forbidden(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.json_response({"kind": "Status", "reason": "Forbidden", "message": "no"}, status=403)


async def expired(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.json_response(_STATUS_410, status=410)


async def expired_in_stream(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.Response(body=orjson.dumps({"type": "ERROR", "object": _STATUS_410}) + b"\n")


async def nothing(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.Response()


async def wrong_kind(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return web.json_response({"kind": "SecretList", "metadata": {"resourceVersion": "1"}, "items": []})


async def absurd_version(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    line = {"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": {"resourceVersion": str(2**62)}}}
    return web.Response(body=orjson.dumps(line) + b"\n")


async def drip(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    for _number in range(600):
        await response.write(b" ")
        await asyncio.sleep(0.05)
    return response


async def hang_up(_: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def done_and_not_said(liar: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    await liar._whole(request, body)
    return await hang_up(liar, request, body)


async def truncated(liar: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    status, text = await liar._whole(request, body)
    return web.Response(status=status, body=text[: len(text) // 2])


async def garbled(liar: Liar, request: web.Request, body: bytes) -> web.StreamResponse:
    return await liar._pass_on(request, body, garble=0.8)


LIES: Final[tuple[Lie, ...]] = (
    server_error,
    bad_gateway,
    page_of_html,
    foreign_404,
    throttled,
    forbidden,
    expired,
    expired_in_stream,
    nothing,
    wrong_kind,
    absurd_version,
    drip,
    hang_up,
    done_and_not_said,
    truncated,
    *(garbled,) * 6,
)


def _kept(headers: Any) -> dict[str, str]:
    dropped = ("content-length", "transfer-encoding", "connection")
    return {name: value for name, value in headers.items() if name.lower() not in dropped}


@asynccontextmanager
async def a_liar(target: str, seed: int, lies: tuple[Lie, ...] = LIES) -> AsyncIterator[Liar]:
    """A proxy on a port of its own."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
        liar = Liar(target, session, seed, lies)
        app = web.Application(client_max_size=2**24)
        app.router.add_route("*", "/{path:.*}", liar.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        liar.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        try:
            yield liar
        finally:
            await runner.cleanup()
