"""The workloads whose policy values time, by classes that the programme takes for equal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from scheduler.engine.commitments import UNKNOWN_RUN_SECONDS
from scheduler.engine.deadlines import deadline_of
from scheduler.engine.filters import Ask
from scheduler.engine.remaining import part_left
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.world import World, by_name
from scheduler.model.ids import Uid
from scheduler.model.workload import DataSet, Workload

_STEPS_AN_OCTAVE: Final = 4
"""Run times that differ by less than a fifth are taken for equal."""
_MOST_CLASSES: Final = 400
_FEWEST_STEPS: Final = 0.3
_Key = tuple[int, int, int, tuple[DataSet, ...]]


@dataclass(slots=True, eq=False)
class Class:
    """Equal workloads, and such whose run times differ little."""

    ask: Ask
    """Of the first of them."""
    count: int
    run_seconds: float
    """Their mean."""
    deadline: float | None
    """Seconds from now; the earliest of theirs."""

    @property
    def usd_per_second(self) -> float:
        """What its time is worth, each second until it is done."""
        assert self.ask.policy.value_of_time is not None
        return self.ask.policy.value_of_time.usd_per_second(self.ask.shape.gpus)

    @property
    def units(self) -> float:
        """What one gang takes of a reserve: GPUs, or cores where it wants no GPU."""
        return float(self.ask.shape.gpus or self.ask.shape.requests.cpu_milli / 1000)


class RunTimes:
    """How long workloads run by themselves, and how much longer or shorter on a pool."""

    def __init__(self, world: World, rooms: Sequence[PoolRoom]) -> None:
        self._world = world
        self._rooms = rooms
        self._unhinted: dict[int, float] = {}

    def seconds(self, workload: Workload) -> float:
        """What its user says; else what is predicted for the first pool of which anything is; else an hour."""
        if workload.hints.expected_seconds is not None:
            return workload.hints.expected_seconds * part_left(self._world.progress.get(workload.ref.uid))
        traits = self._world.traits_of(workload)
        if traits not in self._unhinted:
            known = (self._world.predict(workload, room, 0).run_seconds for room in self._rooms)
            self._unhinted[traits] = next((run for run in known if run is not None), UNKNOWN_RUN_SECONDS)
        return self._unhinted[traits]

    def slowness(self, one: Class, room: PoolRoom) -> float:
        """Its run time there over what the class is reckoned with."""
        run = self._world.predict(one.ask.workload, room, 0).run_seconds
        return 1.0 if run is None else run / max(1.0, self.seconds(one.ask.workload))


def classify(world: World, times: RunTimes, pending: Iterable[Workload]) -> tuple[list[Class], dict[Uid, int]]:
    """The classes of those whose policy values time, coarser until there are few enough, and which is whose."""
    known = ((each, world.ask_for(each)) for each in pending)
    asking = [(each, ask) for each, ask in known if ask is not None and ask.policy.value_of_time is not None]
    asking.sort(key=lambda each: by_name(each[0]))
    steps = float(_STEPS_AN_OCTAVE)
    while True:
        found, rows = _group(world, times, asking, steps)
        if len(found) <= _MOST_CLASSES or steps < _FEWEST_STEPS:
            return found, rows
        steps /= 2


def _group(
    world: World, times: RunTimes, asking: Sequence[tuple[Workload, Ask]], steps: float
) -> tuple[list[Class], dict[Uid, int]]:
    row_of: dict[_Key, int] = {}
    found: list[Class] = []
    rows: dict[Uid, int] = {}
    plain: dict[int, tuple[float, int]] = {}
    """By class of equal workloads without a deadline: run time, and row. A large backlog has few of them."""
    for workload, ask in asking:
        same = plain.get(ask.number)
        left = None
        if same is None:
            run = max(1.0, times.seconds(workload))
            end = deadline_of(workload, ask)
            left = None if end is None else max(1.0, end - world.now)
            size = round(math.log2(run) * steps)
            key = (ask.group, size, -1 if left is None else round(math.log2(left) * steps), workload.hints.data)
            row = row_of.setdefault(key, len(found))
            if row == len(found):
                found.append(Class(ask, 0, run, left))
            if left is None:
                plain[ask.number] = run, row
        else:
            run, row = same
        one = found[row]
        one.count += 1
        one.run_seconds += (run - one.run_seconds) / one.count
        if left is not None and one.deadline is not None:
            one.deadline = min(one.deadline, left)
        rows[workload.ref.uid] = row
    return found, rows
