"""Distributions told at nine levels: what is left of a run, and intervals that hold as often as they say."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.remaining import left_seconds as engine_left
from scheduler.model.ports import Prediction
from scheduler.model.spread import HIGH, LEVELS, LOW, MIDDLE, SCORES, at_score, drawn, left_seconds, score_of
from scheduler.predict.conformal import Calibration
from scheduler.predict.remaining_trial import Asked, Lengths, remaining_scores

RISING = st.lists(st.floats(-5, 20), min_size=len(LEVELS), max_size=len(LEVELS)).map(sorted)


@given(RISING, st.lists(st.floats(-12, 12), min_size=2, max_size=8))
def test_values_rise_with_the_score_and_lead_back(logs: list[float], scores: list[float]) -> None:
    scores = sorted(scores)
    values = [at_score(logs, score) for score in scores]
    assert values == sorted(values) or np.all(np.diff(values) > -1e-9)
    for value in values:
        assert at_score(logs, score_of(logs, value)) == pytest.approx(value, abs=1e-6)


@given(RISING, st.floats(0.1, 1e9), st.sampled_from([0.05, 0.5, 0.95]), st.floats(1.0, 100.0))
def test_what_is_left_is_never_negative_and_rises_with_the_level(
    logs: list[float], ran: float, level: float, times: float
) -> None:
    left = left_seconds(logs, ran, level)
    assert 0 <= left < math.inf
    assert left <= left_seconds(logs, ran, level + 0.04) + 1e-6 * ran
    # Nobody ends earlier for having run longer (but where the tail is approximated).
    if score_of(logs, math.log(ran * times)) < 7.9:
        assert ran * times + left_seconds(logs, ran * times, level) >= (ran + left) * (1 - 1e-6)


@given(st.floats(10, 1e5), st.floats(0.1, 2.0), st.floats(0.05, 5.0), st.sampled_from([0.05, 0.5, 0.9]))
def test_a_log_normal_is_told_exactly(run: float, spread: float, times: float, level: float) -> None:
    normal = NormalDist(math.log(run), spread)
    logs, ran = [normal.mean + spread * score for score in SCORES], run * times
    survives = normal.cdf(2 * normal.mean - math.log(ran))
    if survives > 1e-12:
        left = left_seconds(logs, ran, level)
        after = normal.cdf(2 * normal.mean - math.log(ran + left)) / survives
        assert after == pytest.approx(1.0 - level, rel=1e-3)
        told = Prediction(run, 0.0, 0.0, spread, run_shape=tuple(each - normal.mean for each in logs))
        assert engine_left(told, ran) == pytest.approx(engine_left(Prediction(run, 0.0, 0.0, spread), ran), rel=1e-3)


def test_of_two_humps_only_the_long_one_is_left() -> None:
    """Three in four take a minute, the others a day: after ten minutes it is a day's."""
    logs = [math.log(60.0) + 0.02 * score for score in SCORES[:6]] + [math.log(86400.0) + 0.02 * s for s in SCORES[6:]]
    left = left_seconds(logs, 600.0)
    assert left > 0.5 * 86400
    as_normal = left_seconds(drawn(logs[LOW], logs[MIDDLE], logs[HIGH]), 600.0)
    assert as_normal < 0.5 * left


def test_coverage_comes_back_after_a_drift_which_is_told_meanwhile() -> None:
    """Lengths jump to twenty times what is predicted of a group, and stay; another group is as it was."""
    dice, calibration = np.random.default_rng(7), Calibration()
    said = drawn(-1.645, 0.0, 1.645)
    held: list[bool] = []
    drifted: list[bool] = []
    for index in range(6000):
        for group, shift in (("moves", 3.0 if index >= 1000 else 0.0), ("stays", 0.0)):
            low, high = calibration.interval(group, said)
            length = float(dice.normal(shift))
            calibration.learn(group, below=length < low, above=length > high)
            if group == "moves":
                held.append(low <= length <= high)
                drifted.append(calibration.drifting(group))
            else:
                assert not calibration.drifting(group)
    assert np.mean(held[400:1000]) == pytest.approx(0.9, abs=0.03)
    assert np.mean(held[1000:1100]) < 0.7
    assert any(drifted[1000:1200])
    assert not any(drifted[:1000])
    # Its low end has to come in all the way to the median first: nothing falls below it any more.
    assert 0.87 < np.mean(held[1500:3000]) < 0.96
    assert np.mean(held[4000:]) == pytest.approx(0.9, abs=0.02)
    assert not any(drifted[2000:])


def test_a_small_group_stands_near_all_groups() -> None:
    calibration, said = Calibration(), drawn(-1.0, 0.0, 1.0)
    for _ in range(400):
        calibration.learn("large", above=True)
    before = calibration.interval("never seen", said)
    calibration.learn("small")
    assert calibration.interval("small", said) == pytest.approx(before, rel=0.1, abs=0.1)
    assert before[1] > 1.5


def test_ends_of_earlier_versions_are_read_in_their_own_unit() -> None:
    old = {"all": [0.1, 0.2, 500, []], "groups": [["q", [0.1, 0.2, 10_000, []]]]}
    low, high = Calibration.from_state(old).interval("q", drawn(0.0, 5.0, 10.0))
    assert (low, high) == pytest.approx((-1.0, 12.0), abs=0.02)


def test_what_is_left_is_scored_beside_its_baselines() -> None:
    lengths = Lengths()
    assert all(map(math.isnan, lengths.left("a", 60.0)))
    for seconds in (30.0, 100.0, 200.0, 300.0):
        lengths.learn("a", seconds)
    lengths.learn("b", 1000.0)
    assert lengths.left("a", 60.0) == (140.0, 240.0)
    assert lengths.left("b", 1000.0 - 1e-9)[0] == pytest.approx(1e-9, abs=1e-6)
    assert lengths.left("a", 500.0) == (500.0, 500.0)
    logs = np.array([math.log(200.0) + 0.5 * score for score in SCORES])
    told = [Asked(index, 60.0, 140.0, 240.0, logs) for index in range(2)]
    found = remaining_scores(told, [200.0, 2000.0])
    assert (found["runs"], found["coverage_90"]) == (2, 0.5)
    assert found["baselines"]["last_five"]["median_ape"] == pytest.approx((0.0 + 1800.0 / 1940.0) / 2)
