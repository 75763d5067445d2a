"""The scenario file: a fleet, a time, and faults.

apiVersion: overspill.dev/v1alpha1
kind: FaultScenario
nodes: 200          # eight GPUs each
days: 7             # or hours: 36
quietDays: 1        # at the start: no faults, the detectors learn
seed: 1
perKind: 6          # of each kind, at random times
kinds: [xid-79]     # only of these; default: all that a rule is meant to find
recorded: FILE.csv.gz   # duty cycles of serving GPUs (pod,t_s,gpu_duty_pct), instead of drawn ones
faults:             # and these
  - {kind: straggler, atMinute: 3000, minutes: 60, strengthPercent: 15}
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import Field, model_validator

from policies.documents import Problem, Strict, refuse, validate
from policies.errors import PolicyError, PolicyErrors, did_you_mean, shown
from policies.source import decode, parse, read_bytes
from scheduler.simulate.faults.fault import UNNAMED, Fault
from scheduler.simulate.faults.kinds import KINDS, NAMED

DAY_MINUTES: Final = 1440
MOST_FAULTS: Final = 5000


class PlantedFault(Strict):
    kind: str
    at_minute: int = Field(ge=0)
    minutes: int | None = Field(default=None, ge=1, le=10 * DAY_MINUTES)
    strength_percent: int | None = Field(default=None, ge=1, le=1_000_000)
    """Of what the kind's strength is in (see docs/aiops.md); default: drawn."""


class ScenarioFile(Strict):
    api_version: Literal["overspill.dev/v1alpha1"]
    kind: Literal["FaultScenario"]
    nodes: int = Field(default=200, ge=12, le=2000)
    days: int = Field(default=7, ge=1, le=60)
    hours: int | None = Field(default=None, ge=1, le=1440)
    """Instead of days."""
    quiet_days: int = Field(default=1, ge=0, le=30)
    seed: int = Field(default=1, ge=0, le=2**31)
    per_kind: int = Field(default=0, ge=0, le=100)
    kinds: list[str] = Field(default_factory=list, max_length=200)
    recorded: str = Field(default="", max_length=1000)
    faults: list[PlantedFault] = Field(default_factory=list, max_length=MOST_FAULTS)

    @property
    def whole_hours(self) -> int:
        return 24 * self.days if self.hours is None else self.hours

    @model_validator(mode="after")
    def _known(self) -> ScenarioFile:
        problems = list(self._problems())
        if problems:
            raise refuse(*problems)
        return self

    def _problems(self) -> Iterator[Problem]:
        for index, name in enumerate(self.kinds):
            if name not in KINDS:
                yield Problem(("kinds", index), f"no kind of fault {shown(name)}; {did_you_mean(name, list(KINDS))}")
        for index, one in enumerate(self.faults):
            if one.kind not in KINDS:
                message = f"no kind of fault {shown(one.kind)}; {did_you_mean(one.kind, list(KINDS))}"
                yield Problem(("faults", index, "kind"), message)
            if one.at_minute >= 60 * self.whole_hours:
                message = f"after the end at minute {60 * self.whole_hours}; write an earlier one, or more days"
                yield Problem(("faults", index, "atMinute"), message)
        if 24 * self.quiet_days >= self.whole_hours and (self.per_kind or self.faults):
            yield Problem(("quietDays",), "leaves no day for faults; write fewer, or more days")


@dataclass(frozen=True, slots=True)
class Scenario:
    nodes: int = 200
    hours: int = 168
    quiet_days: int = 1
    seed: int = 1
    per_kind: int = 0
    kinds: tuple[str, ...] = ()
    recorded: Path | None = None
    planted: tuple[PlantedFault, ...] = ()

    @property
    def minutes(self) -> int:
        return 60 * self.hours

    @property
    def days(self) -> float:
        return self.hours / 24.0

    @property
    def site_gauges(self) -> bool:
        """Whether the site scrapes gauges of its own: where faults are planted that show in them."""
        return any(KINDS[name].shape == UNNAMED for name in (*self.kinds, *(one.kind for one in self.planted)))

    def faults(self, rng: np.random.Generator) -> list[Fault]:
        """Those that are written, and those that are drawn: evenly over the time after the quiet days, by start."""
        found = []
        for one in self.planted:
            kind = KINDS[one.kind]
            minutes = one.minutes or int(rng.integers(kind.minutes[0], kind.minutes[1] + 1))
            strength = float(rng.uniform(*kind.strength))
            if one.strength_percent is not None:
                strength = one.strength_percent / 100.0
            found.append(Fault(one.kind, one.at_minute, minutes, strength))
        for name in sorted(self.kinds or NAMED):
            kind = KINDS[name]
            for _ in range(self.per_kind):
                minutes = int(rng.integers(kind.minutes[0], kind.minutes[1] + 1))
                first, last = self.quiet_days * DAY_MINUTES, max(self.minutes - 2 * minutes, 1)
                at = int(rng.integers(min(first, last - 1), last))
                found.append(Fault(name, at, minutes, float(rng.uniform(*kind.strength))))
        return sorted(found, key=lambda one: (one.starts, one.kind))


def load(path: Path) -> Scenario:
    """The scenario of a file. Raises: PolicyErrors with place and remedy for everything that is wrong with it."""
    documents, errors = parse(decode(read_bytes(path), str(path)), str(path))
    if errors:
        raise PolicyErrors(list(errors))
    if len(documents) != 1:
        message = f"{len(documents)} documents; a scenario is one, with kind: FaultScenario"
        raise PolicyErrors([PolicyError(str(path), 1, 1, message)])
    file = validate(documents[0], ScenarioFile)
    recorded = path.parent / file.recorded if file.recorded else None
    return Scenario(
        nodes=file.nodes,
        hours=file.whole_hours,
        quiet_days=file.quiet_days,
        seed=file.seed,
        per_kind=file.per_kind,
        kinds=tuple(file.kinds),
        recorded=recorded,
        planted=tuple(file.faults),
    )
