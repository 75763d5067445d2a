"""Whatever the daemon tells `Learning`: what cannot be moves nothing, and one outlier moves little."""

from __future__ import annotations

import math
from collections.abc import Callable

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.predict.learning import Learning
from scheduler.predict.progress import Attempt
from scheduler.predict.served import INTERVAL_SECONDS
from tests.unit.engine_world import NOW, bought_pool

WHERE = bought_pool("a", "p").ref
BAD = st.one_of(st.just(math.nan), st.just(math.inf), st.floats(max_value=-61.0), st.just(-math.inf))
COUNTED = ("waits", "costs", "starts", "latencies", "hazards")
Tell = Callable[[Learning, float], None]
IMPOSSIBLE: dict[str, Tell] = {
    "a wait": lambda one, bad: one.waited("a", 100.0, bad),
    "a wait that was said": lambda one, bad: one.waited("a", bad, 100.0),
    "a cost": lambda one, bad: one.paid(WHERE, 10.0, 15.0, bad),
    "a cost that was said": lambda one, bad: one.paid(WHERE, bad, 15.0, 10.0),
    "node hours": lambda one, bad: one.spot_used(WHERE, "z", 3, 1, bad),
    "a latency": lambda one, bad: one.served("s", NOW + 1e6, bad, 1.0, 1),
    "the time of a latency": lambda one, bad: one.served("s", bad, 1.0, 1.0, 1),
    "the speed of nobody": lambda one, bad: one.speed("u", bad),
}


def learned() -> Learning:
    one = Learning()
    for index in range(30):
        one.waited("a", 100.0, 100.0)
        one.paid(WHERE, 10.0, 15.0, 10.0)
        one.spot_used(WHERE, "z", index, 0, 5.0)
        one.nodes_came(WHERE, 240.0, NOW + index)
        one.served("s", NOW + INTERVAL_SECONDS * index, 0.2, 5.0, 1)
    return one


SAVED = orjson.dumps(learned().state())


def again() -> Learning:
    return Learning.from_state(orjson.loads(SAVED))


@pytest.mark.parametrize("what", sorted(IMPOSSIBLE))
@given(BAD)
@settings(max_examples=15, deadline=None)
def test_what_cannot_be_moves_nothing(what: str, bad: float) -> None:
    one, untouched = again(), again().state()
    IMPOSSIBLE[what](one, bad)
    state = one.state()
    for part in (*COUNTED, "throughput"):
        assert state[part] == untouched[part]
    assert one.predictor(NOW).known.serving == again().predictor(NOW).known.serving


@given(st.floats(allow_nan=True, allow_infinity=True))
@settings(max_examples=15, deadline=None)
def test_start_up_times_that_cannot_be_and_careful_costs_that_are_no_numbers(bad: float) -> None:
    one = again()
    if not 0 < bad <= 86400.0:
        one.nodes_came(WHERE, bad, NOW + 30)
        want = again()
        assert one.provisioning.get(str(WHERE)).quantile_seconds(0.9) == pytest.approx(  # type: ignore[union-attr]
            want.provisioning.get(str(WHERE)).quantile_seconds(0.9)  # type: ignore[union-attr]
        )
    for _ in range(30):
        one.paid(WHERE, 10.0, bad if not math.isfinite(bad) else math.nan, 10.0)
    assert not one.costs.of(str(WHERE)).drifting


@given(st.floats(1e-6, 1e9))
@settings(max_examples=20, deadline=None)
def test_one_outlier_moves_little(wild: float) -> None:
    one = again()
    one.waited("a", 100.0, wild)
    one.paid(WHERE, 10.0, 15.0, wild)
    one.served("s", NOW + 1e5, wild, 5.0, 1)
    one.served("s", NOW + 1.1e5, 0.2, 5.0, 1)
    one.nodes_came(WHERE, wild, NOW + 40)
    assert one.waits.of("a").median == pytest.approx(1.0, rel=0.02)
    assert one.costs.of(str(WHERE)).median == pytest.approx(1.0, rel=0.02)
    for told in one.corrections().values():
        assert not any(correction.drifting for correction in told.values())
    half = one.provisioning.get(str(WHERE)).quantile_seconds(0.5)  # type: ignore[union-attr]
    assert 240.0 / 1.7 < half < 240.0 * 1.7


def test_that_starts_and_latencies_have_drifted_is_told() -> None:
    one = again()
    told = one.corrections()
    assert not told["start"][str(WHERE)].drifting
    assert not told["latency"]["s"].drifting
    for index in range(20):
        one.nodes_came(WHERE, 240.0 * 8 ** (1 + index / 4), NOW + 100.0 + index)
        one.served("s", NOW + INTERVAL_SECONDS * (40 + index), 0.2 * 3 ** (1 + index), 5.0, 1)
    told = Learning.from_state(orjson.loads(orjson.dumps(one.state()))).corrections()
    assert told["start"][str(WHERE)].drifting
    assert told["latency"]["s"].drifting


@given(st.lists(st.tuples(st.floats(), st.booleans()), max_size=20))
def test_looks_at_skewed_times_leave_finite_times(looks: list[tuple[float, bool]]) -> None:
    attempt = Attempt(1, NOW)
    for at, throttled in looks:
        attempt = attempt.looked(at, throttled=throttled)
    assert math.isfinite(attempt.throttled_seconds)
    assert attempt.throttled_seconds >= 0
    assert Attempt.from_state(orjson.loads(orjson.dumps(attempt.state()))) == attempt
