"""The gathering, shared: each member's nodes and pods come from its own API where this replica holds the shard, else
from the replica that does. While nobody does, what is known of the member counts for nothing.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import aiohttp

from clusters.clock import SystemClock
from clusters.kubernetes.reflector import Reflector
from scheduler.daemon.gathering.shards import Gathering, Holder, Shards
from scheduler.daemon.gathering.shared import SHARED, Published, SharedApi, SharedRoutes, Tee
from scheduler.model.errors import ExternalError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import KubeApi, Resource

_NOBODY: Final = "no replica gathers it"


@dataclass(frozen=True, slots=True)
class Wish:
    """One resource of one member, and who wants it."""

    cluster: ClusterId
    name: str
    api: KubeApi
    resource: Resource
    sink: Any
    on_failure: Callable[[ExternalError], None]
    selection: dict[str, Any]
    """Selectors, and what else its reflector is told."""


class Gatherers:
    """Belongs to the event loop."""

    def __init__(self, shards: Shards, gathering: Gathering, clusters: tuple[ClusterId, ...]) -> None:
        self.shards = shards
        self._gathering = gathering
        self._published: dict[tuple[str, str], Published] = {
            (cluster, name): Published(name) for cluster in clusters for name in SHARED
        }
        self._http: aiohttp.ClientSession | None = None

    @property
    def routes(self) -> SharedRoutes:
        """What this replica tells the others."""
        return SharedRoutes(self._published, self._gathers, self._gathering.token_file)

    def loop(self, wish: Wish) -> Callable[[], Awaitable[None]]:
        """The loop that gathers it from wherever it is to be had."""
        return partial(self._run, wish)

    async def close(self) -> None:
        """Give all shards up."""
        for published in self._published.values():
            published.close()
        await self.shards.release()
        if self._http is not None:
            await self._http.close()

    def _gathers(self, cluster: ClusterId) -> bool:
        holder = self.shards.holder(cluster)
        return holder is not None and holder.url is None

    async def _run(self, wish: Wish) -> None:
        told = False
        while True:
            changed, holder = self.shards.changed, self.shards.holder(wish.cluster)
            if holder is None:
                # Before anybody ever held it there is nothing to be taken back.
                if told:
                    wish.sink.on_state(False, _NOBODY)
                await changed.wait()
                continue
            told = True
            gathering = asyncio.ensure_future(self._from(wish, holder))
            try:
                while self.shards.holder(wish.cluster) == holder and not gathering.done():
                    moved = asyncio.ensure_future(self.shards.changed.wait())
                    await asyncio.wait({gathering, moved}, return_when=asyncio.FIRST_COMPLETED)
                    moved.cancel()
            finally:
                gathering.cancel()
                await asyncio.gather(gathering, return_exceptions=True)
                self._published[wish.cluster, wish.name].close()

    async def _from(self, wish: Wish, holder: Holder) -> None:
        api: Any = wish.api
        sink: Any = Tee(self._published[wish.cluster, wish.name], wish.sink)
        if holder.url is not None:
            if self._http is None:
                self._http = aiohttp.ClientSession()
            api = SharedApi(self._http, holder.url, wish.cluster, wish.name, self._gathering.token_file)
            sink = wish.sink
        reflector = Reflector(
            api,
            wish.resource,
            sink,
            wall=SystemClock(),
            jitter=random.random,
            on_failure=wish.on_failure,
            **wish.selection,
        )
        await reflector.run()
