"""Each baseline does what its docstring says, on three jobs worked out by hand.

A node of 8 GPUs is owned. "a" takes it for an hour; "b" and "c" come one and two minutes later and take a node each.
"""

from __future__ import annotations

import pytest

from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.policy import Constraints, PolicySet
from scheduler.simulate.baselines import baseline, baseline_names, settings_of
from scheduler.simulate.driver import Site, TracePredictor
from scheduler.simulate.record import RunRecord
from scheduler.simulate.trace import Trace
from tests.sim.worlds import A_DOLLAR, ONPREM, burst_at_once, job, price, run, site, spot_pool, told, trace
from tests.unit.engine_world import bought_pool, cluster, pool

THREE = trace(job("a"), job("b", arrival=60.0), job("c", arrival=120.0))
TWO_CLOUDS = Site(
    (
        cluster("onprem", (pool("onprem", "a100"),)),
        cluster("cheap", (bought_pool("cheap", "od", price=price("10"), max_nodes=1),)),
        cluster("dear", (bought_pool("dear", "od", price=price("30"), max_nodes=9),)),
    ),
    {ONPREM: 1},
)


def play(
    name: str, setting: str = "", base: PolicySet | None = None, what: Trace = THREE, where: Site = TWO_CLOUDS
) -> RunRecord:
    chosen = burst_at_once(value_of_time=A_DOLLAR) if base is None else base
    return run(what, where, baseline(name, setting, chosen, TracePredictor({})))


def places(record: RunRecord) -> dict[str, str]:
    return {each.job.name: each.last_pool.cluster if each.last_pool else "" for each in record.jobs}


def test_onprem_only_buys_nothing() -> None:
    found = play("onprem-only")
    assert found.machines == []
    assert told(found) == {"a": (0.0, 3600.0), "b": (3600.0, 7200.0), "c": (7200.0, 10800.0)}


def test_burst_everything_leaves_owned_capacity_idle() -> None:
    found = play("burst-everything")
    assert places(found) == {"a": "cheap", "b": "dear", "c": "dear"}
    assert found.owned_busy_gpu_seconds == 0.0
    assert told(found) == {"a": (240.0, 3840.0), "b": (300.0, 3900.0), "c": (360.0, 3960.0)}


def test_burst_everything_keeps_what_may_not_leave() -> None:
    stays = burst_at_once(constraints=Constraints(capacity_types=("owned",)))
    assert set(places(play("burst-everything", base=stays)).values()) == {"onprem"}
    spot_only = burst_at_once(constraints=Constraints(capacity_types=("owned", "spot")))
    where = site(1, spot_pool(), bought_pool("cloud", "od", price=price("1")))
    found = play("burst-everything", base=spot_only, where=where)
    assert {each.last_pool for each in found.jobs} == {PoolRef(ClusterId("cloud"), PoolId("spot"))}


@pytest.mark.parametrize(
    ("setting", "want"),
    [
        ("0m", {"a": 0.0, "b": 60.0 + 240, "c": 120.0 + 240}),
        ("10m", {"a": 0.0, "b": 660.0 + 240, "c": 720.0 + 240}),
        ("30m", {"a": 0.0, "b": 1860.0 + 240, "c": 1920.0 + 240}),
        # b gets the owned node a minute before its hour is over; c has waited for an hour by then.
        ("1h", {"a": 0.0, "b": 3600.0, "c": 3720.0 + 240}),
        ("12h", {"a": 0.0, "b": 3600.0, "c": 7200.0}),
    ],
)
def test_threshold_bursts_after_its_wait(setting: str, want: dict[str, float]) -> None:
    assert {name: start for name, (start, _) in told(play("threshold", setting)).items()} == want


def test_threshold_takes_the_cheapest_offering() -> None:
    assert places(play("threshold", "0m")) == {"a": "onprem", "b": "cheap", "c": "dear"}


def test_cheapest_takes_owned_then_the_cheapest_that_can_start() -> None:
    assert places(play("cheapest")) == {"a": "onprem", "b": "cheap", "c": "dear"}


def test_most_free_goes_where_there_is_most_whatever_it_costs() -> None:
    assert places(play("most-free")) == {"a": "dear", "b": "dear", "c": "dear"}


def test_first_admitting_prefers_what_starts_now_then_draws_lots_by_name() -> None:
    found = play("first-admitting")
    assert places(found)["a"] == "onprem"
    assert {places(found)["b"], places(found)["c"]} <= {"cheap", "dear"}
    many = trace(*(job(f"j{index}", arrival=float(index), gpus=8) for index in range(9)))
    where = Site(
        tuple(cluster(name, (bought_pool(name, "od", max_nodes=9, price=price(usd)),)) for name, usd in
              (("one", "10"), ("two", "20"), ("three", "30"))), {},
    )  # fmt: skip
    first = places(play("first-admitting", what=many, where=where))
    assert len(set(first.values())) > 1
    assert places(play("first-admitting", what=many, where=where)) == first


@pytest.mark.parametrize("name", baseline_names())
def test_every_baseline_keeps_the_constraints_of_the_policies(name: str) -> None:
    near = burst_at_once(constraints=Constraints(excluded_clusters=("dear",)))
    for setting in settings_of(name):
        found = play(name, setting, near)
        assert "dear" not in places(found).values()
        assert all(each.finished_at is not None for each in found.jobs)


@pytest.mark.parametrize("name", baseline_names())
def test_a_baseline_values_no_time_and_keeps_budgets_and_queues(name: str) -> None:
    base = burst_at_once(value_of_time=A_DOLLAR)
    for setting in settings_of(name):
        made = baseline(name, setting, base, TracePredictor({})).policies
        assert [each.value_of_time for each in made.policies] == [None]
        assert made.queues == base.queues
        assert [each.budgets for each in made.policies] == [each.budgets for each in base.policies]


def test_what_is_not_there_is_said_with_what_is() -> None:
    with pytest.raises(InvalidObjectError, match="no baseline 'chepest'; there are burst-everything, cheapest"):
        settings_of("chepest")
    with pytest.raises(InvalidObjectError, match="baseline threshold: no setting '3m'; there are 0m, 10m"):
        baseline("threshold", "3m", burst_at_once(), TracePredictor({}))


def test_names_tell_the_setting_where_there_are_several() -> None:
    assert baseline("threshold", "1h", burst_at_once(), TracePredictor({})).name == "threshold 1h"
    assert baseline("cheapest", "", burst_at_once(), TracePredictor({})).name == "cheapest"
