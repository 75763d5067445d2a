"""Whatever route the daemon serves: none changes anything for one who has not said, and shown, who he is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from aiohttp import web

from tests.loop.test_behaviours_http import served

READING = {"GET", "HEAD", "OPTIONS"}


async def test_no_route_changes_anything_without_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apps: list[web.Application] = []

    class Runner(web.AppRunner):
        def __init__(self, app: web.Application, **settings: object) -> None:
            apps.append(app)
            super().__init__(app, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(web, "AppRunner", Runner)
    async with served(tmp_path) as (_, url, session):
        app = apps[-1]  # the sandbox has its own
        routes = {
            (route.method, re.sub(r"\{[^}]*\}", "x", route.resource.canonical))
            for route in app.router.routes()
            if route.resource is not None
        }
        writing = {(method, path) for method, path in routes if method not in READING}
        assert ("POST", "/webhooks/alertmanager") in writing
        for method, path in sorted(writing):
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic eDp4"}):
                async with session.request(method, f"{url}{path}", data=b"{}", headers=headers) as answer:
                    assert answer.status == 401, f"{method} {path} with {headers or 'no token'}"
        for method, path in sorted(routes - writing):
            for other in {"POST", "PUT", "PATCH", "DELETE"} - {way for way, where in routes if where == path}:
                async with session.request(other, f"{url}{path}", data=b"{}") as answer:
                    assert answer.status == 405, f"{other} {path}"
            assert method in READING
