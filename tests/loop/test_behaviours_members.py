"""What a user may expect of copies and of members: deletion waits, a lost copy comes again, a lost member is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from clusters.kubernetes.connection import Limits
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import JOBS, PODS
from scheduler.model.errors import TransientError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import KubeApi, RawObject, WatchEvent
from tests.loop.harness import POLICIES, World, a_world, counting, until

QUICK = Limits(connect_seconds=1, read_seconds=1, call_seconds=1)
"""So that a silence is noticed soon, and no busy machine is taken for one."""
HOUR = 3600.0


async def _running(world: World, name: str) -> tuple[str, str, RawObject]:
    """(UID, member, copy) of a Job, once a pod of it is ready as the hub tells."""

    async def ready() -> bool:
        return bool(((await world.job(name) or {}).get("status") or {}).get("ready"))

    await until(ready, f"{name} runs")
    uid = (await world.job(name) or {})["metadata"]["uid"]
    [(member, copy)] = await world.copies(uid)
    return uid, member, copy


async def _gone(world: World, name: str) -> bool:
    return await world.job(name) is None


def _silent_since(daemon: Daemon, member: str) -> float | None:
    return daemon.mirror.members[ClusterId(member)].unreachable_since


@asynccontextmanager
async def _always_ready(daemon: Daemon) -> AsyncIterator[None]:
    """Fails at the end when the daemon was unready at any moment of the block."""
    troubles: list[str] = []

    async def look() -> None:
        while True:
            trouble = daemon.report.not_ready()
            if trouble is not None:
                troubles.append(trouble)
            await asyncio.sleep(0.01)

    await until(lambda: daemon.report.not_ready() is None, "ready")
    task = asyncio.get_running_loop().create_task(look())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert not troubles


async def test_a_deleted_job_stays_until_its_copy_is_gone(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon() as (daemon, _):
        await world.submit("one", seconds=10 * HOUR)
        uid, member, copy = await _running(world, "one")
        name = copy["metadata"]["name"]
        held = {"metadata": {"finalizers": ["example.com/hold"]}}
        await world.member(member).patch(JOBS, "default", name, held)
        await world.hub.delete(JOBS, "default", "one")

        async def copy_is_going() -> bool:
            return "deletionTimestamp" in (await world.member(member).get(JOBS, "default", name))["metadata"]

        await until(copy_is_going, "the copy is being deleted")
        await until(daemon.is_idle, "nothing is left to write")
        job = await world.job("one")
        assert job is not None, "the hub object waits for its copy"
        assert "deletionTimestamp" in job["metadata"]
        await world.member(member).patch(JOBS, "default", name, {"metadata": {"finalizers": None}})
        await until(lambda: _gone(world, "one"), "the hub object goes when the copy is gone")
        assert not await world.copies(uid)

        async def no_pods() -> bool:
            return not (await world.member(member).list(PODS)).items

        await until(no_pods, "its pods are gone too")


async def test_a_job_deleted_before_it_is_placed_goes_at_once(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon() as (daemon, _):
        await world.submit("large", gpus=64)
        await until(lambda: daemon.decisions.counters["held"], "held")
        await world.hub.delete(JOBS, "default", "large")
        await until(lambda: _gone(world, "large"), "gone")
        await until(lambda: not daemon.mirror.hub, "forgotten")


async def test_a_copy_deleted_behind_our_back_comes_again_once(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=1800.0) as world, counting(world) as counter, world.daemon():
        await world.submit("one", seconds=HOUR)
        uid, member, copy = await _running(world, "one")
        await world.member(member).delete(JOBS, "default", copy["metadata"]["name"], propagation="Foreground")

        async def anew() -> bool:
            copies = await world.copies(uid)
            return len(copies) == 1 and copies[0][1]["metadata"]["uid"] != copy["metadata"]["uid"]

        await until(anew, "a new copy")
        [(_, second)] = await world.copies(uid)

        async def told() -> bool:
            status = (await world.job("one") or {})["status"]
            theirs = (await world.copies(uid) or [("", second)])[0][1].get("status") or {}
            return bool(
                await world.is_done("one")
                or (status.get("active") or 0, status.get("ready") or 0)
                == (theirs.get("active") or 0, theirs.get("ready") or 0)
            )

        await until(told, "the hub says what the new copy says")
        await until(lambda: world.is_done("one"), "complete")
        assert len(counter.copies[uid]) == 2, "it came again once"
        assert len(counter.succeeded[uid]) == 1


async def test_a_lost_member_is_left_and_cleaned_up_when_it_is_back(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, speed=3600.0) as world,
        counting(world) as counter,
        world.daemon(limits=QUICK) as (daemon, _),
        _always_ready(daemon),
    ):
        await world.submit("stranded", seconds=20 * HOUR)
        uid, member, _ = await _running(world, "stranded")
        silent = world.sandbox.servers[member]
        silent.fall_silent()
        await until(lambda: _silent_since(daemon, member), "noticed")
        await world.submit("other")
        await until(lambda: world.is_done("other"), "scheduling elsewhere goes on")

        async def moved() -> bool:
            return any(where != member for where, _ in await world.copies(uid))

        await until(moved, "it runs elsewhere once the member is given up")
        silent.speak()

        async def alone() -> bool:
            places = [where for where, _ in await world.copies(uid)]
            return len(places) == 1 and places != [member]

        await until(alone, "the stale copy is deleted when the member is back")
        await until(lambda: _silent_since(daemon, member) is None, "the member counts again")
        await until(lambda: _running(world, "stranded"), "runs")
        await world.hub.delete(JOBS, "default", "stranded")
        await until(lambda: _gone(world, "stranded"), "nothing is left behind")
        assert not await world.copies(uid)
        assert len(counter.copies[uid]) == 2
        assert not counter.succeeded.get(uid)


async def test_a_job_that_moved_ends_once_though_its_first_copy_ended_unseen(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, speed=3600.0) as world,
        counting(world) as counter,
        world.daemon(limits=QUICK),
    ):
        await world.submit("twin", seconds=HOUR)
        uid, member, _ = await _running(world, "twin")
        silent = world.sandbox.servers[member]
        silent.fall_silent()
        await until(lambda: len(counter.copies.get(uid, ())) == 2, "it runs elsewhere")
        await until(lambda: counter.succeeded.get(uid), "one of the two has ended")
        silent.speak()
        await until(lambda: world.is_done("twin"), "complete")

        async def clean() -> bool:
            return not await world.copies(uid) and not (await world.job("twin") or {})["metadata"].get("finalizers")

        await until(clean, "no copy is left")
        status = (await world.job("twin") or {})["status"]
        assert status["succeeded"] == 1, "the hub tells of one end"


class _Cable:
    """An API behind a cable that can be pulled: calls fail, streams that are open stay open and silent."""

    def __init__(self, api: KubeApi, pulled: asyncio.Event) -> None:
        self._api = api
        self._pulled = pulled

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._api, verb)

        async def call(*args: Any, **named: Any) -> Any:
            if self._pulled.is_set():
                raise TransientError("the cable is pulled")
            return await method(*args, **named)

        return call

    async def watch(self, *args: Any, **named: Any) -> AsyncIterator[WatchEvent]:
        async for event in self._api.watch(*args, **named):
            if self._pulled.is_set():
                await asyncio.Event().wait()
            yield event


async def test_a_member_behind_a_pulled_cable_is_noticed_though_its_streams_stay_open(tmp_path: Path) -> None:
    pulled = asyncio.Event()

    def behind_cable(name: str, api: KubeApi) -> KubeApi:
        return _Cable(api, pulled) if name == "onprem" else api

    async with a_world(tmp_path, speed=3600.0) as world, world.daemon(behind_cable, ping_seconds=0.1) as (daemon, _):
        await until(lambda: daemon.mirror.ever_synced, "synced")
        pulled.set()
        await until(lambda: _silent_since(daemon, "onprem"), "noticed")
        await world.submit("other")
        await until(lambda: world.is_done("other"), "scheduling elsewhere goes on")
        pulled.clear()
        await until(lambda: _silent_since(daemon, "onprem") is None, "back")


async def test_a_deletion_does_not_wait_for_a_lost_member(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=3600.0) as world, world.daemon(limits=QUICK) as (daemon, _):
        await world.submit("doomed", seconds=20 * HOUR)
        uid, member, _ = await _running(world, "doomed")
        silent = world.sandbox.servers[member]
        silent.fall_silent()
        await until(lambda: _silent_since(daemon, member), "noticed")
        await world.hub.delete(JOBS, "default", "doomed")
        await until(lambda: _gone(world, "doomed"), "the hub object goes once the member is given up")
        assert await world.copies(uid)
        silent.speak()

        async def clean() -> bool:
            return not await world.copies(uid)

        await until(clean, "the orphan is deleted when its member is back")


async def test_a_member_that_is_never_lost_keeps_its_workloads(tmp_path: Path) -> None:
    policies = POLICIES.replace("memberLost: 15m", "memberLost: never")
    async with (
        a_world(tmp_path, speed=3600.0, policies=policies) as world,
        world.daemon(limits=QUICK) as (daemon, _),
        _always_ready(daemon),
    ):
        await world.submit("patient", seconds=2 * HOUR)
        uid, member, copy = await _running(world, "patient")
        silent = world.sandbox.servers[member]
        silent.fall_silent()
        since = await until(lambda: _silent_since(daemon, member), "noticed")
        await until(lambda: world.sandbox.clock.now() - since > HOUR, "an hour of silence")
        assert [(where, one["metadata"]["uid"]) for where, one in await world.copies(uid)] == [
            (member, copy["metadata"]["uid"])
        ]
        silent.speak()
        await until(lambda: world.is_done("patient"), "complete")
        assert daemon.decisions.counters["releases"] == 0
