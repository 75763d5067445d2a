"""Progress that a run's own metric tells: what the daemon makes of it, over the sandbox."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.daemon.parts import Daemon
from scheduler.engine.world import World as EngineWorld
from scheduler.model.contract import JOBS
from scheduler.model.ids import Uid
from scheduler.model.snapshot import Progress
from tests.loop.harness import World, a_job, a_world, until

STEPS = 20_000
SPEED = 2.0
SAID = {
    "overspill.dev/total-steps": str(STEPS),
    "overspill.dev/expected-duration": "30m",
    "overspill.dev/checkpoint-every": "10m",
}


async def submit(world: World, name: str, speed: float, **annotations: str) -> Uid:
    job = a_job(name, seconds=STEPS / speed)
    job["spec"]["template"]["metadata"]["annotations"]["sandbox.overspill.dev/steps-per-second"] = str(speed)
    job["metadata"]["annotations"] = SAID | annotations
    made = await world.hub.create(JOBS, "default", job)
    return Uid(made["metadata"]["uid"])


def told(daemon: Daemon, uid: Uid) -> Progress | None:
    found = daemon.progress.of(uid)
    return found if found is not None and found.per_second is not None else None


def done(daemon: Daemon, uid: Uid) -> float:
    """Which part of its work."""
    found = daemon.progress.of(uid)
    return 0.0 if found is None or found.done is None else found.done


def left(daemon: Daemon, uid: Uid) -> float | None:
    """What the engine makes of it in its next cycle."""
    world = EngineWorld(daemon.mirror.snapshot(()), daemon.outside.policies.current, daemon.predictor())
    workload = next(each for each in world.workloads if each.ref.uid == uid)
    assert workload.placement is not None
    room = world.room_of(workload.placement)
    copy = world.copies[uid, workload.placement.cluster]
    assert room is not None
    assert copy.started_at is not None
    return world.left_seconds(workload, room, copy.started_at)


async def suspend(world: World, name: str) -> None:
    await world.hub.patch(JOBS, "default", name, {"spec": {"suspend": True}})


def begun(daemon: Daemon, uid: Uid) -> float | None:
    found = daemon.progress.of(uid)
    return found.begun if found is not None and found.done is None and found.begun > 0 else None


async def test_the_runs_own_metric_says_what_is_left_and_a_pause_keeps_what_was_done(tmp_path: Path) -> None:
    query: dict[str, Any] = {"overspill.dev/progress-query": 'training_steps_total{namespace="$namespace"}'}
    async with a_world(tmp_path) as world:
        async with world.daemon() as (daemon, _):
            common = await submit(world, "common", SPEED)
            # The furthest of all pods there, which are its own: it goes twice as fast.
            own = await submit(world, "own", 2 * SPEED, **query)
            for uid, speed in ((common, SPEED), (own, 2 * SPEED)):
                found = await until(lambda uid=uid: told(daemon, uid), "its speed to be known")  # type: ignore[misc]
                assert found.per_second == pytest.approx(speed / STEPS, rel=0.1)
                seconds = left(daemon, uid)
                assert seconds is not None
                # Its user said half an hour for all of it.
                whole = seconds + (daemon.outside.clock.now() - found.at) + (found.done or 0.0) / found.per_second
                assert whole == pytest.approx(STEPS / speed, rel=0.15)
            await until(lambda: done(daemon, common) > 0.1, "its first checkpoint to be made")
            await suspend(world, "common")
            kept = await until(lambda: begun(daemon, common), "the pause to be seen")
            assert 0.03 < kept < 0.9
        async with world.daemon() as (daemon, _):
            assert await until(lambda: begun(daemon, common), "what was done to be known again") == kept


async def test_a_federation_may_forbid_queries_of_workloads_own(tmp_path: Path) -> None:
    """What common exporters say of its own pods is then believed, not what its query would have found."""
    query: dict[str, Any] = {"overspill.dev/progress-query": 'training_steps_total{namespace="$namespace"}'}
    async with a_world(tmp_path) as world, world.outside() as outside:
        daemon = Daemon(replace(outside, federation=replace(outside.federation, own_queries=False)), shadow=False)
        task = asyncio.get_running_loop().create_task(daemon.run())
        try:
            slow = await submit(world, "slow", SPEED, **query)
            quick = await submit(world, "quick", 2 * SPEED, **query)
            for uid, speed in ((slow, SPEED), (quick, 2 * SPEED)):
                found = await until(lambda uid=uid: told(daemon, uid), "its speed to be known")  # type: ignore[misc]
                assert found.per_second == pytest.approx(speed / STEPS, rel=0.1)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
