"""A Prometheus API that answers one sort of query: `metric{label="value",...}[N s]`, and refuses all others.

Source: prometheus.io, "HTTP API" (instant queries of range selectors give a matrix).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.builders.price_faults import Script, serving

_QUERY: Final = re.compile(r"(\w+)\{(.*)\}\[(\d+)s\]")
_MATCHER: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"(?:,|$)')


@dataclass
class PrometheusApi:
    now: float
    token: str | None = None
    """Bearer token that is wanted."""
    script: Script = field(default_factory=Script)
    asked: list[str] = field(default_factory=list)
    series: list[tuple[dict[str, str], list[tuple[float, str]]]] = field(default_factory=list)
    url: str = ""

    def add(self, metric: str, value: str, *, at: float | None = None, **labels: str) -> None:
        """One series with one sample."""
        self.series.append(({"__name__": metric, **labels}, [(self.now if at is None else at, value)]))

    async def handle(self, request: web.Request) -> web.StreamResponse:
        query = request.query.get("query", "")
        self.asked.append(query)
        if self.token is not None and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=401, text="unauthorized")
        found = _QUERY.fullmatch(query)
        if request.method != "GET" or request.path != "/api/v1/query" or found is None:
            return web.json_response({"status": "error", "errorType": "bad_data", "error": "parse error"}, status=400)
        metric, inside, window = found.groups()
        wanted = {"__name__": metric} | {
            name: re.sub(r"\\(.)", lambda c: "\n" if c[1] == "n" else c[1], value)
            for name, value in _MATCHER.findall(inside)
        }
        result: list[dict[str, Any]] = []
        for labels, samples in self.series:
            inside_window = [list(one) for one in samples if self.now - int(window) < one[0] <= self.now]
            if inside_window and all(labels.get(name) == value for name, value in wanted.items()):
                result.append({"metric": labels, "values": inside_window})
        return web.json_response({"status": "success", "data": {"resultType": "matrix", "result": result}})


@asynccontextmanager
async def prometheus_api(now: float) -> AsyncIterator[PrometheusApi]:
    api = PrometheusApi(now)
    async with serving(api.handle, api.script) as url:
        api.url = url
        yield api
