"""The sandbox's virtual clock: it leaps, never goes back, stands still until it is wound, and waits for a busy loop."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from clusters.clock import SharedClock, keep_in_step
from scheduler.model.errors import InvalidObjectError

BEGIN = 1_700_000_000.0


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The machine's time, as a list of one that tests set."""
    now = [5_000.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    return now


def test_it_runs_at_its_speed_and_leaps_only_ahead(tmp_path: Path, wall: list[float]) -> None:
    clock, reader = SharedClock.create(tmp_path / "clock", start=BEGIN, speed=60.0), SharedClock(tmp_path / "clock")
    wall[0] += 2.0
    assert reader.now() == BEGIN + 120.0
    clock.leap(BEGIN + 500.0)
    clock.leap(BEGIN + 10.0)
    wall[0] += 1.0
    assert reader.now() == BEGIN + 560.0
    assert reader.speed == 60.0


def test_once_wound_it_stands_still_until_it_is_wound_again(tmp_path: Path, wall: list[float]) -> None:
    clock, reader = SharedClock.create(tmp_path / "clock", start=BEGIN, speed=60.0), SharedClock(tmp_path / "clock")
    clock.wind(0.5)
    wall[0] += 10.0
    assert reader.now() == BEGIN + 30.0
    clock.leap(BEGIN + 100.0)
    wall[0] += 10.0
    assert reader.now() == BEGIN + 130.0, "a leap winds it as far as it was wound before"
    clock.wind(0.5)
    wall[0] += 0.1
    assert reader.now() == pytest.approx(BEGIN + 136.0)


async def test_a_busy_loop_is_waited_for(tmp_path: Path) -> None:
    clock = SharedClock.create(tmp_path / "clock", start=BEGIN, speed=1.0)
    task = asyncio.get_running_loop().create_task(keep_in_step(clock))
    await asyncio.sleep(0)
    began = time.monotonic()
    while time.monotonic() < began + 0.2:
        pass
    assert clock.now() - BEGIN < 0.05, "the loop had no turn, so time stood still"
    while clock.now() - BEGIN < 0.05:
        await clock.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_what_is_no_clock_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidObjectError, match="no clock file"):
        SharedClock(tmp_path / "missing")
    (tmp_path / "other").write_bytes(bytes(64))
    with pytest.raises(InvalidObjectError, match="not a clock file"):
        SharedClock(tmp_path / "other")
