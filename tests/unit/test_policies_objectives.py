"""Objectives order offerings as they say."""

from __future__ import annotations

from decimal import Decimal

import pytest

from policies.objectives import load_objective, objective_names
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.plan import Candidate


def candidate(
    *,
    usd: str | None = None,
    rate: str | None = None,
    start: float | None = 0.0,
    run: float | None = None,
    capacity_type: str = "on-demand",
    bought: bool = False,
) -> Candidate:
    return Candidate(
        pool=PoolRef(ClusterId("c"), PoolId("p")),
        capacity_type=capacity_type,
        bought=bought,
        score=None,
        usd_per_hour=None if rate is None else Decimal(rate),
        expected_cost_usd=None if usd is None else Decimal(usd),
        expected_start_seconds=start,
        expected_seconds=run,
        new_nodes=0,
    )


CASES = [
    ("cost", candidate(usd="12.50", rate="3"), 12.5),
    ("cost", candidate(rate="3"), 3.0),
    ("cost", candidate(), None),
    ("completion-time", candidate(start=60.0, run=3600.0), 3660.0),
    ("completion-time", candidate(start=60.0), 60.0),
    ("completion-time", candidate(start=None, run=3600.0), None),
    ("onprem-first", candidate(usd="5", capacity_type="owned"), 5.0),
    ("onprem-first", candidate(usd="5", capacity_type="reserved"), 1e9 + 5),
    ("onprem-first", candidate(usd="5", capacity_type="spot", bought=True), 2e9 + 5),
    ("onprem-first", candidate(capacity_type="spot", bought=True), None),
]


@pytest.mark.parametrize(("name", "offering", "want"), CASES)
def test_scores(name: str, offering: Candidate, want: float | None) -> None:
    assert load_objective(name)(offering) == want


def test_own_capacity_goes_first_whatever_it_costs() -> None:
    score = load_objective("onprem-first")
    offerings = [
        candidate(usd="9", capacity_type="owned"),
        candidate(usd="99999999999", capacity_type="owned"),
        candidate(capacity_type="owned"),
        candidate(usd="0", capacity_type="reserved"),
        candidate(capacity_type="reserved"),
        candidate(usd="0", capacity_type="spot", bought=True),
    ]
    scores = [score(offering) for offering in offerings]
    assert all(one is not None for one in scores)
    assert scores == sorted(one for one in scores if one is not None)


@pytest.mark.parametrize("name", objective_names())
def test_every_file_is_an_objective(name: str) -> None:
    score = load_objective(name)
    assert score is load_objective(name.replace("-", "_"))
    assert isinstance(score(candidate(usd="1", rate="1", run=1.0)), float)


@pytest.mark.parametrize("name", ["", "nothing", "../cost", "__init__", "cost.score"])
def test_an_unknown_objective_is_named(name: str) -> None:
    with pytest.raises(InvalidObjectError, match="there are completion-time, cost, onprem-first"):
        load_objective(name)
