"""An emulated API server on real ports, and a raw HTTP session to it."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import orjson

from clusters.sandbox.apiserver import ApiServer
from tests.builders.apiserver import StillClock

TOKEN = "wire-test-token"


class Client:
    """Plain HTTP, JSON in and out."""

    def __init__(self, server: ApiServer, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session

    async def call(self, method: str, path: str, body: Any = None, media: str = "application/json") -> tuple[int, Any]:
        """(status, parsed body)"""
        raw_body = body if isinstance(body, bytes) else orjson.dumps(body)
        data = None if body is None else io.BytesIO(raw_body)
        headers = {"Content-Type": media} if data is not None else {}
        async with self.session.request(method, self.server.url + path, data=data, headers=headers) as response:
            raw = await response.read()
            is_json = response.content_type == "application/json"
            return response.status, orjson.loads(raw) if is_json and raw else raw

    @asynccontextmanager
    async def watch(self, path: str) -> AsyncIterator[AsyncIterator[Any]]:
        """The events of a watch, parsed, as they come."""
        async with self.session.get(self.server.url + path) as response:
            assert response.status == 200

            async def events() -> AsyncIterator[Any]:
                while line := await response.content.readline():
                    yield orjson.loads(line)

            yield events()


@asynccontextmanager
async def serving(*, bookmark_seconds: float = 15.0) -> AsyncIterator[Client]:
    """A started server, and a session that has its token."""
    server = ApiServer("wire", StillClock(), token=TOKEN, bookmark_seconds=bookmark_seconds)
    await server.start()
    try:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            yield Client(server, session)
    finally:
        await server.stop()
