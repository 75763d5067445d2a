"""Own capacity first: owned nodes, then reserved ones, then bought ones; the cheapest within each of these."""

from __future__ import annotations

from typing import Final

from policies.objectives import cost
from scheduler.model.cluster import OWNED, RESERVED
from scheduler.model.plan import Candidate

_TIER: Final = 1e9
"""More USD than any run costs, so that no price outweighs a tier."""


def score(candidate: Candidate) -> float | None:
    """Tier times 1e9 plus USD. An unknown price puts owned and reserved nodes last in their tier, for they are paid
    for anyway; on bought ones it is unknown (None)."""
    tier = 2 if candidate.bought else {OWNED: 0, RESERVED: 1}.get(candidate.capacity_type, 2)
    usd = cost.score(candidate)
    if usd is None:
        return tier * _TIER + _TIER / 2 if tier < 2 else None
    return tier * _TIER + min(usd, _TIER / 4)
