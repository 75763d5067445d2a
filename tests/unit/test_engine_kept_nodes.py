"""Nodes on which room is kept for a gang: who is kept off them, who may be beside it, and what stays in the line."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from clusters.kubernetes.annotations import format_placement, parse_placement
from scheduler.engine.cycle import cycle
from scheduler.model.cluster import Cluster, Node
from scheduler.model.contract import TOPOLOGY_NODE
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import PoolRef
from scheduler.model.plan import Plan
from scheduler.model.policy import PolicySet, ReservationRule
from scheduler.model.resources import Resources
from scheduler.model.workload import Copy, Hints, Placement, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from scheduler.simulate.machines import Machine
from tests.unit.engine_world import (
    NODE_SIZE,
    NOW,
    bought_pool,
    cluster,
    copy_of,
    node,
    placement,
    pods,
    policy,
    policy_set,
    pool,
    snapshot,
    workload,
)

PATIENCE = ReservationRule(60.0)
EASY = policy_set(policy(burst=None, reservation=PATIENCE))
BUYING = policy_set(policy(reservation=PATIENCE))


def job(name: str, gpus: int, seconds: float | None, *, count: int = 1, at: float = 0.0, **changes: object) -> Workload:
    base = workload(name, pods(count, gpus, cpu=1, memory=1), hints=Hints(seconds), queued_at=NOW + at)
    return replace(base, **changes)  # type: ignore[arg-type]


def running(name: str, gpus: int, on: str, seconds: float = 1000.0) -> tuple[Workload, Node, Copy]:
    """A run that has just started, its node and its copy."""
    base = job(name, gpus, seconds, placement=placement("onprem", "a"))
    copy = copy_of(base, holds=((on, base.requests),))
    return base, node("a", on, used=base.requests, workload_pods=1), copy


def plan_for(home: Cluster, *workloads: Workload, copies: tuple[Copy, ...] = (), rules: PolicySet = EASY) -> Plan:
    return cycle(snapshot(home, workloads=workloads, copies=copies), rules, FirstPredictor())


def placed(plan: Plan) -> dict[str, Placement]:
    return {change.workload.name: change.placement for change in plan.placements}


def beside_a_gang(gang: Workload, *others: Workload) -> dict[str, Placement]:
    """What starts while a gang waits for the 4 GPUs of node n0 that are free in 1000 s; n1 and n2 are empty."""
    run, busy, copy = running("running", 4, "n0")
    home = cluster("onprem", (pool("onprem", "a"),), (busy, node("a", "n1"), node("a", "n2")))
    return placed(plan_for(home, run, gang, *others, copies=(copy,)))


GANG = job("gang", 8, 500.0, count=3, at=-100.0)
SMALL = job("gang", 6, 500.0, count=3, at=-100.0)
PAIR = job("pair", 1, 9000.0, count=2)


@pytest.mark.parametrize(
    ("gang", "other", "want"),
    [
        pytest.param(GANG, job("other", 4, 900.0), placement("onprem", "a", kept_off=("n1", "n2")), id="ends in time"),
        pytest.param(GANG, job("other", 4, 9000.0), None, id="does not"),
        pytest.param(SMALL, job("other", 2, 9000.0), placement("onprem", "a", domain=(TOPOLOGY_NODE, "n0")), id="room"),
        pytest.param(SMALL, job("other", 1, None), placement("onprem", "a", domain=(TOPOLOGY_NODE, "n0")), id="any"),
        pytest.param(SMALL, PAIR, placement("onprem", "a", domain=(TOPOLOGY_NODE, "n0")), id="both pods on one node"),
        pytest.param(SMALL, job("other", 2, 9000.0, count=2), None, id="who knows on which node how many"),
        pytest.param(
            SMALL, job("other", 2, 900.0, count=2), placement("onprem", "a", kept_off=("n1", "n2")), id="in time"
        ),
    ],
)
def test_who_may_use_nodes_on_which_room_is_kept(gang: Workload, other: Workload, want: Placement | None) -> None:
    found = beside_a_gang(gang, other).get(other.ref.name)
    assert (found is None) == (want is None)
    if found is not None and want is not None:
        assert (found.domain, found.kept_off) == (want.domain, want.kept_off)


def test_others_are_kept_off_every_node_that_the_gang_is_to_have_but_where_they_are_reckoned_to_be() -> None:
    run, busy, copy = running("running", 8, "n0")
    taken, used, held = running("taken", 4, "n2", seconds=9000.0)
    home = cluster("onprem", (pool("onprem", "a"),), (busy, node("a", "n1"), used))
    gang = job("gang", 8, 500.0, count=2, at=-100.0)
    found = placed(plan_for(home, run, taken, gang, job("late", 4, 9000.0), job("soon", 8, 500.0), copies=(copy, held)))
    assert found["late"].kept_off == ("n0", "n1"), "n0 too, should its run end early"
    assert found["soon"].kept_off == ("n0",), "it might find no node at once, and then stay longer"


@pytest.mark.parametrize("bound", [True, False])
@pytest.mark.parametrize(("at", "want"), [(-100.0, ("n0",)), (-50.0, ())])
def test_others_are_kept_off_the_nodes_of_one_that_has_waited_until_its_pods_are_bound(
    at: float, want: tuple[str, ...], bound: bool
) -> None:
    """Its member may come to the others first, in the cycle in which it starts and in those after it."""
    home = cluster("onprem", (pool("onprem", "a"),), (node("a", "n0"), node("a", "n1")))
    first, second = job("first", 8, 500.0, at=at), job("second", 4, 500.0)
    found = placed(plan_for(home, first, second))
    assert (found["first"].kept_off, found["second"].kept_off) == ((), want)
    started = replace(first, placement=found["first"])
    copy = copy_of(started, pods_bound=0)
    if bound:
        busy = node("a", "n0", used=first.requests, workload_pods=1)
        home = replace(home, nodes=(busy, home.nodes[1]))
        copy = copy_of(started, holds=(("n0", first.requests),))
    found = placed(plan_for(home, started, second, copies=(copy,)))
    assert found["second"].kept_off == (() if bound else want)


@pytest.mark.parametrize("off", [(), ("n0",)])
def test_pods_that_are_not_bound_yet_are_assumed_where_they_may_go(off: tuple[str, ...]) -> None:
    """On the fuller node, or, where it is kept off that one, on the other."""
    started = job("started", 2, 9000.0, placement=placement("onprem", "a", kept_off=off))
    home = cluster("onprem", (pool("onprem", "a"),), (node("a", "n0"), node("a", "n1")))
    other = job("other", 7, 9000.0)
    nodes = (replace(home.nodes[0], used=Resources(0, 0, 1, 1), workload_pods=1), home.nodes[1])
    found = placed(plan_for(replace(home, nodes=nodes), started, other, job("last", 8, 9000.0)))
    assert set(found) == ({"last"} if not off else {"other"})


def test_one_that_waits_for_its_bought_node_does_not_start_on_one_that_is_kept() -> None:
    reserved = placement("eks", "b", PlacementState.RESERVED, bought=True, kept_off=("n0",))
    bought = bought_pool("eks", "b", max_nodes=2, desired_nodes=2)
    home = cluster("eks", (bought,), (node("b", "n0"),))
    held = job("held", 4, 9000.0, placement=reserved)
    assert not placed(plan_for(home, held, rules=BUYING))
    both = replace(home, nodes=(node("b", "n0"), node("b", "n1")))
    assert placed(plan_for(both, held, rules=BUYING))["held"].kept_off == ("n0",)


def test_what_was_started_and_finds_no_node_has_room_kept_for_it() -> None:
    """Its member has bound others where it was to go; whoever ends late is not let in before it."""
    first, one, first_copy = running("first", 5, "n0")
    second, two, second_copy = running("second", 3, "n1", seconds=2000.0)
    stranded = job("stranded", 8, 500.0, at=-100.0, placement=placement("onprem", "a"))
    waits = copy_of(stranded, pods_bound=0, started_at=None)
    home = cluster("onprem", (pool("onprem", "a"),), (one, two))
    others = (job("late", 2, 1500.0), job("more", 4, 1500.0), job("soon", 3, 500.0), job("then", 3, 500.0))
    copies = (first_copy, second_copy, waits)
    found = placed(plan_for(home, first, second, stranded, *others, copies=copies))
    assert {name: where.kept_off for name, where in found.items()} == {"late": ("n0",), "soon": ("n0",), "then": ()}
    plan = plan_for(home, first, second, stranded, job("late", 6, 1500.0), copies=copies)
    assert not plan.placements
    assert not [each for each in plan.decisions if each.workload.name == "stranded"], "it has been decided on already"


def test_nodes_that_it_is_kept_off_are_written_and_read_back() -> None:
    where = placement("onprem", "a", kept_off=("n0", "gpu-1.example.com"))
    assert parse_placement(format_placement(where)) == where
    assert "keptOff" not in format_placement(replace(where, kept_off=()))
    for wrong in ("n0,,n1", "n0;n1", "-n0"):
        with pytest.raises(InvalidObjectError, match="keptOff"):
            parse_placement(format_placement(where).replace("n0,gpu-1.example.com", wrong))


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({}, True),
        ({"kept_off": ("n0",)}, False),
        ({"kept_off": ("n1",)}, True),
        ({"domain": (TOPOLOGY_NODE, "n0")}, True),
        ({"domain": (TOPOLOGY_NODE, "n1")}, False),
    ],
)
def test_a_machine_of_a_replay_obeys(changes: dict[str, Any], want: bool) -> None:
    where = placement("onprem", "a", **changes)
    machine = Machine(PoolRef(where.cluster, where.pool), node("a", "n0").name, NODE_SIZE, NOW, None, NODE_SIZE)
    assert machine.is_open_to(where) is want
