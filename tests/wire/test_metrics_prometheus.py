"""The Prometheus source against the real server, which scrapes the sandbox's exporters."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from clusters.clock import SystemClock
from clusters.metrics._promql import with_promql
from clusters.metrics.queries import load_queries, own_query
from clusters.sandbox.emulation.dcgm import Spelling
from clusters.sandbox.emulation.exporters import CONTENT_TYPE, render
from scheduler.model.contract import DEPLOYMENTS, NODES, PODS
from scheduler.model.metrics import ABSENT, FAILED, OK, STALE, Reading
from tests.builders.metrics_world import Answer, Seen, fixed, opened, query, read_one, serving
from tests.builders.prometheus_process import RunningPrometheus, Scraped, prometheus, prometheus_binary
from tests.unit.emulation_fakes import Bench, bench, pool
from tests.unit.test_emulation_scheduling import _deployment

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("prometheus")]
QUERIES = {each.name: each for each in load_queries()}


def _page(b: Bench, spelling: Spelling, began: float) -> Answer:
    """The exporter of an emulated cluster whose time goes on with the wall's."""

    async def answer(_: Seen) -> web.StreamResponse:
        now = b.clock.now() + time.monotonic() - began
        text = render(b.api.all(NODES), b.api.all(PODS), now, 0, spelling)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    return answer


class World:
    """A Prometheus over two clusters, `old` and `new` by their dcgm-exporter, and a page of the test's own."""

    def __init__(self, server: RunningPrometheus, old_page: str) -> None:
        self.server = server
        self.old_page = old_page

    async def read(self, *names: str, cluster: str = "old", **settings: object) -> dict[str, Reading]:
        options = {"url": self.server.url, "selector": {"cluster": cluster}, "rateWindowSeconds": 10, **settings}
        async with opened("prometheus", SystemClock(), **options) as source:
            readings = await source.read([QUERIES[name] for name in names])
        return dict(zip(names, readings, strict=True))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    prometheus_binary()
    folder = tmp_path_factory.mktemp("prometheus")
    old_sample = f"old_samples 1 {int((time.time() - 200) * 1000)}\n"
    own = '# TYPE twice gauge\ntwice{node="a"} 1\ntwice{node="b"} 2\nnone NaN\n' + old_sample
    async with bench(pool(maximum=1, fixed=True)) as b:
        await b.create_job("train", gpus=3, run=500_000)
        await b.api.create(DEPLOYMENTS, "default", _deployment(2))
        await b.pass_time(100)
        began = time.monotonic()
        async with (
            serving(_page(b, "4.8", began)) as old,
            serving(_page(b, "4.9", began)) as new,
            serving(fixed(own.encode(), headers={"Content-Type": "text/plain; version=0.0.4"})) as extra,
        ):
            jobs = [
                Scraped("old", f"{old}/metrics", {"cluster": "old"}),
                Scraped("new", f"{new}/metrics", {"cluster": "new"}),
                Scraped("extra", f"{extra}/metrics", {"cluster": "extra"}),
            ]
            async with prometheus(folder, jobs) as server:
                await server.until('count(rate(vllm:generation_tokens_total{cluster="old"}[5m]) > 0) > 1')
                await server.until('DCGM_FI_DEV_GPU_UTIL_RATIO{cluster="new"} and on() up{cluster="extra"} == 1')
                await server.until("old_samples")
                yield World(server, old)


async def test_a_workloads_own_query_is_any_promql_with_its_own_names(world: World) -> None:
    names = {"namespace": "default", "job": "a", "pods": "a-.*"}
    asked = [own_query(text, names) for text in ('100 * max(twice{$selector,node=~"$job.*"})', "sum(")]
    async with opened("prometheus", SystemClock(), url=world.server.url, selector={"cluster": "extra"}) as source:
        found, broken = await source.read(asked)
    assert (found.state, [sample.value for sample in found.samples]) == (OK, [100.0])
    assert broken.state == FAILED


async def test_both_spellings_of_dcgm_exporter_give_the_same_in_base_units(world: World) -> None:
    names = [name for name in QUERIES if name.startswith("gpu_")]
    old, new = await world.read(*names), await world.read(*names, cluster="new")
    not_default = {name for name in names if "ecc" in name or "crc" in name or "event_reasons" in name}
    not_default.add("gpu_row_remap_pending_count")
    assert {name for name in names if old[name].state == ABSENT} == not_default
    assert {name for name in names if new[name].state == ABSENT} == not_default
    ranges = {
        "gpu_utilization_ratio": (0, 1),
        "gpu_memory_total_bytes": (80 * 2**30, 80 * 2**30),
        "gpu_sm_clock_hertz": (210e6, 1410e6),
        "gpu_power_watts": (40, 800),
        "gpu_temperature_celsius": (20, 90),
        "gpu_energy_joules": (1, 1e9),
        "gpu_nvlink_bytes_per_second": (0, 120_000 * 1_024_000),
    }
    for name in set(names) - not_default:
        assert old[name].state == new[name].state == OK, (old[name].error, new[name].error)
        assert len(old[name].samples) == len(new[name].samples) == 8
        assert [sample.labels for sample in old[name].samples] == [sample.labels for sample in new[name].samples]
        for one, other in zip(old[name].samples, new[name].samples, strict=True):
            assert one.value == pytest.approx(other.value, rel=0.05, abs=0.02)
            low, high = ranges.get(name, (0, math.inf))
            assert low <= one.value <= high, name
    held = [dict(sample.labels) for sample in old["gpu_utilization_ratio"].samples if dict(sample.labels).get("pod")]
    assert [labels["gpu"] for labels in held] == ["0", "1", "2", *(labels["gpu"] for labels in held[3:])]
    assert all(labels["namespace"] == "default" and labels["gpu_model"] == "A100-80GB" for labels in held)


async def test_nodes_pods_and_serving(world: World) -> None:
    readings = await world.read(
        "node_ready_count",
        "node_memory_total_bytes",
        "pods_count",
        "serving_tokens_per_second",
        "serving_first_token_p95_seconds",
        "serving_queue_depth_count",
        "serving_latency_p50_seconds",
        "serving_latency_p99_seconds",
        "network_probe_seconds",
    )
    for name, reading in readings.items():
        assert reading.state == (ABSENT if name == "network_probe_seconds" else OK), (name, reading.error)
        assert not reading.error
        assert reading.source == f"prometheus {world.server.url.removeprefix('http://')}"
    assert [sample.value for sample in readings["node_ready_count"].samples] == [1.0]
    phases = {dict(sample.labels)["phase"]: sample.value for sample in readings["pods_count"].samples}
    assert phases["Running"] == 3
    tokens = readings["serving_tokens_per_second"]
    assert len(tokens.samples) == 2
    assert all(50 < sample.value < 2000 for sample in tokens.samples)
    p50, p99 = readings["serving_latency_p50_seconds"], readings["serving_latency_p99_seconds"]
    assert all(low.value < high.value for low, high in zip(p50.samples, p99.samples, strict=True))
    for reading in readings.values():
        for sample in reading.samples:
            assert -1 <= reading.asked_at - sample.at < 60


async def test_a_direct_scrape_agrees_with_the_server(world: World) -> None:
    names = [
        "gpu_memory_total_bytes",
        "gpu_power_watts",
        "serving_first_token_p95_seconds",
        "serving_tokens_per_second",
    ]
    asked = [QUERIES[name] for name in names]
    async with opened("scrape", SystemClock(), url=f"{world.old_page}/metrics") as source:
        first = await source.read(asked)
        assert [reading.state for reading in first] == [OK, OK, ABSENT, ABSENT]
        assert first[2].error == "a rate needs a second scrape"
        await world.server.until(f"vector(time()) > {first[0].asked_at + 6}")
        # Prometheus' rate is exact once its window is full of samples; before, it underestimates.
        full = 'count_over_time(vllm:generation_tokens_total{cluster="old"}[10s]) >= 9'
        await world.server.until(f"count({full}) == 2")
        scraped = dict(zip(names, await source.read(asked), strict=True))
    served = await world.read(*names)
    for name in names:
        assert scraped[name].state == served[name].state == OK, (name, scraped[name].error)
        mine, theirs = scraped[name].samples, served[name].samples
        assert [sample.labels for sample in mine] == [sample.labels for sample in theirs]
        for one, other in zip(mine, theirs, strict=True):
            assert one.value == pytest.approx(other.value, rel=0.35)


async def test_stale_absent_and_not_a_number_are_told_apart(world: World) -> None:
    clock = SystemClock()
    async with opened("prometheus", clock, url=world.server.url, rateWindowSeconds=60) as source:
        asked = [
            with_promql(query("old", promql="", families=(("old_samples", 2.0),))),
            with_promql(query("gone", promql="", families=(("no_such_metric", 1.0),))),
            with_promql(query("none", promql="", families=(("none", 1.0),))),
            with_promql(query("twice", promql="", families=(("no_such_metric", 1.0), ("twice", 0.5)))),
            query("own", promql="scalar(vector(4))", labels=()),
        ]
        old, gone, none, twice, own = await source.read(asked)
    assert (old.state, [sample.value for sample in old.samples]) == (STALE, [2.0])
    assert old.newest_at == pytest.approx(clock.now() - 200, abs=30)
    assert (gone.state, gone.samples, gone.error) == (ABSENT, (), "")
    assert (none.state, none.samples) == (ABSENT, ())
    assert "1 samples dropped" in none.error
    assert twice.state == OK
    assert [(sample.labels, sample.value) for sample in twice.samples] == [
        ((("node", "a"),), 0.5),
        ((("node", "b"),), 1.0),
    ]
    assert [(sample.labels, sample.value) for sample in own.samples] == [((), 4.0)]


@pytest.mark.parametrize(
    ("promql", "want"),
    [
        ("sum(", "HTTP 400: query failed: bad_data: "),
        ("twice[5m]", "answers 'matrix'; the query must give an instant vector or a scalar"),
        ('"text"', "answers 'string'"),
        ("twice * on() group_left() twice", "query failed: execution: "),
    ],
)
async def test_what_the_server_refuses_is_a_failed_reading_in_its_words(world: World, promql: str, want: str) -> None:
    async with opened("prometheus", SystemClock(), url=world.server.url) as source:
        bad, good = await source.read([query(promql=promql), query("good", promql="twice")])
    assert bad.state == FAILED
    assert want in bad.error
    assert good.state == OK


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_server_takes_every_shipped_query(world: World, method: str) -> None:
    readings = await world.read(*QUERIES, method=method)
    assert {name: reading.error for name, reading in readings.items() if reading.state == FAILED} == {}


async def test_a_path_before_the_api(tmp_path: Path) -> None:
    page = fixed(b"x 3\n", headers={"Content-Type": "text/plain"})
    async with serving(page) as url, prometheus(tmp_path, [Scraped("x", f"{url}/m", {})], prefix="/a/b") as server:
        await server.until("x")
        async with opened("prometheus", SystemClock(), url=f"{server.url}/") as source:
            reading = await read_one(source, replace(query(), labels=("job",)))
        assert [(sample.labels, sample.value) for sample in reading.samples] == [((("job", "x"),), 3.0)]
        async with opened("prometheus", SystemClock(), url=server.url.removesuffix("/a/b")) as source:
            assert (await read_one(source)).state == FAILED
