"""When a gang will fit, counted for all instants at once, is when the packer first finds room for it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.engine.forecast import Forecast
from scheduler.engine.packing import Opener, pack
from scheduler.engine.reservations import Reservations
from scheduler.engine.rooms import PoolRoom
from scheduler.engine.world import World
from scheduler.model.cluster import Taint
from scheduler.model.ids import Instant, NodeName
from scheduler.model.resources import Resources
from scheduler.model.verdict import Reason
from scheduler.model.workload import Copy, Hints, Toleration, Workload
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import (
    NODE_SIZE,
    NOW,
    amount,
    bought_pool,
    cluster,
    copy_of,
    node,
    placement,
    pods,
    policy_set,
    pool,
    snapshot,
    workload,
)

TAINT = Taint("team", "red", "NoSchedule")


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """One pool, owned or bought, with runs on known and unknown nodes that end, are overdue, or never end."""
    count = draw(st.integers(0, 4))
    used, busy = [Resources()] * count, [0] * count
    there: list[Workload] = []
    copies: list[Copy] = []
    for number in range(draw(st.integers(0, 8)) if count else 0):
        on, gpus = draw(st.integers(0, count - 1)), draw(st.integers(1, 4))
        asked = amount(gpus, 8 * gpus, 64 * gpus, 1)
        if not (used[on] + asked).fits_in(NODE_SIZE):
            continue
        used[on], busy[on] = used[on] + asked, busy[on] + 1
        seconds = draw(st.sampled_from((None, 30.0, 600.0, 600.0, 1800.0)))
        one = workload(f"r{number}", pods(1, gpus, 8 * gpus, 64 * gpus), hints=Hints(seconds))
        forever, began = draw(st.booleans()) and draw(st.booleans()), NOW - draw(st.integers(0, 1000))
        one = replace(one, runs_forever=forever, placement=placement("c", "a", decided_at=began))
        told = draw(st.booleans())
        copies.append(copy_of(one, holds=((NodeName(f"n{on}"), asked),) if told else ()))
        there.append(one)
    nodes = tuple(
        node(
            "a", f"n{n}", used=used[n], workload_pods=busy[n], taints=(TAINT,) if draw(st.booleans()) else (),
            labels=(("pool", "a"), ("rack", draw(st.sampled_from("xy")))), created_at=NOW - 86400.0,
        )
        for n in range(count)
    )  # fmt: skip
    more = draw(st.integers(0, 2))
    bought = bought_pool("c", "a", desired_nodes=count + more, max_nodes=count + more + draw(st.integers(0, 2)))
    here = cluster("c", (draw(st.sampled_from((pool("c", "a"), bought))),), nodes)
    return World(snapshot(here, workloads=tuple(there), copies=tuple(copies)), policy_set(), FirstPredictor())


@st.composite
def gangs(draw: st.DrawFn) -> Workload:
    tolerations = (Toleration("team", "Exists", "", ""),) if draw(st.booleans()) else ()
    selector = (("rack", "x"),) if draw(st.booleans()) else ()
    gpus = draw(st.integers(0, 8))
    asked = pods(draw(st.integers(1, 5)), gpus, draw(st.integers(1, 64)), 8, tolerations=tolerations)
    return workload("gang", replace(asked, node_selector=selector))


def first_by_packing(world: World, forecast: Forecast, gang: Workload, room: PoolRoom) -> Instant | None:
    for at in forecast.ends(room):
        opener = Opener(room.node_size, room.pool.labels, room.can_open, len(room.opened))
        if pack(world.shape_of(gang).pod_sets, forecast.free_at(room, at), opener) is not None:
            return at
    return None


@settings(max_examples=400, deadline=None)
@given(world=worlds(), first=gangs(), second=gangs(), assumed=gangs())
def test_counting_says_what_packing_says(world: World, first: Workload, second: Workload, assumed: Workload) -> None:
    """Also beside what was placed in this cycle, and beside what is kept for another gang."""
    (room,) = world.rooms.values()
    if room.assume(assumed.pod_sets):
        forecast = Forecast(world)
        forecast.note(room, NOW + 900.0)
    else:
        forecast = Forecast(world)
    reservations = Reservations(world, forecast)
    at = reservations.earliest(world.shape_of(first), room)
    assert at == first_by_packing(world, forecast, first, room)
    if at is not None:
        reservations.keep(first, world.shape_of(first), room, at, Reason("Reserved", "for the first"))
    assert reservations.earliest(world.shape_of(second), room) == first_by_packing(world, forecast, second, room)
