"""What the programme says of this cycle: for each class how many start where now, and which had better wait.

Only for workloads whose policy values time; the others are placed in their turn on what is best for each. The guide
decides amounts; whether a gang really fits, and keeps quota and budget, is checked exactly when it is placed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from scheduler.engine import outlook
from scheduler.engine.asking import Asker, Earliest
from scheduler.engine.board import Board, View
from scheduler.engine.candidates import Weighed, Weigher
from scheduler.engine.classes import Class, RunTimes, classify
from scheduler.engine.costs import costs_of
from scheduler.engine.merging import Kinds, apart, columns_of, kinds_of, merged, pooled
from scheduler.engine.outlook import EDGES, GPUS, KEPT_FOR_ARRIVALS, MIDDLES, Reserve
from scheduler.engine.programme import Answer, Floats, Question, UnsolvedError, solve
from scheduler.engine.world import World
from scheduler.model.ids import Uid
from scheduler.model.plan import ShadowPrice, WaitOption
from scheduler.model.workload import Workload

_WORTH_STARTING: Final = 0.3
"""The part of a workload that the programme must start before it is rounded up: owned capacity would idle otherwise."""
_MOST_COLUMNS: Final = 20_000
"""Of a programme that is asked about every offering by itself: HiGHS takes about a second for so many."""
_ROUNDING: Final = 1e-9
_Rank = tuple[bool, int, int]


class Choice(NamedTuple):
    """Where the next workloads of a class start."""

    kind: int
    number: int
    """Of the offering."""
    most: int
    """So many go to offerings of this kind."""
    runner_up: _Rank | None
    """How the next best offering of the kind ranks, see `rank_of`."""


def rank_of(*, now: bool, new_nodes: int, number: int) -> _Rank:
    """Offerings of one kind, the best first: on nodes that are there, then where least is bought, then by name."""
    return not now, new_nodes, number


class Guide:
    """Made once a cycle, before anything new is placed."""

    def __init__(
        self,
        world: World,
        weigher: Weigher,
        pending: Iterable[Workload],
        earliest: Earliest,
        board: Callable[[], Board] | None = None,
    ) -> None:
        """`board`: makes what speaks for the classes that arrays can speak for; None: each is weighed by itself."""
        self._world = world
        self._rooms = tuple(world.rooms.values())
        self._times = RunTimes(world, self._rooms)
        self._classes: list[Class] = []
        self._row_of: dict[Uid, int] = {}
        self.solver = ""
        """optimal, or greedy where no optimum was found; "" when there was nothing to solve."""
        self.prices: tuple[ShadowPrice, ...] = ()
        self._wait_options: dict[int, WaitOption] = {}
        self._told: dict[tuple[int, int], Weighed] = {}
        self._kinds = Kinds((), ())
        self._left: Floats = np.zeros((0, 0))
        if any(each.value_of_time is not None for each in world.policies.policies):
            self._classes, self._row_of = classify(world, self._times, pending)
        if self._classes:
            self._solve(Asker(world, weigher, self._times, earliest, None if board is None else board()))

    def speaks_for(self, workload: Workload) -> bool:
        return self.solver == "optimal" and workload.ref.uid in self._row_of

    def row_of(self, workload: Workload) -> int:
        """Of its class in the programme."""
        return self._row_of[workload.ref.uid]

    def lets_wait(self, workload: Workload) -> bool:
        """Whether no more of its class are to start now, whatever fits."""
        return bool((self._left[self.row_of(workload)] < _WORTH_STARTING).all())

    def pick(self, workload: Workload, weighed: Sequence[Weighed]) -> Weighed | None:
        """Where the workload starts now, of the offerings that fit; None: it had better wait."""
        row = self._left[self.row_of(workload)]
        for kind in self._worth_starting(row):
            fitting = [
                (rank_of(now=fit.now, new_nodes=fit.new_nodes, number=number), weighed[number])
                for number in self._kinds.offerings[kind].tolist()
                if (fit := weighed[number].fit) is not None
            ]
            if fitting:
                row[kind] -= 1.0
                best: Weighed = min(fitting, key=lambda each: each[0])[1]
                return best
        return None

    def choose(self, row: int, view: View, wanted: int) -> Choice | None:
        """As `pick`, for the first of `wanted` workloads of the class, and for as many after it as the programme starts
        on offerings of that kind: to the programme they are all equal, so it is the same in which order they take what
        it starts where. `started` is to be called for those that were placed."""
        left, space = self._left[row], view.space
        for kind in self._worth_starting(left):
            numbers = self._kinds.offerings[kind]
            numbers = numbers[view.codes[numbers] == 0]
            if len(numbers):
                break
        else:
            return None
        nearest = numbers[np.lexsort((numbers, space.new[numbers], ~space.now[numbers]))[:2]].tolist()
        ranks = [rank_of(now=bool(space.now[n]), new_nodes=int(space.new[n]), number=n) for n in nearest]
        most = min(wanted, math.floor(left[kind] - _WORTH_STARTING) + 1)
        return Choice(kind, nearest[0], most, ranks[1] if len(ranks) > 1 else None)

    def started(self, row: int, kind: int, count: int) -> None:
        """So many of the class have been placed on offerings of the kind."""
        self._left[row, kind] -= count

    def explain(self, workload: Workload, weighed: Iterable[Weighed]) -> tuple[Weighed, ...]:
        """The offerings with what they cost in all, time included, for people to read."""
        row = self.row_of(workload)
        return tuple(self._priced(row, each) for each in weighed)

    def explained(self, row: int, weighed: Weighed) -> Weighed:
        """The same of one offering that is kept for as long as the guide: asked twice, the answer is one object."""
        known = self._told.get((row, id(weighed)))
        if known is None:
            known = self._told[row, id(weighed)] = self._priced(row, weighed)
        return known

    def wait_option(self, workload: Workload) -> WaitOption | None:
        """What waiting would be like for it, by the prices of the programme's answer; None: it can wait for nothing."""
        return self._wait_options.get(self.row_of(workload))

    @staticmethod
    def _worth_starting(row: Floats) -> list[int]:
        """Kinds on which more of the class are to start, the most first."""
        order: list[int] = np.argsort(-row, kind="stable").tolist()
        return [kind for kind in order if row[kind] >= _WORTH_STARTING]

    def _priced(self, row: int, weighed: Weighed) -> Weighed:
        one = self._classes[row]
        costs = costs_of(self._world, self._times, one, weighed)
        if costs is None:
            return weighed
        value = one.usd_per_second
        score = round(costs.money + value * costs.seconds_to_end, 6)
        told = replace(weighed.candidate, score=score, cost_parts=costs.parts(value))
        return replace(weighed, tell=lambda: told)

    # -- the answer --------------------------------------------------------------------------------------------

    def _solve(self, asker: Asker) -> None:
        freed = outlook.reserves(self._world)
        question = self._merge(asker, asker.question(self._classes, freed), freed)
        try:
            answer = solve(question)
        except UnsolvedError:
            self.solver = "greedy"
            return
        self.solver = "optimal"
        self._left = answer.start.copy()
        names = list(freed)
        self.prices = self._shadow_prices(answer, names)
        self._wait_options = self._options(question, answer, names)
        self._note_wakes(answer)

    def _merge(self, asker: Asker, question: Question, freed: dict[Reserve, Floats]) -> Question:
        """About kinds of offerings instead, where there is too much to ask about each."""
        self._kinds = apart(question)
        if columns_of(question) <= _MOST_COLUMNS:
            return question
        self._kinds = kinds_of(question)
        smaller = merged(question, self._kinds)
        for fine in (True, False):
            if columns_of(smaller) <= _MOST_COLUMNS:
                break
            alike = asker.likeness(question, freed, fine=fine)
            if alike is not None:
                self._kinds, smaller = alike, pooled(question, alike, asker.fits)
        return smaller

    def _options(self, question: Question, answer: Answer, names: list[Reserve]) -> dict[int, WaitOption]:
        """For each class the reserve and interval in which waiting costs least, use of the reserve priced; of the
        intervals in which enough for the whole gang is free on the average."""
        used = _use_over_time(question)
        worth = question.wait_cost + np.einsum("kpbt,pt->kpb", used, answer.reserve_price)
        worth = np.where(_too_little(question), np.inf, worth)
        found: dict[int, WaitOption] = {}
        for row in range(len(self._classes)):
            if not np.isfinite(worth[row]).any():
                continue
            place, interval = np.unravel_index(int(np.argmin(worth[row])), worth[row].shape)
            cost = float(question.wait_cost[row, place, interval])
            name = names[self._kinds.reserves[int(place)][0]]
            found[row] = WaitOption(name[0], float(MIDDLES[interval]), round(cost, 6))
        return found

    def _shadow_prices(self, answer: Answer, names: list[Reserve]) -> tuple[ShadowPrice, ...]:
        """What one more of each binding resource would be worth, the most valuable first; of a kind, on each of it."""
        found: list[ShadowPrice] = []
        for kind, index in np.argwhere(answer.capacity_price > 1e-9).tolist():
            worth, resource = float(answer.capacity_price[kind, index]), ("gpu", "cpu", "memory")[index]
            found += [
                ShadowPrice(str(self._rooms[column].pool.ref), resource, worth, "USD for one more now")
                for column in self._kinds.offerings[kind].tolist()
            ]
        hours = np.minimum(np.diff(EDGES), 3600.0)
        for row, members in enumerate(self._kinds.reserves):
            worth = float((answer.reserve_price[row] * hours).max(initial=0.0))
            if worth > 1e-9:
                for ref, unit in (names[each] for each in members.tolist()):
                    resource = "gpu" if unit == GPUS else "cpu"
                    found.append(ShadowPrice(str(ref), resource, worth, "USD for one more for an hour"))
        for index, account in enumerate(self._world.budgets.accounts):
            if answer.limit_price[index] > 1e-9:
                name = f"{account.policy}/{account.budget.name}"
                found.append(ShadowPrice(name, "budget", float(answer.limit_price[index]), "USD for one more USD"))
        return tuple(sorted(found, key=lambda each: (-each.worth_usd, each.name, each.resource, each.meaning)))

    def _note_wakes(self, answer: Answer) -> None:
        """When the first of those that wait should have started: by then the outlook is another."""
        intervals = np.flatnonzero(answer.wait.sum(axis=(0, 1)) > 0.5)
        if len(intervals):
            self._world.wake_at(self._world.now + float(EDGES[intervals[0] + 1]))


def _too_little(q: Question) -> npt.NDArray[np.bool_]:
    """(K, P, B) whether less of a reserve is free in an interval than one of a class takes up. What frees later is
    short of the part that is left to others."""
    level = (1.0 - KEPT_FOR_ARRIVALS) * (1.0 - _ROUNDING) * q.units
    too_little: npt.NDArray[np.bool_] = q.freed[None, :, :] < level[:, None, None] * np.diff(q.edges)
    return too_little


def _use_over_time(q: Question) -> Floats:
    """(K, P, B, B) unit-seconds that one takes of a reserve in each interval when it starts in another."""
    begin = q.edges[:-1][None, None, :, None]
    run = np.where(np.isfinite(q.run), q.run, 0.0)[:, :, None, None]
    used = np.minimum(begin + run, q.edges[1:]) - np.maximum(begin, q.edges[:-1])
    use: Floats = np.maximum(used, 0.0) * q.units[:, None, None, None]
    return use
