"""Gathering without a daemon: each member, cloud and source is asked once, and the answers are kept as a daemon would.

For `overspill clusters`, `prices` and `metrics` with `--config`. What fails is told beside what was asked; nothing is
written anywhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from clusters.clock import SharedClock, SystemClock
from scheduler.daemon.config.federation import Federation, Member
from scheduler.daemon.gathering.gathered import Gathered
from scheduler.daemon.gathering.metrics import MetricsKeeper, open_collector
from scheduler.daemon.gathering.prices import PriceKeeper, open_book
from scheduler.daemon.main import open_member, open_provider
from scheduler.daemon.placing.pools import PoolKeeper
from scheduler.daemon.state.member_mirror import NODES, PODS, POOLS, MemberMirror
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.state.sinks import MemberSink
from scheduler.daemon.state.watching import round_trip
from scheduler.daemon.telemetry import Telemetry
from scheduler.model import contract
from scheduler.model.errors import FencedError, OverspillError
from scheduler.model.ports import Clock, KubeApi, NodePoolProvider, Resource

_MEMBER_SECONDS: Final = 90.0
"""Longest that one member may take, all that is asked of it together."""
_WATCHED: Final[tuple[tuple[str, Resource], ...]] = ((NODES, contract.NODES), (PODS, contract.PODS))


class OneLook:
    """A look at a federation from the command line. Belongs to the event loop."""

    def __init__(self, federation: Federation, stack: AsyncExitStack) -> None:
        """Raises: InvalidObjectError when the file's clock cannot be used."""
        self._federation = federation
        self._stack = stack
        self._clock: Clock = SharedClock(federation.clock_file) if federation.clock_file is not None else SystemClock()
        self._telemetry = Telemetry()
        self._mirror = Mirror(federation, {}, self._clock, self._telemetry)
        self._prices = PriceKeeper(self._mirror, open_book(federation, self._clock), None, self._clock, self._telemetry)
        stack.push_async_callback(self._prices.book.close)
        metrics = open_collector(federation, self._clock)
        stack.push_async_callback(metrics.collector.close)
        self._readings = MetricsKeeper(self._mirror, metrics, self._clock, self._telemetry)
        self.gathered = Gathered(self._clock, self._mirror, self._prices, self._readings)

    async def ask_clusters(self, only: str = "") -> None:
        """Every member (or that one), its API and its cloud, all at once. Raises: NotFoundError."""
        if only:
            self.gathered.cluster(only)
        members = [member for member in self._mirror.members.values() if only in ("", member.member.id)]
        async with asyncio.TaskGroup() as group:
            for member in members:
                group.create_task(self._ask_member(member))

    async def ask_prices(self) -> None:
        """Every price source, all at once."""
        await self._prices.read_once()

    async def ask_metrics(self, only: str = "") -> None:
        """Every member's metrics (or that one's), and how far away each is."""
        members = [member for member in self._mirror.members.values() if only in ("", member.member.id)]
        async with asyncio.TaskGroup() as group:
            group.create_task(self._readings.collect())
            for member in members:
                group.create_task(self._ping_member(member))

    async def _ping_member(self, member: MemberMirror) -> None:
        try:
            async with asyncio.timeout(_MEMBER_SECONDS):
                api, _ = await self._open(member.member)
                await self._ping(member, api)
        except (OverspillError, TimeoutError) as error:
            self._failed(member, "ping", error)
            member.set_round_trip(None, self._clock.now())

    async def _ask_member(self, member: MemberMirror) -> None:
        try:
            async with asyncio.timeout(_MEMBER_SECONDS):
                api, provider = await self._open(member.member)
                keeper = PoolKeeper(self._mirror, member, provider, api, self._clock, self._telemetry, _never)
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._ask_cloud(member, keeper))
                    group.create_task(self._told(member, "ping", self._ping(member, api)))
                    for name, resource in _WATCHED:
                        group.create_task(self._told(member, name, self._list(member, api, name, resource)))
        except (OverspillError, TimeoutError) as error:
            self._failed(member, "connect", error)

    async def _ask_cloud(self, member: MemberMirror, keeper: PoolKeeper) -> None:
        await keeper.look()
        self._mirror.listed(member, POOLS)
        await keeper.discover()

    async def _ping(self, member: MemberMirror, api: KubeApi) -> None:
        # The first call pays for connecting and logging in, which is not what is measured.
        await round_trip(api)
        member.set_round_trip(await round_trip(api), self._clock.now())

    async def _list(self, member: MemberMirror, api: KubeApi, name: str, resource: Resource) -> None:
        listed = await api.list(resource)
        MemberSink(self._mirror, member, name).on_replace(listed.items)

    async def _told(self, member: MemberMirror, what: str, asked: Awaitable[None]) -> None:
        try:
            await asked
        except OverspillError as error:
            self._failed(member, what, error)

    def _failed(self, member: MemberMirror, what: str, error: BaseException) -> None:
        text = str(error) or f"no answer within {_MEMBER_SECONDS:.0f} s"
        self._mirror.set_reachable(member, what, False, text[:300])

    async def _open(self, member: Member) -> tuple[KubeApi, NodePoolProvider]:
        provider = open_provider(member, self._clock)
        self._stack.push_async_callback(provider.close)
        api = await open_member(member, provider)
        self._stack.push_async_callback(api.close)
        return api, provider


@asynccontextmanager
async def one_look(federation: Federation) -> AsyncIterator[OneLook]:
    """Whatever it opens is closed again at the end. Raises: InvalidObjectError."""
    async with AsyncExitStack() as stack:
        yield OneLook(federation, stack)


def _never() -> None:
    raise FencedError("a look from the command line writes nothing")
