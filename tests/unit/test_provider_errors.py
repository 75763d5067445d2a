"""Shortages that begin and end, and the calls in threads that carry a cloud's SDK."""

from __future__ import annotations

import asyncio
import threading

import pytest

from clusters.providers._blocking import BlockingCalls
from clusters.providers._shortages import ShortageLedger
from scheduler.model.errors import (
    OutcomeUnknownError,
    TransientError,
)
from tests.contract.emulated_pools import SteppedClock


def test_a_shortage_keeps_its_beginning_until_it_is_another() -> None:
    clock = SteppedClock(100.0)
    ledger = ShortageLedger(clock)
    seen = []
    for kind in ("capacity", "capacity", "quota", None, "capacity"):
        shortage = ledger.note("p", kind, "text")
        seen.append(None if shortage is None else (shortage.kind, shortage.since))
        clock.advance(10)
    assert seen == [("capacity", 100.0), ("capacity", 100.0), ("quota", 120.0), None, ("capacity", 140.0)]


async def test_a_call_that_outlives_its_limit_is_bounded_and_counted() -> None:
    calls = BlockingCalls("x", limit_seconds=0.05, threads=1, waiting=1)
    go, entered = threading.Event(), threading.Event()

    def block() -> str:
        entered.set()
        go.wait(10)
        return "late"

    with pytest.raises(OutcomeUnknownError, match="Op: no answer within"):
        await calls.run("Op", block, writes=True)
    assert entered.is_set()
    waiting = asyncio.ensure_future(calls.run("Op", block, writes=True))  # for the one thread
    await asyncio.sleep(0)
    with pytest.raises(TransientError, match="2 calls wait already"):
        await calls.run("Op", block)
    with pytest.raises(TransientError, match="no answer within"):
        await waiting  # it never began, so its outcome is known
    go.set()
    async with asyncio.timeout(5):
        while True:
            try:
                assert await calls.run("Op", lambda: "on time") == "on time"
                break
            except TransientError:
                await asyncio.sleep(0)
    await calls.close()
    with pytest.raises(TransientError, match="Op: cannot schedule"):
        await calls.run("Op", block)
