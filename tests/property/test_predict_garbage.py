"""Garbage in moves nothing that it should not."""

from __future__ import annotations

import json
import math
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model.spread import drawn
from scheduler.predict import arrays
from scheduler.predict.bounded import Recent
from scheduler.predict.conformal import Calibration
from scheduler.predict.cost import Seconds, run_cost
from scheduler.predict.durations import LONGEST_SECONDS, DurationModel, Run, fit
from scheduler.predict.forest import Forest
from scheduler.predict.provisioning import Provisioning
from scheduler.predict.serving import forecast_p95_ms
from scheduler.predict.spot import ReclaimHazards
from scheduler.predict.throughput import Configuration, ThroughputModel
from scheduler.predict.waits import Going, Line

ABSURD = st.one_of(
    st.floats(max_value=0.0), st.just(math.nan), st.just(math.inf), st.floats(min_value=LONGEST_SECONDS * 1.01)
)

NORMAL = drawn(0.0, 1.0, 2.0)


def _learned(lengths: list[float | None], skew: float = 0.0) -> DurationModel:
    model = DurationModel()
    for index in range(60):
        model.submit(Run(f"good-{index}", index * 100.0, ("q/1", "q"), (1.0,)))
        model.finish(f"good-{index}", index * 100.0 + 50.0, 50.0)
    for index, seconds in enumerate(lengths):
        model.submit(Run(f"bad-{index}", 6000.0 + index, ("q/1", "q"), (1.0,)))
        model.finish(f"bad-{index}", 6000.0 + index - skew, seconds)
    return model


@given(st.lists(st.one_of(ABSURD, st.none()), max_size=5))
def test_absurd_lengths_and_failed_runs_teach_no_length(lengths: list[float | None]) -> None:
    assert _learned(lengths).examples().targets.tolist() == _learned([]).examples().targets.tolist()


@given(st.floats(min_value=0, max_value=1e9))
def test_clock_skew_leaves_features_finite(skew: float) -> None:
    model = _learned([60.0, 70.0], skew)
    assert all(map(math.isfinite, model.submit(Run("next", 10.0, ("q/1", "q"), (1.0,)))))


@given(st.floats(min_value=1e-3, max_value=LONGEST_SECONDS))
@settings(max_examples=20)
def test_a_single_outlier_does_not_move_the_base(seconds: float) -> None:
    row = _learned([seconds]).submit(Run("next", 7000.0, ("q/1", "q"), (1.0,)))
    assert math.isclose(math.exp(row[0]), 50.0)


def test_all_runs_failed_leaves_nothing_to_fit() -> None:
    model = DurationModel()
    for index in range(100):
        model.submit(Run(str(index), float(index), ("q",)))
        model.finish(str(index), index + 1.0, None)
    assert model.refit(200.0) is None


@given(st.lists(st.sampled_from(["below", "above", "held"]), max_size=300), st.floats(0.0, 5.0))
@settings(max_examples=30)
def test_ends_stay_in_order_and_within_bounds(outcomes: list[str], width: float) -> None:
    calibration = Calibration()
    for one in outcomes:
        calibration.learn("q", below=one == "below", above=one == "above")
    low, high = calibration.interval("q", drawn(-width / 2, 0.0, width / 2))
    assert -20.0 < low <= 0.0 <= high < 20.0


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.booleans()), max_size=200))
@settings(max_examples=30)
def test_what_calibration_learned_survives_being_written_down(outcomes: list[tuple[str, bool, bool]]) -> None:
    calibration = Calibration()
    for group, below, above in outcomes:
        calibration.learn(group, below=below, above=above and not below)
    again = Calibration.from_state(json.loads(json.dumps(calibration.state())))
    assert again.state() == calibration.state()
    assert all(again.interval(g, NORMAL) == calibration.interval(g, NORMAL) for g in "abcdefg")


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=80))
@settings(max_examples=30)
def test_what_is_remembered_is_bounded_and_the_oldest_goes_first(steps: list[tuple[int, bool]]) -> None:
    recent: Recent[int, int] = Recent(4)
    order: list[int] = []
    for key, touched in steps:
        if touched:
            recent.touch(key, lambda: 0)
        else:
            recent.put(key, 1)
        order = [*(each for each in order if each != key), key][-4:]
    assert [key for key, _ in recent.items()] == order


@given(st.integers(55, 90), st.integers(0, 5), st.integers(0, 10))
@settings(max_examples=10, deadline=None)
def test_what_durations_learned_survives_being_written_down(count: int, going: int, seed: int) -> None:
    lengths = np.random.default_rng(seed).lognormal(6.0, 2.0, count).tolist()
    model = DurationModel(keep=60)
    for index, seconds in enumerate(lengths):
        model.submit(Run(str(index), index * 60.0, ("q/1", "q"), (1.0,)))
        if index >= going:
            model.finish(str(index), index * 60.0 + seconds, seconds)
    model.forest = model.refit(len(lengths) * 60.0)
    again = DurationModel.from_state(json.loads(json.dumps(model.state())), keep=60)
    asked = Run("next", len(lengths) * 60.0, ("q/1", "q"), (1.0,))
    assert again.history.features(asked) == model.history.features(asked)
    rows = [model.history.features(asked)]
    assert np.array_equal(again.distributions(rows), model.distributions(rows))  # type: ignore[arg-type]
    assert len(model.examples().targets) == min(60, len(lengths) - going)


@pytest.mark.parametrize("part", ["left", "roots", "bins", "start"])
def test_a_forest_that_was_tampered_with_is_refused(part: str) -> None:
    model = _learned([])
    forest = fit(model.examples(), trees=2)
    assert forest is not None
    state = forest.state()
    assert Forest.from_state(state).state() == state
    state[part] = arrays.to_json(arrays.from_json(state[part]) + 1000)
    with pytest.raises(ValueError, match="do not fit together"):
        Forest.from_state(state)


@given(ABSURD)
def test_start_times_that_cannot_be_teach_nothing(seconds: float) -> None:
    assert Provisioning().started(seconds) == Provisioning()


@given(st.integers(max_value=-1), st.floats(max_value=0))
def test_exposure_that_cannot_be_teaches_nothing(reclaims: int, hours: float) -> None:
    hazards = ReclaimHazards()
    hazards.learn("pool", "zone", 3, reclaims, 5.0)
    hazards.learn("pool", "zone", 3, 1, hours)
    assert hazards.hazard("pool", "zone", 3) == ReclaimHazards().hazard("pool", "zone", 3)


@given(st.lists(st.one_of(st.floats(max_value=0), st.just(math.nan), st.just(math.inf)), max_size=5))
@settings(deadline=None)
def test_latencies_that_cannot_be_are_passed_over(bad: list[float]) -> None:
    assert forecast_p95_ms([100.0, *bad]) == forecast_p95_ms([100.0])


@given(st.lists(st.tuples(st.integers(0, 8), st.floats(0, 1e6)), max_size=8), st.integers(1, 8))
def test_a_longer_backlog_never_shortens_the_wait(jobs: list[tuple[int, float]], wanted: int) -> None:
    line = Line(0, [Going(8, 100.0)])
    waits = [line.start(wanted)]
    for gpus, seconds in jobs:
        line.take(gpus, seconds)
        waits.append(line.start(wanted))
    assert waits[0] == 100.0
    assert all(one is not None and one >= 100.0 for one in waits)
    assert waits == sorted(waits, key=lambda one: one or 0.0)


def test_cost_has_its_parts_and_unknown_stays_unknown() -> None:
    run, start = Seconds(3600.0, 7200.0), Seconds(360.0, 720.0)
    found = run_cost(Decimal(10), run, start, None, None, Decimal(1))
    assert found is not None
    assert (found.expected.total_usd, found.p90.total_usd) == (Decimal(12), Decimal(23))
    assert run_cost(None, run, start, None, None) is None


def _speeds() -> ThroughputModel:
    """Three workloads on two GPUs, one of which is twice as fast."""
    model = ThroughputModel()
    for index, name in enumerate("abc"):
        for gpu, faster in (("t4", 1.0), ("v100", 2.0)):
            for gpus in (1, 2):
                model.observe(Configuration(name, 32, gpu, gpus), faster * gpus * (index + 1.0))
    model.refit()
    return model


_SPEEDS = _speeds().state()
_ASKED = [Configuration(name, batch, gpu, 2) for name in "abx" for batch in (32, 64) for gpu in ("t4", "v100", "h100")]


@given(st.lists(st.one_of(st.floats(max_value=0.0), st.just(math.nan), st.just(math.inf), st.floats(min_value=1e8))))
@settings(max_examples=20)
def test_speeds_that_cannot_be_move_nothing(speeds: list[float]) -> None:
    model, untouched = (ThroughputModel.from_state(_SPEEDS) for _ in range(2))
    for number, speed in enumerate(speeds):
        model.observe(_ASKED[number % len(_ASKED)], speed)
    assert model.refused == len(speeds)
    assert model.predict_many(_ASKED) == untouched.predict_many(_ASKED)


@given(st.sampled_from([1e-6, 1e-3, 1e3, 1e6]), st.sampled_from(["t4", "v100"]), st.sampled_from([32, 64]))
@settings(max_examples=16)
def test_a_single_absurd_speed_moves_nothing_of_a_workload_that_is_known(off: float, gpu: str, batch: int) -> None:
    """Of a configuration that was seen, or of one that was not."""
    model, untouched = (ThroughputModel.from_state(_SPEEDS) for _ in range(2))
    model.observe(Configuration("b", batch, gpu, 1), 2.0 * off)
    assert model.refused == 1
    assert model.predict_many(_ASKED) == untouched.predict_many(_ASKED)


def test_three_speeds_that_agree_are_a_new_level() -> None:
    model = ThroughputModel.from_state(_SPEEDS)
    for speed in (40.0, 41.0, 42.0):
        model.observe(Configuration("b", 32, "v100", 1), speed)
    found = model.predict(Configuration("b", 32, "v100", 1))
    assert found is not None
    assert found.median == 41.0 or math.isclose(found.median, 41.0)
    assert model.refused == 0
