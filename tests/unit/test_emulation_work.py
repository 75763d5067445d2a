"""Queues of keys, supervised loops and informers: nothing is lost, nothing fails in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from clusters.sandbox.emulation.informer import Informer
from clusters.sandbox.emulation.objects import controller_uid
from clusters.sandbox.emulation.work import Supervisor, WorkQueue
from scheduler.model.contract import PODS
from scheduler.model.errors import ConflictError, GoneError, NotFoundError, RefusedError
from scheduler.model.ports import RawObject, Resource, WatchEvent
from tests.unit.emulation_fakes import FakeKube, HandClock


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.001)


async def test_a_key_added_while_it_is_worked_on_is_done_again_and_never_twice_at_once() -> None:
    at_work, most, done = 0, 0, 0

    async def reconcile(key: str) -> None:
        nonlocal at_work, most, done
        at_work += 1
        most = max(most, at_work)
        if done == 0:
            queue.add(key)
        await asyncio.sleep(0.005)
        at_work -= 1
        done += 1

    queue = WorkQueue("q", reconcile)
    supervisor = Supervisor("test")
    supervisor.run("q", queue.run)
    for _ in range(5):
        queue.add("a")
    await _until(lambda: done == 2 and not queue.busy)
    assert most == 1
    await supervisor.stop()


@pytest.mark.parametrize(
    ("error", "want_tries"),
    [(ConflictError("x"), 2), (RuntimeError("bug"), 2), (NotFoundError("x"), 1), (RefusedError("x"), 1)],
)
async def test_what_is_tried_again(error: Exception, want_tries: int) -> None:
    tries = 0

    async def reconcile(key: str) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error

    queue = WorkQueue("q", reconcile)
    supervisor = Supervisor("test")
    supervisor.run("q", queue.run)
    queue.add("a")
    await _until(lambda: tries >= want_tries)
    await asyncio.sleep(0.03)
    assert tries == want_tries
    assert supervisor.restarts == 0
    await supervisor.stop()


async def test_a_loop_that_fails_is_started_again() -> None:
    starts = 0
    second = asyncio.Event()

    async def loop() -> None:
        nonlocal starts
        starts += 1
        if starts == 1:
            raise RuntimeError("on purpose")
        second.set()
        await asyncio.Event().wait()

    supervisor = Supervisor("test")
    supervisor.run("loop", loop)
    async with asyncio.timeout(5):
        await second.wait()
    assert supervisor.restarts == 1
    await supervisor.stop()


class _Forgetful(FakeKube):
    """Its watches end at once with 410 until `healed`."""

    healed = False
    lists = 0

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        self.lists += 1
        if not self.healed:
            await asyncio.sleep(0.002)
            raise GoneError("too old")
        async for event in super().watch(resource, resource_version=resource_version):
            yield event


def _pod(name: str, owner: str) -> RawObject:
    reference = {"controller": True, "uid": owner, "kind": "Job", "name": owner}
    return {"metadata": {"name": name, "ownerReferences": [reference]}, "spec": {}}


async def test_an_informer_relists_and_tells_what_was_missed() -> None:
    api = _Forgetful(HandClock())
    informer = Informer(api, PODS)
    by_owner = informer.index(controller_uid)
    seen: list[tuple[str, str]] = []
    informer.handle(lambda kind, old, obj: seen.append((kind, obj["metadata"]["name"])))
    await api.create(PODS, "default", _pod("a", "one"))
    supervisor = Supervisor("test")
    supervisor.run("pods", informer.run)
    await _until(lambda: api.lists > 2)
    await api.create(PODS, "default", _pod("b", "one"))
    await api.delete(PODS, "default", "a")
    await _until(lambda: ("DELETED", "a") in seen)
    assert list(by_owner.get("one")) == ["default/b"]
    api.healed = True
    await api.create(PODS, "default", _pod("c", "two"))
    await _until(lambda: "default/c" in informer.objects)
    assert seen.count(("ADDED", "b")) == 1
    assert supervisor.restarts == 0
    await supervisor.stop()


async def test_an_answer_that_comes_after_the_deletion_does_not_bring_an_object_back() -> None:
    api = FakeKube(HandClock())
    informer = Informer(api, PODS)
    supervisor = Supervisor("test")
    supervisor.run("pods", informer.run)
    await informer.synced.wait()
    created = await api.create(PODS, "default", _pod("a", "one"))
    await _until(lambda: "default/a" in informer.objects)
    await api.delete(PODS, "default", "a")
    await _until(lambda: "default/a" not in informer.objects)
    informer.observe(created)
    assert informer.objects == {}
    assert informer.was_deleted(created["metadata"]["uid"])
    await supervisor.stop()
