"""Forecasts of services' demand, a forecaster for each, and their state in the history."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import structlog

from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import MEMORIES
from scheduler.engine.serving.demand import ABSURD, STALE_SECONDS
from scheduler.model.errors import OverspillError
from scheduler.model.ids import Instant, Uid, WorkloadRef
from scheduler.model.ports import Clock
from scheduler.model.serving import ClientDemand, ExpectedRate
from scheduler.predict.bounded import Recent
from scheduler.predict.demand import INTERVAL_SECONDS, DemandForecaster

log = structlog.get_logger(__name__)
NAME: Final = "demand"
_VERSION: Final = 1
_MOST_SERVICES: Final = 256
"""Of which forecasts are kept; some 60 KB of state each."""
_SAVE_SECONDS: Final = 600.0
_GRID: Final = 1.02
"""Forecasts are rounded up by this at most, so that the same question is not asked anew at every look."""
_LEAST_HIGHEST: Final = 1.0


@dataclass(slots=True)
class _Series:
    """One service's. `told`: rates since the last interval ended."""

    forecaster: DemandForecaster = field(default_factory=DemandForecaster)
    told: list[float] = field(default_factory=list)
    told_at: Instant | None = None
    began: Instant | None = None
    highest: float = 0.0
    before: float = 0.0
    """What was told last, believed or not."""


class DemandForecasts:
    """See `ports.DemandBook`. Belongs to the event loop."""

    def __init__(self, history: History, clock: Clock, *, saves: bool = True) -> None:
        self._history = history
        self._clock = clock
        self._saves = saves
        self._series: Recent[Uid, _Series] = Recent(_MOST_SERVICES)
        self._saved_at: Instant | None = None

    def observe(self, ref: WorkloadRef, at: Instant, demand: Sequence[ClientDemand]) -> None:
        """The demand of all regions together. What is unknown, cannot be, or was told before teaches nothing."""
        newest = max((one.at for one in demand), default=None)
        rates = [math.nan if one.requests_per_second is None else one.requests_per_second for one in demand]
        total = math.fsum(rates) if all(map(math.isfinite, rates)) else math.nan
        if newest is None or not total >= 0 or any(rate < 0 for rate in rates):
            return
        series = self._series.touch(ref.uid, _Series)
        if series.told_at is not None and newest <= series.told_at:
            return
        believed = total <= ABSURD * max(series.highest, series.before, _LEAST_HIGHEST)
        series.told_at, series.before = newest, total
        if not believed and series.began is not None:
            return  # One that is told again is believed, as the engine's own highest will be by then.
        series.highest = max(series.highest, total)
        series.told.append(total)
        if series.began is None:
            series.began = newest
            self._learn(series, newest)
        elif newest - series.began >= INTERVAL_SECONDS:
            self._learn(series, newest)
        if self._saves and at - (self._saved_at or 0.0) >= _SAVE_SECONDS:
            self.save()

    def _learn(self, series: _Series, at: Instant) -> None:
        series.forecaster.learn(at, sum(series.told) / len(series.told))
        series.told, series.began = [], at

    def forecast(self, ref: WorkloadRef, leads_seconds: Sequence[float], confidence: float) -> tuple[ExpectedRate, ...]:
        """Not exceeded in `confidence` of all cases, at each lead from now on; empty: nothing is known."""
        series = self._series.get(ref.uid)
        if series is None:
            return ()
        # What was learned ends some time ago: a rise has gone on since.
        learned_at = series.forecaster.at
        age = 0.0 if learned_at is None else min(max(0.0, self._clock.now() - learned_at), STALE_SECONDS)
        found = ((ahead, series.forecaster.expected(ahead + age, confidence)) for ahead in leads_seconds)
        return tuple(ExpectedRate(ahead, _rounded(rate)) for ahead, rate in found if rate is not None)

    # -- persistence -------------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Take up what was learned. What cannot be read is left, logged, and learned anew."""
        try:
            saved = await self._history.memory(NAME)
            if saved is not None:
                self._series = _read(saved)
        except (OverspillError, ValueError, TypeError, KeyError, AttributeError) as error:
            log.error("demand_not_restored", error=repr(error)[:300], remedy="none needed: it is learned anew")

    def save(self) -> None:
        """Queue what is known for the history."""
        if not self._saves:
            return
        self._saved_at = self._clock.now()
        services = {
            uid: {"highest": one.highest, "forecaster": one.forecaster.state()} for uid, one in self._series.items()
        }
        body = orjson.dumps({"version": _VERSION, "services": services}).decode()
        self._history.record(MEMORIES, {"name": NAME, "at": self._saved_at, "body": body})


def _rounded(value: float) -> float:
    """Up, on a geometric grid."""
    return 0.0 if value <= 1e-6 else _GRID ** math.ceil(math.log(value, _GRID) - 1e-9)


def _read(saved: Mapping[str, Any]) -> Recent[Uid, _Series]:
    """Raises: ValueError and the like for what `save` did not write."""
    if saved.get("version") != _VERSION:
        raise ValueError(f"demand of version {saved.get('version')}, not {_VERSION}")
    found: Recent[Uid, _Series] = Recent(_MOST_SERVICES)
    for uid, one in saved["services"].items():
        highest = float(one["highest"])
        if not (math.isfinite(highest) and highest >= 0):
            raise ValueError("a demand that cannot be")
        forecaster = DemandForecaster.from_state(one["forecaster"])
        found.put(Uid(str(uid)), _Series(forecaster, highest=highest, began=forecaster.at))
    return found
