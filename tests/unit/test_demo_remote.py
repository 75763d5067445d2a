from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer

from scheduler.cli.demo.remote import Remote
from scheduler.cli.output import CommandError
from scheduler.model.errors import TransientError
from tests.unit.test_cli_status import EXPLAIN, STATUS


class Both:
    """Control API and daemon in one scripted server."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {
            "/state": {"next_event_at": 5.5, "quiet_wall_seconds": 0.1, "busy": True, "clusters": {}},
            "/bill": {"machines": [], "total_usd": "12.345678901"},
            "/leap": {"now": 7.0},
            "/api/v1/status": STATUS,
            "/api/v1/explain": EXPLAIN,
        }
        self.code = 200
        self.bodies: list[bytes] = []

    async def handle(self, request: web.Request) -> web.Response:
        if not request.path.startswith("/api/"):
            assert request.headers["Authorization"] == "Bearer secret"
        self.bodies.append(await request.read())
        answer = self.answers[request.path]
        if isinstance(answer, bytes):
            return web.Response(body=answer)
        return web.json_response(answer, status=self.code)


@pytest_asyncio.fixture
async def both() -> AsyncIterator[tuple[Both, Remote]]:
    scripted = Both()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", scripted.handle)
    async with TestServer(app) as server:
        url = str(server.make_url("/"))
        remote = Remote(control_url=url, control_token="secret", daemon_url=url)
        yield scripted, remote
        await remote.close()


async def test_both_apis_are_read(both: tuple[Both, Remote]) -> None:
    scripted, remote = both
    state = await remote.state()
    assert (state.next_event_at, state.quiet_wall_seconds, state.busy) == (5.5, 0.1, True)
    assert await remote.bill_usd() == Decimal("12.345678901")
    await remote.leap(7.25)
    assert scripted.bodies[-1] == b'{"to":7.25}'
    status = await remote.status()
    assert status is not None
    assert status.spend_usd == Decimal("12.34")
    explained = await remote.explain("job/default/train")
    assert explained is not None
    assert explained.workload.name == "train"


@pytest.mark.parametrize(
    ("code", "answer", "error", "want"),
    [
        (500, {"error": "oh"}, TransientError, "answered HTTP 500"),
        (200, b"<html>", CommandError, "something else than JSON"),
        (200, {"quiet_wall_seconds": "soon"}, CommandError, "the sandbox's state is not understood"),
    ],
)
async def test_wrong_answers(
    both: tuple[Both, Remote], code: int, answer: Any, error: type[Exception], want: str
) -> None:
    scripted, remote = both
    scripted.code, scripted.answers["/state"] = code, answer
    with pytest.raises(error, match=want):
        await remote.state()


async def test_a_workload_that_nobody_knows_is_not_explained(both: tuple[Both, Remote]) -> None:
    scripted, remote = both
    scripted.code = 404
    assert await remote.explain("x") is None


async def test_a_daemon_that_does_not_listen_yet_has_no_status() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        remote = Remote(control_url=url, control_token="", daemon_url=url)
        assert await remote.status() is None
        with pytest.raises(TransientError):
            await remote.state()
        await remote.close()
