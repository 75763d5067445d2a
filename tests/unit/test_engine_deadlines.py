"""A deadline holds with the probability that the policy asks for."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import pytest

from scheduler.engine.cycle import cycle
from scheduler.model.cluster import NodePool
from scheduler.model.policy import Constraints, ValueOfTime
from scheduler.model.ports import Prediction
from scheduler.model.workload import Hints, Workload
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import bought_pool, cluster, policy, policy_set, snapshot, workload

HOUR = 3600.0


class Spread:
    """Runs take half as long on H100s; how sure that is, is given."""

    def __init__(self, log_sd: float | None) -> None:
        self._log_sd = log_sd

    def predict(self, workload: Workload, pool: NodePool, new_nodes: int) -> Prediction:
        plain = FirstPredictor().predict(workload, pool, new_nodes)
        run = plain.run_seconds
        faster = None if run is None else run / (2 if pool.gpu_model == "H100" else 1)
        return replace(plain, run_seconds=faster, run_log_sd=self._log_sd)


def where(confidence: float, log_sd: float | None, *, worth: ValueOfTime | None = None, deadline: float = 3.0) -> str:
    """Two hours on the cheap pool, one on the dear one."""
    cheap, dear = bought_pool("eks", "cheap"), bought_pool("eks", "dear", gpu_model="H100")
    assert dear.price is not None
    dear = replace(dear, price=replace(dear.price, usd_per_hour=Decimal(100)))
    limits = Constraints(deadline_seconds=deadline * HOUR, deadline_confidence=confidence)
    job = workload("w", hints=Hints(expected_seconds=2 * HOUR))
    rules = policy_set(policy(constraints=limits, value_of_time=worth))
    plan = cycle(snapshot(cluster("eks", (cheap, dear)), workloads=(job,)), rules, Spread(log_sd))
    (change,) = plan.placements
    return change.placement.pool


@pytest.mark.parametrize("worth", [None, ValueOfTime(usd_per_gpu_hour=Decimal("0.01"))])
@pytest.mark.parametrize(
    ("confidence", "log_sd", "wanted"),
    [
        pytest.param(0.5, 2.0, "cheap", id="by the median the cheap one is in time"),
        pytest.param(0.9, 0.0, "cheap", id="a run time that is certain is"),
        pytest.param(0.9, 0.2, "cheap", id="little spread: 2 h x 1.29 is in time"),
        pytest.param(0.9, 0.5, "dear", id="more spread: 2 h x 1.90 is not"),
        pytest.param(0.9, None, "dear", id="a spread that nobody tells is not taken for none"),
        pytest.param(0.7, 0.5, "cheap", id="in seven cases of ten it still is"),
    ],
)
def test_how_sure_it_has_to_be(confidence: float, log_sd: float | None, wanted: str, worth: ValueOfTime | None) -> None:
    assert where(confidence, log_sd, worth=worth) == wanted


@pytest.mark.parametrize("worth", [None, ValueOfTime(usd_per_gpu_hour=Decimal("0.01"))])
def test_where_nothing_is_sure_enough_it_still_goes_somewhere(worth: ValueOfTime | None) -> None:
    assert where(0.99, 2.0, worth=worth, deadline=0.5) == "cheap"


def test_the_factor_is_the_quantile_of_the_log_normal_distribution() -> None:
    # 1.2815515655 is the 90th percentile of the standard normal distribution.
    assert where(0.9, math.log(3 / 2.1) / 1.2815515655) == "cheap"
    assert where(0.9, math.log(3 / 1.9) / 1.2815515655) == "dear"
