"""An emulated API server that can fall silent: it takes requests and answers none, as behind a broken network."""

from __future__ import annotations

import asyncio

from aiohttp import web

from clusters.sandbox.apiserver.failures import StatusError
from clusters.sandbox.apiserver.server import ApiServer
from scheduler.model.ports import Clock


class FallibleApiServer(ApiServer):
    """While silent, requests hang and watches end; those that still wait when it speaks again are answered 503."""

    def __init__(self, name: str, clock: Clock, *, token: str, port: int = 0) -> None:
        super().__init__(name, clock, token=token, port=port)
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._silences = 0

    @property
    def silent(self) -> bool:
        return not self._speaking.is_set()

    def fall_silent(self) -> None:
        """Until as many `speak` as `fall_silent` have been called. In process (`local`) it goes on answering."""
        self._silences += 1
        self._speaking.clear()
        self.store.close_watchers()

    def speak(self) -> None:
        self._silences = max(0, self._silences - 1)
        if not self._silences:
            self._speaking.set()

    async def stop(self) -> None:
        self._speaking.set()
        await super().stop()

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        if self.silent:
            await self._speaking.wait()
            raise StatusError(503, "ServiceUnavailable", "the server is currently unable to handle the request")
        return await super()._route(request)
