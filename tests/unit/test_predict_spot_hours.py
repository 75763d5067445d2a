"""Reclaims by pool, zone and hour of the day: what is learned of them reaches the engine's decision."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.model.cluster import SPOT, NodePool
from scheduler.model.contract import TOPOLOGY_ZONE
from scheduler.model.policy import ValueOfTime
from scheduler.model.workload import Hints
from scheduler.predict.learning import Learning
from scheduler.predict.spot import PRIOR_RECLAIMS_PER_HOUR, DailyRates, ReclaimHazards
from tests.unit.engine_world import bought_pool, cluster, policy, policy_set, snapshot, workload

HOUR, MIDNIGHT = 3600.0, 86400.0 * 21_000
RISKY = 14
"""The hour of the day in which nodes of zone `a` are taken back."""


def spot_pool(name: str, zone: str | None, usd: str = "6") -> NodePool:
    labels = () if zone is None else ((TOPOLOGY_ZONE, zone),)
    base = bought_pool("eks", name, capacity_type=SPOT)
    assert base.price is not None
    return replace(
        base, labels=(*base.labels, *labels), price=replace(base.price, usd_per_hour=Decimal(usd)), last_price=None
    )


def learned() -> Learning:
    """Two weeks of ten nodes in each zone of three pools; in zone `a` seven are taken back between two and three."""
    learning = Learning()
    for _ in range(14):
        for hour in range(24):
            for pool, zone in (("one", "a"), ("two", "b"), ("both", "a"), ("both", "b")):
                taken = 7 if hour == RISKY and zone == "a" else 0
                learning.spot_used(bought_pool("eks", pool).ref, zone, hour, taken, 10.0)
    return learning


LEARNED = learned()


def chosen(pools: tuple[NodePool, ...], hour: float, run_hours: float, usd: str | None = "0.01") -> str:
    """Where a run without checkpoints that is told at that hour goes: by what it costs in all, time at `usd` a GPU's
    hour; None: by price."""
    job = workload("w", hints=Hints(expected_seconds=run_hours * HOUR))
    now = MIDNIGHT + hour * HOUR
    value = None if usd is None else ValueOfTime(usd_per_gpu_hour=Decimal(usd))
    rules = policy_set(replace(policy(objective="cost"), value_of_time=value))
    plan = cycle(replace(snapshot(cluster("eks", pools), workloads=(job,)), now=now), rules, LEARNED.predictor(now))
    (change,) = plan.placements
    return change.placement.pool


@pytest.mark.parametrize(
    ("hour", "run_hours", "want"),
    [
        pytest.param(6.0, 1.0, "one", id="a quiet hour: the cheaper zone"),
        pytest.param(13.9, 1.0, "two", id="into the hour in which its nodes are taken back"),
        pytest.param(14.1, 0.8, "two", id="in that hour"),
        pytest.param(15.1, 1.0, "one", id="after it"),
        pytest.param(6.0, 12.0, "two", id="long enough to meet it"),
    ],
)
def test_a_risky_hour_changes_where_a_run_goes(hour: float, run_hours: float, want: str) -> None:
    assert chosen((spot_pool("one", "a"), spot_pool("two", "b", usd="6.5")), hour, run_hours) == want


def test_on_demand_is_chosen_where_and_when_spot_is_taken_back() -> None:
    dear = bought_pool("eks", "on-demand")
    assert dear.price is not None
    dear = replace(dear, price=replace(dear.price, usd_per_hour=Decimal("8")))
    assert chosen((spot_pool("one", "a"), dear), 6.0, 1.0) == "one"
    assert chosen((spot_pool("one", "a"), dear), float(RISKY), 1.0) == "on-demand"
    assert chosen((spot_pool("one", "a"), dear), float(RISKY), 1.0, usd=None) == "one", "whoever goes by price alone"


def test_a_pool_of_several_zones_is_as_its_hours_were_spread_and_one_never_used_as_all() -> None:
    now = MIDNIGHT + RISKY * HOUR
    view, asked = LEARNED.predictor(now), workload("w", hints=Hints(expected_seconds=0.5 * HOUR))
    lost = {
        name: view.predict(asked, where, 1).lost_seconds
        for name, where in {
            "a": spot_pool("both", "a"),
            "either": spot_pool("both", None),
            "b": spot_pool("both", "b"),
            "elsewhere": spot_pool("both", "c"),
            "unseen": spot_pool("new", "a"),
        }.items()
    }
    assert lost["a"] > lost["either"] > lost["unseen"] > 0
    assert lost["either"] > lost["b"]
    assert lost["elsewhere"] == lost["either"]


def test_hours_without_nodes_are_as_the_zone_is() -> None:
    seen = ReclaimHazards()
    seen.learn("p", "z", 3, 5, 10.0)
    rates = seen.daily()["p", "z"].per_hour
    assert rates[3] > rates[4] > PRIOR_RECLAIMS_PER_HOUR
    assert len(set(rates) - {rates[3]}) == 1


@given(
    st.lists(st.floats(0.0, 10.0), min_size=24, max_size=24),
    st.floats(0.0, 24.0),
    st.floats(0.0, 400.0),
)
def test_the_mean_over_a_run_is_that_of_its_minutes(by_hour: list[float], first: float, hours: float) -> None:
    rates = DailyRates(tuple(by_hour))
    steps = 2000
    width = hours / steps
    want = sum(by_hour[int((first + (index + 0.5) * width) % 24)] for index in range(steps)) / steps
    off = 10.0 * 2 / steps * max(1.0, hours)
    assert rates.mean(first, hours * HOUR) == pytest.approx(want, abs=off)
    assert min(by_hour) - 1e-9 <= rates.mean(first, hours * HOUR) <= max(by_hour) + 1e-9
