"""What runs made of their GPUs: looked at while they go on, learned when they end."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.predict.learning import Began, Learning
from scheduler.predict.progress import Attempt
from scheduler.predict.use import MODEL, NO_USE, Usage, Use, Uses
from tests.unit.engine_world import NOW, bought_pool, pods, workload

ANY = st.floats(allow_nan=True, allow_infinity=True)


@pytest.mark.parametrize(
    ("looks", "busy", "memory"),
    [
        ([([0.5], [1e9])] * 3, 0.5, 1e9),
        ([([0.2, 0.6], [1e9, 3e9]), ([0.4, 0.4], [2e9]), ([1.2, 0.8], [])], (0.4 + 0.4 + 1.0) / 3, 3e9),
        ([([0.9], [])] * 2, None, None),  # the first looks tell nothing yet
        ([([], [1e9])] * 5, None, 1e9),
        ([([-1.0, math.nan, 7.0], [-1.0, math.inf, 1e18])] * 5, None, None),
    ],
)
def test_what_is_seen_of_an_attempt(
    looks: list[tuple[list[float], list[float]]], busy: float | None, memory: float | None
) -> None:
    use = NO_USE
    for one in looks:
        use = use.looked(*one)
    assert use.busy == (None if busy is None else pytest.approx(busy))
    assert use.memory_bytes == memory


@given(st.lists(st.tuples(st.lists(ANY, max_size=4), st.lists(ANY, max_size=4)), max_size=8))
def test_whatever_exporters_say_shares_stay_shares_and_are_read_again(
    told: list[tuple[list[float], list[float]]],
) -> None:
    use = NO_USE
    for one in told:
        use = use.looked(*one)
    assert use.busy is None or 0.0 <= use.busy <= 1.0
    assert use.memory_bytes is None or 0.0 <= use.memory_bytes <= 1e14
    assert Use.from_state(use.state()) == use
    attempt = Attempt(1, 0.0, use=use)
    assert Attempt.from_state(attempt.state()) == attempt
    assert Attempt.from_state(attempt.state()[:-1]).use == NO_USE  # as earlier versions wrote it


def test_usage_is_of_the_runs_that_told_it() -> None:
    usage = Usage()
    for busy, restarts in ((0.5, 0), (None, 2), (0.7, 0)):
        usage = usage.ended(NO_USE if busy is None else Use(10, 10 * busy, 4e9), restarts)
    assert (usage.runs, usage.restarts, usage.busy_runs) == (3, 2, 2)
    assert usage.busy_mean == pytest.approx(0.6)
    assert usage.ended(Use(9, 0.9, 1e9), 0).memory_bytes == pytest.approx(0.99 * 4e9)


def test_a_run_teaches_its_queue_its_gpu_and_its_model() -> None:
    learning = Learning()
    one = workload("w", pods(1, 1), queue="q1")
    learning.began(Began("w", NOW, one, bought_pool("a", "p", gpu_model="V100")))
    learning.used("w", Use(4, 2.0, 1e9), 1)
    learning.ended("w", NOW + 60.0, None)
    learning.used("nobody", Use(4, 2.0, 1e9), 1)
    again = Uses.from_state(Learning.from_state(learning.state()).uses.state())
    want = Usage(1, 1, 1, 0.5, 1e9)
    assert again.of("queue") == {"q1": want}
    assert again.of("gpu") == {"V100": want}
    assert again.of(MODEL) == {}


@pytest.mark.parametrize("state", [[["queue", "q", 1, -1, 0, 0.0, None]], [["queue", "q", 1, 0, 2, 0.5, None]], [[1]]])
def test_a_state_that_cannot_be_is_refused(state: list[object]) -> None:
    with pytest.raises(ValueError, match=r"cannot be|unpack"):
        Uses.from_state(state)
