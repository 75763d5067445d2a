"""The key queue: no duplicates, one worker to a key, retries."""

from __future__ import annotations

import asyncio

from scheduler.daemon.placing.keys import KeyQueue


async def test_a_key_waits_once_however_often_it_is_added() -> None:
    keys = KeyQueue()
    for key in ("a", "b", "a", "a"):
        keys.add(key)
    assert [await keys.get(), await keys.get()] == ["a", "b"]
    assert len(keys) == 2
    keys.done("a")
    keys.done("b")
    assert len(keys) == 0


async def test_a_key_added_while_it_is_worked_on_comes_again_only_afterwards() -> None:
    keys = KeyQueue()
    keys.add("a")
    assert await keys.get() == "a"
    keys.add("a")
    keys.add("b")
    assert await keys.get() == "b"
    keys.done("a")
    assert await keys.get() == "a"


async def test_a_failed_key_comes_back_after_a_growing_pause() -> None:
    keys = KeyQueue()
    keys.add("a")
    assert await keys.get() == "a"
    first = keys.retry("a")
    assert keys.later == 1
    async with asyncio.timeout(5):
        assert await keys.get() == "a"
    second = keys.retry("a", after_seconds=1.0)
    assert 0 < first <= 0.05
    assert 0.5 <= second <= 1.0
    keys.close()
