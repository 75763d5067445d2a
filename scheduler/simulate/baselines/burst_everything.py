"""Everything is bought, at once, where it is cheapest; owned capacity is not used."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from scheduler.model.cluster import ON_DEMAND, SPOT
from scheduler.model.policy import BurstRule, PlacementPolicy, PolicySet
from scheduler.simulate.baselines import changed

SETTINGS: Final = {"": 0.0}


def policies(base: PolicySet, setting: float) -> PolicySet:
    burst = changed(base, objective="cost", burst=BurstRule())
    return replace(burst, policies=tuple(map(_in_clouds, burst.policies)))


def _in_clouds(policy: PlacementPolicy) -> PlacementPolicy:
    """What may not leave owned capacity stays there."""
    allowed = policy.constraints.capacity_types
    bought = tuple(kind for kind in (ON_DEMAND, SPOT) if not allowed or kind in allowed)
    return replace(policy, constraints=replace(policy.constraints, capacity_types=bought or allowed))
