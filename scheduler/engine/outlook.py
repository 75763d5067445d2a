"""Owned capacity over time: what is busy now, and when it is expected to be free."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

import numpy as np

from scheduler.engine.commitments import UNKNOWN_RUN_SECONDS
from scheduler.engine.programme import Floats
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.world import World
from scheduler.model.ids import PoolRef
from scheduler.model.workload import PlacementState, Workload

EDGES: Final[Floats] = np.array([0.0, 300, 900, 2700, 7200, 21600, 64800, 172800, 518400, 1555200, 5184000])
"""Seconds from now: intervals that grow about threefold, up to two months."""
MIDDLES: Final[Floats] = (EDGES[:-1] + EDGES[1:]) / 2
KEPT_FOR_ARRIVALS: Final = 0.15
"""The part of what frees later that is left to workloads that have not come yet. Measured on the first 14 days of the
Philly log's busy stretch (no figure that is reported is of these days): 0.15 cost 7 % less than 0, while it still cut
what was free now as well."""
GPUS: Final = 0
CORES: Final = 1
Reserve = tuple[PoolRef, int]
"""A pool and which of its resources: GPUS or CORES."""


def reserves(world: World) -> dict[Reserve, Floats]:
    """Unit-seconds free in each interval, of every pool that is not bought: GPUs where it has any, and whole cores."""
    running = _running(world)
    found: dict[Reserve, Floats] = {}
    for room in world.rooms.values():
        if room.pool.bought or not room.cluster.available:
            continue
        for unit in (GPUS, CORES):
            total = sum(_units(node.allocatable.gpus, node.allocatable.cpu_milli, unit) for node in room.nodes)
            if total <= 0:
                continue
            used = running.get(room.pool.ref, [])
            widths = np.diff(EDGES)
            # What is free now is for those who are here; of what frees later a part is left to those who come later.
            free_now = max(0.0, total - sum(each[1 + unit] for each in used)) * widths
            later = np.maximum(0.0, total * widths - _busy(used, unit) - free_now)
            found[room.pool.ref, unit] = free_now + later * (1.0 - KEPT_FOR_ARRIVALS)
    return found


def _running(world: World) -> dict[PoolRef, list[tuple[float, float, float]]]:
    """(seconds left, GPUs, cores) of everything placed, by pool."""
    found: dict[PoolRef, list[tuple[float, float, float]]] = defaultdict(list)
    for workload in world.placed:
        placement = workload.placement
        if placement is None or placement.state is PlacementState.RELEASING:
            continue
        room = world.room_of(placement)
        if room is None or room.pool.bought:
            continue
        requests = world.shape_of(workload).requests
        found[room.pool.ref].append((_seconds_left(world, workload, room), requests.gpus, requests.cpu_milli / 1000))
    return found


def _seconds_left(world: World, workload: Workload, room: PoolRoom) -> float:
    """Of a run that goes on for longer than predicted, or of which nothing is known, as long again as it has run."""
    if workload.runs_forever:
        return float(EDGES[-1])
    left = world.seconds_left(workload, room)
    if left is None:
        copy = world.copies.get((workload.ref.uid, room.cluster.id))
        started = world.now if copy is None or copy.started_at is None else copy.started_at
        run = world.predict(workload, room, 0).run_seconds
        return max(world.now - started, UNKNOWN_RUN_SECONDS if run is None else 60.0)
    return left


def _busy(running: list[tuple[float, float, float]], unit: int) -> Floats:
    if not running:
        return np.zeros(len(EDGES) - 1)
    table = np.array(running)
    overlap = np.clip(np.minimum(table[:, :1], EDGES[None, 1:]) - EDGES[None, :-1], 0.0, None)
    busy: Floats = (overlap * table[:, 1 + unit : 2 + unit]).sum(axis=0)
    return busy


def _units(gpus: int, cpu_milli: int, unit: int) -> float:
    return float(gpus) if unit == GPUS else cpu_milli / 1000
