"""`overspill model evaluate --serving`: p95 an hour ahead beside the last value and the same time a day before."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from scheduler.cli.output import CommandError
from scheduler.predict.served import HORIZON_SECONDS, P95Forecaster
from scheduler.predict.serving import forecast_p95_ms
from scheduler.simulate.table import open_table

_HOUR: Final = 3600.0
_DAY: Final = 86400.0
_SUCCEEDED: Final = "SUCCEED"
_LEAST_REQUESTS: Final = 10
"""Of an hour, to have a p95."""


def evaluate_serving(path: Path) -> dict[str, Any]:
    """Prequential. Columns t_s and e2e_p95_ms, or of single requests t_s and exec_time_seconds, by the hour.

    Raises: CommandError for a log that is too short.
    """
    import numpy as np

    from scheduler.predict.scores import scores

    points = _points(path)
    model, times = P95Forecaster(), [at for at, _ in points]
    said: dict[str, list[float]] = {name: [] for name in ("model", "last_value", "seasonal_naive", "damped_median")}
    actual: list[float] = []
    seasons = 0
    for at, value in points:
        past = points[: bisect_right(times, at - HORIZON_SECONDS)]
        forecast = model.forecast(at)
        damped = forecast_p95_ms([p95 for _, p95 in past])
        if forecast is not None and damped is not None:
            season = _nearest(past, at - _DAY)
            seasons += season is not None
            told = (forecast, past[-1][1], past[-1][1] if season is None else season, damped)
            for name, one in zip(said, told, strict=True):
                said[name].append(one)
            actual.append(value)
        model.learn(at, value)
    if len(actual) < 2:
        raise CommandError(f"{path}: no interval has another one an hour before it; give a longer log", exit_code=2)
    rated = {name: scores(np.array(values), np.array(actual)) for name, values in said.items()}
    found = {"intervals": len(actual), "with_a_day_before": seasons, **rated.pop("model"), "baselines": rated}
    if seasons == 0:
        found["note"] = "the log does not reach back a day from any interval: seasonal_naive is the last value"
    return found


def _points(path: Path) -> list[tuple[float, float]]:
    """(begin, p95 in ms) of each interval, in the order of time."""
    table = open_table(path)
    if "e2e_p95_ms" in table.columns:
        rows = ((row.number("t_s"), row.optional("e2e_p95_ms", least=1e-6)) for row in table.rows())
        return sorted((at, value) for at, value in rows if value is not None)
    by_hour: dict[float, list[float]] = {}
    for row in table.rows():
        seconds = row.optional("exec_time_seconds")
        if seconds and row.text("predict_status", _SUCCEEDED) == _SUCCEEDED:
            by_hour.setdefault(row.number("t_s") // _HOUR * _HOUR, []).append(1000.0 * seconds)
    return [(hour, _p95(values)) for hour, values in sorted(by_hour.items()) if len(values) >= _LEAST_REQUESTS]


def _p95(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def _nearest(past: Sequence[tuple[float, float]], at: float) -> float | None:
    """The value nearest to a time; None: the log does not reach back so far."""
    if not past or past[0][0] > at:
        return None
    return min(past, key=lambda one: abs(one[0] - at))[1]
