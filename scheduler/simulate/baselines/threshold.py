"""Owned capacity first; what has waited for a fixed time is burst to the cheapest offering. The usual rule."""

from __future__ import annotations

from typing import Final

from scheduler.model.policy import BurstRule, PolicySet
from scheduler.simulate.baselines import changed

SETTINGS: Final = {"0m": 0.0, "10m": 600.0, "30m": 1800.0, "1h": 3600.0, "2h": 7200.0, "4h": 14400.0, "12h": 43200.0}


def policies(base: PolicySet, setting: float) -> PolicySet:
    return changed(base, objective="onprem-first", burst=BurstRule(setting))
