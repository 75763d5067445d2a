"""The programme of a time slice: by hand where that is easy, and what must always hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.engine.fluid import Backlog, intervals, next_slice, whole

HOUR = 3600.0


def backlog(
    hours: list[list[float]],
    *,
    gpus: list[int] | None = None,
    free: list[int] | None = None,
    usd_per_gpu_hour: list[float] | None = None,
    value: float = 1.0,
    last_end: float = 0.0,
) -> Backlog:
    """Hours left of each workload on each pool (0: cannot run there); one GPU each unless told."""
    seconds = np.array(hours) * HOUR
    seconds[seconds == 0] = np.inf
    asked = np.ones(len(hours)) if gpus is None else np.array(gpus, dtype=float)
    there = np.ones(seconds.shape[1]) if free is None else np.array(free, dtype=float)
    prices = np.zeros(seconds.shape[1]) if usd_per_gpu_hour is None else np.array(usd_per_gpu_hour)
    usd = np.where(np.isfinite(seconds), seconds, 0.0) / HOUR * prices * asked[:, None]
    values = np.full(len(hours), value / HOUR)
    return Backlog(seconds, usd, values, asked[:, None], there[:, None], 360.0, last_end / HOUR)


def chosen(what: Backlog) -> list[int]:
    return [int(each) for each in whole(what, next_slice(what))]


@pytest.mark.parametrize(
    ("what", "want_pools"),
    [
        pytest.param(backlog([[5.0], [1.0], [3.0]]), [-1, 0, -1], id="the shortest goes first"),
        pytest.param(backlog([[1.0, 2.0]], free=[1, 1]), [0], id="alone, it runs where it is fastest"),
        pytest.param(backlog([[1.0, 10.0], [1.0, 1.5]], free=[1, 1]), [0, 1], id="who gains most has the fast pool"),
        pytest.param(
            backlog([[1.0, 2.0]], free=[1, 1], usd_per_gpu_hour=[10.0, 1.0], value=0.1), [1], id="money before time"
        ),
        pytest.param(
            backlog([[1.0, 2.0]], free=[1, 1], usd_per_gpu_hour=[10.0, 1.0], value=100.0), [0], id="time before money"
        ),
        pytest.param(backlog([[9.0], [1.0], [1.0]], free=[2]), [-1, 0, 0], id="time: short ones, together"),
        pytest.param(
            backlog([[9.0], [4.0], [4.4]], free=[2], value=0.01, last_end=100.0),
            [0, 0, -1],
            id="makespan: the long one",
        ),
        pytest.param(backlog([[1.0], [1.5]], gpus=[4, 4], free=[6]), [0, -1], id="a gang goes whole or not at all"),
    ],
)
def test_who_runs_in_the_next_slice(what: Backlog, want_pools: list[int]) -> None:
    assert chosen(what) == want_pools


def test_one_more_gpu_is_worth_something_only_where_it_lacks() -> None:
    short, ample = backlog([[1.0], [1.0]]), backlog([[1.0], [1.0]], free=[8])
    assert next_slice(short).price[0, 0] > 0
    assert next_slice(ample).price[0, 0] == pytest.approx(0.0, abs=1e-9)


@st.composite
def backlogs(draw: st.DrawFn) -> Backlog:
    jobs, pools = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    free = draw(st.lists(st.integers(4, 12), min_size=pools, max_size=pools))
    hours = [[draw(st.sampled_from([0.0, 0.05, 0.3, 2.0, 7.5])) for _ in range(pools)] for _ in range(jobs)]
    for row in hours:
        row[0] = row[0] or 1.0
    gpus = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=jobs, max_size=jobs))
    prices = draw(st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=pools, max_size=pools))
    weights = draw(st.sampled_from([0.05, 1.0, 10.0])), draw(st.sampled_from([0.0, 1.0, 50.0]))
    return backlog(hours, gpus=gpus, free=free, usd_per_gpu_hour=prices, value=weights[0], last_end=weights[1])


@settings(deadline=None, max_examples=60)
@given(what=backlogs())
def test_capacity_holds_and_somebody_runs(what: Backlog) -> None:
    found = next_slice(what)
    pools = whole(what, found)
    used = np.zeros(what.capacity.shape)
    for row, pool in enumerate(pools):
        if pool >= 0:
            assert np.isfinite(what.seconds[row, pool])
            used[pool] += what.demand[row]
    assert (used <= what.capacity + 1e-9).all()
    assert (pools >= 0).any()
    assert (found.share.sum(axis=1) <= 1.0 + 1e-6).all()
    assert ((found.share[:, :, None] * what.demand[:, None, :]).sum(axis=0) <= what.capacity + 1e-6).all()


@settings(deadline=None, max_examples=60)
@given(what=backlogs())
def test_the_intervals_are_long_enough_for_all(what: Backlog) -> None:
    edges = intervals(what)
    assert edges[1] == what.slice_seconds
    assert edges[-1] >= what.seconds[np.isfinite(what.seconds)].max()
    assert (np.diff(edges) > 0).all()
