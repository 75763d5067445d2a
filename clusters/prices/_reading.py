"""Several questions put to one source, one after the other: what one of them fails to tell is left out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import structlog

from scheduler.model.errors import ExternalError, ThrottledError
from scheduler.model.prices import PriceQuote

_log = structlog.get_logger(__name__)

Read = Callable[[], Awaitable[Sequence[PriceQuote]]]


async def read_each(source: str, reads: Iterable[Read]) -> tuple[PriceQuote, ...]:
    """What the reads told, sorted. After being throttled nothing more is asked.

    Raises: the last ExternalError when nothing was told; one that left only some prices out is logged.
    """
    found: list[PriceQuote] = []
    failed: ExternalError | None = None
    for read in reads:
        try:
            found += await read()
        except ExternalError as error:
            failed = error
            if isinstance(error, ThrottledError):
                break
    if failed is not None:
        if not found:
            raise failed
        _log.warning("prices.incomplete", source=source, error=str(failed))
    return tuple(sorted(found, key=lambda one: one.query))
