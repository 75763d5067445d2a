"""Each job by itself goes where it is cheapest of what can start it, as SkyPilot's optimiser chooses; it fails over
and never waits for something cheaper to be free. Owned nodes are free to those who have them."""

from __future__ import annotations

from typing import Any, Final

from scheduler.engine.candidates import Weighed
from scheduler.model.policy import BurstRule, PolicySet
from scheduler.model.workload import Workload
from scheduler.simulate.baselines import changed

SETTINGS: Final = {"": 0.0}


def policies(base: PolicySet, setting: float) -> PolicySet:
    return changed(base, objective="cost", burst=BurstRule())


def rank(workload: Workload, each: Weighed) -> Any:
    """Dollars of the run."""
    usd = each.candidate.expected_cost_usd if each.candidate.bought else 0
    return usd is None, usd or 0, each.candidate.usd_per_hour or 0, each.candidate.pool
