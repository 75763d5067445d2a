"""Margins of speeds: how wide intervals have to be, by what is known and by GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.predict.margins import Margins
from scheduler.predict.throughput_fit import NORMAL_95
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
        (missed(8, k80=2.0, v100=1.0), "v100", 2.0 ** (1 / 3)),  # eight models: two thirds of the way to its own 1.0
        (missed(4, k80=2.0, v100=1.0), "v100", 2.0**0.5),
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
