"""A member that takes requests and never answers must not hold up the others, however much is due there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from scheduler.model.ports import KubeApi
from tests.loop.harness import World, a_world, is_complete, until
from tests.loop.test_crash_safety import only_in_the_cloud

MANY = 90
"""More Jobs than the reconciler has workers."""


class Hanging:
    """A Kubernetes API whose creations never come back."""

    def __init__(self, api: KubeApi) -> None:
        self._api = api
        self.waiting = 0

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._api, verb)

    async def create(self, *_: Any, **__: Any) -> Any:
        self.waiting += 1
        await asyncio.Event().wait()


async def _all_complete(world: World, names: list[str]) -> bool:
    return all([is_complete(await world.job(name)) for name in names])


async def test_a_hanging_member_holds_up_nobody_else(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=900.0) as world:
        hanging: list[Hanging] = []

        def wrap(name: str, api: KubeApi) -> Any:
            if name != "onprem":
                return api
            hanging.append(Hanging(api))
            return hanging[-1]

        stuck = [f"stuck-{number}" for number in range(MANY)]
        for name in stuck:
            await world.submit(name, gpus=0, seconds=1)
        async with world.daemon(wrap):
            await until(lambda: hanging and hanging[0].waiting, "the member hangs")
            await world.submit("elsewhere", **only_in_the_cloud())
            await until(lambda: _all_complete(world, ["elsewhere"]), "a job for another member is done")
            assert hanging[0].waiting <= 16
        async with world.daemon():
            await until(lambda: _all_complete(world, stuck), "all are done once the member answers")
