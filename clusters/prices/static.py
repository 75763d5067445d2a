"""Prices out of the user's own file, CSV or YAML; `_price_file` tells its columns. Read again when it changes."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import Field

from clusters.prices._amounts import shown
from clusters.prices._clouds import cloud_of
from clusters.prices._order import in_order
from clusters.prices._plausible import plausible
from clusters.prices._price_file import MAX_BYTES, PriceFileError, PriceRow, parse
from clusters.prices._settings import NearbyPath, PriceSettings
from clusters.prices.currency import Currencies, to_usd
from clusters.providers._blocking import BlockingCalls
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant
from scheduler.model.money import Usd
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery, PriceQuote

_A_YEAR: Final = 366 * 86400.0
_Fingerprint = tuple[int, int, int]
"""Time of change in ns, size in bytes, inode."""


class Settings(PriceSettings):
    type: Literal["static"]
    path: NearbyPath
    """The file; .yaml or .yml, anything else is CSV."""
    max_age_seconds: float = Field(default=_A_YEAR, gt=0, allow_inf_nan=False)
    """What was agreed on holds for long; a line that is older than a year has probably been forgotten."""
    refresh_seconds: float = Field(default=60.0, ge=1, le=7 * 86400.0, allow_inf_nan=False)
    """How often the file is looked at; it is read only when it has changed."""
    currencies: Currencies = Field(default_factory=dict, validate_default=True)


@dataclass(frozen=True, slots=True)
class _Priced:
    """A row in USD."""

    row: PriceRow
    usd: Usd
    as_of: Instant
    note: str


class PriceFile:
    """Answers by the row that says most of the machine: its zone, else its region, else its provider.

    A file that cannot be understood changes nothing: what was read last is kept, and `problems` says so.
    """

    name = "static"

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._path = settings.path
        self._rates = settings.currencies
        self._clock = clock
        self._seen: _Fingerprint | None = None
        self._rows: dict[tuple[str, str], list[_Priced]] | None = None
        self._rows_unknown: tuple[str, ...] = ()
        """Lines of the last good reading whose price cannot be told."""
        self._problems: tuple[str, ...] = ()
        self._calls = BlockingCalls("prices-static", limit_seconds=settings.read_timeout_seconds, threads=1, waiting=2)

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        """Raises: PriceFileError (an InvalidObjectError) when the file was never understood; TransientError when it
        cannot be read in time."""
        try:
            data = await self._calls.run(f"read {self._path.name}", self._changed)
            if data is not None:
                self._take(*data)
            self._problems = self._rows_unknown
        except PriceFileError as error:
            if self._rows is None:
                self._problems = error.lines
                raise
            self._problems = (*error.lines, f"{self._path.name}: prices of the last good reading are kept")
        found = (self._quote(query) for query in in_order(wanted))
        return tuple(quote for quote in found if quote is not None)

    def problems(self) -> tuple[str, ...]:
        return self._problems

    async def close(self) -> None:
        await self._calls.close()

    def _changed(self) -> tuple[tuple[PriceRow, ...] | PriceFileError, _Fingerprint] | None:
        """Runs in a thread. None: as it was read before."""
        name = self._path.name
        try:
            # Not blocking, for opening a named pipe would wait for a writer.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise PriceFileError([f"{name}:1: not a file; check `path`"])
                seen = (status.st_mtime_ns, status.st_size, status.st_ino)
                if seen == self._seen:
                    return None
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read(MAX_BYTES + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise PriceFileError([f"{name}:1: cannot be read ({error.strerror}); check `path`"]) from error
        try:
            return parse(data, name), seen
        except PriceFileError as error:
            return error, seen

    def _take(self, read: tuple[PriceRow, ...] | PriceFileError, seen: _Fingerprint) -> None:
        if isinstance(read, PriceFileError):
            # Not remembered as seen: as long as it is broken, every reading says so.
            raise read
        now = self._clock.now()
        rows: dict[tuple[str, str], list[_Priced]] = defaultdict(list)
        problems = []
        for row in read:
            try:
                converted = to_usd(row.price, row.currency, self._rates)
                usd = plausible(converted.usd)
                if usd is None:
                    raise InvalidObjectError(f"{shown(converted.usd)} USD per hour is not plausible")
                priced = _Priced(row, usd, now if row.as_of is None else row.as_of, converted.note)
                rows[row.instance_type, row.capacity_type].append(priced)
            except InvalidObjectError as error:
                problems.append(f"{self._path.name}:{row.line}: {error}; its price is unknown")
        self._seen, self._rows, self._rows_unknown = seen, dict(rows), tuple(problems)

    def _quote(self, query: PriceQuery) -> PriceQuote | None:
        """In any of several zones a node may come up, so the dearest of them is told, and nothing when the price of
        one is unknown."""
        rows = (self._rows or {}).get((query.instance_type, query.capacity_type), [])
        each = [_best(rows, query, zone) for zone in query.zones or (None,)]
        known = [one for one in each if one is not None]
        if len(known) < len(each):
            return None
        dearest = max(known, key=lambda one: (one.usd, -one.row.line))
        told = f"static {self._path.name}:{dearest.row.line}"
        return PriceQuote(query, dearest.usd, f"{told}, {dearest.note}" if dearest.note else told, dearest.as_of)


def _best(rows: Iterable[_Priced], query: PriceQuery, zone: str | None) -> _Priced | None:
    """The row that says most of a machine in that zone (None: anywhere in the region). Rows differ in what they say, so
    there is one."""
    names = (query.provider, cloud_of(query.provider))
    fitting = [
        one
        for one in rows
        if one.row.provider in (None, *names)
        and one.row.region in (None, query.region)
        and (one.row.zone is None or one.row.zone == zone)
    ]
    return max(
        fitting,
        key=lambda one: (one.row.zone is not None, one.row.region is not None, one.row.provider is not None),
        default=None,
    )


def create(settings: Settings, *, clock: Clock) -> PriceFile:
    """The source; the file is first read when quotes are asked for."""
    return PriceFile(settings, clock)
