"""The fence: clusters and clouds as those who write see them, so that no write leaves a process that leads no more.

Others check the fence too, to stop early; here it is checked last, when nothing but the call itself is left. And a call
that is under way ends before the Lease can be another's, its outcome then unknown. What still comes late (the process
stood still between the check and the wire) meets the write's own precondition: a version, a UID or a name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol, TypeVar

from scheduler.model.cloud import AccessCheck, CloudCluster, ClusterLogin
from scheduler.model.errors import OutcomeUnknownError
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import KubeApi, NodePoolProvider, ObjectList, PoolStatus, RawObject, Resource, WatchEvent

T = TypeVar("T")


class Lead(Protocol):
    """What is asked of the leader."""

    @property
    def seconds_left(self) -> float:
        """Until the Lease may be another's."""
        ...

    def check(self) -> None:
        """Raises: FencedError."""
        ...


async def fenced(lead: Lead, call: Callable[[], Awaitable[T]]) -> T:
    """One write. Raises: FencedError before it; OutcomeUnknownError when it does not end while the Lease is ours."""
    lead.check()
    limit = asyncio.timeout(lead.seconds_left)
    try:
        async with limit:
            return await call()
    except TimeoutError as error:
        if not limit.expired():
            raise
        raise OutcomeUnknownError("the write did not end before the Lease could be another's", code="Fenced") from error


class FencedApi:
    """See `KubeApi`. Reads pass."""

    def __init__(self, api: KubeApi, lead: Lead) -> None:
        self._api = api
        self._lead = lead

    async def list(
        self, resource: Resource, *, namespace: str = "", label_selector: str = "", field_selector: str = ""
    ) -> ObjectList:
        return await self._api.list(
            resource, namespace=namespace, label_selector=label_selector, field_selector=field_selector
        )

    def watch(
        self,
        resource: Resource,
        *,
        resource_version: str,
        namespace: str = "",
        label_selector: str = "",
        field_selector: str = "",
    ) -> AsyncIterator[WatchEvent]:
        return self._api.watch(
            resource,
            resource_version=resource_version,
            namespace=namespace,
            label_selector=label_selector,
            field_selector=field_selector,
        )

    async def get(self, resource: Resource, namespace: str, name: str) -> RawObject:
        return await self._api.get(resource, namespace, name)

    async def create(self, resource: Resource, namespace: str, body: RawObject) -> RawObject:
        return await fenced(self._lead, lambda: self._api.create(resource, namespace, body))

    async def update(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        return await fenced(
            self._lead, lambda: self._api.update(resource, namespace, name, body, subresource=subresource)
        )

    async def patch(
        self, resource: Resource, namespace: str, name: str, body: RawObject, *, subresource: str = ""
    ) -> RawObject:
        return await fenced(
            self._lead, lambda: self._api.patch(resource, namespace, name, body, subresource=subresource)
        )

    async def create_subresource(
        self, resource: Resource, namespace: str, name: str, subresource: str, body: RawObject
    ) -> RawObject:
        return await fenced(
            self._lead, lambda: self._api.create_subresource(resource, namespace, name, subresource, body)
        )

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
        options = {"uid": uid, "propagation": propagation}
        await fenced(
            self._lead,
            lambda: self._api.delete(resource, namespace, name, grace_period_seconds=grace_period_seconds, **options),
        )

    async def close(self) -> None:
        await self._api.close()


class FencedProvider:
    """See `NodePoolProvider`. Reads pass."""

    def __init__(self, provider: NodePoolProvider, lead: Lead) -> None:
        self._provider = provider
        self._lead = lead

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        return await self._provider.list_pools()

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        await fenced(self._lead, lambda: self._provider.set_size(pool, desired_nodes))

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        await fenced(self._lead, lambda: self._provider.remove_node(pool, node, provider_id))

    async def list_clusters(self) -> tuple[CloudCluster, ...]:
        return await self._provider.list_clusters()

    async def log_in(self) -> ClusterLogin:
        return await self._provider.log_in()

    async def check_access(self) -> tuple[AccessCheck, ...]:
        return await self._provider.check_access()

    async def close(self) -> None:
        await self._provider.close()
