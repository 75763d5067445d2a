"""What may be believed to be a price. Anything else is unknown, never 0."""

from __future__ import annotations

import datetime
import re
from decimal import Decimal
from typing import Final

from scheduler.model.ids import Instant
from scheduler.model.money import Usd

MOST_USD_PER_HOUR: Final = Decimal(10_000)
"""Far above the dearest machine that any cloud rents out."""
LEAST_USD_PER_HOUR: Final = Decimal("0.000001")
"""Below it nothing is sold; parts of machines are priced by the thousandth."""
_NUMBER: Final = re.compile(r"[0-9]{1,20}(\.[0-9]{1,28})?([eE][-+]?[0-9]{1,2})?")
_DIGITS: Final = 28


def plausible(value: object) -> Usd | None:
    """`value` (a number, or a string that is one) as USD per hour, exactly; None when it is no price.

    A price is finite and between `LEAST_USD_PER_HOUR` and `MOST_USD_PER_HOUR`.
    """
    if isinstance(value, str):
        if not _NUMBER.fullmatch(value):
            return None
        price = Decimal(value)
    elif isinstance(value, Decimal):
        price = value
    elif isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > _DIGITS * 3:
            return None
        price = Decimal(value)
    else:
        return None
    if (
        not price.is_finite()
        or not LEAST_USD_PER_HOUR <= price <= MOST_USD_PER_HOUR
        or len(price.as_tuple().digits) > _DIGITS
    ):
        return None
    return plain(price)


def plain(amount: Decimal) -> Decimal:
    """The same amount without trailing zeros or exponent, for people."""
    return Decimal(f"{amount.normalize():f}")


def instant(text: object) -> Instant | None:
    """The point in time that an RFC 3339 text names; one without a zone is in UTC. None when it names none."""
    if not isinstance(text, str):
        return None
    try:
        parsed = datetime.datetime.fromisoformat(text)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
