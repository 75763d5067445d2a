"""What a user may expect of a Job: suspended, it stops and gives its room away; invalid or refused, it says why."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.daemon.placing import reconciler
from scheduler.model.contract import ANNOTATION_PLACEMENT, EVENTS, JOBS, LABEL_ORIGIN_UID, PODS, copy_name
from scheduler.model.ports import RawObject
from tests.loop.harness import World, a_job, a_world, counting, tiny_scenario, until

HOUR = 3600.0
OWNED_ONLY = """
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata:
  name: owned-only
spec:
  match:
    queues: [research]
  objective: onprem-first
  constraints:
    clusters: [onprem]
"""


async def _suspend(world: World, name: str, suspend: bool) -> None:
    await world.hub.patch(JOBS, "default", name, {"spec": {"suspend": suspend}})


async def _status(world: World, name: str) -> dict[str, Any]:
    return dict((await world.job(name) or {}).get("status") or {})


def _is_suspended(status: dict[str, Any]) -> bool:
    conditions = status.get("conditions") or []
    told = any(one["type"] == "Suspended" and one["status"] == "True" for one in conditions)
    return told and not status.get("startTime") and not status.get("active")


async def _events(world: World, name: str, reason: str) -> list[RawObject]:
    listed = await world.hub.list(EVENTS, namespace="default")
    return [one for one in listed.items if one["involvedObject"]["name"] == name and one["reason"] == reason]


async def test_a_suspended_job_stops_gives_its_room_to_others_and_runs_again(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, speed=1800.0, policies=OWNED_ONLY, scenario=tiny_scenario(1)) as world,
        counting(world) as counter,
        world.daemon(),
    ):
        uid = (await world.submit("first", gpus=8, seconds=HOUR))["metadata"]["uid"]

        async def runs() -> bool:
            return bool((await _status(world, "first")).get("ready"))

        await until(runs, "it runs")
        await world.submit("second", gpus=8, seconds=HOUR / 2)
        await _suspend(world, "first", True)

        async def stopped() -> bool:
            pods = await world.member("onprem").list(PODS, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
            return not pods.items and _is_suspended(await _status(world, "first"))

        await until(stopped, "its pods stop and the hub says so")
        await until(lambda: world.is_done("second"), "its room is given to another")
        assert not await world.is_done("first")
        await _suspend(world, "first", False)
        await until(lambda: world.is_done("first"), "it runs again")
        assert len(counter.succeeded[uid]) == 1
        assert len(counter.copies[uid]) == 1, "it kept its copy"


async def test_a_job_that_is_suspended_from_the_start_is_not_placed_until_resumed(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon() as (daemon, _):
        uid = (await world.submit("later", suspend=True))["metadata"]["uid"]

        async def told() -> bool:
            return _is_suspended(await _status(world, "later"))

        await until(told, "it says that it is suspended")
        await world.submit("other")
        await until(lambda: world.is_done("other"), "others run")
        job = await world.job("later")
        assert job is not None
        assert ANNOTATION_PLACEMENT not in job["metadata"].get("annotations", {})
        assert not daemon.decisions.of(uid)
        await _suspend(world, "later", False)
        await until(lambda: world.is_done("later"), "resumed, it runs")


def _selecting(**node_selector: str) -> dict[str, Any]:
    job = a_job("any")
    job["spec"]["template"]["spec"]["nodeSelector"] = node_selector
    return {"template": job["spec"]["template"]}


@pytest.mark.parametrize(
    ("want_reason", "want_text", "fields"),
    [
        pytest.param("PodTooLarge", "too small", {"gpus": 64}, id="a pod larger than any node"),
        pytest.param("QuotaExceeded", "gpu quota", {"pods": 2**31 - 1}, id="absurd parallelism"),
        pytest.param("PoolAtMax", "0/5 offerings", {"pods": 2**31 - 1, "gpus": 0}, id="absurd without GPUs"),
        pytest.param("NoPolicy", "nobody", {"queue": "nobody"}, id="a queue that no policy speaks for"),
        pytest.param(
            "InvalidWorkload", "placement", {"annotations": {ANNOTATION_PLACEMENT: "{}"}}, id="a forged placement"
        ),
        pytest.param(
            "InvalidWorkload",
            "exclude one another",
            _selecting(**{"nvidia.com/gpu.product": "A100", "cloud.google.com/gke-accelerator": "T4"}),
            id="two GPU models at once",
        ),
    ],
)
async def test_a_job_that_cannot_be_placed_says_why_once_and_disturbs_nobody(
    tmp_path: Path, want_reason: str, want_text: str, fields: dict[str, Any]
) -> None:
    async with a_world(tmp_path) as world, world.daemon() as (daemon, _):
        await world.submit("wrong", **fields)

        async def told() -> bool:
            status, reason, message = await world.said("wrong")
            return (status, reason) == ("False", want_reason) and want_text in message

        await until(told, "it says why")
        await world.submit("right")
        await until(lambda: world.is_done("right"), "others run")
        await until(daemon.is_idle, "at rest")
        assert len(await _events(world, "wrong", want_reason)) == 1
        assert daemon.planner.last_cycle_seconds < 0.5


async def test_a_job_without_requests_just_runs(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon():
        job = a_job("modest")
        del job["spec"]["template"]["spec"]["containers"][0]["resources"]
        await world.hub.create(JOBS, "default", job)
        await until(lambda: world.is_done("modest"), "complete")


async def test_a_refused_copy_is_told_retried_and_does_not_keep_the_daemon_from_resting(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        uid = (await world.submit("clash"))["metadata"]["uid"]
        foreign = a_job(copy_name("clash", uid), suspend=True)
        del foreign["spec"]["managedBy"]
        await world.member("onprem").create(JOBS, "default", foreign)
        async with world.daemon() as (daemon, _):

            async def told() -> bool:
                status, reason, message = await world.said("clash")
                return (status, reason) == ("False", "CopyRefused") and "not ours" in message

            await until(told, "the refusal is told")
            await world.submit("other")
            await until(lambda: world.is_done("other"), "others run")
            await until(daemon.is_idle, "the daemon counts as idle though the key is tried again now and then")
            assert len(await _events(world, "clash", "CopyRefused")) == 1
            assert (await world.member("onprem").get(JOBS, "default", foreign["metadata"]["name"]))["spec"]["suspend"]
            await world.member("onprem").delete(JOBS, "default", foreign["metadata"]["name"])
            daemon.reconciler.keys.add(uid)
            await until(lambda: world.is_done("clash"), "it runs once the name is free")
            assert (await world.said("clash"))[0] == "True"


async def test_a_resumed_gang_waits_until_all_of_it_fits(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, speed=1800.0, policies=OWNED_ONLY, scenario=tiny_scenario(2)) as world,
        counting(world) as counter,
        world.daemon(),
    ):
        uid = (await world.submit("gang", gpus=8, pods=2, seconds=HOUR))["metadata"]["uid"]

        async def runs() -> bool:
            return (await _status(world, "gang")).get("ready") == 2

        await until(runs, "both pods run")
        await _suspend(world, "gang", True)
        await until(lambda: _gone(world, uid), "its pods stop")
        before = set(counter.ran[uid])
        # An hour is two seconds here: on a busy machine the other could be over before anybody looked.
        other = (await world.submit("one", gpus=8, seconds=4 * HOUR))["metadata"]["uid"]
        await until(lambda: _ready(world, "one"), "another takes one of its two nodes")
        await _suspend(world, "gang", False)
        while not await world.is_done("one"):
            part, in_the_way = not await _gone(world, uid), not await _gone(world, other)
            assert not (part and in_the_way), "no part of the gang runs while the whole does not fit"
            await asyncio.sleep(0.01)
        await until(lambda: world.is_done("gang"), "it runs again, whole")
        assert len(counter.ran[uid] - before) == 2


async def _ready(world: World, name: str) -> bool:
    return bool((await _status(world, name)).get("ready"))


async def _gone(world: World, uid: str) -> bool:
    """Whether no pod of it is alive on the member."""
    pods = await world.member("onprem").list(PODS, label_selector=f"{LABEL_ORIGIN_UID}={uid}")
    return all((pod.get("status") or {}).get("phase") in ("Succeeded", "Failed") for pod in pods.items)


async def test_one_that_is_held_for_another_reason_a_moment_later_is_told_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first reason's time to be shown comes first; nothing else ever happens to this job."""
    async with a_world(tmp_path) as world, world.daemon() as (daemon, _):
        uid = (await world.submit("too-large", gpus=64))["metadata"]["uid"]
        await until(lambda: told(world, "PodTooLarge"), "it says why")
        held = daemon.decisions._recent[uid][-1]
        for code, after_seconds in (("First", 0.1), ("Second", 0.4)):
            monkeypatch.setattr(reconciler, "_HELD_TOLD_AFTER_SECONDS", after_seconds)
            daemon.reconciler.tell(held._replace(reason=replace(held.reason, code=code)))
        await until(lambda: told(world, "Second"), "it says the last reason", 20)


async def told(world: World, reason: str) -> bool:
    return (await world.said("too-large"))[1] == reason
