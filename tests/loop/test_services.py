"""A FederatedWorkload that a ServingSLO matches is divided over members: from its start to its end."""

from __future__ import annotations

from pathlib import Path

from scheduler.model.contract import CONDITION_PLACED, FEDERATED_WORKLOADS, NODES
from scheduler.model.errors import NotFoundError
from tests.loop.harness import POLICIES, World, until
from tests.loop.services import (
    Played,
    a_serving_world,
    condition,
    copies,
    divided,
    hub_object,
    is_part,
    serving,
    status,
    submit,
    until_ready,
)


async def gone(world: World, uid: str) -> bool:
    try:
        await hub_object(world)
    except NotFoundError:
        return not await copies(world, uid)
    return False


async def test_without_metrics_the_least_replicas_run_and_say_so(tmp_path: Path) -> None:
    async with a_serving_world(tmp_path) as world, divided(world) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 2}, "the least replicas are ready")
        await until(lambda: serving(world, "NoDemandMetrics"), "it says that nobody measures it")
        assert (await condition(world))["status"] == "Unknown"
        assert (await condition(world, CONDITION_PLACED))["status"] == "True"
        assert all(is_part(raw) for _, raw in await copies(world, uid))
        told = await status(world)
        assert told["readyReplicas"] == 2
        assert [one["name"] for one in told["clusters"]] == ["onprem"]
        assert daemon.decisions.counters["placed"] == 0, "no cycle places it"
        await world.hub.delete(FEDERATED_WORKLOADS, "default", "chat")
        await until(lambda: gone(world, uid), "deleted with all its parts")
        await until(daemon.is_idle, "at rest")


async def test_it_bursts_when_on_prem_is_full_and_returns(tmp_path: Path) -> None:
    played = Played(2.0)
    async with a_serving_world(tmp_path) as world, divided(world, played) as daemon:
        uid = await submit(world)
        await until_ready(world, uid, {"onprem": 2}, "two carry it")
        assert await serving(world, "Serving")
