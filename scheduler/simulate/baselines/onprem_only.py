"""Nothing is ever bought: everything waits for owned capacity."""

from __future__ import annotations

from typing import Final

from scheduler.model.policy import PolicySet
from scheduler.simulate.baselines import changed

SETTINGS: Final = {"": 0.0}


def policies(base: PolicySet, setting: float) -> PolicySet:
    return changed(base, objective="onprem-first", burst=None)
