"""What the programme says of this cycle: for each class how many start where now, and which had better wait.

Only for workloads whose policy values time; the others are placed in their turn on what is best for each. The guide
decides amounts; whether a gang really fits, and keeps quota and budget, is checked exactly when it is placed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from scheduler.engine import outlook
from scheduler.engine.candidates import Weighed, Weigher
from scheduler.engine.commitments import UNKNOWN_RUN_SECONDS
from scheduler.engine.deadlines import deadline_of, late_factor
from scheduler.engine.filters import Ask
from scheduler.engine.outlook import CORES, EDGES, GPUS, MIDDLES, Reserve
from scheduler.engine.packing import Shape, make_bin
from scheduler.engine.programme import Answer, Floats, Question, UnsolvedError, solve
from scheduler.engine.remaining import part_left
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.world import World, by_name
from scheduler.model.ids import Instant, PoolRef, Uid
from scheduler.model.plan import CostPart, ShadowPrice, WaitOption
from scheduler.model.ports import Prediction
from scheduler.model.resources import Resources
from scheduler.model.workload import DataSet, Workload

_STEPS_AN_OCTAVE: Final = 4
"""Run times that differ by less than a fifth are taken for equal."""
_MOST_CLASSES: Final = 400
_WORTH_STARTING: Final = 0.3
"""The part of a workload that the programme must start before it is rounded up: owned capacity would idle otherwise."""
_HOLD_FACTOR: Final = 2.0
_BUSY_RESOURCES: Final = 3
"""GPUs, cores, GiB."""


Earliest = Callable[[Shape, PoolRoom], Instant | None]
"""When a gang will fit into a pool's nodes if nobody else comes; None: not by what is known."""


@dataclass(slots=True, eq=False)
class _Class:
    ask: Ask
    members: list[Workload]
    run_seconds: float
    deadline: float | None
    """Seconds from now."""


@dataclass(frozen=True, slots=True)
class _Costs:
    """USD of bought capacity while it works, while it starts and stands idle, and while it does work again."""

    capacity: float
    around: float
    again: float
    data: float
    """Of bringing its data there, whoever owns the nodes."""
    seconds_to_end: float
    surely_seconds_to_end: float
    """In as many cases as the policy's confidence in a deadline asks."""

    @property
    def money(self) -> float:
        return self.capacity + self.around + self.again + self.data

    def parts(self, usd_per_second: float) -> tuple[CostPart, ...]:
        named = (
            ("capacity", self.capacity),
            ("start-up", self.around),
            ("reclaims", self.again),
            ("data", self.data),
            ("time", usd_per_second * self.seconds_to_end),
        )
        return tuple(CostPart(name, round(usd, 6)) for name, usd in named if usd)


class Guide:
    """Made once a cycle, before anything new is placed."""

    def __init__(self, world: World, weigher: Weigher, pending: Iterable[Workload], earliest: Earliest) -> None:
        self._world = world
        self._earliest = earliest
        self._could_fit: dict[tuple[int, PoolRef], bool] = {}
        self._first_rooms: dict[tuple[int, PoolRef], float] = {}
        self._weigher = weigher
        self._rooms = tuple(world.rooms.values())
        self._column = {room.pool.ref: index for index, room in enumerate(self._rooms)}
        self._row_of: dict[Uid, int] = {}
        self.solver = ""
        """optimal, or greedy where no optimum was found; "" when there was nothing to solve."""
        self.prices: tuple[ShadowPrice, ...] = ()
        self._wait_options: dict[int, WaitOption] = {}
        self._unhinted: dict[int, float] = {}
        self._any_values_time = any(each.value_of_time is not None for each in world.policies.policies)
        self._classes: list[_Class] = []
        if self._any_values_time:
            self._classes = self._classify([each for each in pending if self._values_time(each)])
        self._left: Floats = np.zeros((0, 0))
        if self._classes:
            self._solve()

    def speaks_for(self, workload: Workload) -> bool:
        return self.solver == "optimal" and workload.ref.uid in self._row_of

    def pick(self, workload: Workload, weighed: Sequence[Weighed]) -> Weighed | None:
        """Where the workload starts now, of the offerings that fit; None: it had better wait."""
        row = self._left[self._row_of[workload.ref.uid]]
        order: list[int] = np.argsort(-row, kind="stable").tolist()
        for index in order:
            if row[index] < _WORTH_STARTING:
                return None
            if weighed[index].fit is not None:
                row[index] -= 1.0
                return weighed[index]
        return None

    def explain(self, workload: Workload, weighed: Iterable[Weighed]) -> tuple[Weighed, ...]:
        """The offerings with what they cost in all, time included, for people to read."""
        one = self._classes[self._row_of[workload.ref.uid]]
        value = _usd_per_second(one.ask)
        told: list[Weighed] = []
        for each in weighed:
            costs = self._costs(one, each)
            if costs is not None:
                score = round(costs.money + value * costs.seconds_to_end, 6)
                each = replace(each, candidate=replace(each.candidate, score=score, cost_parts=costs.parts(value)))
            told.append(each)
        return tuple(told)

    def wait_option(self, workload: Workload) -> WaitOption | None:
        """What waiting would be like for it, by the prices of the programme's answer; None: it can wait for nothing."""
        return self._wait_options.get(self._row_of[workload.ref.uid])

    def _values_time(self, workload: Workload) -> bool:
        policy = self._world.policy_of(workload)
        return policy is not None and policy.value_of_time is not None

    # -- the classes -------------------------------------------------------------------------------------------

    def _classify(self, pending: list[Workload]) -> list[_Class]:
        """Equal workloads, and such whose run times differ little; coarser until there are few enough."""
        pending.sort(key=by_name)
        steps = float(_STEPS_AN_OCTAVE)
        while True:
            found = self._group(pending, steps)
            if len(found) <= _MOST_CLASSES or steps < 0.3:
                break
            steps /= 2
        for index, one in enumerate(found):
            for workload in one.members:
                self._row_of[workload.ref.uid] = index
        return found

    def _group(self, pending: list[Workload], steps: float) -> list[_Class]:
        groups: dict[tuple[int, int, int, tuple[DataSet, ...]], _Class] = {}
        for workload in pending:
            policy = self._world.policy_of(workload)
            if policy is None or policy.value_of_time is None:
                continue
            ask = self._world.ask_of(workload, policy)
            run = max(1.0, self._run_seconds(workload))
            end = deadline_of(workload, ask)
            left = None if end is None else max(1.0, end - self._world.now)
            size = round(math.log2(run) * steps)
            key = (ask.group, size, -1 if left is None else round(math.log2(left) * steps), workload.hints.data)
            known = groups.get(key)
            if known is None:
                groups[key] = _Class(ask, [workload], run, left)
            else:
                known.members.append(workload)
                known.run_seconds += (run - known.run_seconds) / len(known.members)
                if left is not None and known.deadline is not None:
                    known.deadline = min(known.deadline, left)
        return list(groups.values())

    # -- the question ------------------------------------------------------------------------------------------

    def _solve(self) -> None:
        freed = outlook.reserves(self._world)
        names = list(freed)
        question = self._question(names, freed)
        try:
            answer = solve(question)
        except UnsolvedError:
            self.solver = "greedy"
            return
        self.solver = "optimal"
        self._left = answer.start.copy()
        self.prices = self._shadow_prices(answer, names)
        self._wait_options = self._options(question, answer, names)
        self._note_wakes(answer)

    def _options(self, question: Question, answer: Answer, names: list[Reserve]) -> dict[int, WaitOption]:
        """For each class the reserve and interval in which waiting costs least, use of the reserve priced."""
        used = _use_over_time(question)
        worth = question.wait_cost + np.einsum("kpbt,pt->kpb", used, answer.reserve_price)
        found: dict[int, WaitOption] = {}
        for row in range(len(self._classes)):
            if not np.isfinite(worth[row]).any():
                continue
            place, interval = np.unravel_index(int(np.argmin(worth[row])), worth[row].shape)
            cost = float(question.wait_cost[row, place, interval])
            found[row] = WaitOption(names[int(place)][0], float(MIDDLES[interval]), round(cost, 6))
        return found

    def _question(self, names: list[Reserve], freed: dict[Reserve, Floats]) -> Question:
        classes, rooms = self._classes, self._rooms
        shape = (len(classes), len(rooms))
        reserve_index = {name: index for index, name in enumerate(names)}
        start_cost, start_most = np.full(shape, np.inf), np.zeros(shape)
        reserve_of = np.full(shape, -1, dtype=np.int64)
        run = np.full((len(classes), len(names)), np.inf)
        wait_cost = np.full((len(classes), len(names), len(MIDDLES)), np.inf)
        capacity = np.array([_capacity(room) for room in rooms]).reshape(len(rooms), _BUSY_RESOURCES)
        demand = np.array([amounts(one.ask.shape.requests) for one in classes])
        budgets = self._world.budgets.accounts
        limit_use = np.zeros((len(budgets), *shape))
        for row, one in enumerate(classes):
            value, deadline = _usd_per_second(one.ask), self._reachable_deadline(one)
            unit = GPUS if one.ask.shape.gpus else CORES
            for column, weighed in enumerate(self._weigher.weigh(one.ask)):
                room = rooms[column]
                reserve = reserve_index.get((room.pool.ref, unit))
                costs = self._costs(one, weighed)
                if reserve is not None and not self._weigher.static_reasons(one.ask, room):
                    prediction = self._world.predict(one.ask.workload, room, 0)
                    seconds = one.run_seconds * self._slowness(one, room) + prediction.transfer_seconds
                    run[row, reserve] = seconds
                    ends = MIDDLES + seconds
                    never = EDGES[1:] <= self._first_room(one, weighed)
                    surely = ends + seconds * (late_factor(prediction, one.ask) - 1.0)
                    late = never if deadline is None else never | (surely > deadline)
                    wait_cost[row, reserve] = np.where(late, np.inf, value * ends + _data_usd(prediction))
                if costs is None:
                    continue
                if deadline is not None and costs.surely_seconds_to_end > deadline:
                    continue
                start_cost[row, column] = costs.money + value * costs.seconds_to_end
                start_most[row, column] = len(one.members)
                if reserve is not None:
                    reserve_of[row, column] = reserve
                for index, account in enumerate(budgets):
                    if account.covers(one.ask.queue, room.pool.ref.cluster, room.pool.capacity_type):
                        limit_use[index, row, column] = costs.money
        values = np.array([_usd_per_second(one.ask) for one in classes])
        runs = np.array([one.run_seconds for one in classes])
        return Question(
            counts=np.array([float(len(one.members)) for one in classes]),
            demand=demand,
            start_cost=start_cost,
            start_most=start_most,
            capacity=capacity,
            edges=EDGES,
            reserve_of=reserve_of,
            run=run,
            units=np.array([float(one.ask.shape.gpus or one.ask.shape.requests.cpu_milli / 1000) for one in classes]),
            freed=np.array([freed[name] for name in names]).reshape(len(names), len(MIDDLES)),
            wait_cost=wait_cost,
            hold_cost=values * (_HOLD_FACTOR * EDGES[-1] + runs),
            limit_use=limit_use,
            limits=np.array([max(0.0, float(a.budget.limit_usd - a.spent - a.committed)) for a in budgets]),
        )

    def _reachable_deadline(self, one: _Class) -> float | None:
        """Its deadline in seconds from now; None when there is none, or when nothing meets it: it is then late wherever
        it goes, and had better go somewhere."""
        if one.deadline is None:
            return None
        ends = [
            costs.surely_seconds_to_end for each in self._weigher.weigh(one.ask) if (costs := self._costs(one, each))
        ]
        ends += [
            float(MIDDLES[0]) + one.run_seconds * self._slowness(one, room) * self._late_factor(one, room)
            for room in self._rooms
            if not room.pool.bought and not self._weigher.static_reasons(one.ask, room)
        ]
        return one.deadline if min(ends, default=math.inf) <= one.deadline else None

    def _late_factor(self, one: _Class, room: PoolRoom) -> float:
        return late_factor(self._world.predict(one.ask.workload, room, 0), one.ask)

    def _first_room(self, one: _Class, weighed: Weighed) -> float:
        """Seconds from now until the gang could start on an owned pool at the earliest: 0, unless the pool has enough
        room in sum but in too small pieces, or too few nodes for it altogether (infinity). Capacity over time is fluid
        to the programme, nodes are not."""
        room, shape = weighed.room, one.ask.shape
        if not self._could_ever_fit(shape, room):
            return math.inf
        free = sum(max(0, each.gpus) for each in room.ready)
        if weighed.fit is not None or not shape.gpus or free < shape.gpus:
            return 0.0
        key = (shape.number, room.pool.ref)
        if key not in self._first_rooms:
            at = self._earliest(shape, room)
            self._first_rooms[key] = 0.0 if at is None else max(0.0, at - self._world.now)
        return self._first_rooms[key]

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

    def _costs(self, one: _Class, weighed: Weighed) -> _Costs | None:
        """Of starting one there now; None: it cannot, or nobody knows what it costs."""
        room, start = weighed.room, weighed.prediction.start_seconds
        if weighed.fit is None or start is None:
            return None
        seconds = one.run_seconds * self._slowness(one, room)
        lost = weighed.prediction.lost_seconds
        end = start + seconds + lost
        surely = end + seconds * (late_factor(weighed.prediction, one.ask) - 1.0)
        moving, data = weighed.prediction.transfer_seconds, _data_usd(weighed.prediction)
        if not room.pool.bought:
            return _Costs(0.0, 0.0, 0.0, data, end, surely)
        if room.pool.price is None:
            return None
        rate = float(room.pool.price.usd_per_hour) * _part_of_node(one.ask, room) / 3600.0
        around = rate * moving if weighed.fit.now else rate * (start + self._world.idle_seconds(room))
        return _Costs(rate * seconds, around, rate * lost, data, end, surely)

    def _slowness(self, one: _Class, room: PoolRoom) -> float:
        """Its run time there over what the class is reckoned with."""
        run = self._world.predict(one.ask.workload, room, 0).run_seconds
        return 1.0 if run is None else run / max(1.0, self._run_seconds(one.ask.workload))

    def _run_seconds(self, workload: Workload) -> float:
        """What its user says; else what is predicted for the first pool of which anything is; else an hour."""
        if workload.hints.expected_seconds is not None:
            return workload.hints.expected_seconds * part_left(self._world.progress.get(workload.ref.uid))
        traits = self._world.traits_of(workload)
        if traits not in self._unhinted:
            known = (self._world.predict(workload, room, 0).run_seconds for room in self._rooms)
            self._unhinted[traits] = next((run for run in known if run is not None), UNKNOWN_RUN_SECONDS)
        return self._unhinted[traits]

    # -- what the answer means ---------------------------------------------------------------------------------

    def _shadow_prices(self, answer: Answer, names: list[Reserve]) -> tuple[ShadowPrice, ...]:
        """What one more of each binding resource would be worth, the most valuable first."""
        found: list[ShadowPrice] = []
        widths = np.diff(EDGES)
        for column, room in enumerate(self._rooms):
            for index, resource in enumerate(("gpu", "cpu", "memory")):
                if answer.capacity_price[column, index] > 1e-9:
                    worth = float(answer.capacity_price[column, index])
                    found.append(ShadowPrice(str(room.pool.ref), resource, worth, "USD for one more now"))
        for row, (ref, unit) in enumerate(names):
            worth = float((answer.reserve_price[row] * np.minimum(widths, 3600.0)).max(initial=0.0))
            if worth > 1e-9:
                found.append(
                    ShadowPrice(str(ref), "gpu" if unit == GPUS else "cpu", worth, "USD for one more for an hour")
                )
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


def _usd_per_second(ask: Ask) -> float:
    assert ask.policy.value_of_time is not None
    return ask.policy.value_of_time.usd_per_second(ask.shape.gpus)


def _data_usd(prediction: Prediction) -> float:
    """Of bringing its data there. What nobody knows counts for nothing: bought pools are refused for it before, and
    among owned ones it has to run somewhere."""
    return float(prediction.transfer_usd or 0)


def _use_over_time(q: Question) -> Floats:
    """(K, P, B, B) unit-seconds that one takes of a reserve in each interval when it starts in another."""
    begin = q.edges[:-1][None, None, :, None]
    run = np.where(np.isfinite(q.run), q.run, 0.0)[:, :, None, None]
    used = np.minimum(begin + run, q.edges[1:]) - np.maximum(begin, q.edges[:-1])
    use: Floats = np.maximum(used, 0.0) * q.units[:, None, None, None]
    return use


def _part_of_node(ask: Ask, room: PoolRoom) -> float:
    """Nodes of the pool that the gang takes, as a fraction by its largest resource."""
    asked, there = amounts(ask.shape.requests), amounts(room.node_size)
    return max((a / t for a, t in zip(asked, there, strict=True) if a > 0 and t > 0), default=0.0)


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


def amounts(of: Resources) -> tuple[float, float, float]:
    """GPUs, cores, GiB."""
    return float(of.gpus), of.cpu_milli / 1000, of.memory_bytes / 2**30
