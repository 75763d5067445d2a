"""What runs cost: expected, careful, and paid."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.spend import NodeLifetime, NodeUse, paid_for
from scheduler.model.ids import ClusterId, NodeName, PoolId, QueueId
from scheduler.model.ports import Prediction
from scheduler.model.workload import Hints
from scheduler.predict.cost import predicted_cost
from scheduler.predict.learning import Learning
from tests.property.test_engine_spend import lifetimes
from tests.unit.engine_world import bought_pool, pods, workload

HOUR = 3600.0
TEAM = QueueId("team")
NODE = NodeLifetime(ClusterId("a"), PoolId("p"), "n", NodeName("n"), "spot", Decimal(16), 0.0, 2 * HOUR)


@given(lifetimes(), st.floats(0, 1e10))
def test_shares_are_never_more_than_the_node_costs(node: NodeLifetime, now: float) -> None:
    uses = tuple(use._replace(workload=f"w{index % 2}") for index, use in enumerate(node.uses))
    named = replace(node, uses=uses)
    parts = [paid_for(named, name, now) for name in ("w0", "w1", "nobody")]
    assert all(part is not None and part >= 0 for part in parts)
    whole = paid_for(replace(node, uses=(NodeUse(0.0, None, TEAM, 1, "all"),)), "all", now)
    assert whole is not None
    assert sum((part for part in parts if part is not None), Decimal(0)) <= whole + Decimal("1e-8")


@pytest.mark.parametrize(
    ("uses", "want"),
    [
        ((NodeUse(HOUR / 2, 1.5 * HOUR, TEAM, 8, "w"),), "24"),
        ((NodeUse(0.0, HOUR, TEAM, 4, "w"), NodeUse(0.0, HOUR, TEAM, 4, "x")), "8"),
        ((NodeUse(0.0, HOUR, TEAM, 8, "x"), NodeUse(HOUR, 2 * HOUR, TEAM, 8, "w")), "16"),
        ((NodeUse(0.0, HOUR, TEAM, 8, ""),), "0"),
    ],
    ids=["with its start-up, without idling", "half of it", "after another", "of an earlier version"],
)
def test_a_run_pays_for_its_share_of_the_time(uses: tuple[NodeUse, ...], want: str) -> None:
    assert paid_for(replace(NODE, uses=uses), "w", 3 * HOUR) == Decimal(want)


def test_a_node_without_a_price_has_no_cost() -> None:
    used = replace(NODE, usd_per_hour=None, uses=(NodeUse(0.0, HOUR, TEAM, 8, "w"),))
    assert paid_for(used, "w", HOUR) is None
    assert paid_for(used, "other", HOUR) == 0


@given(st.floats(1, 1e6), st.none() | st.floats(0.01, 3), st.none() | st.floats(0, 1), st.decimals(0, 100, places=3))
def test_the_careful_cost_is_no_less_and_parts_add_up(
    run: float, spread: float | None, reclaims: float | None, rate: Decimal
) -> None:
    found = predicted_cost(Prediction(run, 255.0, 0.0, spread), rate, reclaims, 600.0)
    assert found is not None
    for low, high in (
        (found.expected.start_usd, found.p90.start_usd),
        (found.expected.run_usd, found.p90.run_usd),
        (found.expected.total_usd, found.p90.total_usd),
    ):
        assert low <= high
    if reclaims is None:
        assert found.expected.reclaims_usd == 0


def test_what_is_unknown_costs_nobody_knows_what() -> None:
    for one in (Prediction(None, 1.0), Prediction(1.0, None), Prediction(1.0, 1.0, transfer_usd=None)):
        assert predicted_cost(one, Decimal(1), None, None) is None
    assert predicted_cost(Prediction(1.0, 1.0), None, None, None) is None


def test_costs_teach_by_pool_and_are_kept() -> None:
    learning, where = Learning(), bought_pool("a", "p")
    for _ in range(20):
        learning.paid(where.ref, 10.0, 15.0, 20.0)
    again = Learning.from_state(orjson.loads(orjson.dumps(learning.state())))
    told = again.predictor().cost_correction(where.ref)
    assert told.median == pytest.approx(2.0)
    assert told.drifting
    said = again.predictor().run_cost(workload("w", pods(), hints=Hints(HOUR)), where, 1, Decimal(16))
    assert said is not None
    assert said.expected.run_usd == Decimal(16)
