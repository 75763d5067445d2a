"""Margins of speeds: how wide intervals of models never seen have to be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.predict.throughput_margins import evenly_held

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
