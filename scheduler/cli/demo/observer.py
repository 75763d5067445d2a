"""The demo's witness: it watches the hub and every member over their Kubernetes APIs, apart from the daemon."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from scheduler.cli.demo.invariants import Invariants
from scheduler.cli.demo.records import read_copy
from scheduler.model.contract import DEPLOYMENTS, FEDERATED_WORKLOADS, JOBS, NODES, PODS
from scheduler.model.errors import ExternalError, GoneError, NotFoundError
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock, KubeApi, RawObject, Resource

_AGAIN_SECONDS: Final = 0.2
_CHECK_SECONDS: Final = 0.25
_SAYINGS: Final = 32
_BY_PLURAL: Final = {JOBS.plural: JOBS, DEPLOYMENTS.plural: DEPLOYMENTS}


@dataclass(frozen=True, slots=True)
class Saying:
    """What a hub object's Overspill condition newly says."""

    at: Instant
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class _Stream:
    cluster: str
    resource: Resource
    apply: Callable[[str, RawObject], None]


class Observer:
    """Feeds `invariants` from watches. `copy_seen` holds the wall time (monotonic) at which each hub UID's first copy
    was seen; `sayings` holds the latest decisions as the hub objects tell them; `changes` counts everything seen."""

    def __init__(self, hub: KubeApi, members: Mapping[str, KubeApi], invariants: Invariants, clock: Clock) -> None:
        self.invariants = invariants
        self.copy_seen: dict[str, float] = {}
        self.changes = 0
        self.sayings: deque[Saying] = deque(maxlen=_SAYINGS)
        self._hub = hub
        self._members = members
        self._clock = clock
        self._listed: set[tuple[str, str]] = set()
        self._all_listed = asyncio.Event()

    async def run(self) -> None:
        """Watch until cancelled."""
        streams = [(self._hub, _Stream("", resource, self._hub_event)) for resource in (JOBS, FEDERATED_WORKLOADS)]
        for cluster, api in self._members.items():
            streams += [
                (api, _Stream(cluster, NODES, self._node_event(cluster))),
                (api, _Stream(cluster, PODS, self._pod_event(cluster))),
                (api, _Stream(cluster, JOBS, self._copy_event(cluster, JOBS))),
                (api, _Stream(cluster, DEPLOYMENTS, self._copy_event(cluster, DEPLOYMENTS))),
            ]
        async with asyncio.TaskGroup() as group:
            for api, stream in streams:
                group.create_task(self._follow(api, stream, len(streams)))
            group.create_task(self._check())

    async def ready(self) -> None:
        """Return once every list has been read."""
        await self._all_listed.wait()

    async def _follow(self, api: KubeApi, stream: _Stream, streams: int) -> None:
        known: dict[str, RawObject] = {}
        while True:
            try:
                listed = await api.list(stream.resource)
                found = {item["metadata"]["uid"]: item for item in listed.items}
                for uid in known.keys() - found.keys():
                    self._apply(stream, "DELETED", known[uid])
                for item in listed.items:
                    self._apply(stream, "MODIFIED", item)
                known = found
                self._listed.add((stream.cluster, stream.resource.plural))
                if len(self._listed) == streams:
                    self._all_listed.set()
                await self._watch(api, stream, listed.resource_version, known)
            except ExternalError:
                # Unreachable, or its history is gone: list again, as long as the demo runs.
                await asyncio.sleep(_AGAIN_SECONDS)

    async def _watch(self, api: KubeApi, stream: _Stream, version: str, known: dict[str, RawObject]) -> None:
        """Follow from `version` across the server's closing of streams. Raises: GoneError when that is not possible."""
        while True:
            before = version
            async for event in api.watch(stream.resource, resource_version=version):
                meta = event.object["metadata"]
                version = meta.get("resourceVersion", version)
                if event.type == "BOOKMARK":
                    continue
                if event.type == "DELETED":
                    known.pop(meta["uid"], None)
                else:
                    known[meta["uid"]] = event.object
                self._apply(stream, event.type, event.object)
            if version == before:
                raise GoneError(f"{stream.cluster}: the watch of {stream.resource.plural} ended without an event")

    def _apply(self, stream: _Stream, change: str, obj: RawObject) -> None:
        self.changes += 1
        stream.apply(change, obj)

    def _hub_event(self, change: str, obj: RawObject) -> None:
        uid = obj["metadata"]["uid"]
        before = self.invariants.hub.get(uid)
        self.invariants.hub_event(change, obj)
        record = self.invariants.hub.get(uid)
        if record is not None and record.message and (before is None or before.message != record.message):
            self.sayings.append(Saying(self._clock.now(), record.name, record.reason, record.message))

    def _node_event(self, cluster: str) -> Callable[[str, RawObject], None]:
        return lambda change, obj: self.invariants.node_event(cluster, change, obj)

    def _pod_event(self, cluster: str) -> Callable[[str, RawObject], None]:
        return lambda change, obj: self.invariants.pod_event(cluster, change, obj, self._clock.now())

    def _copy_event(self, cluster: str, resource: Resource) -> Callable[[str, RawObject], None]:
        def apply(change: str, obj: RawObject) -> None:
            copy = read_copy(obj, cluster, resource.plural)
            if copy is not None:
                self.copy_seen.setdefault(copy.origin, time.monotonic())
                self.invariants.copy_event(cluster, resource.plural, change, obj, self._clock.now())

        return apply

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            self.invariants.check(self._clock.now())
            for copy in self.invariants.suspects():
                await self._confirm(copy.cluster, copy.plural, copy.namespace, copy.name, copy.uid)

    async def _confirm(self, cluster: str, plural: str, namespace: str, name: str, uid: str) -> None:
        """A copy that is still alive although a later one exists is a duplicate; one that has gone meanwhile is not."""
        try:
            obj = await self._members[cluster].get(_BY_PLURAL[plural], namespace, name)
        except NotFoundError:
            return
        except ExternalError:
            return  # not known now; it is asked again at the next check
        copy = read_copy(obj, cluster, plural)
        if copy is not None and copy.uid == uid and copy.alive:
            self.invariants.confirm(copy.origin)
