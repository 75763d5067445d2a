from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.cli.demo.pace import Moment, is_stuck, leap_target

QUIET = Moment(
    now=1000.0,
    speed=100.0,
    daemon_idle=True,
    busy=False,
    quiet_wall_seconds=0.2,
    next_arrival=None,
    next_event=None,
    wake_at=None,
)


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({"next_event": 1500.0}, 1500.0),
        ({"next_event": 1500.0, "next_arrival": 1400.0}, 1400.0),
        ({"next_event": 1500.0, "next_arrival": 1400.0, "wake_at": 1300.0}, 1300.0),
        ({}, None),
        ({"next_event": 1500.0, "daemon_idle": False}, None),
        ({"next_event": 1500.0, "quiet_wall_seconds": 0.01}, None),
        ({"next_event": 1500.0, "busy": True}, None),
        ({"next_event": 1500.0, "next_arrival": 990.0}, None),
        ({"next_event": 1500.0, "wake_at": 1000.0}, None),
        ({"next_event": 900.0, "wake_at": 1400.0}, None),
        ({"next_event": 1001.0}, None),
    ],
)
def test_leaps_to_the_next_thing_and_never_past_it(changed: dict[str, float], want: float | None) -> None:
    assert leap_target(replace(QUIET, **changed)) == want  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "want"),
    [({}, True), ({"daemon_idle": False}, False), ({"next_event": 5.0}, False), ({"wake_at": 5.0}, False)],
)
def test_stuck(changed: dict[str, float], want: bool) -> None:
    assert is_stuck(replace(QUIET, **changed)) is want  # type: ignore[arg-type]
