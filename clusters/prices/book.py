"""All price sources together: read each at its own pace, keep what was read last, tell what holds for a machine.

A source that is slow or fails delays and loses none of the others: each has a task and a time limit of its own. Its
last good quotes are kept, and age; `merge` tells when they are too old.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from clusters.prices import MayBeIncomplete, TellsProblems
from clusters.prices._order import in_order
from clusters.prices._settings import PriceSettings
from clusters.prices.merge import PriceOutcome, SourceReading, choose, merge
from scheduler.model.errors import OverspillError, ThrottledError
from scheduler.model.ids import Instant, PoolRef
from scheduler.model.money import Price
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery, PriceQuote, PriceSource

_TICK_SECONDS: Final = 30.0
"""How often a source's task looks whether it is due."""
_FIRST_RETRY_SECONDS: Final = 60.0
"""After a first failure; doubled with each further one, up to the source's interval."""
_MOST_DOUBLINGS: Final = 16
_MOST_PROBLEMS: Final = 100
_MOST_TEXT: Final = 500

Wanted = Callable[[], Sequence[PriceQuery]]


@dataclass(frozen=True, slots=True)
class BookedSource:
    """A source and how it is read. Times in seconds."""

    source: PriceSource
    max_age_seconds: float
    refresh_seconds: float
    limit_seconds: float
    """Of one reading; by the loop's own clock, for it guards against a hanging network."""

    @classmethod
    def of(cls, source: PriceSource, settings: PriceSettings) -> BookedSource:
        return cls(source, settings.max_age_seconds, settings.refresh_seconds, settings.limit_seconds)


@dataclass(frozen=True, slots=True)
class SourceHealth:
    """How reading one source goes, for people and metrics."""

    name: str
    read_at: Instant | None
    """When the last good reading ended; None: there was none."""
    took_seconds: float | None
    """Of the last reading, good or not."""
    quotes: int
    readings: int
    failures: int
    """Of all readings since the start."""
    failing_since: Instant | None
    error: str
    """Of the last reading; empty: it went well."""
    problems: tuple[str, ...]
    """What the source could not use of what it read, a line each."""


@dataclass(slots=True)
class _Entry:
    """One source's state. Its own task changes it, and no other."""

    name: str
    booked: BookedSource
    quotes: dict[PriceQuery, PriceQuote] = field(default_factory=dict)
    asked: frozenset[PriceQuery] = frozenset()
    due_at: Instant = float("-inf")
    read_at: Instant | None = None
    took_seconds: float | None = None
    readings: int = 0
    failures: int = 0
    failed_in_a_row: int = 0
    failing_since: Instant | None = None
    error: str = ""
    problems: tuple[str, ...] = ()
    reading: bool = False

    def is_due(self, wanted: Sequence[PriceQuery], now: Instant) -> bool:
        """At its time, and sooner when a machine is new; a failing source is waited for all the same."""
        new = not self.failed_in_a_row and not self.asked.issuperset(wanted)
        return not self.reading and bool(wanted) and (now >= self.due_at or new)


class PriceBook:
    """Sources in order of precedence, and what they said last."""

    def __init__(self, sources: Sequence[BookedSource], *, clock: Clock) -> None:
        self._clock = clock
        names: dict[str, int] = {}
        self._entries: list[_Entry] = []
        for booked in sources:
            count = names[booked.source.name] = names.get(booked.source.name, 0) + 1
            name = booked.source.name if count == 1 else f"{booked.source.name} ({count})"
            self._entries.append(_Entry(name, booked))

    async def run(self, wanted: Wanted) -> None:
        """Read every source whenever it is due, for what `wanted` tells then; until cancelled."""
        async with asyncio.TaskGroup() as group:
            for entry in self._entries:
                group.create_task(self._keep_reading(entry, wanted), name=f"prices-{entry.name}")

    async def refresh(self, wanted: Iterable[PriceQuery]) -> None:
        """Read once all sources that are due, at the same time; returns when each has answered, failed or used up its
        time. Raises nothing for what a source does."""
        queries = in_order(wanted)
        now = self._clock.now()
        async with asyncio.TaskGroup() as group:
            for entry in self._entries:
                if entry.is_due(queries, now):
                    group.create_task(self._read(entry, queries), name=f"prices-{entry.name}")

    def outcomes(
        self, wanted: Iterable[PriceQuery], pinned: Mapping[PoolRef, Price], now: Instant | None = None
    ) -> tuple[PriceOutcome, ...]:
        """What holds for each machine at `now` (None: the clock's), sorted. `pinned`: the federation file's prices."""
        readings = [
            SourceReading(
                name=entry.name,
                max_age_seconds=entry.booked.max_age_seconds,
                quotes=tuple(entry.quotes.values()),
                read_at=entry.read_at,
                error=entry.error,
            )
            for entry in self._entries
        ]
        return merge(wanted, readings, pinned, self._clock.now() if now is None else now)

    def health(self) -> tuple[SourceHealth, ...]:
        """Of every source, in order of precedence."""
        return tuple(
            SourceHealth(
                name=entry.name,
                read_at=entry.read_at,
                took_seconds=entry.took_seconds,
                quotes=len(entry.quotes),
                readings=entry.readings,
                failures=entry.failures,
                failing_since=entry.failing_since,
                error=entry.error,
                problems=entry.problems,
            )
            for entry in self._entries
        )

    async def close(self) -> None:
        """Closes every source, also when one of them fails to. Raises: what the first that failed raised."""
        closing = (entry.booked.source.close() for entry in self._entries)
        for result in await asyncio.gather(*closing, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    async def _keep_reading(self, entry: _Entry, wanted: Wanted) -> None:
        while True:
            queries = in_order(wanted())
            if entry.is_due(queries, self._clock.now()):
                await self._read(entry, queries)
            left = entry.due_at - self._clock.now()
            await self._clock.sleep(min(left, _TICK_SECONDS) if left > 0 else _TICK_SECONDS)

    async def _read(self, entry: _Entry, queries: Sequence[PriceQuery]) -> None:
        booked, began = entry.booked, self._clock.now()
        entry.reading = True
        try:
            async with asyncio.timeout(booked.limit_seconds):
                quotes = await booked.source.quotes(queries)
            self._succeeded(entry, queries, quotes)
        except TimeoutError:
            self._failed(entry, f"no answer within {booked.limit_seconds:g} s")
        except OverspillError as error:
            self._failed(entry, one_line(str(error)), error)
        except Exception as error:  # noqa: BLE001  (a fault of one source must not take the others with it)
            # Its text was written for nobody and may hold anything, so only its type is told.
            self._failed(entry, f"unexpected {type(error).__name__}; please report it")
        finally:
            entry.reading = False
        entry.readings += 1
        entry.took_seconds = max(0.0, self._clock.now() - began)
        entry.problems = _problems(booked.source)

    def _succeeded(self, entry: _Entry, queries: Sequence[PriceQuery], quotes: Iterable[PriceQuote]) -> None:
        now = self._clock.now()
        asked = frozenset(queries)
        found = choose(quote for quote in quotes if quote.query in asked)
        source = entry.booked.source
        if isinstance(source, MayBeIncomplete) and source.incomplete():
            found = {query: quote for query, quote in entry.quotes.items() if query in asked} | found
        entry.quotes = found
        entry.asked = asked
        entry.read_at, entry.error, entry.failing_since, entry.failed_in_a_row = now, "", None, 0
        entry.due_at = now + entry.booked.refresh_seconds

    def _failed(self, entry: _Entry, text: str, error: OverspillError | None = None) -> None:
        now = self._clock.now()
        wait = _FIRST_RETRY_SECONDS * 2.0 ** min(entry.failed_in_a_row, _MOST_DOUBLINGS)
        wait = min(wait, entry.booked.refresh_seconds)
        if isinstance(error, ThrottledError) and error.retry_after_seconds is not None:
            wait = max(wait, error.retry_after_seconds)
        entry.failures += 1
        entry.failed_in_a_row += 1
        entry.error = text
        entry.failing_since = now if entry.failing_since is None else entry.failing_since
        entry.due_at = now + wait


def one_line(text: str) -> str:
    """The text of an error as it is shown: printable, on one line, bounded."""
    plain = "".join(one if one.isprintable() else " " for one in text)
    return plain if len(plain) <= _MOST_TEXT else f"{plain[:_MOST_TEXT]}..."


def _problems(source: PriceSource) -> tuple[str, ...]:
    if not isinstance(source, TellsProblems):
        return ()
    return tuple(one_line(line) for line in source.problems()[:_MOST_PROBLEMS])
