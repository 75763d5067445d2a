"""The learned predictor: as the first one while nothing is known, the same for what is alike, taught only by what ends
of itself."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Hashable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.model.cluster import ON_DEMAND, OWNED, SPOT, NodePool
from scheduler.model.ids import QueueId
from scheduler.model.policy import PolicySet
from scheduler.model.ports import Prediction
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Hints, Workload
from scheduler.predict.durations import LONGEST_SECONDS, thinned
from scheduler.predict.first import FirstPredictor
from scheduler.predict.learned import HINT, HISTORY, WORK, LearnedPredictor
from scheduler.predict.learning import Began, Learning
from tests.property.test_engine_properties import policies, snapshots
from tests.unit.engine_world import NOW, bought_pool, pods, pool, workload

GPUS = ("A100-80GB", "V100", None)


@st.composite
def pools(draw: st.DrawFn) -> NodePool:
    base = pool(draw(st.sampled_from("ab")), draw(st.sampled_from("xyz")))
    return replace(
        base,
        capacity_type=draw(st.sampled_from((OWNED, ON_DEMAND, SPOT))),
        gpu_model=draw(st.sampled_from(GPUS)),
        provisioning_seconds=draw(st.sampled_from((None, 60.0, 240.0))),
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    hints = Hints(
        expected_seconds=draw(st.sampled_from((None, 60.0, 7200.0))),
        checkpoint_every_seconds=draw(st.sampled_from((None, 600.0))),
        model=draw(st.sampled_from((None, "resnet"))),
        batch_size=draw(st.sampled_from((None, 64))),
        total_steps=draw(st.sampled_from((None, 1e5))),
    )
    return workload(
        "w",
        pods(draw(st.integers(1, 3)), draw(st.sampled_from((0, 1, 8)))),
        queue=draw(st.sampled_from(("q1", "q2"))),
        hints=hints,
        runs_forever=draw(st.booleans()),
    )


def learned(seed: int = 0, runs: int = 120) -> Learning:
    """Two queues of unlike lengths on two GPU models, the second half as fast; spot nodes that are taken back."""
    learning = Learning()
    for index in range(runs):
        queue, where = f"q{1 + index % 2}", pool("a", "xy"[index // 2 % 2], gpu_model=GPUS[index // 2 % 2])
        noise = 1.0 + 0.1 * math.sin(index * (seed + 1))
        seconds = (100.0, 3000.0)[index % 2] * noise * (1 + index // 2 % 2)
        hints = Hints(60.0, model="resnet", batch_size=64, total_steps=1e5) if index % 2 else Hints(60.0)
        uid, at = f"u{index}", NOW + 60.0 * index
        learning.began(Began(uid, at, workload("w", pods(1, 1), queue=queue, hints=hints), where))
        learning.ended(uid, at + seconds, seconds)
    for hour in range(48):
        learning.spot_used(pool("a", "z").ref, "z1", hour, hour % 2, 4.0)
    for _ in range(5):
        learning.nodes_came(pool("a", "x").ref, 500.0)
    learning.learn_anew(NOW + 1e6)
    return learning


LEARNED = learned()


@given(workloads(), pools(), st.integers(0, 3))
def test_with_nothing_learned_it_is_the_first_predictor(asked: Workload, where: NodePool, new_nodes: int) -> None:
    want = FirstPredictor().predict(asked, where, new_nodes)
    for predictor in (LearnedPredictor(), Learning().predictor()):
        assert predictor.predict(asked, where, new_nodes) == want


@given(workloads(), st.lists(pools(), min_size=2, max_size=6), st.integers(0, 2))
def test_pools_that_are_alike_have_equal_predictions(asked: Workload, places: list[NodePool], new: int) -> None:
    predictor = LEARNED.predictor()
    found: dict[Hashable, Prediction] = {}
    for where in places:
        told = predictor.predict(asked, where, new)
        assert found.setdefault(predictor.alike(where), told) == told
        assert LEARNED.predictor().predict(asked, where, new) == told


@given(st.lists(workloads(), min_size=1, max_size=4), st.lists(pools(), min_size=1, max_size=4))
@settings(max_examples=30)
def test_the_table_says_what_each_prediction_says(asked: list[Workload], places: list[NodePool]) -> None:
    run, lost = LEARNED.predictor().table(asked, places)
    for row, one in enumerate(asked):
        for column, where in enumerate(places):
            want = LEARNED.predictor().predict(one, where, 0)
            seconds = float(run[row, column])
            assert (None if math.isnan(seconds) else seconds) == want.run_seconds
            if want.run_seconds is not None:
                assert float(lost[row, column]) == want.lost_seconds


@given(snapshots(), policies(), st.data())
@settings(max_examples=25, deadline=None)
def test_the_engine_plans_the_same_for_every_order_of_input(
    snap: Snapshot, rules: PolicySet, data: st.DataObject
) -> None:
    turned = replace(snap, workloads=tuple(data.draw(st.permutations(snap.workloads))))
    assert cycle(snap, rules, LEARNED.predictor()) == cycle(turned, rules, LEARNED.predictor())


def test_what_was_learned_is_said() -> None:
    predictor, one = LEARNED.predictor(), workload("w", pods(1, 1), queue="q1", hints=Hints(60.0))
    run = predictor.predict(one, pool("a", "x"), 0).run_seconds
    assert run is not None
    assert 80 < run < 250
    sure = predictor.predict(one, pool("a", "x"), 0).run_log_sd
    assert sure is not None
    assert 0.02 < sure < 0.8
    by_source = predictor.run_seconds(
        replace(one, queue=QueueId("q2"), hints=Hints(60.0, model="resnet", batch_size=64, total_steps=1e5)),
        pool("a", "x"),
    )
    assert set(by_source) == {WORK, HISTORY, HINT}
    assert by_source[WORK].median == pytest.approx(3000, rel=0.15)
    slow = predictor.run_seconds(
        replace(one, hints=Hints(None, model="resnet", batch_size=64, total_steps=1e5)),
        pool("a", "y", gpu_model="V100"),
    )
    assert slow[WORK].median == pytest.approx(6000, rel=0.15)
    assert predictor.order("q2")[0] == WORK
    assert predictor.order("q1")[-1] == HINT
    assert predictor.predict(one, bought_pool("a", "x"), 1).start_seconds == pytest.approx(425, rel=0.2)
    assert predictor.known.reclaims[pool("a", "z").ref, "z1"].mean(0.0, 86400.0) > 0.08


@pytest.mark.parametrize("seconds", [None, math.nan, math.inf, -5.0, 0.0, LONGEST_SECONDS * 2])
def test_what_did_not_come_to_its_own_end_teaches_no_length(seconds: float | None) -> None:
    learning, plain = learned(runs=80), learned(runs=80)
    learning.began(Began("bad", NOW + 9e5, workload("w", pods(1, 1), queue="q1", hints=Hints(60.0)), pool("a", "x")))
    learning.ended("bad", NOW + 9e5 + 100, seconds)
    for name in ("throughput", "sources", "records", "calibration"):
        assert learning.state()[name] == plain.state()[name]
    assert learning.durations.examples().targets.tolist() == plain.durations.examples().targets.tolist()


def test_a_run_that_outlives_its_interval_is_a_miss_at_once() -> None:
    learning = learned()
    learning.began(Began("long", NOW + 1e6, workload("w", pods(1, 1), queue="q1"), pool("a", "x")))
    before = learning.calibration.state()
    learning.outlive(NOW + 1e6 + 10)
    assert learning.calibration.state() == before
    learning.outlive(NOW + 1e6 + 1e9)
    after = learning.calibration.state()
    assert after != before
    learning.ended("long", NOW + 2e9, 1e9 - 1e6)
    assert learning.calibration.state() == after


@given(workloads(), pools(), st.integers(0, 2))
@settings(max_examples=40)
def test_what_was_learned_survives_being_written_down(asked: Workload, where: NodePool, new: int) -> None:
    assert AGAIN.predictor().predict(asked, where, new) == LEARNED.predictor().predict(asked, where, new)


AGAIN = Learning.from_state(json.loads(json.dumps(LEARNED.state())))


def test_the_state_is_the_same_once_more() -> None:
    assert AGAIN.state() == LEARNED.state()


JSON = st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=3), st.lists, max_leaves=4)


@given(st.sampled_from(sorted(LEARNED.state())), JSON)
@settings(max_examples=60, deadline=None)
def test_a_state_that_was_tampered_with_is_refused_or_read(part: str, value: object) -> None:
    state = LEARNED.state() | {part: value}
    with contextlib.suppress(ValueError):
        Learning.from_state(state)


@given(st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=200), st.floats(1e-3, 0.5))
def test_thinned_out_examples_count_what_they_did(weights: list[float], least: float) -> None:
    """In every stretch of them, to within one that is kept at each end."""
    given_ = np.array(weights)
    kept, counted = thinned(given_, least)
    assert (np.diff(kept) > 0).all()
    assert set(np.flatnonzero(given_ >= least)) <= set(kept.tolist())
    left = np.zeros(len(given_))
    left[kept] = counted
    assert np.abs(np.cumsum(left) - np.cumsum(given_)).max() <= least + 1e-9
