"""Money of other currencies in USD, by a table of dated rates that the user writes."""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationInfo
from pydantic.alias_generators import to_camel

from clusters.prices._amounts import Day, Positive, shown
from scheduler.model.errors import InvalidObjectError
from scheduler.model.money import NANO, Usd

USD: Final = "USD"
_CODE: Final = re.compile(r"[A-Z]{3}", re.ASCII)
_DIGITS: Final = 120
"""Enough for any product of two amounts, so that only the last step rounds."""


class CurrencyRate(BaseModel):
    """What one unit of a currency is worth."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=True)

    usd_per_unit: Positive
    as_of: Day | None = None
    """The day of the rate, told wherever it was used; None: not said."""


def _rates(value: object, info: ValidationInfo) -> object:
    """What stands in the settings, over `context["currencies"]`: the table that the federation file has for all of its
    sources. A bare amount is a rate without a date."""
    shared: Mapping[str, Any] = (info.context or {}).get("currencies") or {}
    if not isinstance(value, Mapping):
        return value
    table: dict[str, object] = {}
    for code, rate in {**shared, **value}.items():
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise ValueError(f"{shown(code)} is not a currency; write its ISO 4217 code, such as EUR")
        if code == USD:
            raise ValueError("USD is what the rates lead to; leave it out")
        table[code] = rate if isinstance(rate, Mapping | CurrencyRate) else {"usdPerUnit": rate}
    return table


Currencies = Annotated[dict[str, CurrencyRate], BeforeValidator(_rates)]
"""ISO 4217 code to rate. Declare it with `Field(default_factory=dict, validate_default=True)`, so that the shared table
is taken where a source has none of its own."""


@dataclass(frozen=True, slots=True)
class Converted:
    usd: Usd
    """Exact to the nano-dollar."""
    note: str
    """How it was converted, for people; empty for USD."""


def to_usd(amount: Decimal, currency: str, rates: Mapping[str, CurrencyRate]) -> Converted:
    """`amount` of `currency` in USD. Raises: InvalidObjectError when there is no rate for it."""
    if currency == USD:
        return Converted(_rounded(amount, Decimal(1)), "")
    rate = rates.get(currency)
    if rate is None:
        known = ", ".join(sorted({USD, *rates}))
        raise InvalidObjectError(
            f"no rate for currency {shown(currency)}; add it under `currencies:` as USD per unit (known: {known})"
        )
    return Converted(_rounded(amount, rate.usd_per_unit), _note(currency, rate.usd_per_unit, rate.as_of))


def _note(currency: str, usd_per_unit: Decimal, as_of: datetime.date | None) -> str:
    of = f" of {as_of.isoformat()}" if as_of is not None else ""
    return f"{currency} at {usd_per_unit:f} USD{of}"


def _rounded(amount: Decimal, factor: Decimal) -> Decimal:
    with localcontext(prec=_DIGITS):
        return (amount * factor).quantize(NANO, ROUND_HALF_EVEN)
