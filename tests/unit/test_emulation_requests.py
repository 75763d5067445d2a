"""Clients of the sandbox: how many come when, and what replicas make of them by their load."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.sandbox.emulation.requests import Answering, LoadPlan, ServiceLoad, Spike, read_plan
from scheduler.model.errors import InvalidObjectError

PLAN: dict[str, Any] = {
    "app": "chat",
    "backends": {"chat-onprem": "onprem", "chat-eks": "eks"},
    "basePerSecond": 2.0,
    "peakPerSecond": 6.0,
    "daySeconds": 7200.0,
    "speeds": {"": 2.0},
}


def load(*replicas: tuple[str, float], **changes: Any) -> ServiceLoad:
    """`("onprem", ready at)`: a replica; all weight on the first backend's cluster."""
    made = ServiceLoad(LoadPlan.model_validate({**PLAN, **changes}), 0.0)
    for number, (cluster, ready_at) in enumerate(replicas):
        made.ready(cluster, f"u{number}", Answering("default", f"p{number}", 2.0, ready_at))
    made.weigh({"chat-onprem": 1, "chat-eks": 0})
    return made


def test_a_day_is_lowest_at_its_start_and_highest_in_its_middle_and_a_spike_stands_on_it() -> None:
    plan = LoadPlan.model_validate({**PLAN, "spikes": (Spike(at_seconds=3600.0, seconds=600.0, per_second=10.0),)})
    assert [plan.per_second(at) for at in (0.0, 7200.0)] == pytest.approx([2.0, 2.0])
    assert plan.per_second(1800.0) == pytest.approx(4.0)
    assert plan.per_second(3600.0) == pytest.approx(6.0)
    assert plan.per_second(3900.0) == pytest.approx(LoadPlan.model_validate(PLAN).per_second(3900.0) + 10.0)


def test_latency_rises_with_load_and_what_is_too_much_waits() -> None:
    calm = load(("onprem", 0.0), ("onprem", 0.0), peakPerSecond=2.0)
    calm.advance(600.0)
    assert calm.minutes[-1].p95_seconds == pytest.approx(0.5 / (1 - 2.0 / 4.0))
    assert calm.waiting("onprem") == 0.0
    assert sum(one.gap_seconds for one in calm.minutes) == 0.0
    busy = load(("onprem", 0.0), peakPerSecond=3.0, basePerSecond=3.0)
    busy.advance(600.0)
    assert busy.waiting("onprem") == pytest.approx(600.0)
    assert busy.minutes[-1].gap_seconds == 60.0
    assert busy.minutes[-1].late == pytest.approx(busy.minutes[-1].answered, rel=0.01)


def test_replicas_that_serve_one_request_each_share_a_queue() -> None:
    few, many = (
        load(*[("onprem", 0.0)] * count, peakPerSecond=1.6 * count, basePerSecond=1.6 * count, latency="pooled")
        for count in (2, 20)
    )
    for one in (few, many):
        one.advance(600.0)
    assert few.minutes[-1].p95_seconds > 2 * many.minutes[-1].p95_seconds
    assert many.minutes[-1].p95_seconds < 0.75


def test_a_replica_that_warms_up_does_half() -> None:
    cold = load(("onprem", 0.0), warmUpSeconds=300.0)
    cold.advance(600.0)
    capacities = [one.capacity_per_second / one.seconds for one in cold.minutes]
    assert capacities[:5] == pytest.approx([1.0] * 5)
    assert capacities[5:] == pytest.approx([2.0] * 5)


def test_a_slower_replica_takes_longer_and_does_less_beside_others_at_the_same_load() -> None:
    one = load(("onprem", 0.0), basePerSecond=1.5, peakPerSecond=1.5)
    one.ready("onprem", "slow", Answering("default", "slow", 2.0 / 1.3, 0.0, 1.3))
    one.advance(600.0)
    quick, slow = one.replicas("onprem")
    assert slow.answered * 1.3 == pytest.approx(quick.answered)
    assert slow.latency_seconds / slow.answered == pytest.approx(1.3 * quick.latency_seconds / quick.answered)
    assert slow.buckets[20] / slow.answered < quick.buckets[20] / quick.answered
    assert one.minutes[-1].p95_seconds == pytest.approx(1.3 * 0.5 / (1 - 1.5 / (2.0 + 2.0 / 1.3)))


def test_what_is_sent_where_nobody_is_ready_fails_and_is_a_gap() -> None:
    one = load(("eks", 0.0))
    one.advance(60.0)
    one.weigh({"chat-onprem": 0, "chat-eks": 5})
    one.advance(120.0)
    one.weigh({})
    one.advance(180.0)
    first, second, third = one.minutes
    assert first.failed == pytest.approx(first.asked)
    assert first.gap_seconds == third.gap_seconds == 60.0
    assert second.failed == 0.0
    assert third.failed == pytest.approx(third.asked)
    assert second.as_json()["weights"] == {"eks": 1.0, "onprem": 0.0}


def test_a_replica_that_is_told_to_end_answers_for_a_while_and_is_no_capacity() -> None:
    one = load(("onprem", 0.0), peakPerSecond=1.0, basePerSecond=1.0)
    one.advance(60.0)
    one.gone("onprem", "u0")
    one.advance(120.0)
    (_, after) = one.minutes
    assert after.capacity_per_second == 0.0
    assert after.replicas["onprem"] == 0.0
    assert after.failed == pytest.approx(40.0)
    assert after.gap_seconds == 60.0


@given(st.lists(st.floats(1.0, 400.0), min_size=1, max_size=20))
def test_no_request_is_lost_or_made_up_however_time_is_cut(steps: list[float]) -> None:
    cut, whole = load(("onprem", 0.0)), load(("onprem", 0.0))
    at = 0.0
    for step in steps:
        at += step
        cut.advance(at)
    whole.advance(at)
    for one in (cut, whole):
        asked = sum(one.asked.values())
        counted = sum(minute.answered + minute.failed for minute in one.minutes) + one.waiting("onprem")
        assert counted == pytest.approx(asked, rel=1e-9)
        assert sum(each.answered for each in one.replicas("onprem")) == pytest.approx(
            sum(minute.answered for minute in one.minutes), rel=1e-9
        )
        (replica,) = one.replicas("onprem")
        assert replica.buckets == sorted(replica.buckets)
    assert sum(cut.asked.values()) == pytest.approx(sum(whole.asked.values()), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "want_text"),
    [
        ({"speeds": {"": 0.0}}, "speeds"),
        ({"dayseconds": 1.0}, "dayseconds"),
        ({"basePerSecond": "many"}, "basePerSecond"),
        ({"latency": "flat"}, "latency"),
    ],
)
def test_a_plan_that_is_wrong_is_one_line(changes: dict[str, Any], want_text: str) -> None:
    with pytest.raises(InvalidObjectError, match=want_text) as told:
        read_plan(json.dumps({**PLAN, **changes}))
    assert "\n" not in str(told.value)
    with pytest.raises(InvalidObjectError, match="not JSON"):
        read_plan("{")
