"""One cluster's Kubernetes API over HTTP, on raw JSON: `HttpKubeApi` implements `scheduler.model.ports.KubeApi`.

Settings, TLS and credentials come from the official client (see connection.py). Nothing is tried twice here: callers
own the one layer of retries. Every call is bounded in time and size, and every failure is one typed error that names
the cluster and the path (see answers.py).
"""

from __future__ import annotations

import asyncio
import builtins
import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import aiohttp
import orjson
from yarl import URL

from clusters.kubernetes.answers import check_deleted, failure, parse_event, parse_metadata, parse_page, parse_resource
from clusters.kubernetes.connection import Limits, Way, open_connection
from clusters.kubernetes.credentials import Credentials
from clusters.kubernetes.login import LogIn, LoginConnection
from scheduler.model.contract import FIELD_MANAGER
from scheduler.model.errors import GoneError, OutcomeUnknownError, TransientError
from scheduler.model.ports import ObjectList, RawObject, Resource, WatchEvent
from scheduler.model.secrecy import HIDDEN

_JSON: Final = "application/json"
_MERGE_PATCH: Final = "application/merge-patch+json"
_MANAGED: Final = f"?fieldManager={FIELD_MANAGER}"
_STALE_LISTS: Final = 2
"""A paged list that expires under way is begun again this often, then asked for in one piece."""


class HttpKubeApi:
    """See `KubeApi`. One per cluster; safe for hundreds of calls at once."""

    def __init__(
        self,
        name: str,
        connection: Way,
        limits: Limits,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self._connection = connection
        self._limits = limits
        self._jitter = jitter
        self._headers = {"Accept": _JSON, "User-Agent": "overspill"}

    @classmethod
    async def connect(
        cls,
        *,
        name: str,
        kubeconfig: Path | None,
        context: str | None,
        limits: Limits | None = None,
        log_in: LogIn | None = None,
    ) -> HttpKubeApi:
        """An API by `log_in` (a cloud's short-lived tokens), else by kubeconfig, or in-cluster when that is None. Reads
        files and may run the kubeconfig's exec plugin, but calls neither the API nor `log_in`.

        Raises: InvalidObjectError for wrong settings; TransientError when an identity provider does not answer.
        """
        limits = limits or Limits()
        if log_in is not None:
            return cls(name, LoginConnection(name, log_in, limits), limits)
        return cls(name, await open_connection(name, kubeconfig, context, limits), limits)

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        selectors = _selectors(label_selector, field_selector)
        path = _path(resource, namespace)
        for _ in range(_STALE_LISTS):
            try:
                return await self._list_pages(resource, path, selectors, self._limits.page_items)
            except GoneError:
                continue
        return await self._list_pages(resource, path, selectors, 0)

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncGenerator[WatchEvent, None]:
        keep_seconds = int(self._limits.watch_seconds * (0.8 + 0.4 * self._jitter())) or 1
        query = _selectors(label_selector, field_selector) | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(keep_seconds),
        }
        path = _path(resource, namespace)
        place = f"cluster {self.name}: watch {path}"
        response = await self._open("GET", f"{path}?{urlencode(query)}", place)
        try:
            # The server closes after keep_seconds: one that does not is lost, however many bytes may drip in.
            async for line in self._lines(response, place, keep_seconds + self._limits.read_seconds):
                yield parse_event(line, place, resource)
        finally:
            response.close()

    async def get(self, resource: Resource, namespace: str, name: str) -> RawObject:
        path = _path(resource, namespace, name)
        return parse_resource(await self._call("GET", path), self._place("GET", path), resource, name)

    async def create(self, resource: Resource, namespace: str, body: RawObject) -> RawObject:
        name = str((body.get("metadata") or {}).get("name") or "")
        return await self._write("POST", _path(resource, namespace), body, _JSON, resource, name)

    async def update(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        path = _path(resource, namespace, name, subresource)
        return await self._write("PUT", path, body, _JSON, resource, name)

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        path = _path(resource, namespace, name, subresource)
        return await self._write("PATCH", path, body, _MERGE_PATCH, resource, name)

    async def create_subresource(
        self, resource: Resource, namespace: str, name: str, subresource: str, body: RawObject
    ) -> RawObject:
        path = _path(resource, namespace, name, subresource)
        answer = await self._call("POST", path + _MANAGED, orjson.dumps(body), _JSON)
        return parse_metadata(answer, self._place("POST", path))

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        propagation: str = "Background",
        grace_period_seconds: int | None = None,
    ) -> None:
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation}
        if uid:
            options["preconditions"] = {"uid": uid}
        if grace_period_seconds is not None:
            options["gracePeriodSeconds"] = grace_period_seconds
        path = _path(resource, namespace, name)
        check_deleted(
            await self._call("DELETE", path, orjson.dumps(options), _JSON), self._place("DELETE", path), resource
        )

    async def round_trip_seconds(self) -> float:
        """How long the API takes for the cheapest of answers (`/version`), credentials not counted."""
        await self._connection.authorization()
        begun = time.perf_counter()
        await self._call("GET", "/version")
        return time.perf_counter() - begun

    async def exchange(self, method: str, path: str, body: bytes | None = None) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of the 2xx answer to a request that changes nothing. Raises: ExternalError."""
        return await self._exchange(method, path, body, _JSON if body is not None else "", write=False)

    async def credentials(self) -> Credentials:
        """What authenticates with the API, fetched if need be. Raises: OverspillError when there is nothing usable."""
        await self._connection.authorization()
        return self._connection.credentials()

    async def close(self) -> None:
        await self._connection.close()

    async def _write(
        self, method: str, path: str, body: RawObject, content_type: str, resource: Resource, name: str
    ) -> RawObject:
        answer = await self._call(method, path + _MANAGED, orjson.dumps(body), content_type)
        try:
            return parse_resource(answer, self._place(method, path), resource, name)
        except TransientError as error:
            # It said yes, and what it then said makes no sense: who knows whether the API itself ever heard of it.
            raise OutcomeUnknownError(str(error), code=error.code) from error

    async def _list_pages(
        self, resource: Resource, path: str, selectors: Mapping[str, str], page_items: int
    ) -> ObjectList:
        place = self._place("GET", path)
        query = dict(selectors)
        if page_items:
            query["limit"] = str(page_items)
        items: builtins.list[RawObject] = []
        size = 0
        for _ in range(self._limits.list_pages):
            answer = await self._call("GET", f"{path}?{urlencode(query)}" if query else path, packed=True)
            size += len(answer)
            if size > self._limits.list_bytes:
                limit = self._limits.list_bytes
                raise TransientError(f"{place}: the list is larger than {limit} bytes", code="TooLarge")
            page, version, token = parse_page(answer, place, resource)
            items += page
            if not token:
                return ObjectList(tuple(items), version)
            query["continue"] = token
        raise TransientError(f"{place}: the list does not end after {self._limits.list_pages} pages", code="Malformed")

    def _place(self, method: str, path: str) -> str:
        return f"cluster {self.name}: {method} {path.partition('?')[0]}"

    async def _call(
        self, method: str, target: str, body: bytes | None = None, content_type: str = "", *, packed: bool = False
    ) -> bytes:
        """The body of a 2xx answer. `packed`: let the server compress it. Raises: the errors of `failure`."""
        return (await self._exchange(method, target, body, content_type, write=body is not None, packed=packed))[0]

    async def _exchange(
        self, method: str, target: str, body: bytes | None, content_type: str, *, write: bool, packed: bool = False
    ) -> tuple[bytes, Mapping[str, str]]:
        """`write`: a lost answer leaves the outcome unknown."""
        place = self._place(method, target)
        authorization = await self._connection.authorization()
        try:
            async with (
                asyncio.timeout(self._limits.call_seconds),
                self._request(method, target, authorization, body, content_type, packed=packed) as response,
            ):
                answer = await self._read(response, place)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _lost(error, place, write=write) from error
        if 200 <= response.status < 300:
            return answer, response.headers
        if response.status == 401:
            self._connection.rejected()
        raise failure(response.status, response.headers, _without(answer, authorization), place, write=write)

    def _request(
        self,
        method: str,
        target: str,
        authorization: str,
        body: bytes | None = None,
        content_type: str = "",
        **options: Any,
    ) -> Any:
        headers = dict(self._headers)
        headers["Accept-Encoding"] = "gzip" if options.pop("packed", False) else "identity"
        if authorization:
            headers["Authorization"] = authorization
        if content_type:
            headers["Content-Type"] = content_type
        return self._connection.session.request(
            method,
            URL(self._connection.base_url + target, encoded=True),
            data=body,
            headers=headers,
            **self._connection.request_options,
            **options,
        )

    async def _read(self, response: aiohttp.ClientResponse, place: str) -> bytes:
        """The whole body, unpacked. Raises: TransientError when it is larger than the limit."""
        limit = self._limits.answer_bytes
        length = response.content_length
        if length is not None and length <= limit and "Content-Encoding" not in response.headers:
            return await response.read()
        parts, size = [], 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > limit:
                response.close()
                raise TransientError(f"{place}: the answer is larger than {limit} bytes", code="TooLarge")
            parts.append(chunk)
        return b"".join(parts)

    async def _open(self, method: str, target: str, place: str) -> aiohttp.ClientResponse:
        """A streaming answer, checked for 2xx; the caller closes it."""
        authorization = await self._connection.authorization()
        stream = aiohttp.ClientTimeout(total=None, sock_connect=self._limits.connect_seconds, sock_read=None)
        try:
            async with asyncio.timeout(self._limits.call_seconds):
                response: aiohttp.ClientResponse = await self._request(method, target, authorization, timeout=stream)
                if 200 <= response.status < 300:
                    return response
                try:
                    answer = await self._read(response, place)
                finally:
                    response.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _lost(error, place, write=False) from error
        if response.status == 401:
            self._connection.rejected()
        raise failure(response.status, response.headers, _without(answer, authorization), place, write=False)

    async def _lines(
        self, response: aiohttp.ClientResponse, place: str, for_seconds: float
    ) -> AsyncGenerator[bytes, None]:
        """Non-empty lines until the server ends the stream, or says nothing for too long.

        Raises: TransientError when it breaks or does not end.
        """
        limit, clock = self._limits.event_bytes, asyncio.get_running_loop().time
        until = clock() + for_seconds
        pending = bytearray()
        while True:
            try:
                async with asyncio.timeout_at(min(until, clock() + self._limits.silence_seconds)):
                    chunk = await response.content.readany()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                if isinstance(error, TimeoutError) and clock() < until and not pending:
                    return
                raise _lost(error, place, write=False) from error
            if not chunk:
                break
            pending += chunk
            if b"\n" in chunk:
                *lines, rest = bytes(pending).split(b"\n")
                pending = bytearray(rest)
                for line in lines:
                    if line.strip():
                        yield line
            if len(pending) > limit:
                raise TransientError(f"{place}: an event is larger than {limit} bytes", code="TooLarge")
        if pending.strip():
            raise TransientError(f"{place}: the stream broke off in the middle of an event", code="Truncated")


def _path(resource: Resource, namespace: str = "", name: str = "", subresource: str = "") -> str:
    parts = ["/apis", resource.group, resource.version] if resource.group else ["/api", resource.version]
    if resource.namespaced and namespace:
        parts += ["namespaces", quote(namespace, safe="")]
    parts.append(resource.plural)
    if name:
        parts.append(quote(name, safe=""))
    if subresource:
        parts.append(subresource)
    return "/".join(parts)


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    query = {}
    if label_selector:
        query["labelSelector"] = label_selector
    if field_selector:
        query["fieldSelector"] = field_selector
    return query


def _without(answer: bytes, authorization: str) -> bytes:
    """A refusal without our own token: some servers, and what stands before them, repeat what they were sent."""
    token = authorization.rpartition(" ")[2].encode()
    return answer.replace(token, HIDDEN.encode()) if token else answer


def _lost(error: BaseException, place: str, *, write: bool) -> TransientError | OutcomeUnknownError:
    """No whole answer came: nothing was sent (refused), or nobody knows whether a write took place."""
    text = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | aiohttp.InvalidURL):
        return TransientError(f"{place}: cannot connect ({text})", code="Unreachable")
    if write:
        return OutcomeUnknownError(f"{place}: sent, but no answer came ({text})", code="Lost")
    return TransientError(f"{place}: no answer ({text})", code="Lost")
