"""Equal workloads placed together: the offerings are weighed once, and a pool is filled for as long as it is the best.

One after another they would be placed just so: a class looks again only at the pool that it has just changed, and
stays there until another is better or it is full. What is told of the other offerings is as of the first of those
that go to one pool in one turn.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.engine import explain
from scheduler.engine.board import Board, View
from scheduler.engine.candidates import Weighed, Weigher, expected_end
from scheduler.engine.deadlines import deadline_of, has_deadline
from scheduler.engine.filling import Filling, Way
from scheduler.engine.filters import Ask
from scheduler.engine.guide import Guide, rank_of
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.table import RoomTable
from scheduler.engine.tally import Tally
from scheduler.engine.world import World
from scheduler.model.ids import ClusterId, Instant, PoolId
from scheduler.model.plan import Candidate, Decision, SetPlacement, ShadowPrice, WaitOption
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


@dataclass(frozen=True, slots=True)
class _Common:
    """What is told of all that go to one pool in one turn."""

    alternatives: tuple[Candidate, ...]
    refused: tuple[tuple[Reason, int], ...]
    fitting: int
    offerings: int
    explained: Callable[[Weighed], Weighed]
    """The chosen offering as it is told."""
    wait: WaitOption | None = None
    binding: tuple[ShadowPrice, ...] = ()


@dataclass(frozen=True, slots=True)
class _Told:
    """What the decisions of one class in one pool have in common."""

    place: tuple[ClusterId, PoolId, str, bool, PlacementState]
    """What their placements begin with."""
    rest: tuple[
        str,
        Reason,
        str,
        str,
        str,
        Candidate,
        tuple[Candidate, ...],
        tuple[tuple[Reason, int], ...],
        WaitOption | None,
        tuple[ShadowPrice, ...],
    ]
    """What their decisions end with, from the outcome on."""
    busy_seconds: float
    """For which each keeps bought nodes paid for; 0 where nobody counts that."""
    until: int
    """The first of the workloads that would not be as punctual there as the first of all is where it goes."""


class Bulk:
    """Places runs of equal workloads and collects placements and decisions in the given lists."""

    def __init__(
        self, world: World, weigher: Weigher, placements: list[SetPlacement], decisions: list[Decision]
    ) -> None:
        self._world = world
        self._weigher = weigher
        self._board: Board | None = None
        self._suits: dict[int, bool] = {}
        self._placements = placements
        self._decisions = decisions
        self._first_attempt = attempt_number(world.now, 0)
        self._id_tail = explain.id_tail(world.policies.digest, world.now)

    @property
    def board(self) -> Board:
        """Made when it is first needed."""
        if self._board is None:
            world = self._world
            apart: Callable[[PoolRoom], float | None] = lambda r: world.idle_seconds(r) if r.pool.bought else None  # noqa: E731
            self._board = Board(
                world, self._weigher, RoomTable(tuple(world.rooms.values()), world.census.likeness, apart)
            )
        return self._board

    def touched(self, room: PoolRoom) -> None:
        """Somebody else has placed something there."""
        if self._board is not None:
            self._board.table.touched(room)

    def suits(self, ask: Ask) -> bool:
        """Whether arrays can speak for the class."""
        known = self._suits.get(ask.number)
        if known is None:
            # What bringing data somewhere costs counts against budgets, of which arrays know nothing.
            charged = self._world.tracks_money and bool(ask.workload.hints.data)
            known = self._suits[ask.number] = Board.suits(ask) and not charged
        return known

    def place(self, ask: Ask, workloads: Sequence[Workload], guide: Guide | None = None) -> int:
        """Place as many of these equal workloads as quota and room allow, in order; how many that was. `guide`: the
        programme speaks for them; None: each goes where it is best for itself."""
        most = self._world.quotas.most(ask.queue, ask.shape.requests, len(workloads))
        done = 0
        while done < most:
            view, alike = self.leading(ask, workloads[done:most], guide)
            left = workloads[done : done + alike]
            count = self._place_best(ask, view, left) if guide is None else self._place_guided(ask, view, left, guide)
            if not count:
                break
            done += count
        return done

    def leading(self, ask: Ask, workloads: Sequence[Workload], guide: Guide | None) -> tuple[View, int]:
        """The offerings as they are for the first of equal workloads, and for how many from there on: their deadlines
        may differ."""
        view = self.board.view(ask)
        if not has_deadline(ask):
            return view, len(workloads)
        ends = self.board.ends(ask, view)
        known = sorted(end for end in ends if end is not None)

        def sort_of(workload: Workload) -> tuple[int, int]:
            deadline = deadline_of(workload, ask)
            assert deadline is not None
            return bisect_right(known, deadline), 0 if guide is None else guide.row_of(workload)

        first = sort_of(workloads[0])
        alike = next((n for n, each in enumerate(workloads) if sort_of(each) != first), len(workloads))
        deadline = deadline_of(workloads[0], ask)
        assert deadline is not None
        return self.board.in_time(view, ends, deadline), alike

    def _place_best(self, ask: Ask, view: View, workloads: Sequence[Workload]) -> int:
        """Into the best offering, until the second best is better; at least one, unless there is none."""
        if not view.weighed:
            return 0
        board, number = self.board, int(view.groups[0].members[0])
        second = min(_runners_up(board, view), default=None)
        others, refused = board.others(ask, view, number), board.histogram(view)
        common = _Common(others, refused, view.fitting, len(view.codes), lambda weighed: weighed)
        return self._fill(
            ask, number, workloads, common, lambda weighed, _: second is None or board.order(weighed, number) <= second
        )

    def _place_guided(self, ask: Ask, view: View, workloads: Sequence[Workload], guide: Guide) -> int:
        """Into the offering that the guide picks, for as long as it would again; none where they had better wait."""
        row = guide.row_of(workloads[0])
        choice = guide.choose(row, view, len(workloads))
        if choice is None:
            return 0
        number, second = choice.number, choice.runner_up
        common = _Common(
            self.board.others(ask, self.explained(view, row, guide), number),
            self.board.histogram(view),
            view.fitting,
            len(view.codes),
            lambda weighed: guide.explained(row, weighed),
            guide.wait_option(workloads[0]),
            guide.prices[: explain.MAX_BINDING],
        )
        placed = self._fill(
            ask,
            number,
            workloads[: choice.most],
            common,
            lambda _, way: second is None or rank_of(now=way.now, new_nodes=way.new_nodes, number=number) <= second,
        )
        guide.started(row, choice.kind, placed)
        return placed

    def explained(self, view: View, row: int, guide: Guide) -> View:
        """The same with what each offering costs in all, time included, and the least first; for people to read."""
        return replace(view, weighed=tuple((guide.explained(row, each), members) for each, members in view.weighed))

    def _fill(
        self,
        ask: Ask,
        number: int,
        workloads: Sequence[Workload],
        common: _Common,
        still: Callable[[Weighed, Way], bool],
    ) -> int:
        """Into one offering, for as long as it is `still` the one to choose; at least one."""
        board = self.board
        room = board.table.rooms[number]
        filling = Filling(room, ask.shape.pod_sets[0])
        tally = Tally(self._world, ask, room) if self._world.tracks_money and room.pool.bought else None
        known: dict[Way, _Told] = {}
        punctual: bool | None = None
        while filling.placed < len(workloads):
            way = filling.next_way()
            if way is None:
                break
            told = known.get(way)
            if told is None:
                weighed = self._allowed(ask, number, way)
                if weighed is None or (filling.placed and not still(weighed, way)):
                    break
                first = filling.placed
                if not first:
                    punctual = self._in_time(ask, weighed, workloads[0])
                until = self._until(ask, weighed, workloads, first, punctual)
                told = known[way] = self._told(ask, weighed, number, way, common, until)
            first = filling.placed
            most = told.until - first
            if most <= 0:
                break
            if tally is not None:
                most = tally.allowed(told.busy_seconds, most)
                if not most:
                    break
            count = filling.place(way, most)
            if tally is not None:
                tally.commit(count)
            self._record(workloads[first : first + count], told)
        if not filling.placed:
            raise AssertionError(f"{workloads[0].ref} was weighed as fitting but does not")
        filling.close()
        if tally is not None:
            tally.close()
        board.table.touched(room)
        self._world.quotas.add(ask.queue, ask.shape.requests.times(filling.placed))
        return filling.placed

    def _allowed(self, ask: Ask, number: int, way: Way) -> Weighed | None:
        if self.board.forbidden(ask, number, way):
            return None
        weighed = self.board.price(ask, number, way)
        return None if weighed.fit is None else weighed

    def _in_time(self, ask: Ask, weighed: Weighed, workload: Workload) -> bool | None:
        """Whether it will surely be done by its deadline; None: it has none, or nobody knows."""
        deadline, end = deadline_of(workload, ask), expected_end(weighed, ask, self._world.now)
        return None if deadline is None or end is None else end <= deadline

    def _until(
        self, ask: Ask, weighed: Weighed, workloads: Sequence[Workload], first: int, punctual: bool | None
    ) -> int:
        """The first of the workloads, from `first` on, that would not be as punctual; len(workloads): none."""
        if not has_deadline(ask):
            return len(workloads)
        others = (n for n in range(first, len(workloads)) if self._in_time(ask, weighed, workloads[n]) != punctual)
        return next(others, len(workloads))

    def _told(self, ask: Ask, weighed: Weighed, number: int, way: Way, common: _Common, until: int) -> _Told:
        world, room = self._world, self.board.table.rooms[number]
        chosen = self.board.candidate(common.explained(weighed), number)
        busy = world.busy_seconds(ask.workload, room, weighed.prediction) if room.pool.bought else 0.0
        state = PlacementState.STARTED if way.now else PlacementState.RESERVED
        reason, sentence = explain.placed_words(chosen, common.fitting, common.offerings, ask.policy, state)
        pool, outcome = chosen.pool, "burst" if chosen.bought else "placed"
        return _Told(
            (pool.cluster, pool.pool, chosen.capacity_type, chosen.bought, state),
            (
                outcome, reason, sentence, ask.policy.name, world.policies.digest, chosen, common.alternatives,
                common.refused, common.wait, common.binding,
            ),
            busy,
            until,
        )  # fmt: skip

    def _record(self, workloads: Sequence[Workload], told: _Told) -> None:
        """Written out: of a large backlog a good part of the time is spent here."""
        now, tail, placements, decisions = self._world.now, self._id_tail, self._placements, self._decisions
        attempt = self._first_attempt + min(len(placements), PLACED_PER_MILLISECOND - 1)
        last = self._first_attempt + PLACED_PER_MILLISECOND - 1
        place, rest = told.place, told.rest
        for workload in workloads:
            ref = workload.ref
            decision = explain.short_hash(f"{ref.uid}|{attempt}{tail}")
            placement = Placement(*place, attempt, now, decision)
            placements.append(SetPlacement(ref, placement, workload.placement, decision))
            decisions.append(Decision(decision, now, ref, workload.queue, *rest))
            if attempt < last:
                attempt += 1


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


def stretches_of(asks: Iterable[tuple[Ask | None, Workload]]) -> Iterator[tuple[Ask | None, list[Workload]]]:
    """The workloads in their order, those of one class that follow one another together; each made when it is asked
    for."""
    last: Ask | None = None
    run: list[Workload] = []
    for ask, workload in asks:
        if run and (ask is None or last is None or ask.number != last.number):
            yield last, run
            run = []
        last = ask
        run.append(workload)
    if run:
        yield last, run


def _runners_up(board: Board, view: View) -> Iterable[tuple[object, ...]]:
    best = view.groups[0]
    if len(best.members) > 1:
        yield board.order(best.weighed, int(best.members[1]))
    if len(view.groups) > 1:
        yield view.groups[1].order
