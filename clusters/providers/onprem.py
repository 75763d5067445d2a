"""Machines that are there already: no pool of them can be resized, so the cluster's own nodes say all there is."""

from __future__ import annotations

from typing import Literal

from clusters.providers._settings import ProviderSettings
from scheduler.model.cloud import AccessCheck, CloudCluster, ClusterLogin
from scheduler.model.errors import RefusedError
from scheduler.model.ids import NodeName, PoolId
from scheduler.model.ports import Clock, PoolStatus


class Settings(ProviderSettings):
    type: Literal["onprem"]


class FixedPools:
    """A provider without resizable pools."""

    async def list_pools(self) -> tuple[PoolStatus, ...]:
        return ()

    async def set_size(self, pool: PoolId, desired_nodes: int) -> None:
        raise RefusedError(f"onprem: {pool}: owned machines cannot be resized; set `scaling: fixed`", code="Fixed")

    async def remove_node(self, pool: PoolId, node: NodeName, provider_id: str) -> None:
        raise RefusedError(f"onprem: {pool}: {node} is owned and cannot be given back", code="Fixed")

    async def list_clusters(self) -> tuple[CloudCluster, ...]:
        return ()

    async def log_in(self) -> ClusterLogin:
        raise RefusedError("onprem: there is no cloud to log in by; name a kubeconfig for the member", code="NoCloud")

    async def check_access(self) -> tuple[AccessCheck, ...]:
        return ()

    async def close(self) -> None:
        return None


def create(settings: Settings, *, clock: Clock) -> FixedPools:
    """The provider; it talks to nobody."""
    return FixedPools()
