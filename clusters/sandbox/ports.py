"""The seam inside the sandbox: the emulated node pools of one cluster, driven by the emulated cloud APIs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from scheduler.model.ids import Instant


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a pool is made of; from the sandbox's scenario."""

    name: str
    instance_type: str
    capacity_type: str
    """owned, on-demand or spot."""
    min_nodes: int
    max_nodes: int
    cpu: str
    memory: str
    gpus: int
    gpu_model: str
    gpu_memory: str
    usd_per_hour: str
    zone: str
    provisioning_seconds: float
    labels: tuple[tuple[str, str], ...] = ()
    taints: tuple[tuple[str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """A machine of a pool. `state`: pending, running or terminating."""

    instance_id: str
    provider_id: str
    node: str
    state: str
    launched_at: Instant


@dataclass(frozen=True, slots=True)
class PoolState:
    spec: PoolSpec
    desired: int
    instances: tuple[Instance, ...]
    shortage: str | None
    """Why the last growth could not be delivered (None: it was): "capacity" or "quota"."""
    resizing: bool


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """Where the Kubernetes API of an emulated cluster is reached, for its cloud to tell."""

    server: str
    """https URL."""
    ca_pem: bytes


class EmulatedPools(Protocol):
    """The machines of one emulated cluster. Calls take effect at once; machines follow after their delays."""

    cluster: str

    def pools(self) -> tuple[PoolState, ...]: ...

    def resize(self, pool: str, desired: int) -> None:
        """Aim at `desired` machines. Shrinking takes the newest pending ones first, then idle ones, then the newest.

        Raises: KeyError for an unknown pool, ValueError outside min..max.
        """
        ...

    def remove(self, pool: str, instance_or_node: str) -> None:
        """Terminate this very machine (by instance id, provider id or node name) and lower the aim by one.

        One that is gone already changes nothing. Raises: KeyError for an unknown pool.
        """
        ...
