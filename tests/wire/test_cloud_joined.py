"""Each cloud's SDK, through its emulated API, makes and takes away real nodes of the sandbox's clusters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from clusters.providers import load_provider, provider_names
from clusters.sandbox.federation import Sandbox
from scheduler.model.ids import NodeName
from scheduler.model.ports import NodePoolProvider, PoolStatus

CLOUDS = [name for name in provider_names() if name != "onprem"]


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    running = await Sandbox.start(tmp_path / "state", speed=1200)
    yield running
    await running.stop()


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(30):
        while not await holds():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("name", CLOUDS)
async def test_nodes_come_and_go_by_the_clouds_own_api(sandbox: Sandbox, name: str) -> None:
    members = [plan.name for plan in sandbox.scenario.members if plan.provider == name]
    assert members, f"the default scenario has no {name} cluster"
    cluster, cloud = sandbox.emulations[members[0]], sandbox.clouds[members[0]]
    module = load_provider(name)
    settings = module.Settings.model_validate(cloud.settings, context={"base_dir": sandbox.state_dir})
    provider: NodePoolProvider = module.create(settings, clock=sandbox.clock)

    async def first_pool() -> PoolStatus:
        return (await provider.list_pools())[0]

    async def settled() -> bool:
        return not (await first_pool()).busy

    async def two_nodes() -> bool:
        return len(cluster.nodes.objects) == before + 2

    async def one_node() -> bool:
        return len(cluster.nodes.objects) == before + 1

    try:
        before = len(cluster.nodes.objects)
        pool = await first_pool()
        await provider.set_size(pool.pool, 2)
        await until(two_nodes)
        await until(settled)
        labels = [dict(node["metadata"]["labels"]) for node in cluster.nodes.objects.values()]
        told = dict(pool.labels)
        assert sum(told.items() <= label.items() for label in labels) == 2, "the nodes carry what the provider tells"
        spec = next(one for one in cluster.pools.pools() if one.spec.name == pool.pool)
        leaving, staying = spec.instances
        for _ in range(2):
            await provider.remove_node(pool.pool, NodeName(leaving.node), leaving.provider_id)
            await until(one_node)
            await until(settled)
            assert (await first_pool()).desired_nodes == 1
        left = [node["spec"]["providerID"] for node in cluster.nodes.objects.values()]
        assert staying.provider_id in left
        assert leaving.provider_id not in left
    finally:
        await provider.close()
