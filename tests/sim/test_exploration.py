"""A budget for exploration in a replay: the cheaper GPU is found, which nobody would have tried; the budget holds."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.bench.exploration import Rates, measured

V, P, K = "v100", "p100", "k80"


def rates() -> Rates:
    """Of the eight, four are much slower on the cheap K80 than on a V100; of the others it is the cheapest."""
    slow: dict[tuple[str, int | None], dict[str, float]] = {
        (f"slow{index}", 32): {V: 10.0, P: 5.0, K: 0.9 + 0.1 * index} for index in range(4)
    }
    return slow | {(f"even{index}", 32): {V: 10.0, P: 5.0, K: 3.0 + 0.3 * index} for index in range(4)}


@pytest.fixture(scope="module")
def without() -> dict[str, float]:
    return measured(rates(), Decimal(0), seed=3)


def test_without_one_nothing_is_explored(without: dict[str, float]) -> None:
    assert (without["explored"], without["counted_usd"], without["unfinished"]) == (0, 0.0, 0)


def test_the_cheapest_is_found_sooner_and_all_costs_less(without: dict[str, float]) -> None:
    found = measured(rates(), Decimal(20), seed=3)
    assert found["explored"] > 0
    assert found["jobs_until_cheapest"] < without["jobs_until_cheapest"]
    assert found["usd"] < without["usd"]
    assert found["unfinished"] == 0


@pytest.mark.parametrize("limit", ["0.5", "2", "5"])
def test_the_limit_is_never_passed(limit: str) -> None:
    found = measured(rates(), Decimal(limit), seed=3)
    assert found["counted_usd"] <= float(limit)
