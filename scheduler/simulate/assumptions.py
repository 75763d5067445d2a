"""What a replay assumes of the world beyond the federation file; every number can be set, none is hidden."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from scheduler.model.cluster import SPOT, NodePool

DEFAULT_PROVISIONING_SECONDS = 240.0


@dataclass(frozen=True, slots=True)
class Assumptions:
    """Times in seconds, hazards per node and hour, chances 0..1."""

    seed: int = 0
    start_seconds: float = 15.0
    """From binding to running: image pull and start-up."""
    restart_seconds: float = 60.0
    """Lost beyond the work since the last checkpoint each time a run is interrupted: loading the checkpoint."""
    spot_reclaims_per_hour: float = 0.03
    pool_reclaims_per_hour: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """By "cluster/pool", instead of the above."""
    provisioning_spread: float = 0.25
    """Standard deviation of the logarithm of provisioning times about the pool's own."""
    shortage_chance: float = 0.0
    """That an order for one bought node is not delivered."""
    shortage_seconds: float = 1800.0
    """How long a pool that could not deliver says so."""
    hint_spread: float = 0.0
    """Standard deviation of the logarithm of what users say of run times about the truth; 0: they know exactly."""
    hints: bool = True
    """False: nobody says anything of run times."""

    def reclaims_per_hour(self, pool: NodePool) -> float:
        if pool.capacity_type != SPOT:
            return 0.0
        return self.pool_reclaims_per_hour.get(str(pool.ref), self.spot_reclaims_per_hour)


def draw(seed: int, *name: object) -> float:
    """A number in (0, 1) that depends on `seed` and `name` alone: the same machine of the same pool meets the same fate
    whatever policy is replayed (common random numbers), and the order of draws does not matter."""
    text = "|".join(str(part) for part in (seed, *name)).encode()
    number = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
    return (number + 0.5) / 2**64


def exponential(mean: float, *, uniform: float) -> float:
    return -mean * math.log(uniform)


def normal(first: float, second: float) -> float:
    """A standard normal number from two uniform ones (Box and Muller, 1958)."""
    return math.sqrt(-2.0 * math.log(first)) * math.cos(2.0 * math.pi * second)
