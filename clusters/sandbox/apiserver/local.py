"""The same API in process: `LocalApi` is the sandbox controllers' client, without HTTP or JSON in between."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from clusters.sandbox.apiserver import failures, subresources
from clusters.sandbox.apiserver.failures import StatusError, as_model_error
from clusters.sandbox.apiserver.kinds import Kind
from clusters.sandbox.apiserver.registry import MERGE, Deletion, Registry, Request
from scheduler.model.ports import ObjectList, RawObject, Resource, WatchEvent


@contextmanager
def _typed() -> Iterator[None]:
    """Refusals become the model's typed errors."""
    try:
        yield
    except StatusError as error:
        raise as_model_error(error) from error


class LocalApi:
    """`scheduler.model.ports.KubeApi` on a registry. Objects handed out are the stored ones: never change them."""

    def __init__(self, registry: Registry, *, field_manager: str = "sandbox") -> None:
        self._registry = registry
        self._manager = field_manager

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        with _typed():
            page = self._registry.find(self._kind(resource), namespace, label_selector, field_selector)
        return ObjectList(tuple(entry.obj for entry in page.entries), str(page.version))

    async def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        with _typed():
            kind = self._kind(resource)
            if not resource_version.isdecimal():
                raise failures.bad_request(f"invalid resource version {resource_version[:40]!r}; list first")
            watcher = self._registry.watch(kind, namespace, int(resource_version), label_selector, field_selector)
        try:
            while True:
                batch = await watcher.batch(None)
                if not batch:
                    return
                for type_, entry in batch:
                    yield WatchEvent(type_, entry.obj)
        finally:
            self._registry.store.unwatch(kind.key, watcher)

    async def get(self, resource: Resource, namespace: str, name: str) -> RawObject:
        with _typed():
            return self._registry.get(self._kind(resource), namespace, name).obj

    async def create(self, resource: Resource, namespace: str, body: RawObject) -> RawObject:
        with _typed():
            kind = self._kind(resource)
            return self._registry.create(kind, _within(kind, namespace), _as_dict(body), self._request()).obj

    async def update(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        with _typed():
            kind, request = self._kind(resource), self._request(subresource)
            if subresource == "scale":
                return subresources.set_scale(self._registry, kind, namespace, name, body, self._request())
            _require(kind, subresource)
            return self._registry.update(kind, namespace, name, _as_dict(body), request).obj

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        with _typed():
            kind, request = self._kind(resource), self._request(subresource)
            if subresource == "scale":
                return subresources.set_scale(self._registry, kind, namespace, name, body, self._request())
            _require(kind, subresource)
            return self._registry.patch(kind, namespace, name, _as_dict(body), MERGE, request).obj

    async def create_subresource(
        self, resource: Resource, namespace: str, name: str, subresource: str, body: RawObject
    ) -> RawObject:
        with _typed():
            kind, request = self._kind(resource), self._request()
            if kind.kind == "Pod" and subresource == "binding":
                return subresources.bind(self._registry, kind, namespace, name, body, request)
            if kind.kind == "Pod" and subresource == "eviction":
                return subresources.evict(self._registry, kind, namespace, name, body, request)
            raise failures.no_such_path()

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
        with _typed():
            how = Deletion(uid=uid, propagation=propagation, grace_period_seconds=grace_period_seconds)
            self._registry.delete(self._kind(resource), namespace, name, how)

    async def close(self) -> None:
        """Nothing is held open."""

    def _kind(self, resource: Resource) -> Kind:
        return self._registry.kind(resource.group, resource.version, resource.plural)

    def _request(self, subresource: str = "") -> Request:
        return Request(manager=self._manager, field_validation="Strict", subresource=subresource)


def _as_dict(body: RawObject) -> dict[str, Any]:
    return body if isinstance(body, dict) else dict(body)


def _within(kind: Kind, namespace: str) -> str:
    if not kind.namespaced:
        return ""
    if not namespace:
        raise failures.bad_request("an empty namespace may not be set during creation")
    return namespace


def _require(kind: Kind, subresource: str) -> None:
    if subresource and subresource not in kind.subresources:
        raise failures.no_such_path()
