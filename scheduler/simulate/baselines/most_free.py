"""The cluster with the most free capacity, as Karmada's dynamic weights: what could be bought counts as free."""

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
    room = each.room
    there = sum(max(0, bin_.gpus) for bin_ in (*room.ready, *room.coming))
    return -(there + room.can_open * room.node_size.gpus), each.candidate.pool
