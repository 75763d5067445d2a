"""A provider whose answers may be nonsense: what reading them raises becomes one clear, typed error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from scheduler.model.cloud import AccessCheck, CloudCluster, ClusterLogin
from scheduler.model.errors import OutcomeUnknownError, TransientError
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import NodePoolProvider, PoolStatus

_NONSENSE: Final = (KeyError, TypeError, AttributeError, ValueError, IndexError)
"""What reading a field that is missing or of the wrong type raises."""


class CheckedProvider:
    """Any provider, behind this. Raises TransientError where a call only reads, OutcomeUnknownError where it writes."""

    def __init__(self, name: str, provider: NodePoolProvider) -> None:
        self._name = name
        self._provider = provider

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        with self._reading("list_pools", TransientError):
            return await self._provider.list_pools()

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        with self._reading("set_size", OutcomeUnknownError):
            await self._provider.set_size(pool, desired_nodes)

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        with self._reading("remove_node", OutcomeUnknownError):
            await self._provider.remove_node(pool, node, provider_id)

    async def list_clusters(self) -> tuple[CloudCluster, ...]:
        with self._reading("list_clusters", TransientError):
            return await self._provider.list_clusters()

    async def log_in(self) -> ClusterLogin:
        with self._reading("log_in", TransientError):
            return await self._provider.log_in()

    async def check_access(self) -> tuple[AccessCheck, ...]:
        with self._reading("check_access", TransientError):
            return await self._provider.check_access()

    async def close(self) -> None:
        await self._provider.close()

    @contextmanager
    def _reading(self, call: str, kind: type[TransientError] | type[OutcomeUnknownError]) -> Iterator[None]:
        try:
            yield
        except _NONSENSE as error:
            what = f"{type(error).__name__}: {str(error)[:120]}"
            text = (
                f"{self._name}: {call}: the cloud's answer cannot be understood ({what}); look at its endpoint setting"
            )
            raise kind(text, code="Malformed") from error
