"""One reading of a source: several questions, one after the other, and what could not be used of the answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

from clusters.prices._order import in_order
from scheduler.model.errors import ExternalError, ThrottledError
from scheduler.model.prices import PriceQuote

Read = Callable[[], Awaitable[Sequence[PriceQuote]]]

_MOST_PROBLEMS: Final = 100


class Problems:
    """Lines on what a reading could not use, the first of each kept; see `clusters.prices.TellsProblems`."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}
        self.incomplete = False
        """Whether a part of the reading failed, so that what it would have told is unknown but not gone."""

    def add(self, line: str) -> None:
        if len(self._lines) < _MOST_PROBLEMS:
            self._lines["".join(one if one.isprintable() else "?" for one in line[:400])] = None

    def lines(self) -> tuple[str, ...]:
        return tuple(self._lines)


async def read_each(reads: Iterable[Read], problems: Problems) -> tuple[PriceQuote, ...]:
    """What the reads told, sorted. What one of them fails to tell is left out and noted; after being throttled nothing
    more is asked. Raises: the last ExternalError when nothing was told at all.
    """
    found: list[PriceQuote] = []
    failed: ExternalError | None = None
    for read in reads:
        try:
            found += await read()
        except ExternalError as error:
            failed = error
            problems.incomplete = True
            problems.add(str(error))
            if isinstance(error, ThrottledError):
                break
    if failed is not None and not found:
        raise failed
    return in_query_order(found)


def in_query_order(quotes: Iterable[PriceQuote]) -> tuple[PriceQuote, ...]:
    """Sorted by what was asked, one quote for each."""
    by_query = {one.query: one for one in quotes}
    return tuple(by_query[query] for query in in_order(by_query))
