"""The read API and /metrics, as a monitoring system and a careless client meet them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from yarl import URL

from scheduler.daemon.http.server import HttpServer
from tests.loop.harness import World, a_world, until

BOUNDED = {
    "action", "budget", "call", "capacity_type", "cause", "cluster", "kind", "le", "loop", "name", "outcome", "phase",
    "policy", "pool", "quantile", "queue", "reason", "resource", "result", "severity", "source", "state", "step",
    "what",
}  # fmt: skip
"""Labels whose values come from the federation file, the policies or the code; never names or UIDs of objects."""
NAMED = "overspill_workload_"
"""Families that tell of workloads by name, of not more than `listen.workloadMetrics`."""
UNITS = ("_seconds", "_usd", "_ratio", "_total", "_bytes", "_info", "_per_second", "_per_hour")
COUNTS = {
    "workloads", "pool_nodes", "pool_gpus", "unpriced_pools", "member_reachable", "reconcile_queue_keys", "leader",
    "incidents_open", "paused", "remedies_refused", "remedy_breakers_open", "remedy_cases", "model_drifting",
    "model_said_drifting",
    "detector_series", "detector_metrics", "idle_bought_gpus", "bought_nodes", "pool_shortage", "shadow_mode",
    "workload_phase", "workload_placed", "workload_gpus", "service_replicas", "service_condition",
}  # fmt: skip
"""Gauges of things that are counted, or of yes and no."""


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[tuple[World, str, aiohttp.ClientSession]]:
    async with a_world(folder) as world, world.daemon() as (daemon, _):
        server = HttpServer("127.0.0.1", 0, daemon.served)
        url = await server.start()
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
                yield world, url, session
        finally:
            await server.stop()


async def test_metrics_follow_the_conventions_and_stay_bounded(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, url, session):
        jobs = [f"job-{number}" for number in range(3)]
        for name in jobs:
            await world.submit(name)
        await world.submit("too-large", gpus=64)
        await until(lambda: world.all_done(*jobs), "complete")
        async with session.get(f"{url}/metrics") as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            families = list(text_string_to_metric_families(await answer.text()))
        ours = [family for family in families if family.name.startswith("overspill_")]
        assert len(ours) > 15
        for family in ours:
            assert family.documentation
            assert re.fullmatch(r"[a-z][a-z_]*[a-z]", family.name), family.name
            for sample in family.samples:
                if family.name.startswith(NAMED):
                    assert set(sample.labels) <= BOUNDED | {"workload"}, sample
                    continue
                assert set(sample.labels) <= BOUNDED, sample
                assert not any(job in value for value in sample.labels.values() for job in jobs), sample
            if family.type == "gauge" and family.name.removeprefix("overspill_") not in COUNTS:
                assert family.name.endswith((*UNITS, "_success", "_created")), family.name
        values = {(s.name, *sorted(s.labels.values())): s.value for family in ours for s in family.samples}
        assert values["overspill_workloads", "finished", "research"] == 3
        assert values["overspill_workload_phase", "finished", "job/default/job-0", "research"] == 1
        assert values["overspill_queue_oldest_wait_seconds", "research"] > 0, "the large one waits"
        assert values["overspill_decisions_total", "Placed", "placed"] == 3


async def test_it_is_ready_and_healthy_once_synced(tmp_path: Path) -> None:
    async with served(tmp_path) as (_, url, session):

        async def ready() -> bool:
            async with session.get(f"{url}/readyz") as answer:
                return answer.status == 200 and await answer.text() == "ok"

        await until(ready, "ready")
        async with session.get(f"{url}/healthz") as answer:
            assert (answer.status, await answer.text()) == (200, "ok")


async def test_what_is_gathered_is_told_with_its_source_and_time(tmp_path: Path) -> None:
    async with served(tmp_path) as (world, url, session):

        async def told(path: str) -> dict[str, Any]:
            async with session.get(f"{url}/api/v1/{path}") as answer:
                assert answer.status == 200
                found: dict[str, Any] = await answer.json()
                assert world.sandbox.clock.now() - 3600 < found["now"] <= world.sandbox.clock.now()
                return found

        async def nodes() -> bool:
            return any(one["nodes"] for one in (await told("clusters"))["clusters"] if one["id"] == "onprem")

        await until(nodes, "nodes are listed")

        async def asked() -> bool:
            return all(one["pools_at"] and one["round_trip_seconds"] for one in (await told("clusters"))["clusters"])

        await until(asked, "clouds and APIs are asked")
        detail = await told("clusters/eks")
        assert [pool["pool"] for pool in detail["pools"]] == ["p4d", "p4d-spot", "g5"]
        assert all(pool["provider"]["max_nodes"] == pool["max_nodes"] for pool in detail["pools"])
        assert {pool["price_source"] for pool in detail["pools"]} == {"federation.yaml"}

        async def prices() -> list[dict[str, Any]]:
            found = await told("prices")
            return found["prices"] if found["sources"][0]["read_at"] else []

        rows = {(row["cluster"], row["pool"]): row for row in await until(prices, "the catalogue is read")}
        assert len(rows) == 5
        assert (rows["eks", "g5"]["winner"], rows["eks", "g5"]["usd_per_hour"]) == ("federation file", "1.006")
        assert rows["eks", "g5"]["answers"][0]["state"] == "fresh"
        pings = (await told("metrics?cluster=eks&metric=api_round_trip_seconds"))["readings"]
        assert [(one["cluster"], one["state"], one["unit"]) for one in pings] == [("eks", "ok", "seconds")]


@pytest.mark.parametrize(
    ("method", "path", "want"),
    [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/api/v1/clusters/nowhere", 404),
        ("GET", "/api/v1/clusters/%00", 404),
        ("GET", f"/api/v1/clusters/{'x' * 700}", 404),
        ("GET", "/api/v1/metrics?cluster=nowhere", 404),
        ("GET", "/api/v1/metrics?metric=nothing", 404),
        ("GET", f"/api/v1/metrics?metric={'x' * 700}", 404),
        ("POST", "/api/v1/prices", 405),
        ("DELETE", "/api/v1/clusters/eks", 405),
        ("POST", "/api/v1/status", 405),
        ("GET", "/api/v1/explain", 400),
        ("GET", "/api/v1/explain?workload=", 400),
        ("GET", "/api/v1/explain?workload=nobody", 404),
        ("GET", f"/api/v1/explain?workload={'x' * 700}", 400),
        ("GET", "/api/v1/explain?workload=a/b/c/d/e", 404),
        ("GET", "/api/v1/explain?workload=%00", 404),
        ("GET", "/api/v1/explain?workload=%ff%fe", 404),
        ("GET", "/api/v1/explain?workload=%ed%a0%80", 404),
        ("GET", "/api/v1/explain?workload='%20OR%20''='", 404),
    ],
)
async def test_an_error_of_the_api_is_one_line_of_json(tmp_path: Path, method: str, path: str, want: int) -> None:
    async with (
        served(tmp_path) as (_, url, session),
        session.request(method, URL(f"{url}{path}", encoded=True)) as answer,
    ):
        assert answer.status == want
        assert answer.content_type == "application/json"
        body = await answer.json()
        assert set(body) == {"error"}
        assert "\n" not in body["error"]
        assert "Traceback" not in body["error"]
