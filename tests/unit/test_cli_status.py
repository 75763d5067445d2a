"""`status` and `explain` against a scripted daemon, and what they say when there is none."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestServer
from rich.console import Console, RenderableType

from scheduler.cli import explain, status
from scheduler.cli.api import parse_explain, parse_status
from scheduler.cli.main import invoke

Handler = Callable[[web.Request], Awaitable[web.Response]]

STATUS: dict[str, Any] = {
    "federation": "sandbox",
    "mode": "active",
    "now": 1_700_000_000.0,
    "leader": True,
    "synced": True,
    "progress": {"idle": True, "wake_at": None, "cycles": 3, "last_cycle_seconds": 0.01},
    "clusters": [
        {
            "id": "onprem",
            "provider": "onprem",
            "region": "eu-dc1",
            "available": True,
            "unreachable_seconds": None,
            "round_trip_seconds": 0.002,
            "pools": [
                {
                    "pool": "a100",
                    "capacity_type": "owned",
                    "scaling": "fixed",
                    "bought": False,
                    "instance_type": "hgx",
                    "gpu_model": "A100-80GB",
                    "nodes": 4,
                    "nodes_ready": 4,
                    "desired_nodes": None,
                    "max_nodes": 4,
                    "gpus": 32,
                    "gpus_used": 24,
                    "usd_per_hour": "9.80",
                    "shortage": None,
                }
            ],
        },
        {
            "id": "eks",
            "provider": "eks",
            "region": "us-east-1",
            "available": False,
            "unreachable_seconds": 130.0,
            "round_trip_seconds": None,
            "pools": [
                {
                    "pool": "a-very-long-name-of-a-spot-pool",
                    "capacity_type": "spot",
                    "scaling": "managed",
                    "bought": True,
                    "instance_type": "p4d.24xlarge",
                    "gpu_model": None,
                    "nodes": 1,
                    "nodes_ready": 0,
                    "desired_nodes": 2,
                    "max_nodes": 8,
                    "gpus": 8,
                    "gpus_used": 0,
                    "usd_per_hour": None,
                    "shortage": "no capacity",
                }
            ],
        },
    ],
    "queues": [{"queue": "research", "pending": 2, "placed": 5, "gpus_used": 24, "dominant_share": 0.5}],
    "budgets": [
        {
            "policy": "burst",
            "budget": "month",
            "limit_usd": "5000",
            "spent_usd": "1200.50",
            "committed_usd": "10",
            "window_ends_at": 1_700_086_400.0,
        }
    ],
    "spend": [{"queue": None, "cluster": "eks", "capacity_type": "spot", "usd": "12.34"}],
    "spend_usd": "12.34",
    "workloads": {"pending": 2, "reserved": 0, "started": 5, "finished": 1, "invalid": 1},
    "counters": {"decisions": 9},
    "policies": {"digest": "abc", "loaded_at": 1.0, "error": "policies/x.yaml:3:1: unknown key"},
    "shadow": None,
}

_CANDIDATE = {
    "pool": {"cluster": "eks", "pool": "p4d-spot"},
    "capacity_type": "spot",
    "bought": True,
    "score": 3.21,
    "usd_per_hour": "9.62",
    "expected_cost_usd": "14.43",
    "expected_start_seconds": 240.0,
    "expected_seconds": 5400.0,
    "new_nodes": 1,
    "refused": [],
}
EXPLAIN: dict[str, Any] = {
    "workload": {
        "kind": "job",
        "namespace": "default",
        "name": "train",
        "uid": "u1",
        "queue": "research",
        "priority": 0,
        "phase": "started",
        "placement": {
            "cluster": "eks",
            "pool": "p4d-spot",
            "capacity_type": "spot",
            "bought": True,
            "state": "started",
        },
        "condition": ["Placed", "on eks/p4d-spot"],
    },
    "decisions": [
        {
            "id": "d2",
            "at": 1_700_000_600.0,
            "workload": {"kind": "job", "namespace": "default", "name": "train", "uid": "u1"},
            "queue": "research",
            "outcome": "burst",
            "reason": {"code": "BurstTriggered", "text": "waited long enough"},
            "sentence": "bought on eks/p4d-spot after 10m of waiting",
            "policy": "onprem-first",
            "policy_digest": "0123456789abcdef",
            "chosen": _CANDIDATE,
            "alternatives": [{**_CANDIDATE, "pool": {"cluster": "gke", "pool": "a2"}, "score": 5.0}],
            "refused": [[{"code": "PriceCap", "text": "over the price cap"}, 4]],
        },
        {
            "id": "d1",
            "at": 1_700_000_000.0,
            "workload": {"kind": "job", "namespace": "default", "name": "train", "uid": "u1"},
            "queue": "research",
            "outcome": "held",
            "reason": {"code": "NoRoom", "text": "no room"},
            "sentence": "0/7 offerings: 4 over the price cap, 3 no room",
            "policy": "onprem-first",
            "policy_digest": "0123456789abcdef",
            "chosen": None,
            "alternatives": [],
            "refused": [],
        },
    ],
}


def drawn(view: RenderableType) -> str:
    console = Console(width=80, record=True, file=None, quiet=False, highlight=False)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


class Daemon:
    """Answers what the test says, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answer: Any = STATUS
        self.code = 200
        self.raw: bytes | None = None
        self.asked: list[str] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        if self.raw is not None:
            return web.Response(body=self.raw, status=self.code)
        return web.json_response(self.answer, status=self.code)


@pytest_asyncio.fixture
async def daemon() -> AsyncIterator[Daemon]:
    scripted = Daemon()
    app = web.Application()
    app.router.add_get("/{path:.*}", scripted.handle)
    async with TestServer(app) as server:
        scripted.url = str(server.make_url("/")).rstrip("/")
        yield scripted


async def test_status_shows_clusters_queues_budgets_and_spend(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(invoke, ["status", "--url", daemon.url]) == 0
    shown = capsys.readouterr().out
    assert daemon.asked == ["/api/v1/status"]
    for want in (
        "onprem/a100",
        "24/32",
        "9.80",
        "silent 2m10s",
        "0/2",
        "research",
        "burst/month",
        "$1,200.50",
        "1d00h",
        "(nobody's)",
        "$12.34",
        "1 invalid",
        "unknown key",
    ):
        assert want in shown, want


def test_status_fits_80_columns() -> None:
    lines = drawn(status.view(parse_status(STATUS))).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert not any("…" in line for line in lines)


async def test_status_json_is_the_daemons_answer(daemon: Daemon, capsys: pytest.CaptureFixture[str]) -> None:
    assert await asyncio.to_thread(invoke, ["status", "--json", "--url", daemon.url]) == 0
    assert json.loads(capsys.readouterr().out) == STATUS


async def test_a_status_of_a_later_version_is_still_understood(daemon: Daemon) -> None:
    daemon.answer = {**STATUS, "new": {"key": 1}, "workloads": {**STATUS["workloads"], "paused": 3}}
    assert await asyncio.to_thread(invoke, ["status", "--url", daemon.url]) == 0


async def test_explain_shows_choice_alternatives_refusals_and_history(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.answer = EXPLAIN
    assert await asyncio.to_thread(invoke, ["explain", "default/train", "--url", daemon.url]) == 0
    shown = capsys.readouterr().out
    assert daemon.asked == ["/api/v1/explain?workload=default%2Ftrain"]
    for want in (
        "job/default/train",
        "on eks/p4d-spot (spot, bought for it), started",
        "bought on eks/p4d-spot after 10m of waiting",
        "-> eks/p4d-spot",
        "gke/a2",
        "3.21",
        "$14.43",
        "1h30m",
        "4 x over the price cap (PriceCap)",
        "0/7 offerings: 4 over the price cap, 3 no room",
        "0123456789ab",
    ):
        assert want in " ".join(shown.split()), want


def test_explain_without_decisions_shows_the_condition() -> None:
    shown = drawn(explain.view(parse_explain({**EXPLAIN, "decisions": []})))
    assert "Placed: on eks/p4d-spot" in shown


def test_explain_fits_80_columns() -> None:
    lines = drawn(explain.view(parse_explain(EXPLAIN))).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80


@pytest.mark.parametrize(
    ("code", "raw", "want"),
    [
        (404, b'{"error": "no workload \'x\' is known"}', "overspill: no workload 'x' is known\n"),
        (503, b"{}", "answered HTTP 503"),
        (200, b"<html>", "answered something else than JSON"),
        (200, b"[]", "the daemon's answer is not understood"),
        (200, b'{"workload": 1}', "the daemon's answer is not understood: workload"),
    ],
)
async def test_wrong_answers_are_one_line(
    daemon: Daemon, capsys: pytest.CaptureFixture[str], code: int, raw: bytes, want: str
) -> None:
    daemon.code, daemon.raw = code, raw
    assert await asyncio.to_thread(invoke, ["explain", "x", "--url", daemon.url]) == 1
    told = capsys.readouterr().err
    assert want in told
    assert told.count("\n") == 1


def test_no_daemon_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert invoke(["status", "--url", url]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"overspill: no daemon at {url}; start `overspill run")
    assert told.count("\n") == 1


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "ftp://x", "http://", "http://x:port"])
def test_a_wrong_url_is_one_line(capsys: pytest.CaptureFixture[str], url: str) -> None:
    assert invoke(["status", "--url", url]) == 2
    told = capsys.readouterr().err
    assert "--url" in told
    assert told.count("\n") == 1
