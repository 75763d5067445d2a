"""What /healthz and /readyz are told: loops that do not stay up, an event loop that is late, what is listed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from scheduler.daemon.http.status import StatusReport
from scheduler.daemon.supervise import Pulse, measure_lag, supervised
from scheduler.daemon.telemetry import Telemetry


class Hand:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def health(pulse: Pulse) -> str | None:
    told: Any = SimpleNamespace(
        pulse=pulse, planner=SimpleNamespace(seconds_overdue=0.0), is_leader=lambda: True, mode="active"
    )
    return StatusReport.not_healthy(told)


@pytest.mark.parametrize(
    ("loop", "crashes_at", "now", "want"),
    [
        ("planner", [], 500.0, None),
        ("planner", [10.0], 11.0, None),
        ("planner", [10.0, 50.0, 100.0, 125.0], 131.0, "loop planner has not stayed up for 121 s"),
        ("planner", [10.0, 50.0], 200.0, None),
        ("reconciler", [10.0, 60.0, 110.0, 160.0], 161.0, "loop reconciler has not stayed up for 151 s"),
        ("watch:eks:pods", [10.0, 60.0, 110.0, 160.0], 161.0, None),
        ("planner", [10.0, 200.0], 201.0, None),
    ],
)
def test_a_needed_loop_that_does_not_stay_up_makes_it_unhealthy(
    loop: str, crashes_at: list[float], now: float, want: str | None
) -> None:
    hand = Hand()
    pulse = Pulse(hand)
    pulse.started(loop)
    for hand.at in crashes_at:
        pulse.failed(loop)
        pulse.started(loop)
    hand.at = now
    said = health(pulse)
    assert said is None if want is None else (said or "").startswith(want)


async def test_a_supervised_loop_tells_its_failures() -> None:
    pulse, ran = Pulse(asyncio.get_running_loop().time), asyncio.Event()

    async def loop() -> None:
        if ran.is_set():
            await asyncio.Event().wait()
        ran.set()
        raise RuntimeError("a fault")

    running = asyncio.ensure_future(supervised("planner", loop, Telemetry(), pulse))
    await ran.wait()
    await asyncio.sleep(0)
    assert pulse.failing_seconds("planner") > 0.0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_an_event_loop_that_is_late_makes_it_unhealthy() -> None:
    hand = Hand()
    pulse = Pulse(hand)
    assert health(pulse) is None
    pulse.measured(11.0)
    assert health(pulse) == "the event loop is 11 s late; see overspill_event_loop_lag_seconds"
    pulse.measured(0.01)
    assert health(pulse) is None
    hand.at = 12.0
    assert (health(pulse) or "").startswith("the event loop is 12 s late"), "a measurement is overdue"


async def test_the_lag_is_measured() -> None:
    pulse = Pulse(asyncio.get_running_loop().time)
    running = asyncio.ensure_future(measure_lag(Telemetry(), pulse))
    async with asyncio.timeout(10):
        while pulse._measured is None:
            await asyncio.sleep(0.05)
    assert pulse.lag_seconds < 5.0
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("synced", "error", "want"),
    [(False, None, "not synced: listing"), (False, "x", "not synced: x"), (True, None, None)],
)
def test_it_is_ready_once_hub_and_members_have_been_listed(synced: bool, error: str | None, want: str | None) -> None:
    told: Any = SimpleNamespace(mirror=SimpleNamespace(ever_synced=synced, hub_error=error))
    assert StatusReport.not_ready(told) == want
