"""The first cluster that admits it, as MultiKueue's race ends: whichever answers first, whatever it costs.

Which that is, is drawn for each job from its name, so that the same job meets the same race in every replay."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from scheduler.engine.candidates import Weighed
from scheduler.model.policy import BurstRule, PolicySet
from scheduler.model.workload import Workload
from scheduler.simulate.baselines import changed

SETTINGS: Final = {"": 0.0}


def policies(base: PolicySet, setting: float) -> PolicySet:
    return changed(base, objective="cost", burst=BurstRule())


def rank(workload: Workload, each: Weighed) -> Any:
    """Clusters that start it now before those that must first buy nodes; then by lot."""
    text = f"{workload.ref.name}|{each.candidate.pool.cluster}"
    lot = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return each.fit is not None and not each.fit.now, lot, each.candidate.pool
