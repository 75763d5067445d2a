"""Prices: pools whose price nobody knows, or knows only an old one of, and sources that fail."""

from __future__ import annotations

from typing import Final

from clusters.prices.merge import PriceOutcome
from scheduler.daemon.config.federation import Federation
from scheduler.daemon.doctor.finding import Report
from scheduler.daemon.gathering.prices import OpenBook, PriceKeeper, open_book
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.ports import Clock

_READ_SECONDS: Final = 120.0
_TOLD: Final = 10
"""Most problems of one source that are told."""


async def check_prices(federation: Federation, report: Report, clock: Clock) -> None:
    """Every source is read once. A pool without a price is never bought where a price cap or a budget speaks."""
    book = await report.attempt("cannot be read", _opened(federation, clock), _READ_SECONDS, "correct spec.prices")
    if book is None:
        return
    try:
        reading = _outcomes(federation, book, clock)
        outcomes = await report.attempt("are not read", reading, _READ_SECONDS, "see the sources under spec.prices")
        _sources(book, report)
    finally:
        await book.book.close()
    if outcomes is not None:
        _pools(outcomes, report)


async def _opened(federation: Federation, clock: Clock) -> OpenBook:
    return open_book(federation, clock)


async def _outcomes(federation: Federation, book: OpenBook, clock: Clock) -> tuple[PriceOutcome, ...]:
    telemetry = Telemetry()
    keeper = PriceKeeper(Mirror(federation, {}, clock, telemetry), book, None, clock, telemetry)
    await keeper.read_once()
    return keeper.outcomes()


def _sources(book: OpenBook, report: Report) -> None:
    for source in book.book.health():
        if source.error:
            report.warn(f"source {source.name}: {source.error}", "correct its settings or credentials, or remove it")
        for problem in source.problems[:_TOLD]:
            report.warn(f"source {source.name}: {problem}", "correct what it reads")
        if not source.error:
            report.ok(f"source {source.name} gives {source.quotes} prices")


def _pools(outcomes: tuple[PriceOutcome, ...], report: Report) -> None:
    for outcome in outcomes:
        if outcome.price is None:
            pool = f"{outcome.query.cluster}/{outcome.query.pool}"
            remedy = "give the pool a price, or a source that knows it; caps and budgets keep it from being bought"
            report.warn(
                f"{pool}: its price is {'stale' if outcome.stale else 'unknown'}: {outcome.why_unknown}", remedy
            )
    known = sum(outcome.price is not None for outcome in outcomes)
    report.ok(f"of {known} of {len(outcomes)} pools are known")
