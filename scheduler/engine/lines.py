"""The lines in which workloads wait for owned GPUs: what is free and running on each member, and who is next.

What a queue-wait prediction is made of; who is placed is decided elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.engine.candidates import Weigher
from scheduler.engine.world import World
from scheduler.model.ids import ClusterId, Uid
from scheduler.model.workload import PlacementState, Workload


@dataclass(frozen=True, slots=True)
class MemberLine:
    free_gpus: int
    going: tuple[tuple[int, float | None], ...]
    """(GPUs, seconds left or None) of each that runs there."""


@dataclass(frozen=True, slots=True)
class Waits:
    """One that waits, and where it may."""

    uid: Uid
    gpus: int
    run_seconds: float | None
    members: frozenset[ClusterId]


def member_lines(world: World) -> dict[ClusterId, MemberLine]:
    """Of every member that can be acted on and has owned GPUs. Bought pools have no line: they grow."""
    free: dict[ClusterId, int] = {}
    going: dict[ClusterId, list[tuple[int, float | None]]] = {}
    for room in world.rooms.values():
        if not room.pool.bought and room.cluster.available and any(node.allocatable.gpus for node in room.nodes):
            usable = sum(max(0, node.allocatable.gpus - node.used.gpus) for node in room.nodes if node.usable)
            free[room.cluster.id] = free.get(room.cluster.id, 0) + usable
    for workload in world.placed:
        placement = workload.placement
        if placement is None or placement.state is PlacementState.PAUSED:
            continue
        where = world.room_of(placement)
        if where is None or where.pool.bought:
            continue
        gpus = workload.requests.gpus
        if gpus and not workload.runs_forever:
            going.setdefault(where.cluster.id, []).append((gpus, world.seconds_left(workload, where)))
    return {name: MemberLine(free[name], tuple(sorted(going.get(name, ()), key=_order))) for name in sorted(free)}


def waiting(world: World, most: int) -> tuple[Waits, ...]:
    """The first `most` of those that wait for GPUs: by priority, then as they came."""
    weigher = Weigher(world)
    found: list[Waits] = []
    for workload in sorted(world.roll.pending.values(), key=_turn):
        ask = world.ask_for(workload)
        if ask is None or not workload.requests.gpus:
            continue
        rooms = [
            room for room in world.rooms.values() if not room.pool.bought and not weigher.static_reasons(ask, room)
        ]
        run = world.predict(workload, rooms[0], 0).run_seconds if rooms else None
        members = frozenset(room.cluster.id for room in rooms)
        found.append(Waits(workload.ref.uid, workload.requests.gpus, run, members))
        if len(found) == most:
            break
    return tuple(found)


def _turn(workload: Workload) -> tuple[int, float, str]:
    return -workload.priority, workload.queued_at, workload.ref.uid


def _order(one: tuple[int, float | None]) -> tuple[bool, float, int]:
    return one[1] is None, one[1] or 0.0, one[0]
