"""What Overspill is compared with: each baseline a small rule, one module each, found by its name.

A module offers `SETTINGS` (its own knob's values by label; the comparison takes the best of them), `policies(base,
setting) -> PolicySet` and, where it orders offerings in its own way, `rank(workload, weighed)`. All of them run through
`engine.cycle` on the same simulator, so quotas, gangs, constraints and budgets are kept by all alike.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scheduler.engine.assignment import Rank
from scheduler.engine.cycle import cycle
from scheduler.model.errors import InvalidObjectError
from scheduler.model.plan import Plan
from scheduler.model.policy import PlacementPolicy, PolicySet
from scheduler.model.ports import Predictor
from scheduler.model.snapshot import Snapshot


@dataclass(slots=True)
class BaselineDecider:
    name: str
    policies: PolicySet
    predictor: Predictor
    rank: Rank | None
    kind: str = "baseline"

    def decide(self, snapshot: Snapshot) -> Plan:
        return cycle(snapshot, self.policies, self.predictor, self.rank)


def baseline_names() -> tuple[str, ...]:
    return tuple(
        sorted(found.name.replace("_", "-") for found in pkgutil.iter_modules(__path__) if found.name[0] != "_")
    )


def settings_of(name: str) -> Mapping[str, float]:
    """The values of the baseline's knob that are tried, by label. Raises: InvalidObjectError."""
    found: Mapping[str, float] = _module(name).SETTINGS
    return found


def baseline(name: str, setting: str, base: PolicySet, predictor: Predictor) -> BaselineDecider:
    """The baseline under the constraints, queues and budgets of `base`. Raises: InvalidObjectError."""
    module = _module(name)
    if setting not in module.SETTINGS:
        raise InvalidObjectError(f"baseline {name}: no setting {setting!r}; there are {', '.join(module.SETTINGS)}")
    label = name if len(module.SETTINGS) == 1 else f"{name} {setting}"
    policies: PolicySet = module.policies(base, module.SETTINGS[setting])
    return BaselineDecider(label, policies, predictor, getattr(module, "rank", None))


def changed(base: PolicySet, **changes: Any) -> PolicySet:
    """`base` with every policy changed alike and no value of time: a baseline knows none. Where `base` has no policy
    at all, one that matches everything."""
    policies = base.policies or (PlacementPolicy("any"),)
    return replace(
        base, policies=tuple(replace(each, value_of_time=None, time_slice=None, **changes) for each in policies)
    )


def _module(name: str) -> Any:
    if name not in baseline_names():
        raise InvalidObjectError(f"no baseline {name[:60]!r}; there are {', '.join(baseline_names())}")
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
