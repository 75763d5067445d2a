"""A cloud's emulated APIs while they run, and the loopback servers they are made of."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from clusters.sandbox.clouds.faults import Faults

_LOG_LENGTH: Final = 10_000
_BODY_BYTES: Final = 1 << 20
_GOODBYE_SECONDS: Final = 1.0


@dataclass
class RunningCloud:
    """The emulated APIs of one cloud: how to reach them, what was asked of them, how to end them."""

    settings: dict[str, object]
    """What stands under `provider:` in the federation file; paths are relative to the state folder."""
    request_log: list[str] = field(default_factory=list)
    """Actions seen on the wire, in the vendor's own words, the newest last; bounded."""
    revoke_credentials: Callable[[], None] = lambda: None
    """Makes every credential that this cloud gave out worthless."""
    accepts_token: Callable[[str], bool] = lambda token: False
    """Whether a bearer token that reaches the cluster's Kubernetes API is one that this cloud stands for."""
    faults: Faults = field(default_factory=Faults)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Set first of all at the end, so that answers which are held back let go."""
    servers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    def log(self, action: str) -> None:
        self.request_log.append(action)
        if len(self.request_log) > _LOG_LENGTH:
            del self.request_log[: _LOG_LENGTH // 10]

    async def serve_http(self, app: web.Application, tls: ssl.SSLContext | None = None) -> str:
        """Serve `app` on a free loopback port until `stop`. Returns its base URL."""
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=_GOODBYE_SECONDS)
        await runner.setup()

        async def end() -> None:
            left = [one.transport for one in (runner.server.connections if runner.server else ())]
            await runner.cleanup()
            for transport in left:
                if transport is not None:
                    transport.abort()  # a TLS goodbye would wait for clients that are gone
            await asyncio.sleep(0)  # lets the aborted ones close their sockets

        self.servers.append(end)
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        port = runner.addresses[0][1]
        return f"{'https' if tls else 'http'}://127.0.0.1:{port}"

    async def stop(self) -> None:
        """End every server; the newest first."""
        self.closing.set()
        while self.servers:
            await self.servers.pop()()


def application() -> web.Application:
    """An empty application whose request bodies are bounded."""
    return web.Application(client_max_size=_BODY_BYTES)
