"""What each price source reads, emulated: one module per source, of the source's name.

A module here offers `async def start(folder: Path, clock: Clock) -> EmulatedPrices`.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery


async def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class EmulatedPrices:
    """Where one source finds its prices."""

    settings: Mapping[str, Any]
    """Valid settings, `type` included, as in the federation file."""
    known: tuple[PriceQuery, ...]
    """Machines that it tells a price of."""
    nonsense: tuple[Callable[[], None], ...] = ()
    """Each makes the source's next answers another kind of nonsense: garbage, cut off, zero, negative, not a number."""
    environment: Mapping[str, str] | None = None
    """Variables that its SDK reads."""
    stop: Callable[[], Awaitable[None]] = _nothing


async def start_prices(name: str, folder: Path, clock: Clock) -> EmulatedPrices:
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        raise AssertionError(f"emulate what {name} reads in tests/contract/emulated_prices/{name}.py") from error
    emulated: EmulatedPrices = await module.start(folder, clock)
    return emulated


def machine(
    provider: str, region: str, instance_type: str, capacity_type: str = "on-demand", **more: Any
) -> PriceQuery:
    """A query for the pool `pool` of the cluster `burst`, with `more` fields."""
    fields: dict[str, Any] = {"cluster": "burst", "pool": "pool", "zones": ()} | more
    return PriceQuery(
        provider=provider, region=region, instance_type=instance_type, capacity_type=capacity_type, **fields
    )
