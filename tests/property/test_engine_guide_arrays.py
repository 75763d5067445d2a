"""The guided question by arrays, and of kinds of offerings: as each pair by itself, and as cheap."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.engine import guide
from scheduler.engine.candidates import Weigher
from scheduler.engine.cycle import cycle
from scheduler.engine.merging import apart, columns_of, kinds_of, merged, pooled
from scheduler.engine.programme import FEW_WORKLOADS, Answer, Question, solve
from scheduler.model.cluster import Cluster
from scheduler.model.ids import ClusterId, PoolId, PoolRef, QueueId
from scheduler.model.plan import Plan
from scheduler.model.policy import PolicySet, ValueOfTime
from scheduler.model.snapshot import Backoff, Snapshot
from scheduler.model.workload import DataSet, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from tests.bench import engine as bench
from tests.bench.engine import GUIDED, backlog, federation, limited
from tests.property.test_engine_bulk import backlogs, federations, rules
from tests.property.test_engine_programme import random_question
from tests.property.test_engine_properties import CAREFUL, policies, snapshots
from tests.unit.engine_world import NOW, snapshot

SOME = settings(CAREFUL, max_examples=50)
VALUES = st.sampled_from((ValueOfTime(usd_per_gpu_hour=Decimal(1)), ValueOfTime(Decimal("0.5"), Decimal("0.05"))))
HERE = (DataSet(ClusterId("c0"), 50 * 2**30),)


def valuing(how: PolicySet, value: ValueOfTime) -> PolicySet:
    return replace(how, policies=tuple(replace(each, value_of_time=value) for each in how.policies))


def both_ways(snap: Snapshot, how: PolicySet) -> tuple[Plan, Plan]:
    return cycle(snap, how, FirstPredictor()), cycle(snap, how, FirstPredictor(), one_by_one=True)


@given(where=federations(), what=backlogs(), how=rules(), value=VALUES, short=st.booleans(), near=st.booleans())
@SOME
def test_the_guided_plan_is_that_of_weighing_one_by_one(
    where: tuple[Cluster, ...], what: tuple[Workload, ...], how: PolicySet, value: ValueOfTime, short: bool, near: bool
) -> None:
    away = Backoff(PoolRef(ClusterId("c0"), PoolId("od")), NOW + 60, 1, "none left")
    if near:
        what = (replace(what[0], hints=replace(what[0].hints, data=HERE)), *what[1:])
    by_arrays, by_itself = both_ways(
        snapshot(*where, workloads=what, backoffs=(away,) if short else ()), valuing(how, value)
    )
    assert by_arrays == by_itself


@given(snap=snapshots(), how=policies(), value=VALUES)
@SOME
def test_so_it_is_with_budgets_and_gangs_of_several_parts(snap: Snapshot, how: PolicySet, value: ValueOfTime) -> None:
    by_arrays, by_itself = both_ways(snap, valuing(how, value))
    assert by_arrays == by_itself


def doubled(q: Question, times: int) -> Question:
    """Every offering so many times over, each with a reserve of its own."""
    reserves = len(q.freed)
    steps = [np.where(q.reserve_of >= 0, q.reserve_of + step * reserves, -1) for step in range(times)]
    return replace(
        q,
        counts=q.counts * (FEW_WORKLOADS + 1),
        start_most=np.tile(q.start_most, times) * (FEW_WORKLOADS + 1),
        start_cost=np.tile(q.start_cost, times),
        capacity=np.tile(q.capacity, (times, 1)),
        reserve_of=np.concatenate(steps, axis=1),
        run=np.tile(q.run, times),
        freed=np.tile(q.freed, (times, 1)),
        wait_cost=np.tile(q.wait_cost, (1, times, 1)),
        limit_use=np.tile(q.limit_use, (1, 1, times)),
    )


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_asking_about_kinds_costs_nothing(first: int) -> None:
    for seed in range(first, first + 50):
        q = doubled(random_question(seed), 2 + seed % 3)
        kinds = kinds_of(q)
        smaller = merged(q, kinds)
        assert len(smaller.capacity) * (2 + seed % 3) <= len(q.capacity)
        assert sorted(np.concatenate(kinds.offerings).tolist()) == list(range(len(q.capacity)))
        assert solve(smaller).cost == pytest.approx(solve(q).cost, rel=1e-9), f"seed {seed}"


@pytest.mark.parametrize("seed", range(20))
def test_what_differs_in_anything_stays_apart(seed: int) -> None:
    q = doubled(random_question(seed), 2)
    half = len(q.capacity) // 2
    for other in (
        replace(q, capacity=q.capacity + np.arange(2 * half)[:, None]),
        replace(q, start_most=q.start_most + np.arange(2 * half)),
        replace(q, freed=q.freed + np.arange(len(q.freed))[:, None]),
        replace(q, limit_use=np.arange(2.0 * half * len(q.counts)).reshape(1, len(q.counts), -1), limits=np.ones(1)),
    ):
        kinds = kinds_of(other)
        assert columns_of(merged(other, kinds)) >= columns_of(merged(q, kinds_of(q)))
        assert solve(merged(other, kinds)).cost == pytest.approx(solve(other).cost, rel=1e-9)
    assert [len(each) for each in apart(q).offerings] == [1] * 2 * half


@pytest.mark.parametrize("seed", range(20))
def test_pools_taken_together_promise_no_less_than_each_by_itself(seed: int) -> None:
    """A relaxation: where offerings differ only in what is free, the cost of all together is a lower bound."""
    rng = np.random.default_rng(seed)
    q = doubled(random_question(seed), 2)
    other = replace(q, capacity=np.floor(q.capacity * rng.uniform(0, 2, (len(q.capacity), 1))))
    together = pooled(other, kinds_of(q), np.full(q.start_most.shape, 1e9))
    assert solve(together).cost <= solve(other).cost * (1 + 1e-9) + 1e-9


@pytest.mark.parametrize("most", [0, 20_000])
def test_alike_pools_are_filled_as_if_each_had_been_asked_about(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Four clusters of like pools: taken together or not, who runs on what at what cost comes out equal."""
    snap = snapshot(*federation(4), workloads=backlog(900, 60))
    monkeypatch.setattr(guide, "_MOST_COLUMNS", 10**9)
    want = cycle(snap, GUIDED, FirstPredictor())
    monkeypatch.setattr(guide, "_MOST_COLUMNS", most)
    got = cycle(snap, GUIDED, FirstPredictor())
    assert want.solver == got.solver == "optimal"
    assert abs(len(got.placements) - len(want.placements)) <= 2
    assert cost_of(got) == pytest.approx(cost_of(want), rel=0.01)


def cost_of(plan: Plan) -> float:
    return sum(each.chosen.score or 0.0 for each in plan.decisions if each.chosen is not None)


@pytest.mark.parametrize("how", [GUIDED, limited(GUIDED)])
def test_a_large_backlog_is_never_weighed_pair_by_pair(monkeypatch: pytest.MonkeyPatch, how: PolicySet) -> None:
    """What `guided_replan_seconds` of the benchmark rests on: arrays speak for every class, and the programme is small
    however many pools there are."""
    asked: list[Question] = []
    monkeypatch.setattr(Weigher, "weigh", lambda *_: pytest.fail("weighed one by one"))

    def note(question: Question) -> Answer:
        asked.append(question)
        return solve(question)

    monkeypatch.setattr(guide, "solve", note)
    plan = cycle(snapshot(*federation(20), workloads=backlog(3000)), how, FirstPredictor())
    assert len(plan.placements) >= 2990
    (question,) = asked
    assert columns_of(question) < 5000
    assert len(question.capacity) < 20


def test_the_benchmark_tells_all_that_it_is_to_tell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"CLUSTERS": 4, "SMALL": 2, "PENDING": 400, "ROUNDS": 1, "INCREMENTS": 2}
    for name, value in sizes.items():
        monkeypatch.setattr(bench, name, value)
    monkeypatch.setattr(bench, "collect_seldom", lambda: None)
    monkeypatch.setattr("sys.argv", ["bench", "--json", "--without-month"])
    bench.main()
    found = json.loads(capsys.readouterr().out)
    wanted = ("replan_seconds", "placements_per_second", "incremental_p99_seconds", "peak_rss_bytes", "growth_ratio")
    assert all(found[key] > 0 for key in (*wanted, "guided_replan_seconds", "limited_ratio", "guided_limited_ratio"))
    assert found["month_seconds"] is None


def test_a_large_guided_backlog_is_placed_in_turns_and_whole() -> None:
    """As many as the owned nodes take start there, gangs whole, no node over its size, queues by their shares."""
    snap = snapshot(*federation(2), workloads=backlog(3000, 60))
    plan = cycle(snap, GUIDED, FirstPredictor())
    shape = {each.ref.uid: each for each in snap.workloads}
    nodes = {each.ref: sum(n.pool == each.ref.pool for n in one.nodes) for one in snap.clusters for each in one.pools}
    used: dict[PoolRef, int] = {}
    for change in plan.placements:
        if change.placement.state is PlacementState.STARTED:
            ref = change.placement.pool_ref
            used[ref] = used.get(ref, 0) + shape[change.workload.uid].requests.gpus
    assert all(gpus <= 8 * nodes[ref] for ref, gpus in used.items())
    assert len({each.workload for each in plan.placements}) == len(plan.placements) > 1000
    assert {each.queue for each in plan.decisions} == {QueueId(f"q{n}") for n in range(6)}
