"""Gangs that are to stay together: on one node, in one zone, rack or block, and nowhere if no such has room."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clusters.kubernetes.annotations import format_placement, parse_hints, parse_placement
from scheduler.engine.cycle import cycle
from scheduler.engine.packing import Opener, make_bin, pack, undo
from scheduler.model.cluster import Cluster, Node
from scheduler.model.contract import ANNOTATION_TOPOLOGY, TOPOLOGY_NODE, TOPOLOGY_ZONE
from scheduler.model.errors import InvalidObjectError
from scheduler.model.plan import Plan
from scheduler.model.workload import PlacementState, PodSet
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

RACK = "example.com/rack"


def racked(name: str, rack: str, free: int = 8) -> Node:
    used = 8 - free
    return node(
        "a", name, labels=(("pool", "a"), (RACK, rack)), used=amount(used, used, used, used), workload_pods=used
    )


def onprem(*nodes: Node) -> Cluster:
    return cluster("onprem", (pool("onprem", "a"),), nodes)


def plan_for(what: PodSet, *homes: Cluster) -> Plan:
    return cycle(snapshot(*homes, workloads=(workload("w", what),)), policy_set(), FirstPredictor())


def test_a_gang_goes_whole_into_the_tightest_rack_that_holds_it() -> None:
    homes = onprem(racked("n1", "r1"), racked("n2", "r1"), racked("n3", "r2"), racked("n4", "r2", free=4))
    for count, wanted in ((2, "r1"), (1, "r2")):
        (change,) = plan_for(pods(count, 8, topology=RACK), homes).placements
        assert change.placement.domain == (RACK, wanted)


def test_room_in_two_racks_is_not_room_in_one() -> None:
    homes = onprem(racked("n1", "r1"), racked("n2", "r2"))
    plan = plan_for(pods(2, 8, topology=RACK), homes)
    assert not plan.placements
    assert plan.decisions[0].reason.code == "NoRoomNow"
    assert plan_for(pods(2, 8), homes).placements


def test_without_the_label_there_is_no_rack() -> None:
    plan = plan_for(pods(1, 8, topology=RACK), onprem(node("a", "n1")))
    assert plan.decisions[0].sentence == f"0/1 offerings: 1 without the node label {RACK}"


def test_one_node_for_all_its_pods() -> None:
    full = [node("a", f"n{i}", used=amount(4, 4, 4, 4), workload_pods=4) for i in range(3)]
    assert not plan_for(pods(2, 4, topology=TOPOLOGY_NODE), onprem(*full)).placements
    (change,) = plan_for(pods(2, 4, topology=TOPOLOGY_NODE), onprem(*full, node("a", "n9"))).placements
    assert change.placement.domain == (TOPOLOGY_NODE, "n9")
    plan = plan_for(pods(3, 4, topology=TOPOLOGY_NODE), onprem(node("a", "n9")))
    assert "too small for all of its pods on one node" in plan.decisions[0].sentence


def test_bought_nodes_count_where_the_pool_says_where_they_will_be() -> None:
    zoned = bought_pool("eks", "b", labels=(("pool", "b"), (TOPOLOGY_ZONE, "us-east-1a")))
    (change,) = plan_for(pods(2, 8, topology=TOPOLOGY_ZONE), cluster("eks", (zoned,))).placements
    assert change.placement.state is PlacementState.RESERVED
    assert not plan_for(pods(2, 8, topology=TOPOLOGY_ZONE), cluster("eks", (bought_pool("eks", "b"),))).placements


def test_what_was_reserved_is_held_to_the_domain_that_it_starts_in() -> None:
    zoned = bought_pool("eks", "b", labels=(("pool", "b"), (TOPOLOGY_ZONE, "z1")), desired_nodes=2)
    nodes = tuple(node("b", f"n{i}", labels=(("pool", "b"), (TOPOLOGY_ZONE, "z1"))) for i in range(2))
    where = placement("eks", "b", PlacementState.RESERVED, bought=True, decided_at=NOW - 60)
    job = workload("w", pods(2, 8, topology=TOPOLOGY_ZONE), placement=where)
    plan = cycle(snapshot(cluster("eks", (zoned,), nodes), workloads=(job,)), policy_set(), FirstPredictor())
    (change,) = plan.placements
    assert (change.placement.state, change.placement.domain) == (PlacementState.STARTED, (TOPOLOGY_ZONE, "z1"))


def test_a_paused_gang_resumes_only_where_its_copy_is_held() -> None:
    where = placement("onprem", "a", PlacementState.PAUSED, domain=(RACK, "r1"))
    job = workload("w", pods(1, 8, topology=RACK), placement=where)
    for free, resumes in ((8, True), (0, False)):
        home = onprem(racked("n1", "r1", free=free), racked("n2", "r2"))
        copies = (copy_of(job, pods_bound=0, suspended=True),)
        plan = cycle(snapshot(home, workloads=(job,), copies=copies), policy_set(), FirstPredictor())
        assert bool(plan.placements) is resumes


bins = st.lists(st.tuples(st.sampled_from(("r1", "r2", None)), st.integers(0, 8)), max_size=6)


@given(bins, st.integers(1, 4), st.integers(1, 8), st.integers(0, 2), st.booleans())
def test_a_packing_is_in_one_domain_and_is_found_where_there_is_one(
    rooms: list[tuple[str | None, int]], count: int, gpus: int, new: int, labelled: bool
) -> None:
    made = [
        make_bin(f"n{i}", replace(NODE_SIZE, gpus=free), () if rack is None else ((RACK, rack),))
        for i, (rack, free) in enumerate(rooms)
    ]
    opener = Opener(NODE_SIZE, ((RACK, "r1"),) if labelled else (), new)
    what = (pods(count, gpus, cpu=1, memory=1, topology=RACK),)
    most = {rack: sum(free // gpus for each, free in rooms if each == rack) for rack in ("r1", "r2")}
    most["r1"] += new * (8 // gpus) if labelled else 0
    takes = pack(what, (made,), opener)
    assert (takes is not None) == (max(most.values()) >= count)
    if takes is not None:
        assert len({dict(take.bin.labels)[RACK] for take in takes}) == 1
        assert sum(take.pods for take in takes) == count
        undo(takes)
    assert [each.gpus for each in made] == [free for _, free in rooms], "everything is as it was"


@pytest.mark.parametrize(
    ("text", "wanted", "problems"),
    [
        ("node", TOPOLOGY_NODE, 0),
        ("zone", TOPOLOGY_ZONE, 0),
        (RACK, RACK, 0),
        ("", "", 0),
        ("rack", "", 1),
        ("example.com/ra ck", "", 1),
        ("/" * 500, "", 1),
    ],
)
def test_the_annotation(text: str, wanted: str, problems: int) -> None:
    read = parse_hints({ANNOTATION_TOPOLOGY: text}, NOW)
    assert (read.topology, len(read.problems)) == (wanted, problems)


def test_the_domain_is_written_and_read_back() -> None:
    where = placement("onprem", "a", domain=(RACK, "r1"), moved_from="eks")
    assert parse_placement(format_placement(where)) == where
    with pytest.raises(InvalidObjectError, match="field domain"):
        parse_placement(format_placement(where).replace(f"{RACK}=r1", "nonsense"))
