"""A spot machine that its cloud takes back: no new pods on it, its work run elsewhere once, and all of it recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from clusters.sandbox.scenario import FaultPlan, default_scenario
from scheduler.daemon.history.tables import RECLAIMS
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import EVENTS, NODES, PODS
from scheduler.model.ids import ClusterId
from tests.loop.harness import POLICIES, World, a_job, a_world, counting, until

EKS = ClusterId("eks")
HOUR = 3600.0


def spot_only(gpus: int, seconds: float) -> dict[str, Any]:
    """A template that only the cloud's spot machines can run, which tolerates every taint."""
    template: dict[str, Any] = a_job("any", gpus=gpus, seconds=seconds)["spec"]["template"]
    template["spec"]["nodeSelector"] = {"eks.amazonaws.com/capacityType": "SPOT"}
    template["spec"]["tolerations"] = [{"operator": "Exists"}]
    return template


async def reclaim_rows(world: World) -> list[dict[str, Any]]:
    engine = sql.create_engine(f"sqlite:///{world.folder / 'history.db'}")
    try:
        with engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(sql.select(RECLAIMS))]
    finally:
        engine.dispose()


async def running_on(world: World, uid: str) -> str | None:
    for pod in (await world.member("eks").list(PODS)).items:
        if pod["metadata"]["labels"].get("overspill.dev/origin-uid") == uid and pod["spec"].get("nodeName"):
            return str(pod["spec"]["nodeName"])
    return None


def counted(daemon: Daemon, source: str) -> float | None:
    labels = {"cluster": "eks", "pool": "p4d-spot", "source": source}
    return daemon.outside.telemetry.registry.get_sample_value("overspill_reclaims_total", labels)


async def test_a_reclaimed_node_gets_no_new_pods_and_its_workload_runs_again_once(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=600.0) as world, counting(world) as counter, world.daemon() as (daemon, _):
        first = (await world.submit("first", template=spot_only(4, HOUR), backoffLimit=6))["metadata"]["uid"]
        await until(lambda: counter.ran.get(first), "it runs")
        node = await running_on(world, first)
        assert node is not None
        world.sandbox.strike(FaultPlan(0.0, "eks", "spot-reclaim", node=node))
        mirror = daemon.mirror.members[EKS]
        await until(lambda: mirror.reclaims, "it is noticed")
        (noticed,) = mirror.reclaims.values()
        assert noticed.node == node
        assert noticed.deadline is not None
        assert 100 < noticed.deadline - noticed.noticed_at <= 121
        # Half of the node is free, and the newcomer tolerates the taint: only the reclaim keeps it away.
        second = (await world.submit("second", template=spot_only(4, HOUR / 6)))["metadata"]["uid"]
        (pool,) = [
            one
            for cluster in daemon.report.status()["clusters"]
            for one in cluster["pools"]
            if one["pool"] == "p4d-spot"
        ]
        assert [one["node"] for one in pool["reclaimed"]] == [node]
        await until(lambda: counter.ran.get(second), "the newcomer runs", 60)
        assert await running_on(world, second) != node
        await until(lambda: world.all_done("first", "second"), "complete", 60)
        assert len(counter.ran[first]) == 2
        assert len(counter.succeeded[first]) == 1
        assert len(counter.ran[second]) == 1
        assert len(counter.copies[first]) == 1, "its copy stayed; its pod was run again by its own Job controller"
        assert not mirror.reclaims
        assert counted(daemon, "taint aws-node-termination-handler/spot-itn") == 1
        assert (await world.member("eks").list(EVENTS)).items
    (row,) = await reclaim_rows(world)
    assert (row["cluster"], row["pool"], row["node"], row["outcome"]) == ("eks", "p4d-spot", node, "gone")
    assert row["noticed_at"] < row["deadline"] <= row["ended_at"] <= row["deadline"] + 120


async def test_a_notice_is_taken_up_again_after_a_restart_and_not_counted_twice(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=60.0) as world:
        async with world.daemon() as (daemon, _):
            await world.submit("first", template=spot_only(8, HOUR))
            await until(lambda: running_on_any(world), "it runs", 60)
            (node,) = (await world.member("eks").list(NODES)).items
            world.sandbox.strike(FaultPlan(0.0, "eks", "spot-reclaim", node=node["metadata"]["name"]))
            await until(lambda: daemon.mirror.members[EKS].reclaims, "it is noticed")
            (before,) = daemon.mirror.members[EKS].reclaims.values()
        async with world.daemon() as (daemon, _):
            await until(lambda: daemon.mirror.members[EKS].reclaims, "it is noticed again")
            assert daemon.mirror.members[EKS].reclaims[before.node_uid] == before
            assert counted(daemon, before.source) is None
        (row,) = await reclaim_rows(world)
        assert row["ended_at"] is None


async def running_on_any(world: World) -> bool:
    return any(pod["spec"].get("nodeName") for pod in (await world.member("eks").list(PODS)).items)


@pytest.mark.parametrize("member", [plan.name for plan in default_scenario().members if plan.provider != "onprem"])
async def test_every_clouds_notice_is_understood(tmp_path: Path, member: str) -> None:
    """The sandbox's notice, in each cloud's own words, through its API and the daemon's watches."""
    keeping = POLICIES.replace("idle: 2m", "idle: 2h")
    async with a_world(tmp_path, scenario=default_scenario(), speed=30.0, policies=keeping) as world:
        # Before the daemon comes: a machine on its way that nobody needs is one that it sends back.
        emulation = world.sandbox.emulations[member]
        pool = emulation.pools.pools()[-1].spec
        emulation.pools.slow_down(pool.name, 0.01)
        emulation.pools.resize(pool.name, 1)
        await until(lambda: emulation.nodes.objects, "a machine is there")
        (node,) = emulation.nodes.objects
        async with world.daemon() as (daemon, _):
            mirror = daemon.mirror.members[ClusterId(member)]
            await until(lambda: node in mirror.nodes, "the daemon knows it")
            world.sandbox.strike(FaultPlan(0.0, member, "spot-reclaim", node=node))
            await until(lambda: mirror.reclaims, "it is noticed")
            (noticed,) = mirror.reclaims.values()
        assert noticed.pool == pool.name
        if member == "aks":
            assert noticed.source == "condition VMEventScheduled"
            assert noticed.deadline is not None
            assert 0 < noticed.deadline - noticed.noticed_at <= 31
