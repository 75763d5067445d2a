"""Serving: what is foretold of latency, what a replica carries, and that nothing told can break it."""

from __future__ import annotations

import math

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.predict.learned import LearnedPredictor
from scheduler.predict.learning import Learning
from scheduler.predict.served import INTERVAL_SECONDS, MOST_INTERVALS, P95Forecaster, Served
from tests.unit.engine_world import NOW, pods, workload

HOUR = 3600.0
anything = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(anything, anything), max_size=60), st.floats(0, 1e10))
def test_a_forecast_lies_among_what_was_seen_and_the_state_comes_back(
    told: list[tuple[float, float]], at: float
) -> None:
    one = P95Forecaster()
    for when, value in told:
        one.learn(when, value)
    usable = [value for _, value in told if math.isfinite(value) and value > 0]
    found = one.forecast(at)
    if found is not None:
        assert min(usable) * 0.999 <= found <= max(usable) * 1.001
    assert P95Forecaster.from_state(orjson.loads(orjson.dumps(one.state()))).forecast(at) == found


def test_nothing_of_the_last_hour_is_known_an_hour_ahead() -> None:
    one = P95Forecaster()
    for index in range(24):
        one.learn(NOW + 300.0 * index, 1.0)
    before = one.forecast(NOW + 300.0 * 24)
    one.learn(NOW + 300.0 * 24, 1e6)
    assert one.forecast(NOW + 300.0 * 25) == before


@pytest.mark.parametrize(("daily", "want"), [(True, 0.25), (False, 0.05)], ids=["a daily season", "a level"])
def test_it_follows_whoever_is_right(daily: bool, want: float) -> None:
    """A latency that trebles every afternoon, or one that stays: the mean is not followed where it is wrong."""
    one, errors = P95Forecaster(), []
    for index in range(24 * 14):
        at = index * HOUR
        value = (3.0 if daily and index % 24 >= 12 else 1.0) * (1.0 + 0.02 * math.sin(index))
        found = one.forecast(at)
        if found is not None and index > 24 * 7:
            errors.append(abs(math.log(found / value)))
        one.learn(at, value)
    assert sum(errors) / len(errors) < want
    assert len(one) <= MOST_INTERVALS


@given(st.lists(st.tuples(anything, anything, st.none() | anything, st.integers(-1, 9)), max_size=40))
def test_whatever_is_told_what_is_served_is_kept(told: list[tuple[float, float, float | None, int]]) -> None:
    one = Served()
    for at, p95, load, replicas in told:
        one.learn(at, p95, load, replicas)
    again = Served.from_state(orjson.loads(orjson.dumps(one.state())))
    assert again.view() == one.view()


def test_the_engine_may_ask_how_many_replicas_a_load_needs() -> None:
    learning, served = Learning(), workload("s", pods(), runs_forever=True)
    for index in range(48):
        load = 1.0 + index % 8
        # One replica: 200 ms idle, without bound at 10 requests a second.
        learning.served(served.ref.uid, NOW + INTERVAL_SECONDS * index, 0.2 / (1.0 - load / 10.0), load, 1)
    state = orjson.loads(orjson.dumps(learning.state()))
    predictor = Learning.from_state(state).predictor()
    assert isinstance(predictor, LearnedPredictor)
    found = predictor.serving(served)
    assert found is not None
    assert found.replica is not None
    assert found.replica.capacity_per_second(400.0) == pytest.approx(5.0, rel=0.01)
    assert found.replicas_for(0.4, 14.0) == 3
    assert found.replicas_for(0.1, 14.0) is None
    assert found.p95_in_an_hour_seconds is not None
    assert predictor.serving(workload("other")) is None
