"""A run that bursts comes back when its own cluster is free again: by one move, in one place at a time, to one end."""

from __future__ import annotations

from pathlib import Path

from scheduler.model.contract import NODES
from tests.loop.harness import POLICIES, a_world, counting, tiny_scenario, until

HOUR = 3600.0
MOVING = POLICIES.replace("    afterWait: 1m\n", "    afterWait: 0s\n").replace(
    "    idle: 2m\n", "    idle: 2m\n    move: whenItPays\n    moveAfter: 5m\n"
)
SAYS = {"overspill.dev/expected-duration": "3h", "overspill.dev/checkpoint-every": "10m"}


async def test_a_burst_run_returns_by_one_move_and_ends_once(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, speed=1800.0, policies=MOVING, scenario=tiny_scenario(1)) as world,
        counting(world) as counter,
        world.daemon() as (daemon, _),
    ):
        await world.submit("first", gpus=8, seconds=HOUR)
        await until(lambda: daemon.mirror.hub, "it is seen")
        uid = (await world.submit("second", gpus=8, seconds=3 * HOUR, annotations=SAYS))["metadata"]["uid"]

        async def runs_on(member: str) -> bool:
            there = await world.copies(uid)
            return [name for name, raw in there if (raw.get("status") or {}).get("active")] == [member]

        await until(lambda: runs_on("eks"), "it bursts")
        await until(lambda: world.is_done("first"), "its own cluster is free")
        await until(lambda: runs_on("onprem"), "it returns")
        assert (await world.said("second"))[1] == "Moved"

        async def none_left() -> bool:
            return not (await world.member("eks").list(NODES)).items

        await until(none_left, "what was bought for it is given back while it runs")
        await until(lambda: world.is_done("second"), "complete", seconds=60.0)
        assert len(counter.copies[uid]) == 2
        assert len(counter.succeeded[uid]) == 1
