"""Questions to price sources."""

from __future__ import annotations

from typing import Any

from scheduler.model.ids import ClusterId
from scheduler.model.prices import PriceQuery


def query(
    provider: str, region: str, instance_type: str, capacity_type: str = "on-demand", **changed: Any
) -> PriceQuery:
    """A query for the pool `pool` of the cluster `burst`, changed by `changed`."""
    fields: dict[str, Any] = {"cluster": ClusterId("burst"), "pool": "pool", "zones": ()}
    return PriceQuery(
        provider=provider, region=region, instance_type=instance_type, capacity_type=capacity_type, **(fields | changed)
    )
