"""How far runs are, what is left of them, and what a move or a failure leaves of what was known."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.daemon.learning.learner import lesson_of
from scheduler.daemon.learning.progress import throttled_nodes
from scheduler.daemon.learning.runs import RunEnded
from scheduler.engine.remaining import left_seconds, of_part, part_left, told_left_seconds
from scheduler.engine.world import World
from scheduler.model.ids import ClusterId, Uid
from scheduler.model.metrics import OK, STALE, Reading, Sample
from scheduler.model.ports import Prediction
from scheduler.model.snapshot import Progress
from scheduler.model.workload import Hints
from scheduler.predict.first import FirstPredictor
from scheduler.predict.progress import MOST_SAMPLES, Attempt, part_kept
from tests.unit.engine_world import NOW, cluster, node, pods, policy, policy_set, pool, snapshot, workload

UID = Uid("a")
HOUR = 3600.0
anything = st.floats(allow_nan=True, allow_infinity=True)


def sure(run: float, spread: float | None) -> Prediction:
    return Prediction(run, 15.0, 0.0, spread)


@given(st.floats(1.0, 1e7), st.floats(0.01, 3.0), st.floats(0.0, 1e9), st.floats(1.0, 1e6))
def test_what_is_left_is_never_negative_and_the_whole_never_shrinks(
    run: float, spread: float, ran: float, more: float
) -> None:
    left, later = left_seconds(sure(run, spread), ran), left_seconds(sure(run, spread), ran + more)
    assert left is not None
    assert later is not None
    assert left >= 0
    assert math.isfinite(later)
    # A run that has gone on for longer is expected to end later, never earlier (but where the tail is approximated).
    if math.log((ran + more) / run) < 7.9 * spread:
        assert later + more >= left - 1e-6 * (ran + more + left)


@given(st.floats(10.0, 1e5), st.floats(0.3, 2.0), st.floats(0.1, 3.0))
def test_half_of_those_that_ran_so_long_are_over_by_then(run: float, spread: float, times: float) -> None:
    """Against the log-normal itself."""
    ran = run * times
    left = left_seconds(sure(run, spread), ran)
    assert left is not None
    of_log = NormalDist(math.log(run), spread)
    survive = 1.0 - of_log.cdf(math.log(ran))
    assert (1.0 - of_log.cdf(math.log(ran + left))) / survive == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize(
    ("spread", "ran", "want"),
    [(None, 600.0, 3000.0), (None, 4000.0, None), (None, 3600.0, None), (0.5, 0.0, 3600.0)],
)
def test_a_length_without_a_spread_is_believed(spread: float | None, ran: float, want: float | None) -> None:
    assert left_seconds(sure(HOUR, spread), ran) == want


def test_a_run_that_outlives_its_prediction_is_expected_to_go_on() -> None:
    left = left_seconds(sure(HOUR, 0.7), 3 * HOUR)
    assert left is not None
    assert left > 0.5 * HOUR


@given(st.lists(st.tuples(anything, anything), max_size=40), st.sampled_from([None, 100.0]))
def test_whatever_a_metric_says_parts_stay_parts(told: list[tuple[float, float]], total: float | None) -> None:
    attempt = Attempt(1, 0.0, "a/b", 0.0, total)
    for at, value in told:
        attempt = attempt.told(at, value).told_speed(at, value)
    assert len(attempt.samples) <= MOST_SAMPLES
    assert all(0 <= part <= 1 for _, part in attempt.samples)
    assert attempt.per_second is None or attempt.per_second > 0
    assert 0 <= attempt.begun < 1
    kept = attempt.kept(1e9, 600.0)
    assert kept is None or 0 <= kept <= 1
    again = Attempt.from_state(orjson.loads(orjson.dumps(attempt.state())))
    assert again == attempt


def going(rate: float, until: float, *, started: float = 1000.0, begun: float = 0.0) -> Attempt:
    """An attempt told every 30 s."""
    attempt = Attempt(1, started, "a/b", 0.0, 1000.0)
    at = started
    while at <= until:
        attempt = attempt.told(at, 1000.0 * (begun + rate * (at - started)))
        at += 30.0
    return attempt


@given(st.floats(1e-5, 1e-3), st.floats(0.02, 0.5))
def test_speed_and_beginning_are_read_from_progress(rate: float, begun: float) -> None:
    attempt = going(rate, 1300.0, begun=begun)
    assert attempt.per_second == pytest.approx(rate)
    assert attempt.begun == pytest.approx(begun)
    assert attempt.steps_per_second == pytest.approx(rate * 1000.0)


def test_one_wild_sample_does_not_move_the_speed() -> None:
    good = going(1e-4, 1300.0)
    wild = good.told(1315.0, 999.0)
    assert wild.per_second == pytest.approx(1e-4, rel=0.1)


def test_time_in_which_it_was_throttled_teaches_no_speed() -> None:
    attempt = going(1e-4, 1300.0)
    slow = attempt
    for at in range(1330, 1930, 30):
        slow = slow.told(float(at), 30.0 + (at - 1300) * 0.01, throttled=True).looked(float(at), throttled=True)
    assert slow.steps_per_second == attempt.steps_per_second
    assert slow.throttled_seconds > 300


def test_a_checkpoint_keeps_what_was_done_by_then() -> None:
    attempt = going(1e-4, 4000.0)
    assert attempt.kept(4000.0, 1200.0) == pytest.approx(0.24, abs=0.01)  # 3000 s: the checkpoint at 2400 s counts
    assert attempt.kept(4000.0, None) == 0.0
    assert Attempt(1, 0.0).kept(4000.0, 1200.0) is None


@given(st.floats(0, 0.99), st.floats(0, 1e7), st.floats(0, 1e7))
def test_what_is_kept_never_falls_and_never_is_all(begun: float, kept: float, left: float) -> None:
    assert begun <= part_kept(begun, kept, left) <= 0.99


def test_an_attempt_has_the_rest_of_the_work_only() -> None:
    told = Progress(UID, 0.75)
    assert part_left(told) == 0.25
    assert of_part(Prediction(HOUR, 15.0, 400.0), part_left(told)) == Prediction(900.0, 15.0, 100.0)
    assert part_left(None) == 1.0


@pytest.mark.parametrize(
    ("told", "now", "want"),
    [
        (Progress(UID, 0.0, 0.5, 100.0, 0.001), 100.0, 500.0),
        (Progress(UID, 0.0, 0.5, 100.0, 0.001), 200.0, 400.0),
        (Progress(UID, 0.0, 0.5, 100.0, None), 100.0, None),
        (Progress(UID, 0.5), 100.0, None),
    ],
)
def test_a_metric_says_what_is_left(told: Progress, now: float, want: float | None) -> None:
    found = told_left_seconds(told, now)
    assert found is None if want is None else found == pytest.approx(want)


SLOW = Attempt(1, 0.0, throttled_seconds=600.0)
RESUMED = Attempt(2, 0.0, begun=0.5, total=10.0, samples=((1.0, 0.5),))


@pytest.mark.parametrize(
    ("ended", "attempt", "want"),
    [
        (RunEnded(UID, 9.0, 3600.0, 3600.0, True), None, (3600.0, None, True)),
        (RunEnded(UID, 9.0, None, 3600.0, False), None, (None, 3600.0, True)),
        (RunEnded(UID, 9.0, None, None, False), None, (None, None, True)),
        (RunEnded(UID, 9.0, 3600.0, 3600.0, True), SLOW, (None, 3000.0, False)),
        (RunEnded(UID, 9.0, 86400.0, 86400.0, True), SLOW, (86400.0, None, True)),
        (RunEnded(UID, 9.0, None, 1800.0, True), RESUMED, (3600.0, None, False)),
        (RunEnded(UID, 9.0, None, None, True), RESUMED, (None, None, True)),
    ],
    ids=["ended well", "failed", "never ran", "throttled", "throttled for a moment", "went on", "paused"],
)
def test_an_end_teaches_only_what_it_can(ended: RunEnded, attempt: Attempt | None, want: tuple[object, ...]) -> None:
    lesson = lesson_of(ended, attempt)
    assert (lesson.seconds, lesson.at_least, lesson.whole) == want


@pytest.mark.parametrize(("code", "state", "slow"), [(0x40, OK, True), (0x4, OK, False), (0x20, STALE, False)])
def test_a_power_cap_is_no_throttling(code: float, state: str, slow: bool) -> None:
    sample = Sample((("node", "n1"), ("gpu", "0")), float(code), 0.0)
    reading = Reading(ClusterId("a"), "gpu_clock_event_reasons_code", "code", state, (sample,), "test", 0.0, 0.0)
    assert throttled_nodes([reading]) == ({ClusterId("a"): frozenset({"n1"})} if slow else {})


def test_the_engine_plans_what_is_left_of_a_run_that_was_moved() -> None:
    fresh, moved = (workload(name, pods(), hints=Hints(expected_seconds=HOUR)) for name in ("fresh", "moved"))
    member = cluster("a", (pool("a", "gpu"),), (node("gpu", "n1"),))
    seen = snapshot(member, workloads=(fresh, moved), progress=(Progress(moved.ref.uid, 0.75),))
    world = World(seen, policy_set(policy()), FirstPredictor())
    (room,) = world.rooms.values()
    assert world.predict(fresh, room, 0).run_seconds == HOUR
    assert world.predict(moved, room, 0).run_seconds == HOUR / 4
    assert world.ask_of(fresh, policy()).number != world.ask_of(moved, policy()).number


@pytest.mark.parametrize(
    ("told", "want"),
    [
        (None, HOUR + 15.0 - 1800.0),
        (Progress(UID, 0.0, 0.25, -900.0, 0.25 / 900.0), 1800.0),
        (Progress(UID, 0.0, 0.25, -900.0, None), 0.75 * HOUR - 900.0),
        (Progress(UID, 0.5), HOUR / 2 + 15.0 - 1800.0),
    ],
    ids=["by its user", "by its metric", "how far, not how fast", "after a move"],
)
def test_the_engine_believes_the_metric_of_a_running_job(told: Progress | None, want: float) -> None:
    job = workload("a", pods(), hints=Hints(expected_seconds=HOUR))
    member = cluster("a", (pool("a", "gpu"),), (node("gpu", "n1"),))
    known = () if told is None else (replace(told, workload=job.ref.uid, at=NOW + told.at),)
    world = World(snapshot(member, workloads=(job,), progress=known), policy_set(policy()), FirstPredictor())
    (room,) = world.rooms.values()
    found = world.left_seconds(job, room, NOW - 1800.0)
    assert found == pytest.approx(want)
