"""Money: exact decimal USD. Unknown is None, never 0."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from scheduler.model.ids import Instant

Usd = Decimal
NANO: Final = Decimal("0.000000001")
CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Price:
    """What one node costs, with where and when that was learned."""

    usd_per_hour: Usd
    source: str
    as_of: Instant


def cost_usd(usd_per_hour: Usd, seconds: float) -> Usd:
    """USD for `seconds` at an hourly rate, exact to the nano-dollar (so that sums of parts add exactly)."""
    return (usd_per_hour * Decimal(repr(seconds)) / 3600).quantize(NANO, ROUND_HALF_EVEN)


def to_cents(amount: Usd) -> Usd:
    """Rounded to the cent, for showing only."""
    return amount.quantize(CENT, ROUND_HALF_EVEN)
