"""What replicas can do: as is measured, carried over to other GPUs, and as their user says."""

from __future__ import annotations

import math

import pytest

from clusters.kubernetes.annotations import parse_replica_speeds
from scheduler.model.contract import ANNOTATION_REPLICA_SPEED
from scheduler.model.serving import ReplicaSpeed
from scheduler.predict.replica_speed import CAUTION, SpeedLearner, speed_on


def test_it_is_fitted_once_latency_rises_with_load() -> None:
    learner = SpeedLearner()
    assert learner.speed() is None
    for load in (1.0, 3.0, 5.0, 6.0, 7.0, 8.0):
        learner.learn(load, 0.2 / (1.0 - load / 10.0), 0.05)
    speed = learner.speed()
    assert speed is not None
    assert speed.most_per_second == pytest.approx(10.0)
    assert speed.idle_p95_seconds == pytest.approx(0.2)
    assert speed.idle_first_token_seconds == 0.05
    assert SpeedLearner.from_state(learner.state()).speed() == speed


def test_before_that_no_more_than_was_seen_is_believed() -> None:
    learner = SpeedLearner()
    learner.learn(2.0, 0.4)
    learner.learn(1.0, 0.5)
    assert learner.speed() == ReplicaSpeed(2.0 / CAUTION, 0.4)


SAID = ReplicaSpeed(1.0, 0.4, 0.4)


@pytest.mark.parametrize(("load", "p95"), [(0.98, 20.0), (1.1, 60.0), (0.95, 8.0), (0.3, 5.0)])
def test_one_that_is_first_seen_overloaded_is_not_taken_for_useless(load: float, p95: float) -> None:
    """Else it were given up, which makes the overload worse, and never measured again."""
    learner = SpeedLearner()
    for _ in range(3):
        learner.learn(load, p95)
    speed = learner.speed(SAID)
    assert speed is not None
    assert speed.idle_p95_seconds < 0.8
    assert 0.7 < speed.most_per_second < 1.5


def test_what_is_measured_long_enough_counts_more_than_what_is_said() -> None:
    learner = SpeedLearner()
    assert learner.speed(SAID) == SAID
    for number in range(200):
        load = 0.3 + 0.001 * number * 1.5
        learner.learn(load, 0.2 / (1.0 - load / 2.0), 0.05)
    speed = learner.speed(SAID)
    assert speed is not None
    assert speed.most_per_second == pytest.approx(2.0, rel=0.15)
    assert speed.idle_p95_seconds == pytest.approx(0.2, rel=0.15)
    assert speed.idle_first_token_seconds == 0.05


def test_latency_that_falls_with_load_leaves_what_is_said() -> None:
    learner = SpeedLearner()
    for number in range(100):
        learner.learn(0.2 + 0.02 * number, 4.0 / (1.0 + number))
    assert learner.speed(SAID) == SAID


@pytest.mark.parametrize("load", [-1.0, 0.0, math.nan, math.inf])
def test_what_cannot_be_teaches_nothing(load: float) -> None:
    learner = SpeedLearner()
    learner.learn(load, 0.4)
    learner.learn(1.0, load)
    assert learner.speed() is None


def test_other_gpus_go_by_their_memory_bandwidth() -> None:
    known = {"A10G": ReplicaSpeed(2.0, 0.6, 0.3)}
    assert speed_on("A10G", known) == known["A10G"]
    faster = speed_on("A100-80GB", known)
    assert faster is not None
    assert faster.most_per_second == pytest.approx(2.0 * 2039 / 600)
    assert faster.idle_p95_seconds == pytest.approx(0.6 * 600 / 2039)
    assert speed_on("unheard-of", known) is None
    assert speed_on(None, known) is None
    assert speed_on(None, {"": known["A10G"]}) == known["A10G"]


def test_what_its_user_says() -> None:
    said = "A10G=4@500ms, H100-80GB=20.5@0.2s, *=1@2s, broken, L4=0@1s, L40=3@later"
    speeds, problems = parse_replica_speeds({ANNOTATION_REPLICA_SPEED: said})
    assert speeds == {
        "A10G": ReplicaSpeed(4.0, 0.5, 0.5),
        "H100-80GB": ReplicaSpeed(20.5, 0.2, 0.2),
        "*": ReplicaSpeed(1.0, 2.0, 2.0),
    }
    assert len(problems) == 3
    assert parse_replica_speeds({}) == ({}, ())
