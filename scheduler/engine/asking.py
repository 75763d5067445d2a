"""The question that the programme is asked, made of the classes and of all rooms as they are now.

By arrays where the board can speak for a class; else its offerings are weighed one by one, with the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np

from scheduler.engine.board import Board
from scheduler.engine.candidates import Weigher
from scheduler.engine.classes import Class, RunTimes
from scheduler.engine.costs import Costs, amounts, costs_of, data_usd
from scheduler.engine.deadlines import late_factor
from scheduler.engine.filters import Ask
from scheduler.engine.merging import Kinds, likes_of
from scheduler.engine.outlook import CORES, EDGES, GPUS, MIDDLES, Reserve
from scheduler.engine.packing import Shape, make_bin
from scheduler.engine.programme import Floats, Indices, Question
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.table import Flags, coded
from scheduler.engine.world import World
from scheduler.model.ids import Instant, PoolRef, QueueId
from scheduler.model.workload import DataSet

_HOLD_FACTOR: Final = 2.0
_BUSY_RESOURCES: Final = 3
"""GPUs, cores, GiB."""
_NOWHERE: Final = -1
MOST_LOOKS: Final = 200
"""So many times in a cycle it is looked up when a pool will have room for a gang, the largest gangs first; beyond, what
comes free counts in sum."""
Earliest = Callable[[Shape, PoolRoom], Instant | None]
"""When a gang will fit into a pool's nodes if nobody else comes; None: not by what is known."""
_Start = tuple[Indices, Costs]
"""Offerings (their numbers) on which starting one costs the same."""
_Wait = tuple[Indices, PoolRoom, Floats]
"""Reserves of one kind (the pool of one of them), and from when on there is room for one: seconds from now, each."""


class Asker:
    """Made once a cycle; `board` None: every pair of class and offering is weighed by itself."""

    def __init__(
        self, world: World, weigher: Weigher, times: RunTimes, earliest: Earliest, board: Board | None
    ) -> None:
        self._world = world
        self._weigher = weigher
        self._times = times
        self._earliest = earliest
        self._board = board
        self._rooms = tuple(world.rooms.values())
        self._could_fit: dict[tuple[int, PoolRef], bool] = {}
        self._could: dict[int, Flags] = {}
        self._covered: dict[QueueId, Floats] = {}
        self._first_rooms: dict[tuple[int, PoolRef], float] = {}
        self._looks = 0
        self.fits: Floats = np.zeros((0, 0))
        """(K, J) of the last question: so many of a class at most find room on each offering by itself."""
        self._asks: list[Ask] = []
        """Of the classes of the last question."""
        self._owned: dict[tuple[int, tuple[DataSet, ...]], tuple[Indices, list[_Wait]]] = {}

    def likeness(self, question: Question, freed: Iterable[Reserve], *, fine: bool) -> Kinds | None:
        """Offerings that differ only in how much they have free to the classes of the question, the last that was made,
        and their reserves; `fine`: apart also where others of the classes fit. None: nobody can say."""
        if self._board is None:
            return None
        covered = [each.astype(np.int64) for each in self._covered.values()]
        likes = [self._like(self._board, each) for each in self._asks]
        rows = np.array([self._board.table.kind, *likes, *(row for each in covered for row in each)])
        costs = question.start_cost if fine else question.start_cost[:0]
        alike = coded((rows[:, j].tobytes(), costs[:, j].tobytes()) for j in range(len(self._rooms)))
        number_of = {room.pool.ref: number for number, room in enumerate(self._rooms)}
        return likes_of(alike, [number_of[ref] for ref, _ in freed], [unit for _, unit in freed])

    def _like(self, board: Board, ask: Ask) -> Indices:
        """(J,) what sets offerings apart for one class, whatever they have free."""
        if not board.suits(ask):
            return np.arange(len(self._rooms))
        return np.where(board.suitable(ask), board.kind(ask), _NOWHERE)

    def question(self, classes: Sequence[Class], freed: dict[Reserve, Floats]) -> Question:
        """K classes, all offerings in order of their names, reserves in the order of `freed`."""
        rooms, budgets = self._rooms, self._world.budgets.accounts
        shape = (len(classes), len(rooms))
        values = np.array([each.usd_per_second for each in classes])
        runs = np.array([each.run_seconds for each in classes])
        question = Question(
            counts=np.array([float(each.count) for each in classes]),
            demand=np.array([amounts(each.ask.shape.requests) for each in classes]),
            start_cost=np.full(shape, np.inf),
            start_most=np.zeros(shape),
            capacity=np.array([_capacity(room) for room in rooms]).reshape(len(rooms), _BUSY_RESOURCES),
            edges=EDGES,
            reserve_of=np.full(shape, _NOWHERE, dtype=np.int64),
            run=np.full((len(classes), len(freed)), np.inf),
            units=np.array([each.units for each in classes]),
            freed=np.array(list(freed.values())).reshape(len(freed), len(MIDDLES)),
            wait_cost=np.full((len(classes), len(freed), len(MIDDLES)), np.inf),
            hold_cost=values * (_HOLD_FACTOR * EDGES[-1] + runs),
            limit_use=np.zeros((len(budgets), *shape)),
            limits=np.array([max(0.0, float(a.budget.limit_usd - a.spent - a.committed)) for a in budgets]),
        )
        self.fits, self._asks = np.zeros(shape), [each.ask for each in classes]
        index = {name: number for number, name in enumerate(freed)}
        at = {unit: np.array([index.get((r.pool.ref, unit), _NOWHERE) for r in rooms]) for unit in (GPUS, CORES)}
        for row, one in sorted(enumerate(classes), key=lambda each: -each[1].ask.shape.gpus):
            self._fill(question, row, one, at[GPUS if one.ask.shape.gpus else CORES])
        return question

    def _fill(self, q: Question, row: int, one: Class, reserve_at: Indices) -> None:
        """The row of one class, in place; `reserve_at` (J,): the reserve that it would use."""
        starts, waits = self._ways(row, one, reserve_at)
        deadline = self._reachable_deadline(one, starts)
        value = one.usd_per_second
        for reserves, room, first in waits:
            prediction = self._world.predict(one.ask.workload, room, 0)
            seconds = one.run_seconds * self._times.slowness(one, room) + prediction.transfer_seconds
            begins = np.maximum(MIDDLES, np.where(np.isfinite(first), first, 0.0)[:, None])
            ends = begins + seconds
            late = EDGES[None, 1:] <= first[:, None]
            if deadline is not None:
                late = late | (ends + seconds * (late_factor(prediction, one.ask) - 1.0) > deadline)
            q.run[row, reserves] = seconds
            q.wait_cost[row, reserves] = np.where(late, np.inf, value * ends + data_usd(prediction))
        if deadline is not None:
            starts = [each for each in starts if each[1].surely_seconds_to_end <= deadline]
        if starts:
            numbers = np.concatenate([members for members, _ in starts])
            way = np.repeat(np.arange(len(starts)), [len(members) for members, _ in starts])
            money = np.array([costs.money for _, costs in starts])
            seconds_to_end = np.array([costs.seconds_to_end for _, costs in starts])
            q.start_cost[row, numbers] = (money + value * seconds_to_end)[way]
            q.start_most[row, numbers] = one.count
            q.reserve_of[row, numbers] = reserve_at[numbers]
            if len(q.limits):
                q.limit_use[:, row, numbers] = money[way] * self._covered_by(one.ask.queue)[:, numbers]

    def _covered_by(self, queue: QueueId) -> Floats:
        """(A, J) 1 where a budget counts what workloads of the queue cost on an offering."""
        known = self._covered.get(queue)
        if known is None:
            pools = [(room.pool.ref.cluster, room.pool.capacity_type) for room in self._rooms]
            accounts = self._world.budgets.accounts
            covers = [[float(each.covers(queue, *pool)) for pool in pools] for each in accounts]
            known = self._covered[queue] = np.array(covers).reshape(len(accounts), len(pools))
        return known

    def _ways(self, row: int, one: Class, reserve_at: Indices) -> tuple[list[_Start], list[_Wait]]:
        if self._board is not None and self._board.suits(one.ask):
            return self._ways_by_board(self._board, row, one, reserve_at)
        starts: list[_Start] = []
        waits: list[_Wait] = []
        self.fits[row] = one.count
        for number, weighed in enumerate(self._weigher.weigh(one.ask)):
            costs = costs_of(self._world, self._times, one, weighed)
            if costs is not None:
                starts.append((np.array([number]), costs))
            if reserve_at[number] != _NOWHERE and not self._weigher.static_reasons(one.ask, weighed.room):
                first = self._first_room(one.ask.shape, weighed.room, fits=weighed.fit is not None)
                waits.append((reserve_at[number : number + 1], weighed.room, np.array([first])))
        return starts, waits

    def _ways_by_board(
        self, board: Board, row: int, one: Class, reserve_at: Indices
    ) -> tuple[list[_Start], list[_Wait]]:
        view = board.view(one.ask)
        self.fits[row] = view.space.gangs
        starts: list[_Start] = []
        for weighed, members in view.weighed:
            costs = costs_of(self._world, self._times, one, weighed)
            if costs is not None:
                starts.append((members, costs))
        return starts, self._waits_by_board(board, one.ask, view.codes, reserve_at)

    def _waits_by_board(self, board: Board, ask: Ask, codes: Indices, reserve_at: Indices) -> list[_Wait]:
        """Equal for all classes of a group that are refused the same."""
        key = ask.group, ask.workload.hints.data
        known = self._owned.get(key)
        if known is not None and known[0] is codes:
            return known[1]
        owned = np.flatnonzero((reserve_at != _NOWHERE) & board.suitable(ask))
        first = self._first_by_board(ask.shape, owned, codes == 0)
        kinds = board.kind(ask)[owned]
        waits: list[_Wait] = []
        for kind in dict.fromkeys(kinds.tolist()):
            mine = kinds == kind
            waits.append((reserve_at[owned[mine]], self._rooms[owned[mine][0]], first[mine]))
        self._owned[key] = codes, waits
        return waits

    def _first_by_board(self, shape: Shape, owned: Indices, fits: Flags) -> Floats:
        """(owned,) as `_first_room`."""
        could = self._could.get(shape.number)
        if could is None:
            could = self._could[shape.number] = np.array([self._could_ever_fit(shape, room) for room in self._rooms])
        first = np.where(could[owned], 0.0, np.inf)
        if shape.gpus:
            for at in np.flatnonzero(could[owned] & ~fits[owned]).tolist():
                first[at] = self._look_up(shape, self._rooms[owned[at]])
        return first

    def _first_room(self, shape: Shape, room: PoolRoom, *, fits: bool) -> float:
        """Seconds from now until the gang could start on an owned pool at the earliest if nobody else came; infinity
        where it has too few nodes for it altogether or what is on them never ends, 0 where nobody has looked. Capacity
        over time is fluid to the programme, nodes are not: what comes free in pieces may add up to a gang's GPUs long
        before it fits."""
        if not self._could_ever_fit(shape, room):
            return math.inf
        if fits or not shape.gpus:
            return 0.0
        return self._look_up(shape, room)

    def _look_up(self, shape: Shape, room: PoolRoom) -> float:
        key = (shape.number, room.pool.ref)
        known = self._first_rooms.get(key)
        if known is None:
            self._looks += 1
            known = self._first_rooms[key] = self._seconds_until(shape, room) if self._looks <= MOST_LOOKS else 0.0
        return known

    def _seconds_until(self, shape: Shape, room: PoolRoom) -> float:
        at = self._earliest(shape, room)
        return math.inf if at is None else max(0.0, at - self._world.now)

    def _could_ever_fit(self, shape: Shape, room: PoolRoom) -> bool:
        """Whether the pool has nodes enough for each of the gang's pod sets by itself, if all were empty."""
        key = (shape.number, room.pool.ref)
        if key not in self._could_fit:
            empty = make_bin("empty", room.node_size)
            nodes = len(room.nodes)
            self._could_fit[key] = all(
                empty.room_for(each.requests, each.count) * nodes >= each.count for each in shape.pod_sets
            )
        return self._could_fit[key]

    def _reachable_deadline(self, one: Class, starts: Sequence[_Start]) -> float | None:
        """Its deadline in seconds from now; None when there is none, or when nothing meets it: it is then late wherever
        it goes, and had better go somewhere."""
        if one.deadline is None:
            return None
        ends = [costs.surely_seconds_to_end for _, costs in starts]
        ends += [
            float(MIDDLES[0])
            + one.run_seconds
            * self._times.slowness(one, room)
            * late_factor(self._world.predict(one.ask.workload, room, 0), one.ask)
            for room in self._rooms
            if not room.pool.bought and not self._weigher.static_reasons(one.ask, room)
        ]
        return one.deadline if min(ends, default=math.inf) <= one.deadline else None


def _capacity(room: PoolRoom) -> tuple[float, float, float]:
    """Free on its nodes and, where it can grow, on those to come and to buy."""
    bins = [*room.ready, *room.coming] if room.growable and room.backoff is None else list(room.ready)
    more = room.can_open if room.backoff is None else 0
    size = amounts(room.node_size)
    return (
        sum(max(0, each.gpus) for each in bins) + more * size[0],
        sum(max(0, each.cpu_milli) for each in bins) / 1000 + more * size[1],
        sum(max(0, each.memory_bytes) for each in bins) / 2**30 + more * size[2],
    )
