"""How far a run is and how fast it goes, from what its own metric says; and what of it outlives its attempt.

Speed is the median of the slopes between the samples kept (Theil 1950, Sen 1968: up to 29 % of them may be wrong).
Values, so that learning gives a new one. Parts are of the whole work, 0 to 1; times in seconds since the epoch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, Final

from scheduler.predict.durations import LONGEST_SECONDS
from scheduler.predict.use import NO_USE, Use

MOST_SAMPLES: Final = 16
_LEAST_SECONDS: Final = 30.0
"""Between the first and the last sample, before they tell a speed."""
_MOST_DONE: Final = 1.05
"""A little more than all may be counted; beyond that the metric means something else."""
_STILL_SECONDS: Final = 600.0
"""A speed that its own query told is good for so long."""
MOST_BEGUN: Final = 0.99
"""Of the work, that an attempt is taken to begin with at most: something is left, or it would have ended."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One stretch of a run: from one start of its copy to its end, or to a pause."""

    attempt: int
    started_at: float
    pool: str = ""
    begun: float = 0.0
    """Part that was done before."""
    total: float | None = None
    """The steps of the whole work; None: its metric tells parts."""
    samples: tuple[tuple[float, float], ...] = ()
    """(when, part done), oldest first."""
    said: tuple[float, float] | None = None
    """(when, parts per second) as its own query told last."""
    clean_seconds: float = 0.0
    """Between two samples, both while nothing throttled it."""
    clean_part: float = 0.0
    """Done meanwhile."""
    throttled_seconds: float = 0.0
    looked_at: float | None = None
    was_throttled: bool = False
    use: Use = NO_USE
    """What it made of its GPUs."""

    def told(self, at: float, value: float, *, throttled: bool = False) -> Attempt:
        """With one sample of progress, in steps (or parts); what cannot be changes nothing."""
        part = value if self.total is None else value / self.total
        if not (math.isfinite(part) and 0 <= part <= _MOST_DONE and math.isfinite(at) and at >= self.started_at):
            return self
        part, last = min(1.0, part), self.samples[-1] if self.samples else None
        if last is not None and at <= last[0]:
            return self
        if last is not None and part < last[1]:
            # Its pods began again within the attempt, from a checkpoint or from nothing: it is as far as it says.
            return replace(self, samples=((at, part),), was_throttled=throttled)
        seconds, more = self.clean_seconds, self.clean_part
        if last is not None and not throttled and not self.was_throttled:
            seconds, more = seconds + at - last[0], more + part - last[1]
        samples = (*self.samples, (at, part))[-MOST_SAMPLES:]
        made = replace(self, samples=samples, clean_seconds=seconds, clean_part=more, was_throttled=throttled)
        return made._corrected() if slope(self.samples) is None else made

    def told_speed(self, at: float, value: float) -> Attempt:
        """With what its own query says of its speed: steps (or parts) per second."""
        speed = value if self.total is None else value / self.total
        return replace(self, said=(at, speed)) if math.isfinite(speed) and speed >= 0 and math.isfinite(at) else self

    def looked(self, at: float, *, throttled: bool) -> Attempt:
        """Whether it was throttled since the last look; for runs without a metric, too. A time that cannot be (before
        the last look, or ten years on) is passed over."""
        since = self.started_at if self.looked_at is None else self.looked_at
        if not since <= at <= self.started_at + LONGEST_SECONDS:
            return self
        slow = self.throttled_seconds + (at - since if throttled else 0.0)
        return replace(self, looked_at=at, throttled_seconds=slow)

    def _corrected(self) -> Attempt:
        """What the metric says of the beginning is worth more than what was reckoned from the attempt before."""
        speed = slope(self.samples)
        if speed is None:
            return self
        at, part = self.samples[0]
        began = part - speed * (at - self.started_at)
        return replace(self, begun=min(MOST_BEGUN, began) if began > 0.01 else 0.0)

    @property
    def done(self) -> tuple[float, float] | None:
        """(when, part) as told last."""
        return self.samples[-1] if self.samples else None

    @property
    def per_second(self) -> float | None:
        """Parts per second at present; None: not known, or it stands still."""
        newest = self.samples[-1][0] if self.samples else self.started_at
        if self.said is not None and self.said[0] >= newest - _STILL_SECONDS and self.said[1] > 0:
            return self.said[1]
        return slope(self.samples)

    def kept(self, ended_at: float, every: float | None) -> float | None:
        """Part that its last checkpoint holds when it ends at `ended_at`, by its metric; None: it has none. `every`:
        seconds between checkpoints, None: it makes none."""
        if self.done is None:
            return None
        if every is None or every <= 0:
            return 0.0
        at, part = self.done
        since = max(0.0, ended_at - self.started_at) % every
        speed = self.per_second or 0.0
        return min(MOST_BEGUN, max(min(self.begun, part), part + speed * (ended_at - since - at)))

    @property
    def steps_per_second(self) -> float | None:
        """Over all the time in which nothing throttled it; None: it tells no steps, or too little."""
        if self.total is None or self.clean_seconds < 2 * _LEAST_SECONDS or self.clean_part <= 0:
            return None
        return self.clean_part * self.total / self.clean_seconds

    def state(self) -> list[Any]:
        """As JSON values."""
        return [
            self.attempt, self.started_at, self.pool, self.begun, self.total, [list(one) for one in self.samples],
            None if self.said is None else list(self.said), self.clean_seconds, self.clean_part,
            self.throttled_seconds, self.looked_at, self.was_throttled, self.use.state(),
        ]  # fmt: skip

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> Attempt:
        """Raises: ValueError, TypeError for what `state` did not write."""
        attempt, started, pool, begun, total, samples, said, clean, part, slow, looked, throttled, *later = state
        read = tuple((float(at), float(value)) for at, value in samples)[-MOST_SAMPLES:]
        spoken = None if said is None else (float(said[0]), float(said[1]))
        numbers = [started, begun, clean, part, slow, *(each for pair in read for each in pair), *(spoken or ())]
        usable = all(map(math.isfinite, numbers)) and 0 <= begun <= 1 and min(clean, part, slow) >= 0
        if not usable or (total is not None and not (math.isfinite(total) and total > 0)):
            raise ValueError("progress that cannot be")
        return cls(
            int(attempt), float(started), str(pool), float(begun), None if total is None else float(total),
            read, spoken, float(clean), float(part), float(slow),
            None if looked is None else float(looked), bool(throttled),
            Use.from_state(later[0]) if later else NO_USE,  # earlier versions told none
        )  # fmt: skip


def slope(samples: Sequence[tuple[float, float]]) -> float | None:
    """Median of the slopes between all pairs; None for too little time, or where it is not above 0."""
    if len(samples) < 2 or samples[-1][0] - samples[0][0] < _LEAST_SECONDS:
        return None
    slopes = [
        (later - earlier) / (then - at)
        for index, (at, earlier) in enumerate(samples)
        for then, later in samples[index + 1 :]
        if then > at
    ]
    found = median(slopes) if slopes else 0.0
    return found if found > 0 else None


def part_kept(begun: float, kept_seconds: float, left_seconds: float) -> float:
    """What is done of the whole work when an attempt that began with `begun` has worked for `kept_seconds` since, and
    as long as `left_seconds` would have been left."""
    worked = max(0.0, kept_seconds)
    if worked == 0:
        return begun
    return min(MOST_BEGUN, begun + (1.0 - begun) * worked / (worked + max(1.0, left_seconds)))
