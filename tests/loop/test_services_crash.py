"""The daemon dies at every write of a divided service's life in turn, before the write or after it: no replica is lost,
none runs twice, and nothing is left behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from scheduler.model.contract import ANNOTATION_DIVISION, ANNOTATION_PLACEMENT, FEDERATED_WORKLOADS
from scheduler.model.errors import NotFoundError
from scheduler.model.serving import CanaryVerdict
from tests.loop.harness import PodCounter, World, counting, tiny_scenario, until
from tests.loop.services import Played, a_serving_world, copies, divided, hub_object, patch, ready_on, submit
from tests.loop.test_behaviours_serving import deployment
from tests.loop.test_crash_safety import Fuse

BOTH = {"onprem": 8, "eks": 4}
WHOLE = {"onprem": 2}


async def _gone(world: World, uid: str) -> bool:
    try:
        await hub_object(world)
    except NotFoundError:
        return not await copies(world, uid)
    return False


def _measured() -> Played:
    """Every new revision is as good as the old one."""
    return Played(14.0, verdicts={"": CanaryVerdict("", "good", "as before", 100)})


async def _handed_back(world: World, uid: str) -> bool:
    said = (await hub_object(world))["metadata"]["annotations"]
    whole = ANNOTATION_PLACEMENT in said and ANNOTATION_DIVISION not in said
    return whole and await ready_on(world, uid) == WHOLE and len(await copies(world, uid)) == 1


async def _is(world: World, uid: str, image: str) -> bool:
    """Whether everything is ready, and of that image alone."""
    images = {raw["spec"]["template"]["spec"]["containers"][0]["image"] for _, raw in await copies(world, uid)}
    return images == {image} and await ready_on(world, uid) == BOTH


async def _change(world: World, phase: str) -> None:
    if phase == "rollout":
        await patch(world, {"spec": {"template": deployment(image="serve:2")}})
    elif phase in ("take over", "hand back"):
        await patch(world, {"metadata": {"labels": {"app": "chat" if phase == "take over" else None}}})
    elif phase == "end":
        await world.hub.delete(FEDERATED_WORKLOADS, "default", "chat")


async def _life(world: World, counter: PodCounter, at: int, phase: str, *, after: bool) -> bool:
    """Divided over two members, rolled out, deleted: with a daemon that dies in one of these phases, and one that goes
    on. False when the first one got through without reaching the fuse."""
    where = f"{phase}, killed {'after' if after else 'before'} write {at}"
    image = "serve:2" if phase == "rollout" else "serve:1"
    fuse = Fuse(at if phase == "start" else 10**9, after=after)
    uid = await submit(world, deployment(replicas=2), labels={} if phase == "take over" else None)

    async def done() -> bool:
        if phase == "hand back":
            return await _handed_back(world, uid)
        return await _gone(world, uid) if phase == "end" else await _is(world, uid, image)

    async def begun() -> bool:
        return await ready_on(world, uid) == WHOLE if phase == "take over" else await _is(world, uid, "serve:1")

    async with divided(world, _measured(), wrap=fuse.wrap) as daemon:
        if phase != "start":
            await until(begun, f"{where}: as it begins")
            await until(daemon.is_idle, f"{where}: at rest")
            fuse.writes, fuse.at = 0, at
            await _change(world, phase)
        await until(lambda: fuse.blown.is_set() or done(), f"{where}: done, or dead")
    async with divided(world, _measured()) as daemon:
        await until(done, f"{where}: as it should be")
        await until(daemon.is_idle, f"{where}: at rest")
        if phase not in ("end", "hand back"):
            there = await copies(world, uid)
            assert Counter(member for member, _ in there) == {"onprem": 1, "eks": 1}, f"{where}: one part in each"
        if phase == "start":
            assert len(counter.copies.get(uid, ())) == 2, f"{where}: two parts in all"
            assert len(counter.ran.get(uid, ())) == 12, f"{where}: no pod was started in vain"
        if phase != "end":
            await world.hub.delete(FEDERATED_WORKLOADS, "default", "chat")
            await until(lambda: _gone(world, uid), f"{where}: deleted, and nothing is left")
    return fuse.blown.is_set()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("after", [False, True], ids=["before the write", "after the write"])
@pytest.mark.parametrize("phase", ["start", "rollout", "take over", "hand back", "end"])
async def test_killed_at_every_write_no_replica_is_lost_or_doubled(tmp_path: Path, phase: str, after: bool) -> None:
    async with a_serving_world(tmp_path, scenario=tiny_scenario(1), speed=1200.0) as world, counting(world) as counter:
        # So many writes that the two sides share them, but for the start; of a rollout each looks at every tenth.
        at, step = {"start": (1, 1), "rollout": (1 + 5 * after, 10)}.get(phase, (1 + after, 2))
        while await _life(world, counter, at, phase, after=after):
            at += step
    assert at > 2, "the fuse stepped through the whole phase"
