"""Everything is bought, at once, where it is cheapest; owned capacity is not used."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from scheduler.model.cluster import ON_DEMAND, SPOT
from scheduler.model.policy import BurstRule, PolicySet
from scheduler.simulate.baselines import changed

SETTINGS: Final = {"": 0.0}


def policies(base: PolicySet, setting: float) -> PolicySet:
    burst = changed(base, objective="cost", burst=BurstRule())
    clouds = tuple(
        replace(each, constraints=replace(each.constraints, capacity_types=(ON_DEMAND, SPOT)))
        for each in burst.policies
    )
    return replace(burst, policies=clouds)
