"""What every detector must do; a new file in scheduler/aiops/detectors is tested without being listed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.aiops.bank import detector_bytes
from scheduler.aiops.detectors import MOST_BYTES, detector_names, load_detector
from scheduler.aiops.series import Columns, Floats, Samples, empty, samples
from scheduler.model.errors import InvalidObjectError

NAMES = detector_names()
ROWS = 12
VALUES = st.one_of(
    st.just(np.nan), st.just(0.0), st.just(np.inf), st.floats(-1e12, 1e12), st.floats(allow_nan=False, width=32)
)
HISTORIES = st.lists(st.lists(VALUES, min_size=4, max_size=4), min_size=1, max_size=30)


def noise(rounds: int = 300, rows: int = ROWS) -> Floats:
    return np.random.default_rng(7).normal(50.0, 5.0, (rounds, rows))


def batch(row: int, values: Floats) -> Samples:
    return samples(np.full(len(values), 300.0 * row), values, np.full(len(values), 100.0), np.zeros(len(values), int))


def run(name: str, history: Floats) -> tuple[Columns, Floats]:
    """The state after a history, and the surprise at each of its rounds."""
    detector = load_detector(name)
    columns = empty(detector.FIELDS, history.shape[1])
    surprises = []
    for row, values in enumerate(history):
        columns, surprise = detector.step(columns, batch(row, values))
        surprises.append(surprise)
    return columns, np.array(surprises)


@pytest.mark.parametrize("name", NAMES)
def test_its_state_is_small_and_of_the_declared_shape(name: str) -> None:
    detector = load_detector(name)
    columns, _ = run(name, noise(3))
    assert detector_bytes(name) < MOST_BYTES
    assert detector.VERSION >= 1
    assert detector.SPEAKS_AFTER >= 0
    assert {key: (column.shape, column.dtype) for key, column in columns.items()} == {
        field.name: (field.shape(ROWS), np.dtype(field.dtype)) for field in detector.FIELDS
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_step_changes_nothing_in_place_and_gives_the_same_again(name: str) -> None:
    detector = load_detector(name)
    before, _ = run(name, noise(200))
    copy = {key: column.copy() for key, column in before.items()}
    one = batch(200, noise()[200])
    first, second = detector.step(before, one), detector.step(before, one)
    np.testing.assert_array_equal(first[1], second[1])
    for key, column in copy.items():
        np.testing.assert_array_equal(before[key], column)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_series_does_not_matter(name: str) -> None:
    order = np.random.default_rng(3).permutation(ROWS)
    _, straight = run(name, noise())
    _, shuffled = run(name, noise()[:, order])
    np.testing.assert_allclose(shuffled, straight[:, order], rtol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_sample_surprises_nobody(name: str) -> None:
    _, surprise = run(name, noise(1))
    assert np.isnan(surprise).all()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "absence"])
def test_no_sample_is_unknown_and_teaches_nothing(name: str) -> None:
    detector = load_detector(name)
    before, _ = run(name, noise(200))
    after, surprise = detector.step(before, batch(200, np.full(ROWS, np.nan)))
    assert np.isnan(surprise).all()
    for key, column in before.items():
        np.testing.assert_array_equal(after[key], column)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(history=HISTORIES)
def test_whatever_arrives_surprise_is_finite_and_not_negative(name: str, history: list[list[float]]) -> None:
    with np.errstate(over="ignore"):
        _, surprise = run(name, np.array([*noise(130, 4), *np.array(history)]))
    told = surprise[~np.isnan(surprise)]
    assert np.isfinite(told).all()
    assert (told >= 0.0).all()


def spike(history: Floats) -> None:
    history[-1, 0] = 500.0


def jump(history: Floats) -> None:
    history[-30:, 0] += 20.0


def gone(history: Floats) -> None:
    history[-30:, 0] = np.nan


def leak(history: Floats) -> None:
    history[-150:, 0] = np.linspace(50.0, 95.0, 150)


def wrong_hour(history: Floats) -> None:
    """By night 50, by day 500 in all series; the first is busy in its last night."""
    hours = np.arange(len(history)) * 300 // 3600 % 24
    history[hours >= 12] += 450.0
    history[-6:, 0] = 500.0


@pytest.mark.parametrize(
    ("name", "fault", "rounds"),
    [
        ("robust_range", spike, 300),
        ("likelihood", spike, 300),
        ("change_point", jump, 300),
        ("peers", jump, 300),
        ("absence", gone, 300),
        ("exhaustion", leak, 300),
        ("seasonal", wrong_hour, 288 * 4 + 100),
    ],
)
def test_it_sees_what_it_is_for_and_only_there(name: str, fault: object, rounds: int) -> None:
    history = noise(rounds)
    assert callable(fault)
    fault(history)
    _, surprise = run(name, history)
    assert surprise[-1, 0] > 9.0
    assert surprise[-1, 0] > 1.5 * np.nanmax(surprise[-1, 1:])


def test_an_unknown_detector_is_named() -> None:
    with pytest.raises(InvalidObjectError, match="no detector 'nope'; there are absence, change_point"):
        load_detector("nope")
