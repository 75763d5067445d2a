"""Keeps the prices of the federation's pools: lets the price book read its sources, and tells the mirror what holds.

The federation file's own price wins; a price that is stale or missing is unknown. A change reaches the ledger, the
history and the next cycle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog

from clusters.prices import load_price_source
from clusters.prices.book import BookedSource, PriceBook
from clusters.prices.merge import PriceOutcome
from scheduler.daemon.config.federation import Federation, Source
from scheduler.daemon.config.routes import cloud_region
from scheduler.daemon.gathering.discovery import ZONE_LABEL
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import PRICES
from scheduler.daemon.state.member_mirror import MemberMirror
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.cluster import NodePool
from scheduler.model.errors import OverspillError
from scheduler.model.ids import ClusterId, Instant, PoolId, PoolRef
from scheduler.model.money import Price, Usd
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery

log = structlog.get_logger(__name__)
_LOOK_SECONDS: Final = 15.0
"""Between two looks at what the book knows, in the federation's time. Reading is the book's own affair."""
_LOOK_AT_LEAST_WALL_SECONDS: Final = 0.25
_DEFAULT: Final = Source("catalogue", {"type": "catalogue"}, Path())


@dataclass(frozen=True, slots=True)
class OpenBook:
    """A price book, and how old a price of each of its sources may be, in their order."""

    book: PriceBook
    max_ages_seconds: tuple[float, ...]


def open_book(federation: Federation, clock: Clock) -> OpenBook:
    """The sources that the federation file names, in its order; the embedded catalogue when it names none. Nothing is
    read yet.

    Raises: OverspillError for settings and credentials of no use.
    """
    booked = booked_sources(federation, clock)
    return OpenBook(PriceBook(booked, clock=clock), tuple(one.max_age_seconds for one in booked))


def booked_sources(federation: Federation, clock: Clock) -> list[BookedSource]:
    booked = []
    for source in federation.prices or (_DEFAULT,):
        module = load_price_source(source.type)
        context = {"base_dir": source.base_dir, "currencies": federation.currencies}
        settings = module.Settings.model_validate(dict(source.settings), context=context)
        booked.append(BookedSource.of(module.create(settings, clock=clock), settings))
    return booked


class PriceKeeper:
    """Belongs to the event loop."""

    def __init__(
        self,
        mirror: Mirror,
        prices: OpenBook,
        history: History | None,
        clock: Clock,
        telemetry: Telemetry,
        changed: Callable[[ClusterId], None] = lambda cluster: None,
    ) -> None:
        """`changed` is called after the prices of a member's pools have; without `history` changes are not kept."""
        self.book = prices.book
        self._max_ages = prices.max_ages_seconds
        self._mirror = mirror
        self._history = history
        self._clock = clock
        self._telemetry = telemetry
        self._changed = changed
        self._told: dict[ClusterId, Mapping[PoolId, Price]] = {}
        self._failures: dict[str, int] = {}

    async def run(self) -> None:
        """Read and look for ever. A standby and shadow mode do, too."""
        await self._remember()
        async with asyncio.TaskGroup() as group:
            group.create_task(self.book.run(self.queries))
            group.create_task(self._keep_looking())

    async def _keep_looking(self) -> None:
        while True:
            self.take_up()
            now = self._clock.now()
            due = min((now + _LOOK_SECONDS, *(until for until in self._expiries() if until > now)))
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(_LOOK_AT_LEAST_WALL_SECONDS))
                group.create_task(self._clock.sleep(due - now))

    async def read_once(self) -> None:
        """Have every source read, and take up what is known then."""
        await self.book.refresh(self.queries())
        self.take_up()

    def take_up(self) -> None:
        """Bring the mirror up to what the book knows now, and tell who must know of a change."""
        gathered: dict[ClusterId, dict[PoolId, tuple[Price, Instant]]] = {}
        for outcome in self.outcomes():
            until = self._until(outcome)
            if outcome.price is not None and until is not None:
                member = gathered.setdefault(outcome.query.cluster, {})
                member[PoolId(outcome.query.pool)] = (outcome.price, until)
        for cluster, member_mirror in self._mirror.members.items():
            fresh = gathered.get(cluster, {})
            member_mirror.set_prices(fresh)
            self._note(cluster, {pool: price for pool, (price, _) in fresh.items()})
        self._count_failures()

    def outcomes(self) -> tuple[PriceOutcome, ...]:
        """What is known now of the price of every pool, the federation file's own prices included."""
        pools = [pool for member in self._mirror.members.values() for pool in member.member.pools]
        pinned: dict[PoolRef, Price] = {pool.ref: pool.price for pool in pools if pool.price is not None}
        return self.book.outcomes(self.queries(), pinned)

    def queries(self) -> Sequence[PriceQuery]:
        """Of every pool, those included that the file gives a price: people see both."""
        return [price_query(member, pool) for member in self._mirror.members.values() for pool in member.member.pools]

    def _until(self, outcome: PriceOutcome) -> Instant | None:
        """Until when a gathered price is fresh; None: it is the federation file's, or unknown."""
        for answer, max_age in zip(outcome.answers, self._max_ages, strict=True):
            if answer.source == outcome.winner and answer.quote is not None:
                return answer.quote.as_of + max_age
        return None

    def _note(self, cluster: ClusterId, prices: Mapping[PoolId, Price]) -> None:
        """Record what is other than at the last look. The same amount from elsewhere or of later is no change."""
        before = self._told.get(cluster, {})
        self._told[cluster] = prices
        changes = [pool for pool in sorted({*before, *prices}) if _usd(before.get(pool)) != _usd(prices.get(pool))]
        for pool in changes:
            self._record(cluster, pool, prices.get(pool))
        if changes:
            self._changed(cluster)
            self._mirror.on_change()

    def _record(self, cluster: ClusterId, pool: PoolId, price: Price | None) -> None:
        usd = str(price.usd_per_hour) if price is not None else None
        source = price.source if price is not None else ""
        log.info("price_changed", cluster=cluster, pool=pool, usd_per_hour=usd, source=source)
        self._telemetry.price_changes.labels(cluster).inc()
        if self._history is not None:
            row = {"cluster": cluster, "pool": pool, "learned_at": self._clock.now(), "usd_per_hour": usd}
            row |= {"source": source[:256], "as_of": price.as_of if price is not None else None}
            self._history.record(PRICES, row)

    def _count_failures(self) -> None:
        for source in self.book.health():
            more = source.failures - self._failures.get(source.name, 0)
            if more > 0:
                self._telemetry.price_source_failures.labels(source.name).inc(more)
                log.warning("price_source_failed", source=source.name, error=source.error)
            self._failures[source.name] = source.failures

    async def _remember(self) -> None:
        """Take up the last known prices from before a restart: for what runs already, never to buy at."""
        if self._history is None:
            return
        try:
            rows = await self._history.last_prices()
        except OverspillError as error:
            log.error("prices_not_restored", error=str(error))
            return
        for cluster, member in self._mirror.members.items():
            member.remember_prices(
                {
                    PoolId(row["pool"]): Price(Usd(row["usd_per_hour"]), row["source"], row["as_of"])
                    for row in rows
                    if row["cluster"] == cluster
                }
            )

    def _expiries(self) -> Iterator[Instant]:
        for member in self._mirror.members.values():
            yield from member.price_expiries()


def price_region(member: MemberMirror) -> str:
    """The cloud's own name of the member's region."""
    return cloud_region(member.member)


def price_query(member: MemberMirror, pool: NodePool) -> PriceQuery:
    """What is asked about a pool: in the file's words, and in the cloud's where the file is silent."""
    status = next((status for status in member.discovered.pools if status.pool == pool.ref.pool), None)
    zone = dict(pool.labels).get(ZONE_LABEL)
    size = pool.node_resources
    return PriceQuery(
        cluster=member.member.id,
        pool=pool.ref.pool,
        provider=member.member.provider_type,
        region=price_region(member),
        zones=(zone,) if zone is not None else tuple(sorted(status.zones)) if status is not None else (),
        instance_type=pool.instance_type or (status.instance_type if status is not None else ""),
        capacity_type=pool.capacity_type,
        gpu_model=pool.gpu_model,
        gpus=size.gpus,
        cpu_milli=size.cpu_milli,
        memory_bytes=size.memory_bytes,
    )


def _usd(price: Price | None) -> Usd | None:
    return price.usd_per_hour if price is not None else None
