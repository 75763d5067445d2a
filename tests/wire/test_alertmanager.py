"""A real Prometheus and a real Alertmanager in the loop: their alerts become incidents, and ours reach Alertmanager."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from clusters.clock import SystemClock
from clusters.kubernetes.codec import format_time
from scheduler.aiops.remediation.facts import Incident, Subject
from scheduler.daemon.http.server import HttpServer
from scheduler.daemon.incidents.alerts import AlertBook, AlertPoster
from tests.builders.alertmanager_process import alertmanager, alertmanager_command
from tests.builders.prometheus_process import prometheus, prometheus_binary
from tests.loop.harness import a_world, until

NOW = SystemClock()
HOOK = "/webhooks/alertmanager"


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[AlertBook, str, Path]]:
    """A daemon's HTTP server with a token; the book that it fills."""
    token = folder / "token"
    token.write_text("wire-token")
    async with a_world(folder) as world, world.daemon() as (daemon, _):
        book = AlertBook(token, NOW, daemon.outside.telemetry)
        server = HttpServer("127.0.0.1", 0, replace(daemon.served, alerts=book))
        url = await server.start()
        try:
            await until(lambda: daemon.leader.is_leader, "it leads")
            yield book, url, token
        finally:
            await server.stop()


async def firing(url: str) -> list[dict[str, Any]]:
    async with aiohttp.ClientSession() as http, http.get(f"{url}/api/v2/alerts") as answer:
        return [dict(alert["labels"]) for alert in await answer.json()]


def states(book: AlertBook) -> dict[str, str]:
    return {incident.kind: incident.state for incident in book.incidents()}


def is_in_state(book: AlertBook, kind: str, state: str) -> bool:
    return states(book).get(kind) == state


async def test_alerts_of_prometheus_become_incidents_and_ours_reach_alertmanager(tmp_path: Path) -> None:
    prometheus_binary()
    alertmanager_command()
    rule = {
        "alert": "GpuLost",
        "expr": "vector(1)",
        "labels": {"severity": "critical", "overspill_signal": "gpu.xid.79", "cluster": "eks", "node": "n1"},
    }
    rules = tmp_path / "rules.yml"
    rules.write_text(yaml.safe_dump({"groups": [{"name": "g", "interval": "1s", "rules": [rule]}]}))
    async with served(tmp_path) as (book, url, token), alertmanager(tmp_path, f"{url}{HOOK}", token) as am:
        alerting = {"alertmanagers": [{"static_configs": [{"targets": [am.removeprefix("http://")]}]}]}
        async with prometheus(tmp_path, [], more={"rule_files": [str(rules)], "alerting": alerting}):
            await until(lambda: states(book).get("gpu.xid.79") == "open", "Prometheus's alert is an incident", 40)
        (found,) = book.incidents()
        assert (found.severity, found.subject) == ("critical", Subject("eks", None, "n1"))
        # An alert that is told to have ended is told to us as resolved.
        labels = {"alertname": "Short", "node": "n2"}
        now = NOW.now()
        for ends in (now + 60, now):
            body = [{"labels": labels, "startsAt": format_time(now - 60), "endsAt": format_time(ends)}]
            async with aiohttp.ClientSession() as http, http.post(f"{am}/api/v2/alerts", json=body) as answer:
                assert answer.status == 200
            want = "open" if ends > now else "resolved"
            await until(partial(is_in_state, book, "alert.Short", want), f"it is {want}", 20)
        ours = Incident("i1", "gpu.ecc.double", "critical", Subject("eks", "p4d", "n3"), now - 5)
        told = [ours]
        poster = AlertPoster(am, None, "main", NOW, lambda: told)
        assert await poster.post()
        (sent,) = [each for each in await firing(am) if each["alertname"] == "OverspillIncident"]
        assert sent["overspill_incident"] == "i1"
        told[0] = Incident("i1", ours.kind, ours.severity, ours.subject, ours.opened_at, "resolved")
        assert await poster.post()

        async def gone() -> bool:
            return not [each for each in await firing(am) if each["alertname"] == "OverspillIncident"]

        await until(gone, "it is resolved there", 20)
        assert set(states(book)) == {"gpu.xid.79", "alert.Short"}, "our own did not come back in"


async def test_who_has_no_token_is_refused_and_garbage_is_a_400_in_one_line(tmp_path: Path) -> None:
    async with served(tmp_path) as (book, url, _), aiohttp.ClientSession() as http:
        hook = f"{url}{HOOK}"
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            async with http.post(hook, data=b"{}", headers=headers) as answer:
                assert answer.status == 401
        good = {"Authorization": "Bearer wire-token"}
        async with http.post(hook, data=b"\xff garbage", headers=good) as answer:
            assert answer.status == 400
            said = (await answer.json())["error"]
            assert said.startswith("the payload is not JSON")
            assert "\n" not in said
        async with http.post(hook, data=io.BytesIO(b" " * (2 << 20)), headers=good) as answer:
            assert answer.status == 413
        async with http.get(hook, headers=good) as answer:
            assert answer.status == 405
        async with http.get(f"{url}/api/v1/incidents/none-such") as answer:
            assert answer.status == 404
        assert not list(book.incidents())
