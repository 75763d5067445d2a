"""What the clients of the demo's service saw, minute by minute, as the sandbox tells it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scheduler.model.ids import Instant

LATE: Final = 0.05
"""Part of the requests that may be late or fail in a minute: the objective is a p95."""
MOST_OUT: Final = 0.01
"""Part of the minutes that may be out, whole minutes: what a service over clusters is held to."""
MOST_GAP_SECONDS: Final = 30.0
"""With less capacity than was asked: two of the daemon's looks, for it runs on whatever machine the demo does."""
ONPREM: Final = "onprem"
_MOST_TOLD: Final = 60


@dataclass(frozen=True, slots=True)
class Minute:
    at: Instant
    asked_per_second: float
    capacity_per_second: float
    """Of ready replicas, saturated."""
    answered: float
    late: float
    failed: float
    gap_seconds: float
    """For how long more was asked than all ready replicas can serve."""
    p95_seconds: float
    replicas: Mapping[str, float]
    """By cluster."""
    weights: Mapping[str, float]

    @property
    def out(self) -> bool:
        """Whether its p95 was out of the SLO."""
        return self.late + self.failed > LATE * (self.answered + self.failed)

    @property
    def in_clouds(self) -> float:
        """Replicas anywhere but on-prem."""
        return sum(count for cluster, count in self.replicas.items() if cluster != ONPREM)


@dataclass(frozen=True, slots=True)
class ServiceDay:
    began: Instant
    slo_seconds: float
    minutes: tuple[Minute, ...]

    @property
    def minutes_out(self) -> int:
        return sum(one.out for one in self.minutes)

    @property
    def gap_seconds(self) -> float:
        return sum(one.gap_seconds for one in self.minutes)

    @property
    def kept(self) -> bool:
        """Whether what was promised was kept, within the limits above."""
        return self.minutes_out <= math.ceil(MOST_OUT * len(self.minutes)) and self.gap_seconds <= MOST_GAP_SECONDS

    @property
    def most_in_clouds(self) -> float:
        return max((one.in_clouds for one in self.minutes), default=0.0)

    @property
    def burst_after_seconds(self) -> float | None:
        """Until the first replica was ready in a cloud; None: none ever was."""
        return next((one.at - self.began for one in self.minutes if one.in_clouds > 0), None)

    @property
    def out_after_seconds(self) -> float | None:
        """Until the first minute out of the SLO; None: there was none."""
        return next((one.at - self.began for one in self.minutes if one.out), None)

    @property
    def came_back(self) -> bool:
        """Whether it was in a cloud, and in the end is not."""
        return self.most_in_clouds > 0 and bool(self.minutes) and self.minutes[-1].in_clouds == 0

    def as_json(self) -> dict[str, Any]:
        return {
            "kept": self.kept,
            "minutes": len(self.minutes),
            "minutes_out": self.minutes_out,
            "out_at_seconds": [round(one.at - self.began) for one in self.minutes if one.out][:_MOST_TOLD],
            "capacity_gap_seconds": round(self.gap_seconds, 1),
            "most_replicas_in_clouds": round(self.most_in_clouds),
            "burst_after_seconds": self.burst_after_seconds,
            "out_after_seconds": self.out_after_seconds,
            "came_back": self.came_back,
        }

    def text(self) -> str:
        """One line."""
        where = f"up to {self.most_in_clouds:.0f} replicas in clouds" if self.most_in_clouds else "never in a cloud"
        back = ", back on-prem in the end" if self.came_back else ""
        out = f"{self.minutes_out} of {len(self.minutes)} minutes out of its {self.slo_seconds:g} s"
        return f"{where}{back}; {out}; {self.gap_seconds:.0f} s with less capacity than was asked"


def read_day(told: Mapping[str, Any]) -> ServiceDay | None:
    """Of what the sandbox's GET /services answers; None: no service was under load. Raises: KeyError, TypeError,
    ValueError for anything else."""
    for load in told["services"].values():
        minutes = tuple(_minute(one) for one in load["minutes"])
        return ServiceDay(float(load["began"]), float(load["slo_seconds"]), minutes)
    return None


def _minute(one: Mapping[str, Any]) -> Minute:
    return Minute(
        at=float(one["at"]),
        asked_per_second=float(one["asked_per_second"]),
        capacity_per_second=float(one["capacity_per_second"]),
        answered=float(one["answered"]),
        late=float(one["late"]),
        failed=float(one["failed"]),
        gap_seconds=float(one["gap_seconds"]),
        p95_seconds=float(one["p95_seconds"]),
        replicas={str(name): float(count) for name, count in one["replicas"].items()},
        weights={str(name): float(part) for name, part in one["weights"].items()},
    )


def clusters_of(minutes: Sequence[Minute]) -> tuple[str, ...]:
    """Those that ever had a replica, on-prem first."""
    found = {name for one in minutes for name, count in one.replicas.items() if count > 0}
    return tuple(sorted(found, key=lambda name: (name != ONPREM, name)))
