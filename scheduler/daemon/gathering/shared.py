"""What one replica gathers of a member, told to the others over HTTP as lists and watches: so the others' reflectors,
mirrors and rules about staleness are those of a member that they watch themselves.

    GET /internal/v1/gathered/CLUSTER/RESOURCE               {"epoch": ..., "version": 7, "items": [...]}
    GET /internal/v1/gathered/CLUSTER/RESOURCE?since=EPOCH.7 events, a JSON line each; an empty line: nothing new

Only bearers of the federation's `gathering.tokenFile` are answered: 503 while this replica does not gather it or cannot
reach the member itself, 410 for what is too old.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson
import structlog
from aiohttp import web

from clusters.kubernetes.slim import slim_node, slim_pod
from scheduler.daemon.incidents.alerts import read_token
from scheduler.daemon.state.member_mirror import NODE_EVENTS, NODES, PODS
from scheduler.model.errors import AuthError, ExternalError, GoneError, TransientError
from scheduler.model.ids import ClusterId
from scheduler.model.ports import ObjectList, RawObject, Resource, WatchEvent

log = structlog.get_logger(__name__)
PATH: Final = "/internal/v1/gathered"
SHARED: Final = (NODES, PODS, NODE_EVENTS)
"""Copies are not: they are few, and what people wrote in them is nobody else's to read."""
_RING: Final = 10_000
_EVENTS_KEPT: Final = 1_000
_HEARTBEAT_SECONDS: Final = 3.0
_SILENT_SECONDS: Final = 10.0
_CONNECT_SECONDS: Final = 5.0
_LARGEST_BYTES: Final = 256 * 2**20
_LARGEST_LINE: Final = 8 * 2**20
_NONSENSE: Final = (KeyError, TypeError, AttributeError, ValueError)
_SLIM: Final[Mapping[str, Callable[[RawObject], RawObject]]] = {NODES: slim_node, PODS: slim_pod}


class Published:
    """One resource of one member, as a sink of the reflector that gathers it."""

    def __init__(self, resource: str) -> None:
        self._resource = resource
        self._objects: dict[str, RawObject] = {}
        self._ring: deque[tuple[int, str, RawObject]] = deque(maxlen=_RING)
        self._listed = False
        self._reachable = True
        self._epoch = ""
        self._version = 0
        self._news = asyncio.Event()
        self.close()

    def close(self) -> None:
        """This replica gathers it no more: forget it, and end every watch of it."""
        self._objects, self._listed, self._reachable = {}, False, True
        self._ring.clear()
        self._epoch, self._version = secrets.token_hex(8), 0
        self._wake()

    @property
    def is_known(self) -> bool:
        return self._listed and self._reachable

    def listing(self) -> bytes:
        """All there is now."""
        told = {"epoch": self._epoch, "version": self._version, "items": list(self._objects.values())}
        return orjson.dumps(told)

    def since(self, cursor: str) -> Watching:
        """What comes after a list or an event. Raises: GoneError."""
        epoch, _, version = cursor.partition(".")
        oldest = self._ring[0][0] if self._ring else self._version + 1
        if epoch != self._epoch or not version.isdecimal() or not oldest - 1 <= int(version[:20]) <= self._version:
            raise GoneError("too old, or another replica's")
        return Watching(self, self._epoch, int(version))

    # -- what the reflector tells ------------------------------------------------------------------------------------

    def on_replace(self, objects: tuple[RawObject, ...]) -> None:
        present = {}
        for raw in objects:
            present[_name_of(raw)] = raw
        for name in set(self._objects) - set(present):
            self._add("DELETED", name, self._objects[name])
        for name, raw in present.items():
            self._add("MODIFIED", name, raw)
        self._listed = True
        self._wake()

    def on_event(self, event: WatchEvent) -> None:
        if event.type != "BOOKMARK":
            self._add(event.type, _name_of(event.object), event.object)
            self._wake()

    def on_state(self, reachable: bool, error: str | None) -> None:
        self._reachable = reachable
        self._wake()

    def on_absent(self, error: str) -> None:
        self._listed = True
        self._wake()

    def on_rewind(self) -> None:
        return None

    def _add(self, kind: str, name: str, raw: RawObject) -> None:
        """Nothing is told of a change in what nobody reads."""
        known = self._objects.get(name)
        new = self._slim(raw)
        if kind == "DELETED":
            if self._objects.pop(name, None) is None:
                return
        elif known is not None and _same(known, new):
            return
        self._version += 1
        # Its own order, for whoever watches; the member's version is of use with the member only.
        new = {**new, "metadata": {**new["metadata"], "resourceVersion": str(self._version)}}
        if kind != "DELETED":
            self._objects[name] = new
            if self._resource == NODE_EVENTS and len(self._objects) > _EVENTS_KEPT:
                del self._objects[next(iter(self._objects))]
        self._ring.append((self._version, kind, new))

    def _slim(self, raw: RawObject) -> RawObject:
        try:
            return _SLIM[self._resource](raw) if self._resource in _SLIM else raw
        except _NONSENSE:
            return raw

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Watching:
    """One watch of it."""

    def __init__(self, published: Published, epoch: str, version: int) -> None:
        self._published = published
        self._epoch = epoch
        self._version = version

    async def lines(self) -> AsyncIterator[bytes]:
        """Until it is closed, cannot be reached, or this watch has fallen behind. Empty ones: nothing new."""
        source = self._published
        while source.is_known and source._epoch == self._epoch:
            news, ring = source._news, source._ring
            if ring and self._version < ring[0][0] - 1:
                return
            new = [entry for entry in ring if entry[0] > self._version] if self._version < source._version else []
            if new:
                self._version = new[-1][0]
                yield b"".join(orjson.dumps({"type": kind, "object": raw}) + b"\n" for _, kind, raw in new)
                continue
            try:
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    await news.wait()
            except TimeoutError:
                yield b"\n"


class Tee:
    """A sink that is two."""

    def __init__(self, *sinks: Any) -> None:
        self._sinks = sinks

    def on_replace(self, objects: tuple[RawObject, ...]) -> None:
        for sink in self._sinks:
            sink.on_replace(objects)

    def on_rewind(self) -> None:
        for sink in self._sinks:
            sink.on_rewind()

    def on_event(self, event: WatchEvent) -> None:
        for sink in self._sinks:
            sink.on_event(event)

    def on_absent(self, error: str) -> None:
        for sink in self._sinks:
            sink.on_absent(error)

    def on_state(self, reachable: bool, error: str | None) -> None:
        for sink in self._sinks:
            sink.on_state(reachable, error)


class SharedRoutes:
    """The endpoint. `gathers(cluster)`: whether this replica does now."""

    def __init__(
        self,
        published: Mapping[tuple[str, str], Published],
        gathers: Callable[[ClusterId], bool],
        token_file: Path,
    ) -> None:
        self._published = published
        self._gathers = gathers
        self._token_file = token_file

    def routes(self) -> list[web.RouteDef]:
        return [web.get(PATH + "/{cluster}/{resource}", self._answer)]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if not self._may(request.headers.get("Authorization", "")):
            raise web.HTTPUnauthorized(reason="only for replicas of this federation")
        cluster, resource = request.match_info["cluster"], request.match_info["resource"]
        published = self._published.get((cluster, resource))
        if published is None or not published.is_known or not self._gathers(ClusterId(cluster)):
            raise web.HTTPServiceUnavailable(reason="not gathered here now")
        if "since" not in request.query:
            return web.Response(body=published.listing(), content_type="application/json")
        try:
            watching = published.since(request.query["since"])
        except GoneError as error:
            raise web.HTTPGone(reason=str(error)) from error
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with suppress(ConnectionResetError):  # it went
            async for line in watching.lines():
                if not self._gathers(ClusterId(cluster)):
                    break
                await response.write(line)
        return response

    def _may(self, authorization: str) -> bool:
        try:
            ours = f"Bearer {read_token(self._token_file)}"
        except AuthError as error:
            log.warning("token_file", error=str(error))
            return False
        return hmac.compare_digest(authorization.encode("utf-8", "surrogateescape"), ours.encode())


class SharedApi:
    """The reading half of a `KubeApi`, for one resource of one member, from the replica at `url`."""

    def __init__(
        self, http: aiohttp.ClientSession, url: str, cluster: ClusterId, resource: str, token_file: Path
    ) -> None:
        self._http = http
        self._url = f"{url}{PATH}/{cluster}/{resource}"
        self._token_file = token_file
        self._epoch = ""

    async def list(self, _resource: Resource, **_selection: str) -> ObjectList:
        """Raises: ExternalError."""
        try:
            async with asyncio.timeout(_SILENT_SECONDS * 3), self._get({}) as response:
                self._check(response)
                told = orjson.loads(await self._read(response))
                self._epoch = str(told["epoch"])
                return ObjectList(tuple(told["items"]), str(int(told["version"])))
        except (aiohttp.ClientError, TimeoutError, OSError, *_NONSENSE) as error:
            raise self._lost(error) from error

    async def watch(
        self, _resource: Resource, *, resource_version: str, **_selection: str
    ) -> AsyncIterator[WatchEvent]:
        """Raises: ExternalError."""
        try:
            async with self._get({"since": f"{self._epoch}.{resource_version}"}) as response:
                self._check(response)
                async for line in response.content:
                    if line.strip():
                        told = orjson.loads(line)
                        yield WatchEvent(str(told["type"]), told["object"])
        except (aiohttp.ClientError, TimeoutError, OSError, *_NONSENSE) as error:
            raise self._lost(error) from error

    def _get(self, query: dict[str, str]) -> Any:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=_SILENT_SECONDS)
        headers = {"Authorization": f"Bearer {read_token(self._token_file)}"}
        return self._http.get(
            self._url, params=query, headers=headers, timeout=limits, allow_redirects=False, read_bufsize=_LARGEST_LINE
        )

    def _check(self, response: aiohttp.ClientResponse) -> None:
        if response.status == 410:
            raise GoneError(f"{self._url}: too old")
        if response.status != 200:
            raise TransientError(f"{self._url}: HTTP {response.status}", code=str(response.status))

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        parts, size = [], 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > _LARGEST_BYTES:
                raise TransientError(f"{self._url}: larger than {_LARGEST_BYTES} bytes")
            parts.append(chunk)
        return b"".join(parts)

    def _lost(self, error: BaseException) -> ExternalError:
        if isinstance(error, ExternalError):
            return error
        return TransientError(f"{self._url}: {' '.join(str(error).split())[:200] or type(error).__name__}")


def _same(known: RawObject, new: RawObject) -> bool:
    """But for the version."""
    old_meta, new_meta = known["metadata"], new["metadata"]
    rest = {name: value for name, value in known.items() if name != "metadata"}
    if rest != {name: value for name, value in new.items() if name != "metadata"}:
        return False
    bare = [{key: value for key, value in meta.items() if key != "resourceVersion"} for meta in (old_meta, new_meta)]
    return bare[0] == bare[1]


def _name_of(raw: RawObject) -> str:
    meta = raw["metadata"]
    return f"{meta.get('namespace') or ''}/{meta['name']}"
