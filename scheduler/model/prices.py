"""Prices of machines and traffic: what is asked of a source, and what it answers. Unknown is absent, never 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from scheduler.model.ids import ClusterId, Instant
from scheduler.model.money import Usd

INTERNET: Final = "internet"
SAME_REGION: Final = "same-region"
OTHER_REGION: Final = "other-region"


@dataclass(frozen=True, slots=True, order=True)
class PriceQuery:
    """A machine whose price is wanted. The same words as in `NodePool`."""

    cluster: ClusterId
    pool: str
    provider: str
    """As in clusters.providers: eks, gke, aks, onprem, ..."""
    region: str
    zones: tuple[str, ...]
    """Empty: anywhere in the region."""
    instance_type: str
    capacity_type: str
    gpu_model: str | None = None
    gpus: int = 0
    cpu_milli: int = 0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True)
class PriceQuote:
    """What one machine of `query` costs, as one source says."""

    query: PriceQuery
    usd_per_hour: Usd
    source: str
    """For people: the source's name and what distinguishes it, such as "aws-spot us-east-1b"."""
    as_of: Instant
    """When the source vouched for it: of a live API that tells what is in force, the time of reading; of a file, a
    catalogue or a sample, its date."""


@dataclass(frozen=True, slots=True)
class EgressTier:
    """From the previous tier's end up to `up_to_gib` a month (None: without end), each GiB costs `usd_per_gib`."""

    up_to_gib: int | None
    usd_per_gib: Usd


@dataclass(frozen=True, slots=True)
class EgressPrice:
    """What traffic that leaves a region costs."""

    provider: str
    region: str
    """"*": every region of the provider."""
    destination: str
    """internet, same-region, other-region."""
    tiers: tuple[EgressTier, ...]
    source: str
    as_of: Instant


@runtime_checkable
class PriceSource(Protocol):
    """One place where prices are found; a module of `clusters.prices`. Raises the typed errors of
    `scheduler.model.errors`; what it does not know it leaves out."""

    name: str

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        """Prices of those of `wanted` that this source knows, at most one for each."""
        ...

    async def close(self) -> None: ...
