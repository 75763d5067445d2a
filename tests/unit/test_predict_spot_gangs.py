"""A gang on spot nodes stops when any one of them is reclaimed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.model.cluster import SPOT
from scheduler.model.resources import Resources
from scheduler.model.workload import Hints, PodSet
from scheduler.predict.first import SPOT_RECLAIMS_PER_HOUR, FirstPredictor, lost_to_reclaims, nodes_spanned
from scheduler.predict.learned import Known, LearnedPredictor
from scheduler.predict.spot import DailyRates
from tests.unit.engine_world import amount, bought_pool, pods, workload

RUN = 6 * 3600.0
NODE = amount(gpus=8, cpu=96, memory=900)


@pytest.mark.parametrize(
    ("gang", "node", "want_nodes"),
    [
        pytest.param([pods(1, 1)], NODE, 1, id="a part of one"),
        pytest.param([pods(8, 1)], NODE, 1, id="one"),
        pytest.param([pods(4, 8)], NODE, 4, id="whole nodes"),
        pytest.param([pods(9, 1)], NODE, 2, id="one and a part"),
        pytest.param([pods(3, 5)], NODE, 3, id="pods too large to share a node"),
        pytest.param([pods(2, 0, cpu=96)], NODE, 2, id="by its cores"),
        pytest.param([pods(1, 8), pods(2, 4)], NODE, 2, id="several pod sets"),
        pytest.param([pods(1, 16)], NODE, 2, id="does not fit: by its amount"),
        pytest.param([pods(4, 8)], Resources(), 1, id="size of the node not known"),
    ],
)
def test_nodes_spanned(gang: list[PodSet], node: Resources, want_nodes: int) -> None:
    assert nodes_spanned(gang, node) == want_nodes


def test_a_gang_on_four_nodes_is_reclaimed_four_times_as_often() -> None:
    spot = replace(bought_pool("cloud", "spot"), capacity_type=SPOT, node_resources=NODE)
    gang = workload("w", pods(4, 8), hints=Hints(expected_seconds=RUN))
    want = lost_to_reclaims(RUN, 4 * SPOT_RECLAIMS_PER_HOUR, None)
    learned = LearnedPredictor(Known(reclaims={(spot.ref, ""): DailyRates((0.1,))}))
    runs, lost = learned.table([gang], [spot])
    assert FirstPredictor().predict(gang, spot, 4).lost_seconds == pytest.approx(want)
    assert LearnedPredictor().predict(gang, spot, 4).lost_seconds == pytest.approx(want)
    assert learned.predict(gang, spot, 4).lost_seconds == pytest.approx(lost_to_reclaims(RUN, 0.4, None))
    assert float(runs[0, 0]) == RUN
    assert float(lost[0, 0]) == pytest.approx(lost_to_reclaims(RUN, 0.4, None))


def test_spot_pools_of_larger_nodes_are_not_alike() -> None:
    small = replace(bought_pool("cloud", "spot"), capacity_type=SPOT, node_resources=NODE)
    large = replace(small, node_resources=NODE + NODE)
    for predictor in (FirstPredictor(), LearnedPredictor()):
        assert predictor.alike(small) != predictor.alike(large)
