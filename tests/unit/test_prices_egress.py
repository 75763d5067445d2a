"""Egress prices as tiers: embedded facts, and costs over their boundaries by hand and in general."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.prices.egress import egress_cost, egress_price, egress_prices
from scheduler.model.prices import INTERNET, OTHER_REGION, SAME_REGION, EgressPrice, EgressTier

PRICES = egress_prices()


@pytest.mark.parametrize(
    ("provider", "region", "destination", "so_far", "gib", "want_cost"),
    [
        ("eks", "us-east-1", INTERNET, 0, 1, "0.09"),
        ("eks", "us-east-1", INTERNET, 10_239, 2, "0.175"),
        ("aws", "us-east-1", INTERNET, 0, 153_601, "11571.25"),
        ("eks", "us-east-1", OTHER_REGION, 5, 10, "0.20"),
        ("eks", "us-east-1", SAME_REGION, 0, 0, "0"),
        ("eks", "ap-northeast-1", INTERNET, 0, 100, "11.4"),
        ("gke", "us-central1", INTERNET, 0, 2, "0.12"),
        ("gke", "europe-west4", SAME_REGION, 0, 100, "1.00"),
        ("gke", "europe-west4", INTERNET, 0, 1, None),
        ("aks", "eastus", INTERNET, 0, 100, "0"),
        ("aks", "eastus", INTERNET, 99, 2, "0.087"),
        ("aks", "japaneast", INTERNET, 100, 1, "0.12"),
        ("onprem", "eu-dc1", INTERNET, 0, 1, None),
        ("eks", "us-east-1", "the moon", 0, 1, None),
    ],
)
def test_hand_worked(
    provider: str, region: str, destination: str, so_far: int, gib: int, want_cost: str | None
) -> None:
    cost = egress_cost(PRICES, provider, region, destination, so_far, gib)
    assert cost == (None if want_cost is None else Decimal(want_cost))


def test_every_price_is_dated_has_a_source_and_tiers_that_rise() -> None:
    assert len({(price.provider, price.region, price.destination) for price in PRICES}) == len(PRICES)
    for price in PRICES:
        assert price.destination in (INTERNET, SAME_REGION, OTHER_REGION)
        assert price.source
        assert price.as_of > 1_700_000_000
        bounds = [tier.up_to_gib for tier in price.tiers]
        assert bounds[-1] is None
        rising = [bound for bound in bounds if bound is not None]
        assert len(rising) == len(bounds) - 1
        assert rising == sorted(set(rising))
        assert all(tier.usd_per_gib >= 0 for tier in price.tiers)
        assert any(tier.usd_per_gib > 0 for tier in price.tiers)


def priced(provider: str, region: str, usd: str) -> EgressPrice:
    return EgressPrice(provider, region, INTERNET, (EgressTier(None, Decimal(usd)),), "test", 0.0)


def test_the_regions_own_price_comes_before_the_providers() -> None:
    prices = (priced("aws", "*", "1"), priced("aws", "r1", "2"), priced("eks", "r1", "3"))
    for order in (prices, prices[::-1]):
        assert egress_price(order, "eks", "r1", INTERNET) == prices[2]
        assert egress_price(order, "eks", "r2", INTERNET) == prices[0]
        assert egress_price(order, "aws", "r1", INTERNET) == prices[1]


def test_traffic_beyond_the_last_tier_is_unknown() -> None:
    prices = [EgressPrice("aws", "*", INTERNET, (EgressTier(10, Decimal(1)),), "test", 0.0)]
    assert egress_cost(prices, "aws", "r", INTERNET, 0, 10) == 10
    assert egress_cost(prices, "aws", "r", INTERNET, 5, 6) is None
    assert egress_cost([EgressPrice("aws", "*", INTERNET, (), "test", 0.0)], "aws", "r", INTERNET, 0, 0) is None


@pytest.mark.parametrize(("so_far", "gib"), [(-1, 1), (1, -1), (Decimal("NaN"), 1), (1, Decimal("Infinity"))])
def test_what_is_no_amount_is_refused(so_far: Decimal, gib: Decimal) -> None:
    with pytest.raises(ValueError, match="finite amount of GiB"):
        egress_cost(PRICES, "aws", "us-east-1", INTERNET, so_far, gib)


amounts = st.decimals(min_value=0, max_value=10**9, places=6, allow_nan=False)


@given(start=amounts, parts=st.lists(amounts, max_size=5), price=st.sampled_from(PRICES))
def test_parts_one_after_the_other_cost_what_the_whole_costs(
    start: Decimal, parts: list[Decimal], price: EgressPrice
) -> None:
    def cost(so_far: Decimal, gib: Decimal) -> Decimal:
        found = egress_cost([price], price.provider, price.region, price.destination, so_far, gib)
        assert found is not None
        assert found >= 0
        return found

    reached, total = start, Decimal(0)
    for part in parts:
        total += cost(reached, part)
        reached += part
    assert total == cost(start, reached - start)
