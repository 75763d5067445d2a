"""What is remembered of a service between cycles, and its form as JSON. Losing it loses hysteresis, never a replica."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from scheduler.model.ids import ClusterId, Instant

MOST_NEEDS: Final = 64
MOST_REJECTED: Final = 8


@dataclass(frozen=True, slots=True)
class Need:
    """What was planned for at a time; requests per second."""

    at: Instant
    near: float
    far: float


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a new revision is. Phases: see `rollout`."""

    old: str
    new: str
    phase: str
    clusters: tuple[ClusterId, ...]
    """In the order in which they change over."""
    cluster: int = 0
    """Index of the one that changes over now; those before it have."""
    step: int = 0
    since: Instant | None = None
    """When the step's share was reached; None: its replicas are not ready yet."""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    needs: tuple[Need, ...] = ()
    """Of the SLO's `down_after`, oldest first, at most MOST_NEEDS."""
    told: tuple[float, Instant, int] | None = None
    """Last demand, since when it has been exactly that, and in how many measurements."""
    told_at: Instant | None = None
    """When that last demand was measured."""
    highest: float = 0.0
    """Highest plausible demand."""
    stable: str = ""
    """The revision that serves; "": not known yet."""
    rollout: Rollout | None = None
    rejected: tuple[str, ...] = ()
    """Revisions that were rolled back; they are not tried again."""
    rejected_why: str = ""
    """Of the last of them."""


def to_json(memory: Memory) -> dict[str, Any]:
    """As JSON values."""
    rollout = memory.rollout
    return {
        "needs": [[need.at, need.near, need.far] for need in memory.needs],
        "told": None if memory.told is None else list(memory.told),
        "toldAt": memory.told_at,
        "highest": memory.highest,
        "stable": memory.stable,
        "rejected": list(memory.rejected),
        "rejectedWhy": memory.rejected_why,
        "rollout": None
        if rollout is None
        else {one.name: _plain(getattr(rollout, one.name)) for one in fields(rollout)},
    }


def from_json(state: Mapping[str, Any]) -> Memory:
    """Raises: ValueError, TypeError, KeyError for what `to_json` did not write."""
    needs = tuple(Need(*map(float, one)) for one in state["needs"])[-MOST_NEEDS:]
    told, rollout = state["told"], state["rollout"]
    numbers = [value for need in needs for value in (need.at, need.near, need.far)]
    if not all(map(math.isfinite, (*numbers, float(state["highest"])))):
        raise ValueError("a memory of serving that cannot be")
    return Memory(
        needs=needs,
        told=None if told is None else (float(told[0]), float(told[1]), int(told[2])),
        told_at=None if state["toldAt"] is None else float(state["toldAt"]),
        highest=float(state["highest"]),
        stable=str(state["stable"]),
        rollout=None if rollout is None else _rollout(rollout),
        rejected=tuple(map(str, state["rejected"]))[-MOST_REJECTED:],
        rejected_why=str(state.get("rejectedWhy", "")),
    )


def _rollout(state: Mapping[str, Any]) -> Rollout:
    since = state["since"]
    return Rollout(
        old=str(state["old"]), new=str(state["new"]), phase=str(state["phase"]),
        clusters=tuple(ClusterId(str(one)) for one in state["clusters"]),
        cluster=int(state["cluster"]), step=int(state["step"]),
        since=None if since is None else float(since), why=str(state["why"]),
    )  # fmt: skip


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be believed of the demand now."""

    per_second: float | None
    """None: nothing can be believed; then `reason` and `text` say why."""
    reason: str = ""
    text: str = ""
    memory: Memory = field(default_factory=Memory)
