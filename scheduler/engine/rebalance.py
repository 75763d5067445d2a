"""Return by moving: whether a running workload is cheaper elsewhere, and which moves may be made now. Pure.

Only the sums and the limits on disruption live here: what is free, and for whom, is for the caller to say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from scheduler.model.ids import Instant, PoolRef, Uid

MARGIN: Final = 0.1
"""A move must cost less than staying by this part of it, so that small changes of price move nobody."""


@dataclass(frozen=True, slots=True)
class Run:
    """A workload that runs, and what it would be on the target. Times in seconds, money in USD; None: unknown."""

    ran_seconds: float
    run_seconds_here: float | None
    """Of the whole run, as predicted for where it is."""
    run_seconds_there: float | None
    checkpoint_every_seconds: float | None
    """None: its user does not say that it checkpoints."""
    start_seconds_there: float | None
    usd_per_hour_here: float | None
    usd_per_hour_there: float | None
    """What is paid for it there: 0 on owned nodes."""
    transfer_usd: float = 0.0
    usd_per_second_of_time: float = 0.0


@dataclass(frozen=True, slots=True)
class Sums:
    """What the rest of a run costs (USD, the value of time included) when it stays and when it moves."""

    stay_usd: float
    move_usd: float
    lost_seconds: float
    """Work done again, at most: when it last checkpointed is not known, so a whole interval is reckoned."""

    @property
    def saving_usd(self) -> float:
        return self.stay_usd - self.move_usd

    @property
    def pays(self) -> bool:
        return self.move_usd < self.stay_usd * (1.0 - MARGIN)


def sums(run: Run) -> Sums | None:
    """What staying and moving cost; None when a part is unknown, or the run is past its predicted end: it stays."""
    here, there, every = run.run_seconds_here, run.run_seconds_there, run.checkpoint_every_seconds
    start, paid_here, paid_there = run.start_seconds_there, run.usd_per_hour_here, run.usd_per_hour_there
    if here is None or there is None or every is None or start is None or paid_here is None or paid_there is None:
        return None
    left = here - run.ran_seconds
    if left <= 0:
        return None
    lost = min(max(0.0, run.ran_seconds), every)
    again = (left + lost) / here * there
    value = run.usd_per_second_of_time
    stay = left * (paid_here / 3600.0 + value)
    move = (start + again) * (paid_there / 3600.0 + value) + run.transfer_usd
    return Sums(stay, move, lost)


@dataclass(frozen=True, slots=True)
class PastMove:
    """A move that was made: it counts against the pool that it left, and keeps its workload where it is for a while."""

    workload: Uid
    source: PoolRef
    at: Instant


@dataclass(frozen=True, slots=True)
class Proposal:
    workload: Uid
    source: PoolRef
    sums: Sums


@dataclass(frozen=True, slots=True)
class MoveLimit:
    """At most `moves` off one pool within any `per_seconds`; no workload twice within `cool_down_seconds`."""

    moves: int = 2
    per_seconds: float = 3600.0
    cool_down_seconds: float = 3600.0


def allowed(
    proposals: Iterable[Proposal], past: Iterable[PastMove], limits: Mapping[PoolRef, MoveLimit], now: Instant
) -> tuple[Proposal, ...]:
    """Those that pay and may be made now, the largest saving first, ties by UID; the same for every order of the input.

    A pool without a limit of its own has `MoveLimit()`. A workload is moved once at most.
    """
    made = tuple(past)
    used: Counter[PoolRef] = Counter()
    last: dict[Uid, Instant] = {}
    for move in made:
        used[move.source] += now < move.at + limits.get(move.source, MoveLimit()).per_seconds
        last[move.workload] = max(move.at, last.get(move.workload, move.at))
    chosen: list[Proposal] = []
    for each in sorted(proposals, key=lambda p: (-p.sums.saving_usd, p.workload, p.source, p.sums.move_usd)):
        limit = limits.get(each.source, MoveLimit())
        before = last.get(each.workload)
        cooling = before is not None and now < before + limit.cool_down_seconds
        taken = any(other.workload == each.workload for other in chosen)
        if not each.sums.pays or cooling or taken or used[each.source] >= limit.moves:
            continue
        used[each.source] += 1
        chosen.append(each)
    return tuple(chosen)
