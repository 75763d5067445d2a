"""Time slices: which workloads run in the next one, and where. For those whose policy has a `timeSlice`.

Such a policy says that a run may be moved whenever a slice begins, its work kept. The whole backlog is then weighed as
a fluid (`fluid`): money, the value of each workload's time, and the value of the time until all are done. Nothing is
bought for a slice: only what is there is shared out. Owned capacity counts at its pool's price where it has one, for
who shares a cluster has to say what its GPUs are worth to one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from scheduler.engine.asking import Earliest
from scheduler.engine.board import Board
from scheduler.engine.candidates import Weighed, Weigher
from scheduler.engine.commitments import UNKNOWN_RUN_SECONDS
from scheduler.engine.costs import amounts
from scheduler.engine.filters import Ask
from scheduler.engine.fluid import MOST_COLUMNS, Backlog, Slice, intervals, next_slice, whole
from scheduler.engine.guide import Guide
from scheduler.engine.programme import UnsolvedError
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.world import World, by_name
from scheduler.model.ids import PoolRef, Uid
from scheduler.model.plan import ShadowPrice, WaitOption
from scheduler.model.workload import Workload

_RESOURCES: Final = ("gpu", "cpu", "memory")


@dataclass(frozen=True, slots=True)
class _Ways:
    """One workload, and where it could run now."""

    workload: Workload
    ask: Ask
    weighed: tuple[Weighed, ...]
    """Of pools that hold it on nodes that are there."""

    @property
    def usd_per_second(self) -> float:
        value = self.ask.policy.value_of_time
        return 0.0 if value is None else value.usd_per_second(self.ask.shape.gpus)

    @property
    def soonest(self) -> float:
        return min(_seconds(each) for each in self.weighed)


class Slices:
    """Made once a cycle, before anything new is placed; `guide` speaks for everybody else."""

    def __init__(self, world: World, weigher: Weigher, pending: Iterable[Workload], guide: Guide) -> None:
        self._guide = guide
        self._world = world
        self._rooms: tuple[PoolRoom, ...] = tuple(world.rooms.values())
        self._place: dict[Uid, PoolRef | None] = {}
        self._prices: tuple[ShadowPrice, ...] = ()
        self._solver = ""
        ways = [self._ways_of(each, weigher) for each in sorted(pending, key=by_name)]
        able = [each for each in ways if each is not None]
        if able:
            self._solve(able)

    @property
    def solver(self) -> str:
        """The worse of both answers: greedy, where one of them found no optimum."""
        return min((each for each in (self._solver, self._guide.solver) if each), default="")

    @property
    def prices(self) -> tuple[ShadowPrice, ...]:
        return (*self._prices, *self._guide.prices)

    def speaks_for(self, workload: Workload) -> bool:
        return workload.ref.uid in self._place or self._guide.speaks_for(workload)

    def lets_wait(self, workload: Workload) -> bool:
        """Whether it is not to run in the next slice, whatever fits."""
        if workload.ref.uid not in self._place:
            return self._guide.lets_wait(workload)
        return self._place[workload.ref.uid] is None

    def pick(self, workload: Workload, weighed: Sequence[Weighed]) -> Weighed | None:
        """Where it runs in the next slice; None: it waits for a later one."""
        if workload.ref.uid not in self._place:
            return self._guide.pick(workload, weighed)
        place = self._place[workload.ref.uid]
        there = (each for each in weighed if each.room.pool.ref == place and each.fit is not None and each.fit.now)
        return next(there, None)

    def explain(self, workload: Workload, weighed: Iterable[Weighed]) -> tuple[Weighed, ...]:
        return tuple(weighed) if workload.ref.uid in self._place else self._guide.explain(workload, weighed)

    def wait_option(self, workload: Workload) -> WaitOption | None:
        return None if workload.ref.uid in self._place else self._guide.wait_option(workload)

    def _ways_of(self, workload: Workload, weigher: Weigher) -> _Ways | None:
        """None: it can run nowhere now, and is told why in its turn."""
        ask = self._world.ask_for(workload)
        if ask is None:
            return None
        fitting = tuple(each for each in weigher.weigh(ask) if each.fit is not None and each.fit.now)
        return _Ways(workload, ask, fitting) if fitting else None

    def _solve(self, able: list[_Ways]) -> None:
        backlog = self._backlog(able)
        most = max(1, MOST_COLUMNS // (len(self._rooms) * (len(intervals(backlog)) - 1)))
        if most < len(able):
            # The most valuable for their time, as Smith's rule orders them (1956); the others wait for a later slice.
            self._place = {each.workload.ref.uid: None for each in able}
            able = sorted(able, key=lambda each: (-each.usd_per_second / each.soonest, by_name(each.workload)))[:most]
            backlog = self._backlog(able)
        try:
            found = next_slice(backlog)
        except UnsolvedError:
            self._place, self._solver = {}, "greedy"
            return
        self._solver = "optimal"
        for each, pool in zip(able, whole(backlog, found).tolist(), strict=True):
            self._place[each.workload.ref.uid] = None if pool < 0 else self._rooms[pool].pool.ref
        self._prices = self._shadow_prices(found)
        self._world.wake_at(self._world.now + backlog.slice_seconds)

    def _backlog(self, able: Sequence[_Ways]) -> Backlog:
        column = {room.pool.ref: index for index, room in enumerate(self._rooms)}
        shape = len(able), len(self._rooms)
        seconds, usd = np.full(shape, np.inf), np.zeros(shape)
        for row, one in enumerate(able):
            for each in one.weighed:
                at = row, column[each.room.pool.ref]
                seconds[at] = _seconds(each)
                usd[at] = float(each.candidate.usd_per_hour or 0) * seconds[at] / 3600.0
        rules = [rule for one in able if (rule := one.ask.policy.time_slice) is not None]
        return Backlog(
            seconds,
            usd,
            np.array([each.usd_per_second for each in able]),
            np.array([amounts(each.ask.shape.requests) for each in able]),
            np.array([_free(room) for room in self._rooms]),
            min(rule.seconds for rule in rules),
            max(float(rule.usd_per_hour_to_last_end) for rule in rules) / 3600.0,
        )

    def _shadow_prices(self, found: Slice) -> tuple[ShadowPrice, ...]:
        prices = [
            ShadowPrice(str(room.pool.ref), name, float(worth), "USD for one more for a time slice")
            for room, row in zip(self._rooms, found.price, strict=True)
            for name, worth in zip(_RESOURCES, row, strict=True)
            if worth > 1e-9
        ]
        return tuple(sorted(prices, key=lambda each: (-each.worth_usd, each.name, each.resource)))


def guide_of(
    world: World,
    weigher: Weigher,
    pending: Iterable[Workload],
    earliest: Earliest,
    board: Callable[[], Board] | None,
) -> Guide | Slices:
    """Who speaks for the workloads whose policies weigh the whole backlog."""
    if all(policy.time_slice is None for policy in world.policies.policies):
        return Guide(world, weigher, pending, earliest, board)
    sliced: list[Workload] = []
    others: list[Workload] = []
    for workload in pending:
        policy = world.policy_of(workload)
        (others if policy is None or policy.time_slice is None else sliced).append(workload)
    return Slices(world, weigher, sliced, Guide(world, weigher, others, earliest, board))


def _seconds(weighed: Weighed) -> float:
    run = weighed.prediction.run_seconds
    return UNKNOWN_RUN_SECONDS if run is None else max(1.0, run)


def _free(room: PoolRoom) -> tuple[float, float, float]:
    """On its nodes that are there and ready."""
    bins = room.ready
    return (
        float(sum(max(0, each.gpus) for each in bins)),
        sum(max(0, each.cpu_milli) for each in bins) / 1000,
        sum(max(0, each.memory_bytes) for each in bins) / 2**30,
    )
