"""Equal workloads placed together: the offerings are weighed once, and a pool is filled for as long as it is the best.

One after another they would be placed just so: a class looks again only at the pool that it has just changed, and
stays there until another is better or it is full. What is told of the other offerings is as of the first of those
that go to one pool in one turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from scheduler.engine import explain
from scheduler.engine.board import Board, View
from scheduler.engine.candidates import Weighed, Weigher
from scheduler.engine.deadlines import deadline_of
from scheduler.engine.filling import Filling, Way
from scheduler.engine.filters import Ask
from scheduler.engine.table import RoomTable, countable
from scheduler.engine.world import World
from scheduler.model.ids import Instant
from scheduler.model.plan import Candidate, Decision, SetPlacement
from scheduler.model.verdict import Reason
from scheduler.model.workload import Placement, PlacementState, Workload

PLACED_PER_MILLISECOND: Final = 1000
TURNS: Final = 50
"""Of a large backlog, a queue's turn takes one part in so many."""


def attempt_number(now: Instant, index: int) -> int:
    """The attempt of the `index`-th placement of a cycle at `now`.

    When a placement has been cleared nothing tells the number of the last attempt, so numbers come from the time: whole
    milliseconds since the epoch, then three digits that number the placements of one cycle. They grow with every later
    placement of the same workload, and stay below 2**53 until the year 2255, so that JSON keeps them exactly.
    """
    return round(now * 1000) * PLACED_PER_MILLISECOND + min(index, PLACED_PER_MILLISECOND - 1)


_Others = tuple[tuple[Candidate, ...], tuple[tuple[Reason, int], ...]]
"""The alternatives, and how many were refused for what."""


@dataclass(frozen=True, slots=True)
class _Told:
    """What the decisions of one class in one pool have in common."""

    chosen: Candidate
    state: PlacementState
    reason: Reason
    sentence: str
    alternatives: tuple[Candidate, ...]
    refused: tuple[tuple[Reason, int], ...]


class Bulk:
    """Places runs of equal workloads and collects placements and decisions in the given lists; while no money is
    tracked."""

    def __init__(
        self, world: World, weigher: Weigher, placements: list[SetPlacement], decisions: list[Decision]
    ) -> None:
        self._world = world
        self.board = Board(world, weigher, RoomTable(tuple(world.rooms.values()), world.predictor))
        self._suits: dict[int, bool] = {}
        self._placements = placements
        self._decisions = decisions

    def suits(self, ask: Ask) -> bool:
        """Whether arrays can speak for the class."""
        known = self._suits.get(ask.number)
        if known is None:
            by_itself = deadline_of(ask.workload, ask) is not None or bool(ask.workload.hints.data)
            known = countable(ask.shape) and not by_itself
            self._suits[ask.number] = known
        return known

    def place(self, ask: Ask, workloads: Sequence[Workload]) -> int:
        """Place as many of these equal workloads as quota and room allow, in order; how many that was."""
        most = self._world.quotas.most(ask.queue, ask.shape.requests, len(workloads))
        done = 0
        while done < most:
            view = self.board.view(ask)
            if not view.groups:
                break
            done += self._fill(ask, view, workloads[done:most])
        return done

    def _fill(self, ask: Ask, view: View, workloads: Sequence[Workload]) -> int:
        """Into the best offering, until the second best is better; at least one."""
        board, number = self.board, view.groups[0].members[0]
        second = min(_runners_up(board, view), default=None)
        filling = Filling(board.table.rooms[number], ask.shape.pod_sets[0])
        others = board.others(ask, view, number), board.histogram(view)
        known: dict[Way, _Told] = {}
        for workload in workloads:
            way = filling.next_way()
            if way is None:
                break
            told = known.get(way)
            if told is None:
                weighed = self._allowed(ask, number, way)
                if weighed is None or (filling.placed and second is not None and board.order(weighed, number) > second):
                    break
                told = known[way] = self._told(ask, view, board.candidate(weighed, number), way, others)
            filling.place(way)
            self._record(workload, ask, told)
        if not filling.placed:
            raise AssertionError(f"{workloads[0].ref} was weighed as fitting but does not")
        filling.close()
        board.table.touched(board.table.rooms[number])
        self._world.quotas.add(ask.queue, ask.shape.requests.times(filling.placed))
        return filling.placed

    def _allowed(self, ask: Ask, number: int, way: Way) -> Weighed | None:
        if self.board.forbidden(ask, number, way):
            return None
        weighed = self.board.price(ask, number, way.new_nodes, way.existing)
        return None if weighed.fit is None else weighed

    def _told(self, ask: Ask, view: View, chosen: Candidate, way: Way, others: _Others) -> _Told:
        state = PlacementState.STARTED if way.now else PlacementState.RESERVED
        reason, sentence = explain.placed_words(chosen, view.fitting, len(view.codes), ask.policy, state)
        return _Told(chosen, state, reason, sentence, *others)

    def _record(self, workload: Workload, ask: Ask, told: _Told) -> None:
        now, digest, pool = self._world.now, self._world.policies.digest, told.chosen
        attempt = attempt_number(now, len(self._placements))
        decision = explain.decision_id(workload, str(attempt), digest, now)
        ref = pool.pool
        placement = Placement(
            ref.cluster, ref.pool, pool.capacity_type, pool.bought, told.state, attempt, now, decision
        )
        self._placements.append(SetPlacement(workload.ref, placement, workload.placement, decision))
        self._decisions.append(
            Decision(
                decision,
                now,
                workload.ref,
                workload.queue,
                "burst" if pool.bought else "placed",
                told.reason,
                told.sentence,
                ask.policy.name,
                digest,
                pool,
                told.alternatives,
                told.refused,
            )
        )


def turn_size(pending: int) -> int:
    """How many workloads a queue may place before the others have another look: one, or one part in `TURNS` of a
    backlog that is larger, so that no queue gets ahead of its share by more than that."""
    return max(1, pending // TURNS)


def runs_of(asks: Iterable[tuple[Ask | None, Workload]]) -> list[tuple[Ask | None, list[Workload]]]:
    """The workloads by class, the classes in the order of their first ones; those without a class each by itself."""
    runs: dict[int, tuple[Ask | None, list[Workload]]] = {}
    for ask, workload in asks:
        key = -1 - len(runs) if ask is None else ask.number
        runs.setdefault(key, (ask, []))[1].append(workload)
    return list(runs.values())


def _runners_up(board: Board, view: View) -> Iterable[tuple[object, ...]]:
    best = view.groups[0]
    if len(best.members) > 1:
        yield board.order(best.weighed, best.members[1])
    if len(view.groups) > 1:
        yield view.groups[1].order
