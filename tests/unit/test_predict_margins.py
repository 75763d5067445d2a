"""Margins of speeds: how wide intervals have to be, by what is known and by GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.predict.margins import Margins
from scheduler.predict.throughput import Configuration
from scheduler.predict.throughput_fit import NORMAL_95, columns, solve
from scheduler.predict.throughput_kernels import prior_weights
from scheduler.predict.throughput_margins import Missed, evenly_held, margin

VALUES = st.lists(st.floats(0, 100), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("groups", "held", "want"),
    [
        (([1.0, 2.0, 3.0, 4.0],), 0.5, 2.0),
        (([1.0] * 90, [5.0]), 0.9, 5.0),  # many rows of one model are not many models
        (([1.0] * 90, [5.0]), 0.5, 1.0),
        (([3.0], [1.0], [2.0]), 1.0, 3.0),
    ],
)
def test_each_model_counts_the_same(groups: tuple[list[float], ...], held: float, want: float) -> None:
    assert evenly_held([np.array(one) for one in groups], held) == want


@given(st.lists(VALUES, min_size=1, max_size=6), st.floats(0.05, 1.0))
def test_it_is_the_least_that_holds_so_much(values: list[list[float]], held: float) -> None:
    groups = [np.array(one) for one in values]
    found = evenly_held(groups, held)
    assert np.mean([(one <= found).mean() for one in groups]) >= held - 1e-6
    assert np.mean([(one < found).mean() for one in groups]) < held + 1e-6


@given(VALUES, st.integers(1, 5))
def test_a_model_measured_more_often_alike_changes_nothing(own: list[float], times: int) -> None:
    other = np.array([1.0, 4.0, 9.0])
    once, often = [np.array(own), other], [np.repeat(own, times), other]
    assert evenly_held(often, 0.9) == evenly_held(once, 0.9)


def missed(models: int, **off: float) -> list[Missed]:
    """By GPU so many standard deviations; of each model one on each."""
    return [Missed(f"m{at}", tuple(off), NORMAL_95 * np.array(list(off.values()))) for at in range(models)]


@pytest.mark.parametrize(
    ("what", "gpu", "want"),
    [
        (missed(8, k80=2.0, v100=1.0), None, 2.0),
        (missed(8, k80=2.0, v100=1.0), "k80", 2.0),
        (missed(8, k80=2.0, v100=1.0), "v100", 2.0 ** (1 / 5)),  # eight models: four fifths of the way to its own 1.0
        (missed(4, k80=2.0, v100=1.0), "v100", 2.0 ** (1 / 3)),
        ([*missed(9, k80=1.0), Missed("often", ("k80",) * 90, np.full(90, 2 * NORMAL_95))], "k80", 2.0),  # each row
        (missed(8, k80=2.0, v100=1.0), "h100", 2.0),  # none was seen there
        (missed(2, k80=2.0), "k80", 1.5),  # too few to learn from
        (missed(3, k80=1.0) + missed(2, v100=3.0), "v100", 3.0),  # two models are not enough for an own one
        (missed(8, k80=9.0), "k80", 4.0),
        (missed(8, k80=0.0), "k80", 0.7),
    ],
)
def test_each_gpu_has_its_own_as_far_as_models_were_seen_there(
    what: list[Missed], gpu: str | None, want: float
) -> None:
    assert margin(what, gpu) == pytest.approx(want)


def speeds(noise: float) -> list[tuple[Configuration, float]]:
    """Log steps a second of six models, of which "m0" alone is erratic."""
    draw = np.random.default_rng(3)
    return [
        (Configuration(f"m{model}", batch, gpu, gpus), float(own + faster + np.log(gpus / batch) + off))
        for model, own in enumerate(draw.normal(0.0, 1.0, 6))
        for faster, gpu in enumerate(("k80", "p100", "v100"))
        for batch in (16, 32, 64)
        for gpus in (1, 2, 4)
        for off in (draw.normal(0.0, 0.02 if model else noise),)
    ]


def test_a_model_that_is_erratic_where_it_is_known_has_wider_intervals() -> None:
    usual, erratic = (solve(*columns(speeds(noise)), prior_weights()) for noise in (0.02, 0.3))
    asked = [Configuration(f"m{model}", 128, "v100", 1) for model in range(6)]
    assert erratic.excess["m0"] > 1.3 * usual.excess["m0"]
    assert all(erratic.excess[f"m{model}"] < erratic.excess["m0"] for model in range(1, 6))
    assert erratic.margin(asked) == pytest.approx([erratic.excess[one.model] for one in asked])
    assert erratic.margin([Configuration("other", 16, "v100", 1)]) == [1.0]  # nothing is known of it


def test_how_erratic_a_model_is_says_little_where_little_is_known_and_has_bounds() -> None:
    assert solve(*columns(speeds(5.0)), prior_weights()).excess["m0"] == 2.0
    cells = speeds(0.3)
    few = [cell for cell in cells if cell[0].model != "m0"] + [cells[0]]
    assert 0.9 < solve(*columns(few), prior_weights()).excess["m0"] < 1.1


def test_they_are_read_as_they_were_written_and_as_earlier_versions_wrote_them() -> None:
    told = Margins((1.0, 1.2, 1.4), {"v100": (0.8, 0.9, 1.0)})
    assert Margins.from_state(told.state()) == told
    assert told.of("v100") == (0.8, 0.9, 1.0)
    assert told.of("h100") == (1.0, 1.2, 1.4)
    assert Margins.from_state([1.0, 1.2, 1.4]) == Margins((1.0, 1.2, 1.4))


@pytest.mark.parametrize("state", [[1.0, 2.0], [1.0, 2.0, float("nan")], [0.0, 1.0, 1.0], {"any": [1, 1, 1]}, None])
def test_margins_that_cannot_be_are_refused(state: object) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        Margins.from_state(state)
