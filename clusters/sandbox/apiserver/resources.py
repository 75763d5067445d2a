"""Requests on resources: from path, query and body to the registry, and from entries back to JSON, tables, streams."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final

import orjson
from aiohttp import web

from clusters.sandbox.apiserver import failures, subresources, tables
from clusters.sandbox.apiserver.failures import Json, StatusError, bad_request, not_allowed
from clusters.sandbox.apiserver.kinds import Kind
from clusters.sandbox.apiserver.patch import json_patch, merge
from clusters.sandbox.apiserver.registry import APPLY, JSON_PATCH, MERGE, STRATEGIC, Deletion, Registry, Request
from clusters.sandbox.apiserver.store import Entry, Page
from clusters.sandbox.apiserver.watching import stream
from clusters.sandbox.apiserver.wire import Wire, json_response

_PROPAGATIONS: Final = ("", "Background", "Foreground", "Orphan")


@dataclass(frozen=True, slots=True)
class Place:
    """What a path names."""

    group: str
    version: str
    plural: str
    namespace: str = ""
    name: str = ""
    subresource: str = ""


def parse_path(path: str) -> Place | None:
    """The place that a request path names; None when it names none."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if (
        rest[0] == "namespaces"
        and len(rest) >= 3
        and not (group == "" and len(rest) == 3 and rest[2] in ("status", "finalize"))
    ):
        namespace, rest = rest[1], rest[2:]
    if not 1 <= len(rest) <= 3 or not all(rest):
        return None
    return Place(group, version, rest[0], namespace, rest[1] if len(rest) > 1 else "", rest[2] if len(rest) > 2 else "")


class ResourceHandler:
    """Answers every request below /api and /apis that is not discovery."""

    def __init__(self, registry: Registry, *, bookmark_seconds: float) -> None:
        self._registry = registry
        self._bookmark_seconds = bookmark_seconds

    async def handle(self, place: Place, wire: Wire, body: Any) -> web.StreamResponse:
        kind = self._registry.kind(place.group, place.version, place.plural)
        method = wire.request.method
        if place.namespace and not kind.namespaced:
            raise failures.no_such_path()
        if place.subresource:
            return self._subresource(kind, place, wire, body)
        if not place.name:
            return await self._collection(kind, place, wire, body)
        if kind.namespaced and not place.namespace:
            raise failures.no_such_path()
        if method in ("GET", "HEAD"):
            if wire.flag("watch"):
                return await self._watch(kind, place, wire, f"metadata.name={place.name}")
            return self._answer(kind, self._registry.get(kind, place.namespace, place.name), wire)
        if method == "PUT":
            request = wire.as_request()
            entry = self._registry.update(kind, place.namespace, place.name, body, request)
            return self._answer(kind, entry, wire, 200, request)
        if method == "PATCH":
            return self._patch(kind, place, wire, body, wire.as_request())
        if method == "DELETE":
            return self._delete(kind, place, wire, body)
        raise not_allowed()

    # Collections

    async def _collection(self, kind: Kind, place: Place, wire: Wire, body: Any) -> web.StreamResponse:
        method = wire.request.method
        if method in ("GET", "HEAD"):
            if wire.flag("watch"):
                return await self._watch(kind, place, wire, "")
            return self._list(kind, place, wire)
        if method == "POST":
            namespace = place.namespace
            if kind.namespaced and not namespace:
                raise not_allowed()
            request = wire.as_request()
            entry = self._registry.create(kind, namespace, body, request)
            return self._answer(kind, entry, wire, 201, request)
        if method == "DELETE":
            return self._delete_all(kind, place, wire, body)
        raise not_allowed()

    def _list(self, kind: Kind, place: Place, wire: Wire) -> web.Response:
        page = self._page(kind, place.namespace, wire)
        meta: Json = {"resourceVersion": str(page.version)}
        if page.next_start:
            meta["continue"] = _token(page.version, page.next_start)
            if not wire.query.get("labelSelector") and not wire.query.get("fieldSelector"):
                meta["remainingItemCount"] = page.remaining
        if wire.wants_table:
            table = tables.table(kind, page.entries, meta, self._registry.now(), wire.query.get("includeObject", ""))
            return json_response(table)
        items = [orjson.Fragment(self._encoded(kind, entry)) for entry in page.entries]
        return json_response(
            {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": items}
        )

    def _page(self, kind: Kind, namespace: str, wire: Wire) -> Page:
        labels, fields = wire.query.get("labelSelector", ""), wire.query.get("fieldSelector", "")
        limit, token = wire.number("limit"), wire.query.get("continue", "")
        if not token:
            self._check_version(wire)
            return self._registry.find(kind, namespace, labels, fields, limit)
        version, start = _parse_token(token)
        page = self._registry.store.next_page(kind.key, namespace, (labels, fields), version, start, limit)
        if page is None:
            raise failures.expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new "
                "list without the continue parameter."
            )
        return page

    def _check_version(self, wire: Wire) -> None:
        asked, current = wire.number("resourceVersion"), self._registry.store.resource_version
        if asked > current:
            raise failures.too_large_version(asked, current)
        if wire.query.get("resourceVersionMatch") == "Exact" and asked != current:
            raise failures.expired(f"The resourceVersion for the provided list is too old: {asked} ({current})")

    async def _watch(self, kind: Kind, place: Place, wire: Wire, fields: str) -> web.StreamResponse:
        given = wire.query.get("fieldSelector", "")
        fields = f"{given},{fields}" if given and fields else given or fields
        return await stream(self._registry, kind, place.namespace, fields, wire, self._bookmark_seconds)

    def _delete_all(self, kind: Kind, place: Place, wire: Wire, body: Any) -> web.Response:
        how = _deletion(wire, body)
        page = self._page(kind, place.namespace, wire)
        for entry in page.entries:
            if self._registry.store.get(kind.key, entry.namespace, entry.name) is not None:
                self._registry.delete(kind, entry.namespace, entry.name, how)
        items = [orjson.Fragment(self._encoded(kind, entry)) for entry in page.entries]
        meta = {"resourceVersion": str(page.version)}
        return json_response(
            {"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": meta, "items": items}
        )

    # Single objects

    def _patch(self, kind: Kind, place: Place, wire: Wire, body: Any, request: Request) -> web.Response:
        media = wire.media
        if media not in (MERGE, JSON_PATCH, STRATEGIC, APPLY):
            raise failures.unsupported_media((JSON_PATCH, MERGE, STRATEGIC, APPLY))
        if media == APPLY and not wire.query.get("fieldManager"):
            raise bad_request(
                'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch'
            )
        if media != APPLY and "force" in wire.query:
            raise bad_request(
                'PatchOptions.meta.k8s.io "" is invalid: force: Forbidden: may not be specified for non-apply patch'
            )
        there = self._registry.store.get(kind.key, place.namespace, place.name) is not None
        entry = self._registry.patch(kind, place.namespace, place.name, body, media, request)
        return self._answer(kind, entry, wire, 200 if there else 201, request)

    def _delete(self, kind: Kind, place: Place, wire: Wire, body: Any) -> web.Response:
        entry, gone = self._registry.delete(kind, place.namespace, place.name, _deletion(wire, body))
        if gone and kind.kind != "Pod":
            details = {"name": entry.name, "kind": kind.plural, "uid": entry.obj["metadata"]["uid"]}
            return json_response(failures.success({**details, **({"group": kind.group} if kind.group else {})}))
        return json_response(self._encoded(kind, entry))

    def _subresource(self, kind: Kind, place: Place, wire: Wire, body: Any) -> web.Response:
        name, namespace, method = place.name, place.namespace, wire.request.method
        if place.subresource not in kind.subresources:
            raise failures.no_such_path()
        match place.subresource, method:
            case "status", "GET" | "HEAD":
                return self._answer(kind, self._registry.get(kind, namespace, name), wire)
            case "status", "PUT":
                request = wire.as_request("status")
                return self._answer(
                    kind, self._registry.update(kind, namespace, name, body, request), wire, 200, request
                )
            case "status", "PATCH":
                return self._patch(kind, place, wire, body, wire.as_request("status"))
            case "scale", _:
                return self._scale(kind, place, wire, body)
            case "binding", "POST":
                return json_response(
                    subresources.bind(self._registry, kind, namespace, name, body, wire.as_request()), 201
                )
            case "eviction", "POST":
                return json_response(
                    subresources.evict(self._registry, kind, namespace, name, body, wire.as_request()), 201
                )
            case "finalize", "PUT":
                return self._finalize(kind, name, body)
            case "log", "GET":
                self._registry.get(kind, namespace, name)
                raise StatusError(501, "NotImplemented", "the sandbox's kubelets run no containers, so there is no log")
        raise not_allowed()

    def _scale(self, kind: Kind, place: Place, wire: Wire, body: Any) -> web.Response:
        method = wire.request.method
        entry = self._registry.get(kind, place.namespace, place.name)
        if method in ("GET", "HEAD"):
            return json_response(subresources.scale_of(kind, entry))
        if method == "PATCH":
            scale = subresources.scale_of(kind, entry)
            if wire.media not in (MERGE, STRATEGIC, JSON_PATCH):
                raise failures.unsupported_media((JSON_PATCH, MERGE, STRATEGIC))
            body = json_patch(scale, body) if wire.media == JSON_PATCH else merge(scale, body)
        elif method != "PUT":
            raise not_allowed()
        request = wire.as_request()
        scaled = subresources.set_scale(self._registry, kind, place.namespace, place.name, body, request)
        return json_response(scaled)

    def _finalize(self, kind: Kind, name: str, body: Any) -> web.Response:
        entry = self._registry.get(kind, "", name)
        finalizers = ((body or {}).get("spec") or {}).get("finalizers") or []
        obj = {**entry.obj, "spec": {**(entry.obj.get("spec") or {}), "finalizers": finalizers}}
        return json_response(self._encoded(kind, self._registry.put(kind, entry, obj)))

    # Answers

    def _answer(
        self, kind: Kind, entry: Entry, wire: Wire, status: int = 200, request: Request | None = None
    ) -> web.Response:
        headers = None
        if request is not None and request.warnings:
            texts = [warning.replace("\\", "\\\\").replace('"', '\\"') for warning in request.warnings[:20]]
            headers = {"Warning": ", ".join(f'299 - "{text}"' for text in texts)}
        if wire.wants_table:
            meta = {"resourceVersion": str(entry.version)}
            table = tables.table(kind, [entry], meta, self._registry.now(), wire.query.get("includeObject", ""))
            return json_response(table, status, headers)
        return json_response(self._encoded(kind, entry), status, headers)

    def _encoded(self, kind: Kind, entry: Entry) -> bytes:
        return encoded_as(kind, entry)


def encoded_as(kind: Kind, entry: Entry) -> bytes:
    """An entry's JSON at the version that was asked for (a CRD may serve several)."""
    if kind.custom is not None and entry.obj.get("apiVersion") != kind.api_version:
        return orjson.dumps({**entry.obj, "apiVersion": kind.api_version})
    return entry.encoded


def _deletion(wire: Wire, body: Any) -> Deletion:
    """DeleteOptions from the body, or from the query. Raises: StatusError."""
    options: Json = body if isinstance(body, dict) else {}
    given = options.get("preconditions") or {}
    propagation = options.get("propagationPolicy") or wire.query.get("propagationPolicy", "")
    orphan = options.get("orphanDependents")
    if orphan is not None and not propagation:
        propagation = "Orphan" if orphan else "Background"
    if propagation not in _PROPAGATIONS:
        cause = failures.not_supported("propagationPolicy", propagation, _PROPAGATIONS[1:])
        raise failures.unprocessable("meta.k8s.io", "DeleteOptions", "", [cause])
    grace = options.get("gracePeriodSeconds")
    if grace is None and "gracePeriodSeconds" in wire.query:
        grace = wire.number("gracePeriodSeconds")
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool)):
        raise bad_request("gracePeriodSeconds must be a whole number")
    dry_run = options.get("dryRun") or wire.query.get("dryRun")
    return Deletion(
        str(given.get("uid") or ""), str(given.get("resourceVersion") or ""), propagation, grace, bool(dry_run)
    )


def _token(version: int, start: int) -> str:
    return base64.urlsafe_b64encode(orjson.dumps({"v": "meta.k8s.io/v1", "rv": version, "start": start})).decode()


def _parse_token(token: str) -> tuple[int, int]:
    try:
        found = orjson.loads(base64.urlsafe_b64decode(token.encode()))
        return int(found["rv"]), int(found["start"])
    except (binascii.Error, ValueError, KeyError, TypeError, UnicodeEncodeError):
        raise bad_request("continue key is not valid: the token was not made by this server") from None
