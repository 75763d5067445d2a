"""A cluster, the hub or a cloud answers garbage for a while: the daemon lives, the others go on, nothing is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from clusters.kubernetes import reflector
from clusters.kubernetes.connection import Limits
from scheduler.daemon.leading.leader import LeaseSettings
from scheduler.daemon.parts import Daemon
from scheduler.daemon.placing import keys
from tests.builders.liar import LIES, Liar, Lie, a_liar, garbled
from tests.loop.harness import POLICIES, PodCounter, World, a_world, is_complete, until

LIMITS = Limits(connect_seconds=2, read_seconds=1.5, call_seconds=2, watch_seconds=2)
PATIENT = LeaseSettings(duration_seconds=250.0, renew_deadline_seconds=240.0)
"""A hub that lies about the Lease for ten seconds makes the leader step down, as it must; that is tested elsewhere."""
NEVER_LOST = POLICIES.replace("memberLost: 15m", "memberLost: never")
assert NEVER_LOST != POLICIES
LIES_TOLD = 100
"""Enough that nearly every sort was told."""
ONE_FIELD = (garbled,)
"""Mostly what only the receiver can see to be wrong: the last word about a job may have been one of them."""


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    """More trouble in less time: pauses after failures are short."""
    monkeypatch.setattr(reflector, "_HEALTHY_SECONDS", 1.0)
    monkeypatch.setattr(reflector, "_FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(reflector, "_LONGEST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(keys, "_LONGEST_RETRY_SECONDS", 0.3)


def put_between(kubeconfig: Path, url: str) -> None:
    config = yaml.safe_load(kubeconfig.read_text())
    for cluster in config["clusters"]:
        cluster["cluster"] = {"server": url}
    kubeconfig.write_text(json.dumps(config))


def an_a10g_job() -> dict[str, Any]:
    """What makes a Job run on eks alone."""
    limits = {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1"}
    container = {"name": "main", "image": "train:1", "resources": {"limits": limits, "requests": limits}}
    selector = {"nvidia.com/gpu.product": "A10G"}
    metadata = {"annotations": {"sandbox.overspill.dev/run-seconds": "60"}}
    spec = {"restartPolicy": "Never", "nodeSelector": selector, "containers": [container]}
    return {"template": {"metadata": metadata, "spec": spec}}


class Course:
    """Jobs under way in a world, and what became of them."""

    def __init__(self, world: World, counter: PodCounter) -> None:
        self.world = world
        self.counter = counter
        self.uids: dict[str, str] = {}

    async def submit(self, name: str, **what: Any) -> None:
        made = await self.world.submit(name, **what)
        self.uids[name] = made["metadata"]["uid"]

    async def ended(self, *names: str) -> bool:
        jobs = [await self.world.job(name) for name in names or self.uids]
        return all(is_complete(job) and not (job or {})["metadata"].get("finalizers") for job in jobs)

    async def assert_each_ran_once(self) -> None:
        for name, uid in self.uids.items():
            assert len(self.counter.copies.get(uid, ())) == 1, f"{name}: one copy in all"
            assert len(self.counter.ran.get(uid, ())) == 1, f"{name}: one pod ever ran"
            assert len(self.counter.succeeded.get(uid, ())) == 1, f"{name}: finished exactly once"
            assert not await self.world.copies(uid), f"{name}: no copy is left"


@asynccontextmanager
async def a_course(world: World) -> AsyncIterator[tuple[Course, Daemon, asyncio.Task[None]]]:
    counter = PodCounter(world)
    counting = asyncio.get_running_loop().create_task(counter.run())
    try:
        async with world.daemon(limits=LIMITS, lease=PATIENT) as (daemon, task):
            yield Course(world, counter), daemon, task
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)


def check_log(entries: list[Any]) -> None:
    """Every trouble is one line that names its place; no loop died of any."""
    for entry in entries:
        assert entry["event"] != "loop_crashed", entry
        assert "exc_info" not in entry, entry
        assert "exception" not in entry, entry["exception"]
        assert "\n" not in str(entry.get("error", "")), entry


async def lied_enough(liar: Liar, task: asyncio.Task[None], lies: int = LIES_TOLD) -> bool:
    if task.done():
        task.result()
    return liar.told.total() >= lies


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "lies"), [(1, LIES), (2, ONE_FIELD)], ids=["all", "one field"])
async def test_a_member_that_lies_costs_nobody_anything(tmp_path: Path, seed: int, lies: tuple[Lie, ...]) -> None:
    async with (
        a_world(tmp_path, speed=600.0, policies=NEVER_LOST) as world,
        a_liar(world.sandbox.servers["onprem"].url, seed, lies) as liar,
    ):
        put_between(world.sandbox.kubeconfigs["onprem"], liar.url)
        with structlog.testing.capture_logs(processors=[structlog.processors.format_exc_info]) as entries:
            async with a_course(world) as (course, daemon, task):
                for number in range(4):
                    await course.submit(f"before-{number}", seconds=120 if number % 2 else 2000)
                await until(lambda: course.ended("before-1"), "the first job ended")
                liar.lying = True
                for number in range(4):
                    await course.submit(f"during-{number}", seconds=300)
                    await course.submit(f"elsewhere-{number}", **an_a10g_job())
                elsewhere = [f"elsewhere-{number}" for number in range(4)]
                await until(lambda: course.ended(*elsewhere), "jobs of the other member go on", 150)
                await until(lambda: lied_enough(liar, task), "the member lied about everything", 150)
                liar.lying = False
                await until(course.ended, "every job ended once the member is honest", 250)
                assert not task.done()
                await course.assert_each_ran_once()
                failures = daemon.outside.telemetry.expose().decode()
        check_log(entries)
        assert any(e["event"] == "watch_failed" and e["cluster"] == "onprem" for e in entries)
        assert 'overspill_watch_failures_total{cluster="onprem"' in failures
        assert 'overspill_watch_failures_total{cluster="eks"' not in failures, "the other member was not to blame"


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("seed", "lies"), [(3, LIES), (4, ONE_FIELD)], ids=["all", "one field"])
async def test_a_hub_that_lies_loses_nothing(tmp_path: Path, seed: int, lies: tuple[Lie, ...]) -> None:
    async with (
        a_world(tmp_path, speed=600.0, policies=NEVER_LOST) as world,
        a_liar(world.sandbox.servers["hub"].url, seed, lies) as liar,
    ):
        put_between(world.sandbox.kubeconfigs["hub"], liar.url)
        with structlog.testing.capture_logs(processors=[structlog.processors.format_exc_info]) as entries:
            async with a_course(world) as (course, _, task):
                for number in range(8):
                    await course.submit(f"before-{number}", seconds=120 if number % 2 else 2000)
                await until(lambda: course.ended("before-1"), "the first job ended")
                liar.lying = True
                for number in range(4):
                    await course.submit(f"during-{number}", seconds=300)
                await until(lambda: lied_enough(liar, task, 60), "the hub lied", 150)
                liar.lying = False
                await until(lambda: course.ended() if not task.done() else task.result(), "every job ended", 250)
                await course.assert_each_ran_once()
        check_log(entries)
