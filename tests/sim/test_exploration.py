"""A budget for exploration in a replay: the cheaper GPU is found, which nobody would have tried; the budget holds."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.bench.exploration import REPEATS, Rates, replayed

V, P, K = "v100", "p100", "k80"


def rates(name: str, *on_k80: float) -> Rates:
    """Ten steps a second on a V100 (0.74 USD an hour), so many on a K80 (0.135): from 1.83 on that is the cheaper."""
    return {(f"{name}{number}", 32): {V: 10.0, P: 3.0, K: rate} for number, rate in enumerate(on_k80)}


def replay(limit: str) -> dict[str, Any]:
    return replayed(rates("slow", 0.9, 1.2, 1.6, 2.0), rates("fast", 3.0, 3.5), Decimal(limit), 3)


def test_the_cheapest_is_found_that_nobody_would_have_tried() -> None:
    without, found = replay("0"), replay("20")
    assert (without["explored"], without["jobs_until_cheapest"]) == (0, REPEATS)
    assert (without["unfinished"], found["unfinished"]) == (0, 0)
    assert found["explored"] > 0
    assert found["jobs_until_cheapest"] < REPEATS / 2
    assert found["usd"] < 0.9 * without["usd"]


def test_a_small_limit_is_not_passed() -> None:
    found = replay("3")
    assert 0 < found["counted_usd"] <= 3
