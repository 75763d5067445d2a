"""Virtual-time timers: order, due times, leaps, quiet ones."""

from __future__ import annotations

import asyncio

from clusters.sandbox.emulation.timers import Timers
from tests.unit.emulation_fakes import START, HandClock


def test_fires_in_due_order_with_due_time_after_a_leap() -> None:
    clock = HandClock()
    timers = Timers(clock)
    fired: list[tuple[str, float]] = []
    for name, offset in (("c", 30.0), ("a", 10.0), ("b", 20.0), ("late", 100.0)):
        timers.at(START + offset, lambda due, n=name: fired.append((n, due - START)))  # type: ignore[misc]
    clock.advance(START + 50)
    timers.fire_due()
    assert fired == [("a", 10.0), ("b", 20.0), ("c", 30.0)]
    assert timers.next_due() == START + 100


def test_a_timer_set_while_firing_takes_its_place_in_the_order() -> None:
    clock = HandClock()
    timers = Timers(clock)
    fired: list[str] = []

    def first(due: float) -> None:
        fired.append("first")
        timers.at(due + 5, lambda _: fired.append("between"))

    timers.at(START + 10, first)
    timers.at(START + 20, lambda _: fired.append("last"))
    clock.advance(START + 60)
    timers.fire_due()
    assert fired == ["first", "between", "last"]


def test_quiet_and_cancelled_timers_do_not_count_as_next() -> None:
    timers = Timers(HandClock())
    timers.at(START + 1, lambda _: None, quiet=True)
    cancelled = timers.at(START + 2, lambda _: None)
    timers.at(START + 3, lambda _: None)
    cancelled.cancel()
    assert timers.next_due() == START + 3


async def test_a_failing_action_does_not_stop_the_rest() -> None:
    clock = HandClock()
    timers = Timers(clock)
    done = asyncio.Event()

    def broken(_: float) -> None:
        raise RuntimeError("on purpose")

    timers.at(START + 1, broken)
    timers.at(START + 2, lambda _: done.set())
    running = asyncio.create_task(timers.run())
    await asyncio.sleep(0.01)
    clock.advance(START + 5)
    async with asyncio.timeout(2):
        await done.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_earlier_timer_wakes_the_sleeper() -> None:
    clock = HandClock()
    timers = Timers(clock)
    running = asyncio.create_task(timers.run())
    fired = asyncio.Event()
    timers.at(START + 1000, lambda _: None)
    await asyncio.sleep(0.01)
    timers.at(START, lambda _: fired.set())
    async with asyncio.timeout(2):
        await fired.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
