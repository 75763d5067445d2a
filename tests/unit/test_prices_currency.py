"""Conversion to USD: exact, by the user's own table."""

from __future__ import annotations

from decimal import Decimal

import pytest
from pydantic import BaseModel, Field, ValidationError

from clusters.prices.currency import Currencies, to_usd
from scheduler.model.errors import InvalidObjectError


class _Settings(BaseModel):
    currencies: Currencies = Field(default_factory=dict, validate_default=True)


RATES = _Settings.model_validate(
    {"currencies": {"EUR": {"usdPerUnit": "1.0823", "asOf": "2026-11-01"}, "JPY": "0.0064"}}
).currencies


@pytest.mark.parametrize(
    ("amount", "currency", "want_usd", "want_note"),
    [
        ("9.80", "USD", "9.800000000", ""),
        ("10", "EUR", "10.823000000", "EUR at 1.0823 USD of 2026-11-01"),
        ("1500.5", "JPY", "9.603200000", "JPY at 0.0064 USD"),
        ("0.0000000001", "EUR", "0E-9", "EUR at 1.0823 USD of 2026-11-01"),
    ],
)
def test_converted(amount: str, currency: str, want_usd: str, want_note: str) -> None:
    converted = to_usd(Decimal(amount), currency, RATES)
    assert (str(converted.usd), converted.note) == (want_usd, want_note)


def test_an_unknown_currency_is_told_with_the_remedy() -> None:
    with pytest.raises(InvalidObjectError, match=r'"CHF"; add it under `currencies:` .*known: EUR, JPY, USD'):
        to_usd(Decimal(1), "CHF", RATES)


def test_a_sources_own_rate_comes_before_the_shared_one() -> None:
    shared = {"currencies": {"EUR": 2.5, "GBP": Decimal("1.3")}}
    found = _Settings.model_validate({"currencies": {"EUR": "1.5"}}, context=shared).currencies
    assert {code: str(rate.usd_per_unit) for code, rate in found.items()} == {"EUR": "1.5", "GBP": "1.3"}
    assert str(_Settings.model_validate({}, context=shared).currencies["EUR"].usd_per_unit) == "2.5"


@pytest.mark.parametrize("rate", [0, -1, True, "NaN", "1e3", None, [1], {"usdPerUnit": 0}, {"rate": 1}, float("inf")])
def test_what_is_no_rate_is_refused(rate: object) -> None:
    with pytest.raises(ValidationError):
        _Settings.model_validate({"currencies": {"EUR": rate}})
