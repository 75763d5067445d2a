"""What is learned of a workload that serves: p95 by load, what a replica carries, and p95 an hour ahead.

The forecast averages simple ones in log latency, weighted by how they did (`experts`).
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from scheduler.predict.experts import Experts
from scheduler.predict.serving import Replica, fit_replica

HORIZON_SECONDS: Final = 3600.0
MOST_INTERVALS: Final = 576
"""Two days of five minutes."""
INTERVAL_SECONDS: Final = 300.0
_DAY: Final = 86400.0
_NEAR_SECONDS: Final = 1800.0
"""Of the same time a day before."""
_WORST: Final = 3.0
"""Log units that one forecast is off at most: a single spike decides nothing."""
_EXPERTS: Final = ("last", "of3", "of12", "of48", "of all", "half", "season")


class P95Forecaster:
    """Of one series, in any unit. Bounded: the last `MOST_INTERVALS` values."""

    def __init__(self) -> None:
        self._at: deque[float] = deque(maxlen=MOST_INTERVALS)
        self._logs: deque[float] = deque(maxlen=MOST_INTERVALS)
        self._mix = Experts(_EXPERTS, _WORST)

    def __len__(self) -> int:
        return len(self._at)

    def learn(self, at: float, value: float) -> None:
        """One interval that began at `at`, in the order of time; values that cannot be are passed over."""
        if not (math.isfinite(at) and math.isfinite(value) and value > 0) or (self._at and at <= self._at[-1]):
            return
        actual = math.log(value)
        self._mix.learn(self._experts(at), actual)
        self._at.append(at)
        self._logs.append(actual)

    def forecast(self, at: float) -> float | None:
        """Of the interval that begins at `at`, from those that began an hour before it; None: there is none."""
        mixed = self._mix.mixed(self._experts(at))
        return None if mixed is None else math.exp(mixed)

    def _experts(self, at: float) -> dict[str, float]:
        times = list(self._at)
        known = bisect_right(times, at - HORIZON_SECONDS)
        past = list(self._logs)[:known]
        if not past:
            return {}
        level, recent = median(past), median(past[-12:])
        said = {
            "last": past[-1], "of3": median(past[-3:]), "of12": recent, "of48": median(past[-48:]),
            "of all": level, "half": (level + recent) / 2,
        }  # fmt: skip
        first = bisect_right(times, at - _DAY - _NEAR_SECONDS)
        season = past[first : bisect_right(times, at - _DAY + _NEAR_SECONDS)]
        if season:
            said["season"] = median(season)
        return said

    def state(self) -> list[Any]:
        """As JSON values."""
        return [list(self._at), list(self._logs), [self._mix.losses[name] for name in _EXPERTS]]

    @classmethod
    def from_state(cls, state: Sequence[Any]) -> P95Forecaster:
        """Raises: ValueError, TypeError for what `state` did not write."""
        at, logs, losses = state
        found = cls()
        if not all(map(math.isfinite, (*at, *logs, *losses))) or len(at) != len(logs) or min(losses) < 0:
            raise ValueError("a forecast that cannot be")
        found._at.extend(map(float, at))
        found._logs.extend(map(float, logs))
        found._mix.losses = dict(zip(_EXPERTS, map(float, losses), strict=True))
        return found


@dataclass(frozen=True, slots=True)
class Serving:
    """Of one workload, as of its last interval. Seconds and requests per second."""

    at: float
    p95_seconds: float
    p95_in_an_hour_seconds: float | None
    requests_per_second: float | None
    replicas: int
    replica: Replica | None
    """Latency of one by its load (in ms); None: too little seen, or latency does not rise with load."""

    def replicas_for(self, slo_seconds: float, requests_per_second: float) -> int | None:
        """How many carry that load with p95 within `slo_seconds`; None: not known, or none can."""
        if self.replica is None or requests_per_second < 0:
            return None
        each = self.replica.capacity_per_second(1000.0 * slo_seconds)
        return max(1, math.ceil(requests_per_second / each)) if each > 0 else None


class Served:
    """Changed in place by `learn`."""

    def __init__(self) -> None:
        self._forecaster = P95Forecaster()
        self._loads: deque[tuple[float, float]] = deque(maxlen=MOST_INTERVALS)
        """(requests per second and replica, p95 in seconds)."""
        self._last: tuple[float, float, float | None, int] | None = None
        self._view: Serving | None = None
        """Worked out once for each interval."""

    def learn(self, at: float, p95_seconds: float, requests_per_second: float | None, replicas: int) -> bool:
        """One interval; one too early after the last, or that cannot be, teaches nothing: False."""
        if not (math.isfinite(at) and math.isfinite(p95_seconds) and p95_seconds > 0) or replicas < 1:
            return False
        if self._last is not None and at < self._last[0] + INTERVAL_SECONDS:
            return False
        load = requests_per_second
        if load is None or not (math.isfinite(load) and load >= 0):
            load = None
        self._view = None
        self._forecaster.learn(at, p95_seconds)
        self._last = at, p95_seconds, load, replicas
        if load is not None:
            self._loads.append((load / replicas, p95_seconds))
        return True

    def forecast(self, at: float) -> float | None:
        """p95 in seconds of the interval that begins at `at`, as it was foretold an hour before; None: it was not."""
        return self._forecaster.forecast(at) if math.isfinite(at) else None

    def view(self) -> Serving | None:
        """None: nothing was learned."""
        if self._last is None or self._view is not None:
            return self._view
        at, p95, load, replicas = self._last
        fitted = fit_replica([one for one, _ in self._loads], [1000.0 * seconds for _, seconds in self._loads])
        ahead = self._forecaster.forecast(at + HORIZON_SECONDS)
        self._view = Serving(at, p95, ahead, load, replicas, fitted)
        return self._view

    def state(self) -> Mapping[str, Any]:
        """As JSON values."""
        last = None if self._last is None else list(self._last)
        return {"forecast": self._forecaster.state(), "loads": [list(one) for one in self._loads], "last": last}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Served:
        """Raises: ValueError, KeyError, TypeError for what `state` did not write."""
        found = cls()
        found._forecaster = P95Forecaster.from_state(state["forecast"])
        loads = [(float(load), float(seconds)) for load, seconds in state["loads"]]
        if not all(math.isfinite(one) and one >= 0 for pair in loads for one in pair):
            raise ValueError("loads that cannot be")
        found._loads.extend(loads)
        if state["last"] is not None:
            at, p95, load, replicas = state["last"]
            if not (math.isfinite(at) and math.isfinite(p95) and p95 > 0 and int(replicas) >= 1):
                raise ValueError("serving that cannot be")
            found._last = float(at), float(p95), None if load is None else float(load), int(replicas)
        return found
