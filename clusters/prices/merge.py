"""Which of several sources' prices holds for a machine, and why: precedence and age. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from clusters.prices._order import in_order
from clusters.prices._plausible import plausible
from scheduler.model.ids import Instant, PoolId, PoolRef
from scheduler.model.money import Price
from scheduler.model.prices import PriceQuery, PriceQuote

FRESH: Final = "fresh"
STALE: Final = "stale"
"""Older than its source allows: shown, unknown for planning."""
REFUSED: Final = "refused"
"""Not to be believed: not a price, or dated in the future."""
ABSENT: Final = "absent"
"""The source answered, and does not know this machine."""
FAILED: Final = "failed"
"""The source has not answered so far."""

FEDERATION_FILE: Final = "federation file"
_FUTURE_SECONDS: Final = 86400.0
"""A price may be dated this far ahead: days have time zones, and clocks differ."""


@dataclass(frozen=True, slots=True)
class SourceReading:
    """What one source is known to say."""

    name: str
    """As it is shown; sources of one type are told apart by their place in the list."""
    max_age_seconds: float
    quotes: tuple[PriceQuote, ...]
    """Of the last good reading, whose order says nothing."""
    read_at: Instant | None
    """When that reading ended; None: there was none."""
    error: str = ""
    """Why the last reading failed; empty: it did not."""


@dataclass(frozen=True, slots=True)
class SourceAnswer:
    """What one source says of one machine."""

    source: str
    state: str
    """fresh, stale, refused, absent or failed."""
    quote: PriceQuote | None
    """Of a fresh, stale or refused answer."""
    age_seconds: float | None
    """Of the quote."""
    text: str
    """Why it cannot be used, for people; empty when fresh."""


@dataclass(frozen=True, slots=True)
class PriceOutcome:
    """What is known of one machine's price, and from whom."""

    query: PriceQuery
    price: Price | None
    """What planning goes by; None: unknown."""
    winner: str | None
    """The source that said so; the federation file's price is named `federation file`."""
    answers: tuple[SourceAnswer, ...]
    """Of every source, in order of precedence, the winner's included."""
    why_unknown: str
    """One line; empty when the price is known."""

    @property
    def stale(self) -> SourceAnswer | None:
        """The stale answer that comes first, to be shown where the price is unknown."""
        if self.price is not None:
            return None
        return next((answer for answer in self.answers if answer.state == STALE), None)


def merge(
    queries: Iterable[PriceQuery],
    readings: Sequence[SourceReading],
    pinned: Mapping[PoolRef, Price],
    now: Instant,
) -> tuple[PriceOutcome, ...]:
    """The outcome for every query, sorted and each once. The price that the federation file has for a pool (`pinned`)
    always holds; else the first fresh one in the order of `readings`."""
    wanted = in_order(queries)
    by_source = [(reading, choose(reading.quotes)) for reading in readings]
    outcomes = []
    for query in wanted:
        answers = tuple(_answer(reading, quotes.get(query), now) for reading, quotes in by_source)
        price, winner = _winner(query, answers, pinned)
        why = "" if price is not None else _why(answers)
        outcomes.append(PriceOutcome(query, price, winner, answers, why))
    return tuple(outcomes)


def choose(quotes: Iterable[PriceQuote]) -> dict[PriceQuery, PriceQuote]:
    """One quote for each query. A source ought to give one; of several the youngest holds, then the dearest."""
    chosen: dict[PriceQuery, PriceQuote] = {}
    for quote in sorted(quotes, key=_rank):
        chosen[quote.query] = quote
    return chosen


def _rank(quote: PriceQuote) -> tuple[bool, float, Decimal, str, str, str]:
    price = plausible(quote.usd_per_hour)
    as_of = quote.as_of if math.isfinite(quote.as_of) else -math.inf
    # Nonsense is told apart by how it is written, so that its order says nothing either.
    return price is not None, as_of, price or Decimal(0), quote.source, repr(quote.as_of), str(quote.usd_per_hour)


def _answer(reading: SourceReading, quote: PriceQuote | None, now: Instant) -> SourceAnswer:
    if quote is None:
        if reading.read_at is None:
            return SourceAnswer(reading.name, FAILED, None, None, reading.error or "not read yet")
        return SourceAnswer(reading.name, ABSENT, None, None, "does not know this machine")
    age = now - quote.as_of
    if plausible(quote.usd_per_hour) is None:
        return SourceAnswer(reading.name, REFUSED, quote, None, f"{quote.usd_per_hour} USD per hour is not a price")
    if not age >= -_FUTURE_SECONDS:  # written so that an age that is no number is refused too
        return SourceAnswer(reading.name, REFUSED, quote, None, "its price is dated in the future")
    age = max(0.0, age)
    if age > reading.max_age_seconds:
        text = f"{duration(age)} old, allowed are {duration(reading.max_age_seconds)}"
        if reading.error:
            text += f"; the last reading failed: {reading.error}"
        return SourceAnswer(reading.name, STALE, quote, age, text)
    return SourceAnswer(reading.name, FRESH, quote, age, "")


def _winner(
    query: PriceQuery, answers: Sequence[SourceAnswer], pinned: Mapping[PoolRef, Price]
) -> tuple[Price | None, str | None]:
    own = pinned.get(PoolRef(query.cluster, PoolId(query.pool)))
    if own is not None:
        return own, FEDERATION_FILE
    for answer in answers:
        if answer.state == FRESH and answer.quote is not None:
            quote = answer.quote
            return Price(quote.usd_per_hour, quote.source, quote.as_of), answer.source
    return None, None


def _why(answers: Sequence[SourceAnswer]) -> str:
    if not answers:
        return "no price source is configured; add one under `prices:` or write the pool's `price:`"
    return "; ".join(f"{answer.source}: {answer.text}" for answer in answers)


def duration(seconds: float) -> str:
    """For people, in the largest unit of which there are at least two: 90 s, 3 min, 26 h, 400 d."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
