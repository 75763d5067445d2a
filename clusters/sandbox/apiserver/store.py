"""The versioned object store: immutable entries, a bounded log of changes per kind, and their fan-out to watchers.

Objects are never changed in place: a write stores a new dict, so entries, snapshots, log and watchers share them, and
each entry is encoded at most once. Everything is synchronous and belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

Object = dict[str, Any]
StorageKey = tuple[str, str]
"""(group, plural): all versions of a kind share one collection."""

LOG_LENGTH: Final = 20_000
"""Changes per kind that a watch can resume from."""
WATCHER_QUEUE: Final = 50_000
"""Changes that a slow watcher may be behind before it is cut off (it relists)."""
SNAPSHOTS: Final = 64
"""Paged lists that can be under way at once."""

ADDED: Final = "ADDED"
MODIFIED: Final = "MODIFIED"
DELETED: Final = "DELETED"


class Entry:
    """One object at one resourceVersion."""

    __slots__ = ("_encoded", "labels", "name", "namespace", "obj", "version")

    def __init__(self, namespace: str, name: str, obj: Object, version: int) -> None:
        self.namespace = namespace
        self.name = name
        self.obj = obj
        self.version = version
        self.labels: Mapping[str, str] = obj["metadata"].get("labels") or {}
        self._encoded: bytes | None = None

    @property
    def encoded(self) -> bytes:
        """The object as JSON; made once and shared by all readers."""
        if self._encoded is None:
            self._encoded = orjson.dumps(self.obj)
        return self._encoded


@dataclass(frozen=True, slots=True)
class Change:
    """One step of the log. `before` is the entry that was replaced or removed."""

    type: str
    entry: Entry
    before: Entry | None


Matches = Callable[[Entry], bool]


class Watcher:
    """A reader's queue of the changes that concern it. `closed` once it was too slow or its kind is gone."""

    def __init__(self, namespace: str, matches: Matches | None, limit: int = WATCHER_QUEUE) -> None:
        self.namespace = namespace
        self._matches = matches
        self._limit = limit
        self._queue: deque[tuple[str, Entry]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self.closed = False

    def offer(self, change: Change) -> None:
        kind = self._seen_as(change)
        if kind is None or self.closed:
            return
        if len(self._queue) >= self._limit:
            self._queue.clear()
            self.close()
            return
        self._queue.append((kind, change.entry))
        self._wake()

    def close(self) -> None:
        self.closed = True
        self._wake()

    async def batch(self, seconds: float | None) -> list[tuple[str, Entry]]:
        """Everything queued, waiting up to `seconds` for a first change; empty on time-out or close."""
        if not self._queue and not self.closed:
            waiter = asyncio.get_running_loop().create_future()
            self._waiter = waiter
            timer = asyncio.get_running_loop().call_later(seconds, self._wake) if seconds is not None else None
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        found = list(self._queue)
        self._queue.clear()
        return found

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _seen_as(self, change: Change) -> str | None:
        """The change as this watcher's selector makes it look; None: not its concern."""
        if self._matches is None:
            return change.type
        now = self._matches(change.entry)
        if change.type != MODIFIED:
            return change.type if now else None
        before = change.before is not None and self._matches(change.before)
        if now:
            return MODIFIED if before else ADDED
        return DELETED if before else None


@dataclass(slots=True)
class Collection:
    """All objects of one kind, its log and its watchers (by namespace; "" hears all)."""

    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    by_namespace: dict[str, dict[str, Entry]] = field(default_factory=dict)
    log: deque[Change] = field(default_factory=deque)
    compacted: int = 0
    """Changes up to this version are no longer in the log."""
    watchers: dict[str, list[Watcher]] = field(default_factory=dict)


@dataclass(slots=True)
class Page:
    entries: list[Entry]
    version: int
    remaining: int
    next_start: int
    """Position of the next page's first entry in the snapshot; 0 when this is the last page."""


class Store:
    """The objects of one emulated cluster. `writes` and `last_write_wall` (monotonic) tell whether it is quiet."""

    def __init__(self, *, log_length: int = LOG_LENGTH) -> None:
        self.resource_version = 1
        self.writes = 0
        self.last_write_wall = time.monotonic()
        self._log_length = log_length
        self._collections: dict[StorageKey, Collection] = {}
        self._by_uid: dict[str, tuple[StorageKey, Entry]] = {}
        self._dependents: dict[str, set[str]] = {}
        self._per_namespace: dict[str, int] = {}
        self._snapshots: OrderedDict[tuple[object, ...], list[Entry]] = OrderedDict()

    # Reading

    def get(self, key: StorageKey, namespace: str, name: str) -> Entry | None:
        collection = self._collections.get(key)
        return collection.entries.get((namespace, name)) if collection else None

    def entries(self, key: StorageKey, namespace: str = "") -> Iterable[Entry]:
        """All entries, or those of one namespace, in no order."""
        collection = self._collections.get(key)
        if collection is None:
            return ()
        return (collection.by_namespace.get(namespace, {}) if namespace else collection.entries).values()

    def count(self, key: StorageKey, namespace: str = "") -> int:
        return sum(1 for _ in self.entries(key, namespace))

    def by_uid(self, uid: str) -> tuple[StorageKey, Entry] | None:
        return self._by_uid.get(uid)

    def dependents(self, uid: str) -> list[tuple[StorageKey, Entry]]:
        """Objects that name `uid` as an owner, oldest first."""
        found = [self._by_uid[dependent] for dependent in self._dependents.get(uid, ())]
        return sorted(found, key=lambda item: item[1].version)

    def storage_keys(self) -> tuple[StorageKey, ...]:
        return tuple(self._collections)

    def objects_in(self, namespace: str) -> int:
        """How many objects of any kind live in `namespace`."""
        return self._per_namespace.get(namespace, 0)

    def select(self, key: StorageKey, namespace: str, matches: Matches | None) -> list[Entry]:
        """Matching entries in the order in which lists show them: by namespace, then name."""
        found = self.entries(key, namespace)
        chosen = [entry for entry in found if matches(entry)] if matches else list(found)
        chosen.sort(key=lambda entry: (entry.namespace, entry.name))
        return chosen

    def first_page(
        self, key: StorageKey, namespace: str, matches: Matches | None, limit: int, query: tuple[str, ...]
    ) -> Page:
        chosen = self.select(key, namespace, matches)
        version = self.resource_version
        if limit and len(chosen) > limit:
            self._snapshots[(version, key, namespace, query)] = chosen
            while len(self._snapshots) > SNAPSHOTS:
                self._snapshots.popitem(last=False)
            return Page(chosen[:limit], version, len(chosen) - limit, limit)
        return Page(chosen, version, 0, 0)

    def next_page(
        self, key: StorageKey, namespace: str, query: tuple[str, ...], version: int, start: int, limit: int
    ) -> Page | None:
        """A later page of the list that was begun at `version`; None when that snapshot is gone."""
        chosen = self._snapshots.get((version, key, namespace, query))
        if chosen is None:
            return None
        end = start + limit if limit else len(chosen)
        left = max(0, len(chosen) - end)
        return Page(chosen[start:end], version, left, end if left else 0)

    # Writing

    def put(self, key: StorageKey, namespace: str, name: str, obj: Object) -> Entry:
        """Store `obj` under a new version (its metadata.resourceVersion is set on a shallow copy)."""
        collection = self._collection(key)
        self._touch()
        version = self.resource_version
        obj = {**obj, "metadata": {**obj["metadata"], "resourceVersion": str(version)}}
        entry = Entry(namespace, name, obj, version)
        before = collection.entries.get((namespace, name))
        if before is not None:
            self._forget(before)
        else:
            self._per_namespace[namespace] = self._per_namespace.get(namespace, 0) + 1
        collection.entries[(namespace, name)] = entry
        collection.by_namespace.setdefault(namespace, {})[name] = entry
        self._remember(key, entry)
        self._publish(collection, Change(ADDED if before is None else MODIFIED, entry, before))
        return entry

    def remove(self, key: StorageKey, namespace: str, name: str) -> Entry:
        """Take the object out; its last state, at the version of its removal, is what watchers see."""
        collection = self._collection(key)
        before = collection.entries.pop((namespace, name))
        inside = collection.by_namespace[namespace]
        del inside[name]
        if not inside:
            del collection.by_namespace[namespace]
        self._per_namespace[namespace] -= 1
        self._touch()
        metadata = {**before.obj["metadata"], "resourceVersion": str(self.resource_version)}
        entry = Entry(namespace, name, {**before.obj, "metadata": metadata}, self.resource_version)
        self._forget(before)
        self._publish(collection, Change(DELETED, entry, before))
        return entry

    def drop_collection(self, key: StorageKey) -> None:
        """Forget a kind altogether (its CRD is gone); its watchers are closed."""
        collection = self._collections.pop(key, None)
        for watcher in [w for group in (collection.watchers if collection else {}).values() for w in group]:
            watcher.close()

    # Watching

    def watch(self, key: StorageKey, namespace: str, matches: Matches | None, after: int) -> Watcher | None:
        """A watcher that has every change after version `after` queued; None when that is too far back."""
        collection = self._collection(key)
        if after < collection.compacted:
            return None
        watcher = Watcher(namespace, matches)
        if after < self.resource_version:
            for change in collection.log:
                if change.entry.version > after and namespace in ("", change.entry.namespace):
                    watcher.offer(change)
        collection.watchers.setdefault(namespace, []).append(watcher)
        return watcher

    def unwatch(self, key: StorageKey, watcher: Watcher) -> None:
        collection = self._collections.get(key)
        if collection is not None and watcher in (group := collection.watchers.get(watcher.namespace, [])):
            group.remove(watcher)
            if not group:
                del collection.watchers[watcher.namespace]

    def compact(self) -> None:
        """Forget the log and all paged lists: older versions can no longer be resumed from."""
        for collection in self._collections.values():
            collection.log.clear()
            collection.compacted = self.resource_version
        self._snapshots.clear()

    def close_watchers(self) -> None:
        for collection in self._collections.values():
            for group in collection.watchers.values():
                for watcher in group:
                    watcher.close()

    def _collection(self, key: StorageKey) -> Collection:
        found = self._collections.get(key)
        if found is None:
            found = self._collections[key] = Collection()
        return found

    def _touch(self) -> None:
        self.resource_version += 1
        self.writes += 1
        self.last_write_wall = time.monotonic()

    def _publish(self, collection: Collection, change: Change) -> None:
        log = collection.log
        log.append(change)
        if len(log) > self._log_length:
            collection.compacted = log.popleft().entry.version
        if collection.watchers:
            for watcher in collection.watchers.get("", ()):
                watcher.offer(change)
            if change.entry.namespace:
                for watcher in collection.watchers.get(change.entry.namespace, ()):
                    watcher.offer(change)

    def _remember(self, key: StorageKey, entry: Entry) -> None:
        metadata = entry.obj["metadata"]
        self._by_uid[metadata["uid"]] = (key, entry)
        for owner in metadata.get("ownerReferences") or ():
            self._dependents.setdefault(owner["uid"], set()).add(metadata["uid"])

    def _forget(self, entry: Entry) -> None:
        metadata = entry.obj["metadata"]
        self._by_uid.pop(metadata["uid"], None)
        for owner in metadata.get("ownerReferences") or ():
            dependents = self._dependents.get(owner["uid"])
            if dependents is not None:
                dependents.discard(metadata["uid"])
                if not dependents:
                    del self._dependents[owner["uid"]]
