"""The clairvoyant bound: equal to the optimum where that is plain, and never above what any replay costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.model.errors import OverspillError
from scheduler.model.policy import PolicySet, ValueOfTime
from scheduler.simulate import bound_whole
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.baselines import baseline
from scheduler.simulate.bound import lower_bound
from scheduler.simulate.bound_whole import tightest_bound, whole_bound
from scheduler.simulate.driver import Decider, Site, TracePredictor
from scheduler.simulate.measures import measure
from scheduler.simulate.trace import Trace
from tests.sim.worlds import A_DOLLAR, burst_at_once, job, price, run, site, spot_pool, trace
from tests.unit.engine_world import bought_pool


def bound_of(what: Trace, where: Site, value: ValueOfTime = A_DOLLAR) -> float:
    return tightest_bound(what, where.clusters, where.owned_gpus, value).total_cost_usd


def whole_of(what: Trace, where: Site, value: ValueOfTime = A_DOLLAR) -> float:
    found = whole_bound(what, where.clusters, where.owned_gpus, value)
    assert found is not None
    return found.total_cost_usd


def test_one_job_on_owned_capacity_costs_its_own_time() -> None:
    assert bound_of(trace(job("a")), site(1)) == pytest.approx(8.0, rel=1e-6)


def test_what_has_no_owned_capacity_is_bought_at_the_cheapest_price() -> None:
    where = site(0, bought_pool("cloud", "od"), bought_pool("cloud", "dear", price=price("99")))
    found = lower_bound(trace(job("a"), job("b", arrival=50.0)), where.clusters, 0, A_DOLLAR)
    assert found.cloud_spend_usd == pytest.approx(32.0, rel=1e-6)
    assert found.total_cost_usd == pytest.approx(48.0, rel=1e-6)


def test_jobs_that_never_meet_cost_only_their_own_time() -> None:
    jobs = [job(f"j{index}", arrival=index * 10_000.0) for index in range(5)]
    assert bound_of(trace(*jobs), site(1)) == pytest.approx(40.0, rel=1e-6)


def test_two_that_meet_on_one_node_cost_at_least_the_mean_busy_time() -> None:
    """Both at 0, an hour on all 8 GPUs each, nothing to buy. The best schedule ends them after 1 h and 2 h: 24 USD.
    Fluid, their mean busy times add up to 2 h at least, plus half a run each: the same; blocks of intervals count from
    their beginning, which loses up to a fifth of the mean busy time."""
    where = replace(site(1), clusters=site(1).clusters[:1])
    found = lower_bound(trace(job("a"), job("b")), where.clusters, where.owned_gpus, A_DOLLAR).total_cost_usd
    assert 24.0 - 0.2 * 16.0 <= found <= 24.0 + 1e-6


def test_a_run_that_cannot_be_interrupted_waits_as_a_whole() -> None:
    """A run of 100 h holds the only node, another comes an hour later: it waits for 99 h, 792 USD. Of fluid work a part
    of the first would be put off instead, for next to nothing."""
    where = replace(site(1), clusters=site(1).clusters[:1])
    what = trace(job("a", run=360_000.0), job("b", arrival=3600.0, run=360_000.0))
    want = 8.0 * (100 + 100 + 99)
    fluid = lower_bound(what, where.clusters, where.owned_gpus, A_DOLLAR).total_cost_usd
    assert 0.98 * want <= whole_of(what, where) <= want * (1 + 1e-9)
    assert fluid < 0.95 * want
    assert bound_of(what, where) == whole_of(what, where)


@pytest.mark.parametrize(("worth", "want_usd", "want_spend_usd"), [("1", 240.0, 0.0), ("4", 640.0 + 160.0, 160.0)])
def test_a_run_is_bought_where_that_is_cheaper_than_its_wait(
    worth: str, want_usd: float, want_spend_usd: float
) -> None:
    """Two runs of 10 h and one node: the second waits for 10 h x 8 GPUs, or is bought for 160 USD."""
    where = site(1, bought_pool("cloud", "od"))
    value = ValueOfTime(usd_per_gpu_hour=Decimal(worth))
    what = trace(job("a", run=36_000.0), job("b", run=36_000.0))
    found = whole_bound(what, where.clusters, where.owned_gpus, value)
    assert found is not None
    assert 0.98 * want_usd <= found.total_cost_usd <= want_usd * (1 + 1e-9)
    assert found.cloud_spend_usd == pytest.approx(want_spend_usd, abs=0.02 * want_usd)


def test_jobs_that_keep_their_work_are_bounded_as_fluid() -> None:
    where = replace(site(1), clusters=site(1).clusters[:1])
    saves = tuple(replace(job(name, run=360_000.0), checkpoint_seconds=600.0) for name in "ab")
    fluid = lower_bound(trace(*saves), where.clusters, where.owned_gpus, A_DOLLAR)
    assert whole_bound(trace(*saves), where.clusters, where.owned_gpus, A_DOLLAR) is None
    assert bound_of(trace(*saves), where) == fluid.total_cost_usd
    plain = trace(*(replace(each, checkpoint_seconds=None) for each in saves))
    kept = tightest_bound(plain, where.clusters, where.owned_gpus, A_DOLLAR, keeps_work=True)
    assert kept == lower_bound(plain, where.clusters, where.owned_gpus, A_DOLLAR)


def test_time_that_is_worth_nothing_costs_nothing_on_owned_capacity() -> None:
    assert bound_of(trace(job("a"), job("b")), site(1), ValueOfTime()) == pytest.approx(0.0, abs=1e-9)


def test_jobs_without_gpus_cost_their_own_time() -> None:
    value = ValueOfTime(Decimal(2), Decimal(1))
    cpu = replace(job("a", run=1800.0), pod_sets=())
    assert bound_of(trace(cpu), site(1), value) == pytest.approx(1.0)
    assert lower_bound(trace(), site(1).clusters, 8, value).total_cost_usd == 0.0


def test_an_unknown_price_counts_as_nothing() -> None:
    where = site(0, bought_pool("cloud", "od", price=None))
    assert lower_bound(trace(job("a")), where.clusters, 0, A_DOLLAR).cloud_spend_usd == 0.0


def test_no_capacity_is_no_bound() -> None:
    where = site(0, bought_pool("cloud", "od", max_nodes=0))
    with pytest.raises(OverspillError, match="neither owned nor to be bought"):
        lower_bound(trace(job("a")), where.clusters, 0, A_DOLLAR)


def test_faster_hardware_counts_at_its_speed() -> None:
    what = trace(job("a", profile="p"), speeds={"p": {"A100-80GB": 4.0, "T4": 0.5}})
    assert bound_of(what, site(1)) == pytest.approx(2.0, rel=1e-6)
    slow = trace(job("a", profile="p"), speeds={"p": {"A100-80GB": 0.5}})
    assert bound_of(slow, replace(site(1), clusters=site(1).clusters[:1])) == pytest.approx(16.0, rel=1e-6)


@pytest.fixture(autouse=True, scope="module")
def impatience() -> Iterator[None]:
    """HiGHS' interior point method now and then comes to no end; without an optimum the fluid bound stands."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bound_whole, "_SECONDS", 3.0)
        yield


JOBS = st.lists(
    st.tuples(st.integers(0, 20_000), st.integers(60, 20_000), st.sampled_from([1, 2, 4, 8, 16])),
    min_size=1,
    max_size=7,
)
BASE = burst_at_once(value_of_time=A_DOLLAR)
DECIDERS = ["policy", "cheapest", "threshold 30m", "onprem-only", "burst-everything"]


@given(
    jobs=JOBS, owned=st.integers(0, 2), decider=st.sampled_from(DECIDERS), worth=st.sampled_from(["0.2", "1", "8"]),
    seed=st.integers(0, 5),
)  # fmt: skip
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_is_never_above_what_a_replay_costs(
    jobs: list[tuple[int, int, int]], owned: int, decider: str, worth: str, seed: int
) -> None:
    what = trace(*(job(f"j{index}", float(at), float(length), gpus) for index, (at, length, gpus) in enumerate(jobs)))
    where = site(owned, spot_pool(), bought_pool("cloud", "od"))
    value = ValueOfTime(usd_per_gpu_hour=Decimal(worth))
    found = run(what, where, _decider(decider), Assumptions(seed=seed))
    if any(each.finished_at is None for each in found.jobs):
        return  # its cost is not that of the whole work
    cost = measure(found, value).total_cost_usd
    assert bound_of(what, where, value) <= cost * (1 + 1e-6) + 1e-6


def _decider(name: str) -> PolicySet | Decider:
    if name == "policy":
        return BASE
    family, _, setting = name.partition(" ")
    return baseline(family, setting, BASE, TracePredictor({}))
