"""Bought capacity: shortages, quotas and reclaims end in the job running somewhere, once, and in a bill that agrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusters.sandbox.emulation.billing import total
from clusters.sandbox.scenario import FaultPlan, PoolPlan, Scenario
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import NODES, PODS
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from tests.loop.harness import POLICIES, World, a_job, a_world, counting, small_scenario, until

HOUR = 3600.0
P4D_SPOT = PoolRef(ClusterId("eks"), PoolId("p4d-spot"))


def on_a100_40gb() -> dict[str, Any]:
    """A template that only the cloud's p4d pools can run."""
    template: dict[str, Any] = a_job("any", gpus=8)["spec"]["template"]
    template["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "A100-40GB"}
    return template


def lasting(seconds: float) -> dict[str, Any]:
    template = on_a100_40gb()
    template["metadata"]["annotations"]["sandbox.overspill.dev/run-seconds"] = str(seconds)
    return template


def with_pool(name: str, change: Callable[[PoolPlan], PoolPlan]) -> Scenario:
    """The small federation with one pool changed."""
    small = small_scenario()
    members = tuple(
        replace(member, pools=tuple(change(pool) if pool.spec.name == name else pool for pool in member.pools))
        for member in small.members
    )
    return replace(small, members=members)


def desired(world: World, pool: str) -> int:
    return next(one.desired for one in world.sandbox.emulations["eks"].pools.pools() if one.spec.name == pool)


async def settled(world: World, daemon: Daemon) -> None:
    """All that was bought is given back, and the ledger says what the bill says."""

    async def none_left() -> bool:
        return not (await world.member("eks").list(NODES)).items

    await until(none_left, "all is given back")
    await until(lambda: daemon.ledger.nodes_ended == len(world.sandbox.charges()), "all is metered")
    assert daemon.ledger.total_usd == total(world.sandbox.charges())
    assert all(not pool.desired for pool in world.sandbox.emulations["eks"].pools.pools()), "nothing is on order"


@pytest.mark.parametrize("after_wait", ["1m", "20m"])
async def test_a_shortage_moves_the_job_to_the_next_offering_and_orders_no_phantom(
    tmp_path: Path, after_wait: str
) -> None:
    policies = POLICIES.replace("afterWait: 1m", f"afterWait: {after_wait}")
    async with (
        a_world(tmp_path, speed=1800.0, policies=policies) as world,
        counting(world) as counter,
        world.daemon() as (daemon, _),
    ):
        world.sandbox.strike(FaultPlan(0.0, "eks", "capacity-shortage", pool="p4d-spot"))
        uid = (await world.submit("wanting", gpus=8, template=lasting(HOUR / 6)))["metadata"]["uid"]
        await until(lambda: P4D_SPOT in daemon.mirror.backoffs, "the offering is backed off")
        await until(lambda: desired(world, "p4d") == 1, "the next one is bought instead")
        await until(lambda: desired(world, "p4d-spot") == 0, "what cannot be delivered is no longer asked for")
        await until(lambda: world.is_done("wanting"), "complete")
        assert daemon.decisions.counters["releases"] == 1, "it has waited long enough, and does not wait anew"
        assert len(counter.succeeded[uid]) == 1
        await settled(world, daemon)


async def test_an_account_quota_moves_the_job_to_the_next_offering(tmp_path: Path) -> None:
    scenario = with_pool("p4d-spot", lambda pool: replace(pool, quota_nodes=0))
    async with (
        a_world(tmp_path, speed=1800.0, scenario=scenario) as world,
        counting(world) as counter,
        world.daemon() as (daemon, _),
    ):
        uid = (await world.submit("wanting", gpus=8, template=lasting(HOUR / 6)))["metadata"]["uid"]
        await until(lambda: P4D_SPOT in daemon.mirror.backoffs, "the offering is backed off")
        await until(lambda: world.is_done("wanting"), "complete")
        assert len(counter.succeeded[uid]) == 1
        await settled(world, daemon)


async def test_a_shortage_of_all_offerings_holds_the_job_until_one_delivers(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=3600.0) as world, world.daemon() as (daemon, _):
        for pool in ("p4d", "p4d-spot"):
            world.sandbox.strike(FaultPlan(0.0, "eks", "capacity-shortage", pool=pool))
        await world.submit("wanting", gpus=8, template=lasting(HOUR / 6))
        await until(lambda: daemon.decisions.counters["releases"] >= 3, "it goes from one to the other in vain")
        for pool in ("p4d", "p4d-spot"):
            world.sandbox.strike(FaultPlan(0.0, "eks", "capacity-restored", pool=pool))
        await until(lambda: world.is_done("wanting"), "it runs once one delivers")
        await settled(world, daemon)


async def test_a_reclaimed_spot_node_costs_the_job_a_second_try_but_not_a_second_end(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=1800.0) as world, counting(world) as counter, world.daemon() as (daemon, _):
        uid = (await world.submit("spotty", gpus=8, template=lasting(HOUR), backoffLimit=6))["metadata"]["uid"]
        await until(lambda: counter.ran.get(uid), "it runs")
        pods = await world.member("eks").list(PODS)
        node = pods.items[0]["spec"]["nodeName"]
        world.sandbox.strike(FaultPlan(0.0, "eks", "spot-reclaim", node=node))
        await until(lambda: len(counter.ran[uid]) == 2, "its pod is run again")
        await until(lambda: world.is_done("spotty"), "complete")
        assert len(counter.succeeded[uid]) == 1
        await settled(world, daemon)
