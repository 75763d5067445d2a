"""Which promises workloads are expected to break: a wait beyond the queue's objective, an end after the deadline, a p95
latency in an hour beyond what queue or SLO promise. Functions of frozen values: they may take their time in a thread.

A wait is that for room on the best pool that policy and pods allow, first come first served (`predict.waits`), or for
nodes that the policy's burst rule will buy. A workload that has waited for longer than that rule asks and is still here
is not bought for (its budget, a limit, a shortage): from then on only the line counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from scheduler.aiops.workload_rows import Forecast
from scheduler.engine.candidates import Weigher
from scheduler.engine.filters import Ask
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.serving.matching import slo_of
from scheduler.engine.world import World
from scheduler.model.ids import Instant, PoolRef, QueueId, Uid, whole_uid
from scheduler.model.policy import PlacementPolicy, PolicySet, QueueSpec
from scheduler.model.ports import Predictor
from scheduler.model.serving_policy import ServingSLO
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Workload
from scheduler.predict.learned import LearnedPredictor
from scheduler.predict.served import INTERVAL_SECONDS
from scheduler.predict.waits import Going, Line

MOST_WAITING: Final = 2000
"""The first in line, in one round; nothing is foretold of who waits behind them."""
_SERVING_STALE_SECONDS: Final = 3 * INTERVAL_SECONDS


def forecasts(
    snapshot: Snapshot, policies: PolicySet, predictor: Predictor, queue_wait_seconds: float | None
) -> dict[str, Forecast]:
    """By UID, of workloads to whom something was promised; None in it where it cannot be told.

    `queue_wait_seconds`: the objective of queues that name none; None: there is none.
    """
    world = World(snapshot, policies, predictor)
    queues = {queue.id: queue for queue in policies.queues}
    limited = any(policy.constraints.deadline_seconds is not None for policy in policies.policies)
    deadlines = {
        each.ref.uid: _deadline(each, world.policy_of(each) if limited else None)
        for each in snapshot.workloads
        if not each.finished
    }
    line = sorted(filter(_waits, snapshot.workloads), key=lambda each: (-each.priority, each.queued_at, each.ref))
    if any(deadlines[each.ref.uid] is not None or _most_wait(each, queues, queue_wait_seconds) for each in line):
        found = _waiting(world, line[:MOST_WAITING], deadlines, queues, queue_wait_seconds)
    else:
        found = {}
    for workload in snapshot.workloads:
        uid, placement = workload.ref.uid, workload.placement
        if placement is None or workload.finished:
            continue
        if workload.runs_forever:
            slo = slo_of(workload, policies)
            found |= _serving(workload, queues.get(workload.queue), slo, predictor, snapshot.now)
        elif deadlines[uid] is not None:
            room = world.room_of(placement)
            left = None if room is None else _left(world, workload, room)
            found[uid] = Forecast(finish_at=None if left is None else snapshot.now + left, deadline_at=deadlines[uid])
    return found


def _waits(workload: Workload) -> bool:
    blocked = workload.suspended or workload.deleting or workload.finished or workload.invalid or workload.unmanaged
    return workload.placement is None and not blocked and not workload.runs_forever


def _most_wait(workload: Workload, queues: Mapping[QueueId, QueueSpec], default: float | None) -> float | None:
    queue = queues.get(workload.queue)
    own = None if queue is None else queue.wait_objective_seconds
    return default if own is None else own


def _deadline(workload: Workload, policy: PlacementPolicy | None) -> Instant | None:
    limit = policy.constraints.deadline_seconds if policy is not None else None
    given = [workload.hints.deadline_at, None if limit is None else workload.created_at + limit]
    return min((each for each in given if each is not None), default=None)


def _serving(
    workload: Workload, queue: QueueSpec | None, slo: ServingSLO | None, predictor: Predictor, now: Instant
) -> dict[str, Forecast]:
    """Nothing where no latency was promised, by its queue or its SLO (the shorter counts); the objective alone where
    none was learned, or what was is old. All parts of a service that is divided are the service itself."""
    promised = (
        None if queue is None else queue.latency_objective_seconds,
        None if slo is None else slo.p95_latency_seconds,
    )
    objective = min((each for each in promised if each is not None), default=None)
    if objective is None:
        return {}
    whole = replace(workload, ref=replace(workload.ref, uid=whole_uid(workload.ref.uid)))
    known = predictor.serving(whole) if isinstance(predictor, LearnedPredictor) else None
    if known is None or now - known.at > _SERVING_STALE_SECONDS:
        return {whole.ref.uid: Forecast(p95_objective_seconds=objective)}
    ahead = Forecast(
        p95_seconds=known.p95_in_an_hour_seconds, p95_objective_seconds=objective, p95_forecast_at=known.at
    )
    return {whole.ref.uid: ahead}


def _left(world: World, workload: Workload, room: PoolRoom) -> float | None:
    """Seconds until it is expected to end; a run that is overdue is expected to go on for as long again."""
    placement = workload.placement
    copy = None if placement is None else world.copies.get((workload.ref.uid, placement.cluster))
    started = world.now if copy is None or copy.started_at is None else copy.started_at
    left = world.left_seconds(workload, room, started)
    if left is not None or world.predict(workload, room, 0).run_seconds is None:
        return left
    return max(world.now - started, 0.0)


# -- the line ------------------------------------------------------------------------------------------------------


class _Start(NamedTuple):
    seconds: float
    pool: PoolRef
    buys: int
    """Nodes; 0: there is room, now or once others have ended."""


class _Place:
    """A pool's room: what is and will be free, and what may still be bought. Changes as the line is served."""

    def __init__(self, room: PoolRoom, going: Sequence[Going]) -> None:
        free = sum(max(node.allocatable.gpus - node.used.gpus, 0) for node in room.nodes if node.usable)
        self.room = room
        self.line = Line(free, going)
        self.can_buy = room.can_open if room.pool.bought else 0
        self._known: dict[int, float | None] = {}
        """By GPUs, when so many are free; until the next one is taken."""

    def starts(self, world: World, ask: Ask, workload: Workload, gpus: int) -> list[_Start]:
        """When it could, here."""
        ref = self.room.pool.ref
        if gpus not in self._known:
            self._known[gpus] = self.line.start(gpus)
        there = self._known[gpus]
        found = [] if there is None else [_Start(there, ref, 0)]
        rule, each = ask.policy.burst, self.room.node_size.gpus
        takes = None
        if self.can_buy and rule is not None and not ask.waited and not world.snapshot.bursting_paused:
            takes = self.grown(world, ask, gpus)
        if rule is None or takes is None:
            return found
        begins = max(workload.queued_at + rule.after_wait_seconds, world.now)
        if self.room.backoff is not None:
            begins = max(begins, self.room.backoff.until)
        return [*found, _Start(begins - world.now + takes, ref, math.ceil(gpus / each))]

    def grown(self, world: World, ask: Ask, gpus: int) -> float | None:
        """Seconds after which nodes would be here if they were bought now; None: they cannot be."""
        each = self.room.node_size.gpus
        nodes = math.ceil(gpus / each) if each else 0
        if not 0 < nodes <= self.can_buy:
            return None
        start = world.predict(ask.workload, self.room, nodes).start_seconds
        return self.room.provisioning_seconds if start is None else start

    def take(self, start: _Start, gpus: int, run_seconds: float | None) -> None:
        if start.buys:
            self.can_buy -= start.buys
        else:
            self._known.clear()
            self.line.take(gpus, run_seconds)


def _waiting(
    world: World,
    line: Sequence[Workload],
    deadlines: Mapping[Uid, Instant | None],
    queues: Mapping[QueueId, QueueSpec],
    default: float | None,
) -> dict[str, Forecast]:
    places, weigher = _places(world), Weigher(world)
    allowed: dict[int, list[_Place]] = {}

    def best(ask: Ask, workload: Workload, gpus: int) -> _Start | None:
        """The earliest; ties: the pool's name."""
        if ask.number not in allowed:
            allowed[ask.number] = [one for one in places.values() if not weigher.static_reasons(ask, one.room)]
        starts = (start for place in allowed[ask.number] for start in place.starts(world, ask, workload, gpus))
        return min(starts, default=None)

    found: dict[str, Forecast] = {}
    for workload in line:
        ask, uid, gpus = world.ask_for(workload), workload.ref.uid, workload.requests.gpus
        start = best(ask, workload, gpus) if ask is not None and gpus else None
        run = wait = None
        grows = None if ask is None or not gpus else _grows(world, ask, allowed[ask.number], gpus)
        if start is not None:
            place, wait = places[start.pool], start.seconds
            run = world.predict(workload, place.room, start.buys).run_seconds
            place.take(start, gpus, run)
        found[uid] = Forecast(
            wait_seconds=wait,
            wait_objective_seconds=_most_wait(workload, queues, default),
            queued_at=workload.queued_at,
            finish_at=None if run is None or wait is None else world.now + wait + run,
            deadline_at=deadlines.get(uid),
            grows=grows,
        )
    return found


def _grows(world: World, ask: Ask, places: Sequence[_Place], gpus: int) -> PoolRef | None:
    """Where nodes would come soonest."""
    there = ((place.grown(world, ask, gpus), place.room.pool.ref) for place in places if place.can_buy)
    return min(((seconds, ref) for seconds, ref in there if seconds is not None), default=(0.0, None))[1]


def _places(world: World) -> dict[PoolRef, _Place]:
    """Pools with GPUs of clusters that can be acted on, and who is on them."""
    rooms = {
        ref: room
        for ref, room in sorted(world.rooms.items())
        if room.cluster.available and (room.node_size.gpus or any(node.allocatable.gpus for node in room.nodes))
    }
    going: dict[PoolRef, list[Going]] = {ref: [] for ref in rooms}
    for workload in world.snapshot.workloads:
        if workload.placement is None or workload.finished or not workload.requests.gpus:
            continue
        room = world.room_of(workload.placement)
        if room is not None and room.pool.ref in going:
            left = None if workload.runs_forever else _left(world, workload, room)
            going[room.pool.ref].append(Going(workload.requests.gpus, left))
    return {ref: _Place(room, going[ref]) for ref, room in rooms.items()}
