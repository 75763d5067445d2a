"""Whether nodes come, and when: learned from the daemon's own scale-ups, and what the engine makes of it."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.predict.first import POD_START_SECONDS
from scheduler.predict.learning import Learning
from scheduler.predict.provisioning import PRIOR_AVAILABILITY, Provisioning
from tests.unit.engine_world import NOW, bought_pool, cluster, pods, policy, policy_set, snapshot, workload

DAY = 86400.0
events = st.lists(
    st.one_of(
        st.tuples(st.just("came"), st.floats(0, 1e5)),
        st.tuples(st.just("failed"), st.none() | st.floats(allow_nan=True, allow_infinity=True)),
    ),
    max_size=30,
)


def after(told: list[tuple[str, float | None]]) -> Provisioning:
    one, at = Provisioning(), NOW
    for what, seconds in told:
        at += 60.0
        one = one.aged(at)
        one = one.refused(seconds) if what == "failed" else one.started(seconds or 0.0)
    return one


@given(events)
def test_chances_are_chances_and_the_state_comes_back(told: list[tuple[str, float | None]]) -> None:
    one = after(told)
    assert 0 < one.availability < 1
    assert one.delay_seconds >= 0
    assert Provisioning.from_state(orjson.loads(orjson.dumps(one.state()))) == one


@given(events)
def test_a_failure_makes_it_worse_a_success_better_and_a_week_makes_it_as_any(
    told: list[tuple[str, float | None]],
) -> None:
    one = after(told)
    assert one.refused().availability < one.availability
    assert one.refused().delay_seconds >= one.delay_seconds
    assert one.started(100.0).availability > one.availability
    old = one.aged(one.at + 30 * DAY)
    assert old.availability == pytest.approx(PRIOR_AVAILABILITY, abs=1e-3) or not told
    assert old.delay_seconds < 5.0
    assert old.quantile_seconds(0.5) == one.quantile_seconds(0.5)


def test_states_of_earlier_versions_are_read() -> None:
    assert Provisioning.from_state([240.0, 1, 5.0, 0.0, 1.0, 2.0]) == Provisioning(240.0, 1, 5.0, 0.0, 1.0, 2.0)


def test_what_fails_costs_the_time_until_that_is_known() -> None:
    slow, quick = (after([("failed", seconds)] * 3) for seconds in (1800.0, 60.0))
    assert slow.delay_seconds > 2 * quick.delay_seconds
    assert quick.delay_seconds > 60.0


def test_the_engine_goes_where_nodes_come() -> None:
    """Two offerings alike, the one that is named first is short of capacity."""
    learning = Learning()
    short, there = bought_pool("a", "gpu"), bought_pool("b", "gpu")
    world = (cluster("a", (short,)), cluster("b", (there,)))
    rules = policy_set(policy(objective="completion-time"))

    def chosen(at: float) -> str:
        seen = snapshot(*world, workloads=(workload("w", pods()),))
        plan = cycle(seen, rules, learning.predictor(at))
        return str(plan.decisions[0].chosen.pool) if plan.decisions[0].chosen is not None else ""

    assert chosen(NOW) == "a/gpu"
    learning.nodes_refused(short.ref, NOW, 900.0)
    assert chosen(NOW) == "b/gpu"
    told = learning.predictor(NOW).predict(workload("w", pods()), short, 1)
    assert told.availability is not None
    assert told.availability < PRIOR_AVAILABILITY
    assert told.start_seconds is not None
    assert told.start_seconds > 240.0 + POD_START_SECONDS + 100.0
    assert chosen(NOW + 60 * DAY) == "a/gpu"


def test_nodes_that_are_there_need_no_luck() -> None:
    learning = Learning()
    where = bought_pool("a", "gpu")
    learning.nodes_refused(where.ref, NOW)
    told = learning.predictor(NOW).predict(workload("w", pods()), where, 0)
    assert (told.start_seconds, told.availability) == (POD_START_SECONDS, None)
