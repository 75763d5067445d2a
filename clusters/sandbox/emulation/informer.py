"""A resource of one cluster, listed and watched into memory, with indexes and event handlers."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

import structlog

from clusters.sandbox.emulation.objects import key_of
from scheduler.model.errors import ExternalError, GoneError, NotServedError
from scheduler.model.ports import KubeApi, RawObject, Resource

_log = structlog.get_logger(__name__)
Handler = Callable[[str, RawObject | None, RawObject], None]
"""Called with ADDED, MODIFIED or DELETED, the former object and the present (for DELETED: the last) one."""
_TOMBSTONES = 4096
_ABSENT_SECONDS = 0.5


class Index:
    """Objects by a value that a function takes from them (None: not in the index)."""

    def __init__(self, value_of: Callable[[RawObject], str | None]) -> None:
        self.value_of = value_of
        self._by_value: dict[str, dict[str, RawObject]] = {}

    def get(self, value: str) -> Mapping[str, RawObject]:
        return self._by_value.get(value, {})

    def replace(self, key: str, old: RawObject | None, new: RawObject | None) -> None:
        before = self.value_of(old) if old is not None else None
        after = self.value_of(new) if new is not None else None
        if before is not None and before != after:
            group = self._by_value[before]
            group.pop(key, None)
            if not group:
                del self._by_value[before]
        if after is not None and new is not None:
            self._by_value.setdefault(after, {})[key] = new


class Informer:
    """The cache of one resource. Handlers run synchronously, after the cache and its indexes have changed."""

    def __init__(self, api: KubeApi, resource: Resource, *, optional: bool = False) -> None:
        """`optional`: its definition need not be installed; until it is, there are none."""
        self.resource = resource
        self.synced = asyncio.Event()
        self.objects: dict[str, RawObject] = {}
        self._api = api
        self._optional = optional
        self._indexes: list[Index] = []
        self._handlers: list[Handler] = []
        self._gone: OrderedDict[str, None] = OrderedDict()

    def index(self, value_of: Callable[[RawObject], str | None]) -> Index:
        index = Index(value_of)
        for key, obj in self.objects.items():
            index.replace(key, None, obj)
        self._indexes.append(index)
        return index

    def handle(self, handler: Handler) -> None:
        self._handlers.append(handler)

    def get(self, key: str) -> RawObject | None:
        return self.objects.get(key)

    def was_deleted(self, uid: str) -> bool:
        """Whether an object with this UID was seen to be deleted, not long ago."""
        return uid in self._gone

    def observe(self, obj: RawObject) -> None:
        """Take in the answer to a write of ours before the watch brings it; harmless in any order."""
        if obj["metadata"]["uid"] not in self._gone:
            self._store(obj)

    async def run(self) -> None:
        """List, then watch, for ever; lists again when the version is too old or the API was away."""
        pause = 0.05
        while True:
            try:
                listed = await self._api.list(self.resource)
                self._reset(listed.items)
                self.synced.set()
                pause = 0.05
                await self._follow(listed.resource_version)
            except GoneError:
                continue
            except ExternalError as error:
                if self._optional and isinstance(error, NotServedError):
                    self._reset(())
                    await asyncio.sleep(_ABSENT_SECONDS)
                    continue
                _log.debug("watch broken", resource=self.resource.plural, error=str(error))
                await asyncio.sleep(pause)
                pause = min(5.0, pause * 2)

    async def _follow(self, version: str) -> None:
        while True:
            async for event in self._api.watch(self.resource, resource_version=version):
                version = event.object["metadata"]["resourceVersion"]
                if event.type == "DELETED":
                    self._remove(key_of(event.object), event.object)
                elif event.type != "BOOKMARK":
                    self._store(event.object)
            await asyncio.sleep(0.01)

    def _reset(self, items: Iterable[RawObject]) -> None:
        listed = {key_of(item): item for item in items}
        for key in [key for key in self.objects if key not in listed]:
            self._remove(key, self.objects[key])
        for item in listed.values():
            self._store(item)

    def _store(self, obj: RawObject) -> None:
        key, old = key_of(obj), self.objects.get(key_of(obj))
        if old is not None and old["metadata"]["uid"] != obj["metadata"]["uid"]:
            self._remove(key, old)
            old = None
        if old is not None and _version(old) >= _version(obj):
            return
        self.objects[key] = obj
        for index in self._indexes:
            index.replace(key, old, obj)
        for handler in self._handlers:
            handler("ADDED" if old is None else "MODIFIED", old, obj)

    def _remove(self, key: str, last: RawObject) -> None:
        self._gone[last["metadata"]["uid"]] = None
        if len(self._gone) > _TOMBSTONES:
            self._gone.popitem(last=False)
        old = self.objects.get(key)
        if old is None or old["metadata"]["uid"] != last["metadata"]["uid"]:
            return
        del self.objects[key]
        for index in self._indexes:
            index.replace(key, old, None)
        for handler in self._handlers:
            handler("DELETED", old, last)


def _version(obj: RawObject) -> int:
    return int(obj["metadata"]["resourceVersion"])
