"""Who gathers what: members are split into shards, and each shard is a replica's for as long as it holds its Lease.

A free shard is taken by whoever sees it first, one whose holder is gone when its Lease has run out. A replica that
holds two fewer than another asks for one, by a word on its Lease, and gets it released: so shares come to differ by one
at most, whoever comes or goes, and no replica need know how many there are.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from scheduler.daemon.leading.leader import Leader, LeaseSettings
from scheduler.model.contract import LEASES
from scheduler.model.errors import ExternalError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import Clock, KubeApi, RawObject

log = structlog.get_logger(__name__)
URL: Final = "overspill.dev/url"
WANTED_BY: Final = "overspill.dev/wanted-by"
"""On a shard's Lease: where its holder is reached, and who asks for it."""
_CALL_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Gathering:
    """How this replica shares the gathering."""

    shards: int
    url: str
    """Where the other replicas reach this one."""
    token_file: Path


@dataclass(frozen=True, slots=True)
class Holder:
    """Of a shard. `url` None: this replica."""

    identity: str
    url: str | None


def shard_of(cluster: ClusterId, shards: int) -> int:
    """The same in every replica and version."""
    return int.from_bytes(hashlib.sha256(cluster.encode()).digest()[:8]) % shards


def shard_leases(shards: int, settings: LeaseSettings) -> tuple[LeaseSettings, ...]:
    """The Lease of each shard, beside the federation's own, `settings`."""
    return tuple(replace(settings, name=f"{settings.name[:50]}-shard-{number}") for number in range(shards))


class Shards:
    """Belongs to the event loop."""

    def __init__(
        self, api: KubeApi, identity: str, gathering: Gathering, clock: Clock, settings: LeaseSettings, own_clock: Clock
    ) -> None:
        self._api = api
        self._identity = identity
        self._settings = settings
        self._own = own_clock
        self._leases = [
            Leader(api, identity, clock, lambda held: None, lease, own_clock, {URL: gathering.url})
            for lease in shard_leases(gathering.shards, settings)
        ]
        self._holders: list[Holder | None] = [None] * gathering.shards
        self.changed = asyncio.Event()
        """Set, and replaced, when a shard changes hands."""

    def holder(self, cluster: ClusterId) -> Holder | None:
        """Who gathers of this member now; None: nobody."""
        number = shard_of(cluster, len(self._leases))
        found = self._holders[number]
        return None if found is not None and found.url is None and not self._leases[number].is_leader else found

    @property
    def mine(self) -> int:
        """How many this replica holds."""
        return sum(lease.is_leader for lease in self._leases)

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                async with asyncio.timeout(self._settings.renew_deadline_seconds):
                    await self.look()
            except TimeoutError:
                log.warning("shards_not_looked_at")
            self._tell(self._holders)
            await self._own.sleep(self._settings.retry_seconds)

    async def look(self) -> None:
        """One round: renew, take what is free, give what is asked for, ask for a fair share."""
        found = await asyncio.gather(*(self._read(lease) for lease in self._leases))
        self._tell([self._known(*pair) for pair in zip(self._leases, found, strict=True)])
        counts = Counter(holder.identity for holder in self._holders if holder is not None)
        held = list(self._holders)
        for number, (lease, raw) in enumerate(zip(self._leases, found, strict=True)):
            if raw is _UNREAD or not self._is_to_be_had(lease, raw):
                continue
            asking = _said(raw, WANTED_BY)
            mine = lease.is_leader
            if mine and asking not in ("", self._identity) and counts[self._identity] >= counts[asking] + 2:
                counts.subtract([self._identity])
                counts.update([asking])
                held[number] = None
                # Before it is given away: nothing more of it is told by this replica.
                self._tell(held)
                await lease.release()
            elif await self._take(lease, raw):
                counts.update(() if mine else [self._identity])
                held[number] = Holder(self._identity, None)
        self._tell(held)
        await self._ask(found, counts)

    async def release(self) -> None:
        """Give all up, so that the others need not wait for them to run out."""
        await asyncio.gather(*(lease.release() for lease in self._leases))

    async def _read(self, lease: Leader) -> RawObject | None:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                return await lease.look()
        except (ExternalError, TimeoutError) as error:
            log.warning("shard_not_read", error=str(error)[:200])
            return _UNREAD

    def _known(self, lease: Leader, raw: RawObject | None) -> Holder | None:
        if lease.is_leader:
            return Holder(self._identity, None)
        if raw is _UNREAD:
            return None
        holder = lease.held_by(raw)
        return None if holder in ("", self._identity) else Holder(holder, _said(raw, URL))

    def _is_to_be_had(self, lease: Leader, raw: RawObject | None) -> bool:
        """Ours, free, or run out. One that was released for another is left to it until it has run out, too."""
        if lease.is_leader:
            return True
        if lease.held_by(raw) not in ("", self._identity):
            return False
        return _said(raw, WANTED_BY) in ("", self._identity) or lease.has_run_out(raw)

    async def _take(self, lease: Leader, raw: RawObject | None) -> bool:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                await lease.take(raw, without=() if lease.is_leader else (WANTED_BY,))
        except (ExternalError, TimeoutError) as error:
            log.warning("shard_not_renewed", error=str(error)[:200])
        return lease.is_leader

    async def _ask(self, found: Sequence[RawObject | None], counts: Counter[str]) -> None:
        others = [(count, name) for name, count in counts.items() if name != self._identity]
        most, richest = max(others, default=(0, ""))
        if most < counts[self._identity] + 2:
            return
        pairs = zip(found, self._holders, strict=True)
        theirs = [raw for raw, at in pairs if raw and at is not None and at.identity == richest]
        if any(_said(raw, WANTED_BY) == self._identity for raw in theirs):
            return
        for raw in theirs:
            # Without a version: its holder renews it all the time, and this is a word beside that.
            body = {"metadata": {"annotations": {WANTED_BY: self._identity}}}
            try:
                async with asyncio.timeout(_CALL_SECONDS):
                    await self._api.patch(LEASES, self._settings.namespace, str(raw["metadata"]["name"]), body)
            except (ExternalError, TimeoutError) as error:
                log.warning("shard_not_asked_for", error=str(error)[:200])
            return

    def _tell(self, holders: Sequence[Holder | None]) -> None:
        now = [None if one is not None and one.url is None and not lease.is_leader else one
               for one, lease in zip(holders, self._leases, strict=True)]  # fmt: skip
        if now != self._holders:
            log.info("shards", holders=[None if one is None else one.identity for one in now])
            self._holders = now
            changed, self.changed = self.changed, asyncio.Event()
            changed.set()


_UNREAD: Final[RawObject] = {}


def _said(raw: RawObject | None, name: str) -> str:
    annotations = ((raw or {}).get("metadata") or {}).get("annotations")
    return str(annotations.get(name) or "") if isinstance(annotations, dict) else ""
