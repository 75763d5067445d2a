"""Whatever JSON a price API answers, its reader gives plausible prices or a typed error, and nothing else."""

from __future__ import annotations

import copy
import json
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusters.prices import aws, azure, gcp, opencost
from clusters.prices._plausible import MOST_USD_PER_HOUR, plausible
from clusters.prices._rest import objects, parse_object
from scheduler.model.errors import TransientError
from tests.builders.aws_prices_api import product
from tests.builders.azure_prices_api import item
from tests.builders.google_billing_api import sku

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
NOW = 1_800_000_000.0
_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["USD", "NaN", "-1", "0", "1e99", "9" * 40, "2026-01-01T00:00:00Z", "Spot"])
)
JUNK = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn, whole: Any) -> Any:
    """`whole` with some of its places holding junk, as it comes over the wire."""
    value = copy.deepcopy(whole)
    for _ in range(draw(st.integers(0, 3))):
        place: Any = value
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if draw(st.booleans()) or not isinstance(place[key], dict | list):
                place[key] = draw(JUNK)
                break
            place = place[key]
    return value


def check(read: Callable[[dict[str, Any]], list[Any]], value: Any) -> None:
    try:
        prices = read(parse_object(json.dumps(value), "here"))
    except TransientError:
        return
    for price in prices:
        assert price is None or (isinstance(price, Decimal) and 0 < price <= MOST_USD_PER_HOUR)


@SLOW
@given(damaged({"Items": [item(), item(retailPrice=4.0)]}))
def test_azure(value: Any) -> None:
    def read(answer: dict[str, Any]) -> list[Any]:
        items = objects(answer.get("Items"), "here")
        told = azure._prices_in_force(items, "eastus", "Standard_NC24ads_A100_v4", "on-demand", NOW)
        return [plausible(one) for one in told]

    check(read, value)


@SLOW
@given(damaged({"skus": [sku("A2 Instance Core running in Americas", 0, 31611000)], "nextPageToken": ""}))
def test_google(value: Any) -> None:
    def read(answer: dict[str, Any]) -> list[Any]:
        rates: dict[tuple[str, str, str], set[Decimal | None]] = defaultdict(set)
        gcp._take_page(json.dumps(value).encode(), "here", frozenset({"us-central1"}), NOW, rates)
        return [price for prices in rates.values() for price in prices]

    check(read, value)


@SLOW
@given(damaged(json.loads(product("21.957642"))))
def test_aws(value: Any) -> None:
    check(lambda answer: list(aws._on_demand_prices([answer], "us-east-1", "p4d.24xlarge")), value)


@SLOW
@given(damaged({"metric": {"node": "a"}, "values": [[NOW, "3.5"]]}))
def test_opencost(value: Any) -> None:
    check(lambda answer: [plausible(opencost._sample(answer, "here")[2])] if answer.get("values") else [], value)


@SLOW
@given(st.text(max_size=40) | st.decimals() | st.integers() | st.floats() | st.none())
def test_a_price_is_exact_or_unknown(value: Any) -> None:
    price = plausible(value)
    if price is not None:
        assert 0 < price <= MOST_USD_PER_HOUR
        assert price == Decimal(value)
        assert "E" not in str(price).upper(), "for people"
