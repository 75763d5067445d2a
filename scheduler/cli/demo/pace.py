"""How the demo's time passes: it leaps over the quiet between two things that happen, never past one of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from scheduler.model.ids import Instant

QUIET_WALL_SECONDS: Final = 0.05
"""So long after the last write to any emulated API, whatever watches it has been told of it."""
_WORTH_WALL_SECONDS: Final = 0.02
"""A leap that saves less is left to the clock itself."""


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known just now. None: nothing of that kind is to come."""

    now: Instant
    speed: float
    daemon_idle: bool
    busy: bool
    """The sandbox has work in hand that belongs to the present."""
    quiet_wall_seconds: float
    next_arrival: Instant | None
    next_event: Instant | None
    """The earliest timer of the sandbox."""
    wake_at: Instant | None
    """When the daemon's plan could change by the passing of time alone."""


def leap_target(moment: Moment) -> Instant | None:
    """Where the clock may go at once; None when it must not leap now.

    What is due already (an arrival, a timer, the daemon's own alarm) must happen first.
    """
    if moment.busy or not moment.daemon_idle or moment.quiet_wall_seconds < QUIET_WALL_SECONDS:
        return None
    coming = [at for at in (moment.next_arrival, moment.next_event, moment.wake_at) if at is not None]
    if not coming:
        return None
    target = min(coming)
    return target if target - moment.now > _WORTH_WALL_SECONDS * moment.speed else None


def is_stuck(moment: Moment) -> bool:
    """Whether nothing will ever happen again by itself."""
    return (
        moment.daemon_idle
        and not moment.busy
        and moment.quiet_wall_seconds >= QUIET_WALL_SECONDS
        and moment.next_arrival is None
        and moment.next_event is None
        and moment.wake_at is None
    )
