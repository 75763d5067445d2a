"""Demand ahead: the confidence means what it says, and nothing that is told can break it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scheduler.predict.demand import DemandForecaster


def rates(seed: int, minutes: int) -> list[float]:
    """A day's curve with noise that is more than a Poisson's."""
    rng = np.random.default_rng(seed)
    time = np.arange(minutes)
    mean = 60.0 * (2.0 + np.sin(2 * np.pi * time / 1440.0)) * np.exp(rng.normal(0.0, 0.15, minutes))
    return [float(count) / 60.0 for count in rng.poisson(mean)]


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_confidence_is_kept(confidence: float) -> None:
    model, values = DemandForecaster(), rates(1, 2400)
    said: dict[int, float] = {}
    kept = []
    for minute, value in enumerate(values):
        model.learn(60.0 * minute, value)
        if minute in said and minute > 600:
            kept.append(value <= said[minute])
        expected = model.expected(300.0, confidence)
        assert expected is not None
        said[minute + 5] = expected
    assert abs(float(np.mean(kept)) - confidence) < 0.03


def test_more_confidence_is_more_and_further_ahead_is_not_less_sure() -> None:
    model = DemandForecaster()
    for minute, value in enumerate(rates(2, 400)):
        model.learn(60.0 * minute, value)
        model.expected(60.0, 0.5)
    low, high = (model.expected(60.0, confidence) for confidence in (0.5, 0.99))
    assert low is not None
    assert high is not None
    assert low < high


def test_nothing_known_is_none_and_nonsense_is_passed_over() -> None:
    model = DemandForecaster()
    assert model.expected(300.0, 0.9) is None
    for value in (math.nan, -1.0, math.inf):
        model.learn(0.0, value)
    assert model.expected(300.0, 0.9) is None
    model.learn(0.0, 0.0)
    assert model.expected(300.0, 0.9) is not None
    model.learn(1e9, 5.0)  # a gap of decades is bounded
    expected = model.expected(300.0, 0.9)
    assert expected is not None
    assert expected < 20.0


def test_a_service_that_has_begun_is_not_expected_to_begin_again() -> None:
    model = DemandForecaster()
    rng = np.random.default_rng(3)
    for minute in range(180):
        model.learn(60.0 * minute, 0.0 if minute < 3 else float(rng.poisson(960)) / 60.0)
        expected = model.expected(360.0, 0.95)
        assert expected is not None
        if minute > 15:
            assert 14.0 < expected < 20.0, minute


def test_an_hour_after_a_quiet_time_what_is_expected_is_what_is_usual_while_there_are_requests() -> None:
    model = DemandForecaster()
    rng = np.random.default_rng(4)
    for minute in range(240):
        model.learn(60.0 * minute, 0.0 if minute < 60 else float(rng.poisson(960)) / 60.0)
        expected = model.expected(360.0, 0.95)
        assert expected is not None
        if minute > 120:
            assert 14.0 < expected < 20.0, minute
