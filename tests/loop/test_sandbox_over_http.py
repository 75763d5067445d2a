"""One cluster's emulation pointed at an API over HTTP, as it is pointed at a real kube-apiserver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import orjson

from clusters.clock import SharedClock
from clusters.kubernetes.client import HttpKubeApi
from clusters.sandbox.apiserver.server import ApiServer, kubeconfig
from clusters.sandbox.emulation.cluster import ClusterEmulation, run_emulation
from clusters.sandbox.emulation.objects import condition_true
from clusters.sandbox.scenario import ClusterPlan
from scheduler.model.contract import JOBS, NODES, PODS
from tests.unit.emulation_fakes import job, pool


@asynccontextmanager
async def _emulated(tmp_path: Path) -> AsyncIterator[tuple[HttpKubeApi, ClusterEmulation, SharedClock]]:
    clock = SharedClock.create(tmp_path / "clock", start=1_700_000_000.0, speed=1000)
    server = ApiServer("east", clock, token="secret")
    await server.start()
    config = tmp_path / "kubeconfig.yaml"
    config.write_bytes(orjson.dumps(kubeconfig(server)))
    api = await HttpKubeApi.connect(name="east", kubeconfig=config, context=None)
    plan = ClusterPlan("east", "eks", "us-east-1", (), (pool(maximum=2, fixed=True, capacity="owned"), pool("more")))
    try:
        async with run_emulation(api, clock, plan, heartbeat_seconds=1e6) as emulation:
            yield api, emulation, clock
    finally:
        await api.close()
        await server.stop()


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


async def test_jobs_and_machines_over_http(tmp_path: Path) -> None:
    async with _emulated(tmp_path) as (api, emulation, _):
        assert len((await api.list(NODES)).items) == 2
        for number in range(40):
            await api.create(JOBS, "default", job(f"j{number}", run=50 + number))
        await api.create(JOBS, "default", job("broken", run=5, exit_code=1, backoffLimit=0))
        await _until(lambda: emulation.summary()["jobs"] == {"complete": 40, "failed": 1})
        listed = (await api.list(JOBS)).items
        assert sum(condition_true(item, "Complete") for item in listed) == 40
        assert len((await api.list(PODS)).items) == 41
        await api.delete(JOBS, "default", "j0")
        await _until(lambda: len(emulation.pods.objects) == 40)
        emulation.pools.resize("more", 1)
        await _until(lambda: len(emulation.nodes.objects) == 3)
        emulation.pools.resize("more", 0)
        await _until(lambda: len(emulation.nodes.objects) == 2)
        (charge,) = emulation.billing.charges()
        assert charge.deleted_at is not None


async def test_an_emulation_that_is_started_again_goes_on_with_what_is_there(tmp_path: Path) -> None:
    clock = SharedClock.create(tmp_path / "clock", start=1_700_000_000.0, speed=1000)
    server = ApiServer("east", clock, token="secret")
    plan = ClusterPlan("east", "onprem", "lab", (), (pool(maximum=1, fixed=True),))
    await server.local.create(JOBS, "default", job("long", run=2000, completions=2))
    async with run_emulation(server.local, clock, plan) as first:
        await _until(lambda: first.summary()["pods"].get("running", 0) == 1)
        begun = next(iter(first.pods.objects.values()))["status"]["startTime"]
    async with run_emulation(server.local, clock, plan) as second:
        await _until(lambda: second.summary()["jobs"] == {"complete": 1})
        pods = (await server.local.list(PODS)).items
        assert len(pods) == 2
        assert begun in [pod["status"]["startTime"] for pod in pods]
    await server.stop()
