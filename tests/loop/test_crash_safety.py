"""The daemon dies at every write in turn, before the write or after it; each job still runs exactly once."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from scheduler.model.ports import KubeApi
from tests.loop.harness import PodCounter, World, a_world, is_complete, until

WRITES = ("create", "update", "patch", "delete", "create_subresource")


class Crash(BaseException):
    """kill -9: nothing in the daemon may catch it."""


class Fuse:
    """Counts the writes of a daemon and ends it at the one that is named."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.at = at
        self.after = after
        self.writes = 0
        self.where = ""
        self.blown = asyncio.Event()

    def wrap(self, name: str, api: KubeApi) -> KubeApi:
        return Fused(self, name, api)

    async def write(self, name: str, verb: str, call: Any) -> Any:
        if self.blown.is_set():
            raise Crash
        self.writes += 1
        fatal = self.writes == self.at
        if fatal:
            self.where = f"{verb} on {name}"
            self.blown.set()
            if not self.after:
                raise Crash
        result = await call()
        if fatal:
            raise Crash
        return result


class Fused:
    """A Kubernetes API behind a fuse; Leases and Events pass, since they do not carry a workload."""

    def __init__(self, fuse: Fuse, name: str, api: KubeApi) -> None:
        self._fuse = fuse
        self._name = name
        self._api = api

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._api, verb)
        if verb not in WRITES:
            return method

        async def guarded(resource: Any, *args: Any, **named: Any) -> Any:
            if resource.plural in ("leases", "events"):
                return await method(resource, *args, **named)
            return await self._fuse.write(
                f"{self._name} {resource.plural}", verb, lambda: method(resource, *args, **named)
            )

        return guarded


async def _finish(world: World, names: list[str]) -> None:
    """A daemon without a fuse takes over and brings everything to its end."""

    async def all_done() -> bool:
        jobs = [await world.job(name) for name in names]
        return all(is_complete(job) and not (job or {})["metadata"].get("finalizers") for job in jobs)

    async with world.daemon() as (_, task):
        await until(lambda: all_done() if not task.done() else task.result(), f"jobs {names} complete")


async def _one_round(world: World, counter: PodCounter, fuse: Fuse) -> bool:
    """Jobs that fit, that are a gang, and that must burst; a daemon that dies at the fuse; another that goes on.
    False when the first one got through without reaching it."""
    tag = f"{'after' if fuse.after else 'before'}-{fuse.at}"
    names = [f"plain-{tag}", f"gang-{tag}", f"burst-{tag}"]
    await world.submit(names[0])
    await world.submit(names[1], gpus=8, pods=2)
    await world.submit(names[2], gpus=1, **only_in_the_cloud())
    uids = [(await world.job(name) or {})["metadata"]["uid"] for name in names]

    async def complete() -> bool:
        jobs = [await world.job(name) for name in names]
        return all(is_complete(job) and not (job or {})["metadata"].get("finalizers") for job in jobs)

    async with world.daemon(fuse.wrap):
        await until(lambda: fuse.blown.is_set() or complete(), f"write {fuse.at} or the end")
    await _finish(world, names)
    for name, uid, pods in zip(names, uids, (1, 2, 1), strict=True):
        where = f"{name}, killed {'after' if fuse.after else 'before'} {fuse.where}"
        assert len(counter.succeeded.get(uid, ())) == pods, f"{where}: finished exactly once"
        assert len(counter.ran.get(uid, ())) == pods, f"{where}: no pod was started in vain"
        assert len(counter.copies.get(uid, ())) == 1, f"{where}: one copy in all"
        assert not await world.copies(uid), f"{where}: no copy is left"
    return fuse.blown.is_set()


def only_in_the_cloud() -> dict[str, Any]:
    limits = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    container = {"name": "main", "image": "train:1", "resources": {"limits": limits, "requests": limits}}
    spec = {
        "restartPolicy": "Never",
        "nodeSelector": {"nvidia.com/gpu.product": "A10G"},
        "containers": [container],
    }
    metadata = {"annotations": {"sandbox.overspill.dev/run-seconds": "60"}}
    return {"template": {"metadata": metadata, "spec": spec}}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
async def test_killed_at_every_write_each_job_runs_exactly_once(tmp_path: Path, after: bool) -> None:
    async with a_world(tmp_path, speed=900.0) as world:
        counter = PodCounter(world)
        counting = asyncio.get_running_loop().create_task(counter.run())
        at = 1
        while await _one_round(world, counter, Fuse(at, after=after)):
            at += 1
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
    assert at > 15, "the fuse stepped through the whole life of the jobs"
