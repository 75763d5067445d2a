"""A planner whose cycles fail is overdue from the moment that a cycle was first wanted; one at rest never is."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from scheduler.daemon.money.exploration import ExplorationBook
from scheduler.daemon.placing.planning import Planner
from scheduler.daemon.telemetry import Telemetry


class StillClock:
    def now(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


def a_planner(snapshot: Any) -> Planner:
    mirror: Any = SimpleNamespace(ever_synced=True, hub_synced=True, members={}, snapshot=snapshot, hub={})
    policies: Any = SimpleNamespace(current=None)
    nobody: Any = None
    telemetry, clock = Telemetry(), StillClock()
    explorations = ExplorationBook(nobody, clock, saves=False)
    return Planner(
        mirror, policies, nobody, clock, telemetry, nobody,
        spend=tuple, explorations=explorations, placements=None, pools={},
    )  # fmt: skip


async def test_failing_cycles_are_overdue_until_one_succeeds() -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault in the engine")

    planner = a_planner(broken)
    assert planner.seconds_overdue == 0.0
    planner.trigger()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            await planner.run()
        planner.trigger()
    assert planner.seconds_overdue > 0.0


async def test_a_planner_that_has_come_round_is_not_overdue() -> None:
    planner = a_planner(None)
    planner._mirror.ever_synced = False  # type: ignore[misc]
    planner.trigger()
    running = asyncio.ensure_future(planner.run())
    async with asyncio.timeout(5):
        while not planner.idle:
            await asyncio.sleep(0.001)
    assert planner.seconds_overdue == 0.0
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
