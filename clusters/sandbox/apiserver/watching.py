"""A watch as an HTTP stream: JSON lines from a store watcher, with initial events, bookmarks and a time limit."""

from __future__ import annotations

import asyncio
from typing import Final

import orjson
from aiohttp import web

from clusters.sandbox.apiserver import failures, tables
from clusters.sandbox.apiserver.failures import Json, StatusError
from clusters.sandbox.apiserver.kinds import Kind
from clusters.sandbox.apiserver.registry import Registry
from clusters.sandbox.apiserver.store import ADDED, Entry, Watcher
from clusters.sandbox.apiserver.wire import Wire

_LONGEST_SECONDS: Final = 3600
_INITIAL_END: Final = {"k8s.io/initial-events-end": "true"}
_CHUNK: Final = 500
"""Events per write, so that a long first list does not hold up other requests."""


def _line(type_: str, encoded: bytes) -> bytes:
    return b'{"type":"%b","object":%b}\n' % (type_.encode(), encoded)


class _Lines:
    """Events as lines of the form that the client asked for."""

    def __init__(self, registry: Registry, kind: Kind, wire: Wire) -> None:
        self._registry = registry
        self._kind = kind
        self._table = wire.wants_table
        self._include = wire.query.get("includeObject", "")
        self._first = True

    def event(self, type_: str, entry: Entry) -> bytes:
        if self._table:
            meta = {"resourceVersion": str(entry.version)}
            table = tables.table(self._kind, [entry], meta, self._registry.now(), self._include)
            if not self._first:
                table["columnDefinitions"] = None
            self._first = False
            return _line(type_, orjson.dumps(table))
        if self._kind.custom is not None and entry.obj.get("apiVersion") != self._kind.api_version:
            return _line(type_, orjson.dumps({**entry.obj, "apiVersion": self._kind.api_version}))
        return _line(type_, entry.encoded)

    def bookmark(self, version: int, annotations: Json | None = None) -> bytes:
        meta: Json = {"resourceVersion": str(version)}
        if annotations:
            meta["annotations"] = annotations
        obj: Json = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": meta}
        if self._table:
            row = {
                "cells": [],
                "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": meta},
            }
            obj = {
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": meta,
                "columnDefinitions": None,
                "rows": [row],
            }
        return _line("BOOKMARK", orjson.dumps(obj))


async def stream(
    registry: Registry, kind: Kind, namespace: str, fields: str, wire: Wire, bookmark_seconds: float
) -> web.StreamResponse:
    """Serve one watch until its time is up, the client goes, or the server closes it. Raises: StatusError."""
    labels = wire.query.get("labelSelector", "")
    registry.matcher(kind, labels, fields)  # a bad selector is refused before the stream begins
    asked = wire.query.get("resourceVersion", "")
    if asked and not asked.isdecimal():
        raise failures.bad_request(f"invalid resource version {asked[:40]!r}")
    initial = wire.flag("sendInitialEvents") or asked in ("", "0")
    if wire.query.get("sendInitialEvents") == "false":
        initial = False
    lines = _Lines(registry, kind, wire)
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache, private"})
    response.enable_chunked_encoding()
    try:
        first = registry.find(kind, namespace, labels, fields).entries if initial else []
        start = registry.store.resource_version if initial or asked in ("", "0") else int(asked)
        watcher = registry.watch(kind, namespace, start, labels, fields)
    except StatusError as error:
        if error.code != 410:
            raise
        await response.prepare(wire.request)
        await response.write(_line("ERROR", orjson.dumps(error.body())))
        return response
    try:
        await response.prepare(wire.request)
        for at in range(0, len(first), _CHUNK):
            await response.write(b"".join(lines.event(ADDED, entry) for entry in first[at : at + _CHUNK]))
        if wire.flag("sendInitialEvents") and wire.flag("allowWatchBookmarks"):
            await response.write(lines.bookmark(start, _INITIAL_END))
        await _pump(registry, watcher, lines, response, wire, bookmark_seconds)
    finally:
        registry.store.unwatch(kind.key, watcher)
    return response


async def _pump(
    registry: Registry,
    watcher: Watcher,
    lines: _Lines,
    response: web.StreamResponse,
    wire: Wire,
    bookmark_seconds: float,
) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + min(wire.number("timeoutSeconds") or _LONGEST_SECONDS, _LONGEST_SECONDS)
    bookmarks = wire.flag("allowWatchBookmarks")
    while not watcher.closed and (left := until - loop.time()) > 0:
        batch = await watcher.batch(min(left, bookmark_seconds) if bookmarks else left)
        for at in range(0, len(batch), _CHUNK):
            await response.write(b"".join(lines.event(*event) for event in batch[at : at + _CHUNK]))
        if not batch and bookmarks and not watcher.closed:
            await response.write(lines.bookmark(registry.store.resource_version))
