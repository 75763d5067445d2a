"""Gathered metrics: the latest reading of each query on each member, counted by what came of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler.daemon.parts import Daemon
from scheduler.model.metrics import ABSENT, FAILED, OK
from tests.loop.harness import World, a_world, until


def state(daemon: Daemon, cluster: str, metric: str) -> str:
    return next((one.state for one in daemon.readings.readings(cluster, metric)), "")


async def break_metrics_of_eks(world: World) -> None:
    def rewrite() -> None:
        path = world.sandbox.federation_file
        document: dict[str, Any] = yaml.safe_load(path.read_text())
        document["spec"]["members"][1]["metrics"]["url"] = "http://127.0.0.1:1/metrics"
        path.write_text(yaml.safe_dump(document))

    await asyncio.to_thread(rewrite)


@pytest.mark.parametrize("shadow", [False, True])
async def test_a_members_broken_metrics_are_failed_readings_and_cost_the_others_nothing(
    tmp_path: Path, shadow: bool
) -> None:
    async with a_world(tmp_path) as world:
        await break_metrics_of_eks(world)
        async with world.daemon(shadow=shadow) as (daemon, _):
            await until(lambda: state(daemon, "onprem", "gpu_utilization_ratio") == OK, "read")
            assert state(daemon, "eks", "gpu_utilization_ratio") == FAILED
            assert state(daemon, "onprem", "network_probe_seconds") == ABSENT
            await until(lambda: state(daemon, "eks", "api_round_trip_seconds") == OK, "our own measurement goes on")
            (reading,) = daemon.readings.readings("onprem", "gpu_utilization_ratio")
            assert len(reading.samples) == 64
            first = reading.asked_at

            def again() -> bool:
                return daemon.readings.readings("onprem", "gpu_utilization_ratio")[0].asked_at >= first + 30

            await until(again, "and again half a minute later")
            counted = daemon.outside.telemetry.metric_readings
            assert counted.labels("onprem", OK)._value.get() >= 2
            assert counted.labels("eks", FAILED)._value.get() >= 2


async def test_a_standby_gathers_while_it_waits(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon(identity="first") as (first, _):
        await until(lambda: first.leader.is_leader, "leads")
        async with world.daemon(identity="second") as (second, _):
            await until(lambda: state(second, "onprem", "gpu_utilization_ratio") == OK, "metrics are read")
            await until(lambda: second.prices.book.health()[0].read_at, "prices are read")
            eks = second.mirror.members[world_member(second, "eks")]
            await until(lambda: eks.discovered.pools_at, "the cloud is asked")
            assert not second.leader.is_leader


def world_member(daemon: Daemon, name: str) -> Any:
    return next(cluster for cluster in daemon.mirror.members if cluster == name)


async def test_a_silent_member_has_no_round_trip_and_says_so(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon(ping_seconds=0.05) as (daemon, _):
        await until(lambda: state(daemon, "eks", "api_round_trip_seconds") == OK, "measured")
        world.sandbox.servers["eks"].fall_silent()
        await until(lambda: state(daemon, "eks", "api_round_trip_seconds") == FAILED, "not answered")
        (reading,) = daemon.readings.readings("eks", "api_round_trip_seconds")
        assert reading.samples == ()
        assert reading.error
