"""Parts that remedies rest on: switches, excluded nodes, avoided and quarantined pools, policies rolled back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clusters.kinds import load_kinds
from clusters.kubernetes.annotations import format_places, parse_hints, parse_places
from clusters.kubernetes.hubobjects import pinned_template
from policies.reload import PolicyFolder
from scheduler.daemon.incidents.control import Control, read_switches
from scheduler.engine.cycle import cycle
from scheduler.model.contract import CONFIG_MAPS
from scheduler.model.errors import TransientError
from scheduler.model.ids import ClusterId, PoolId, PoolRef, Uid
from scheduler.model.ports import MemberFacts
from scheduler.model.workload import Hints
from scheduler.predict.first import FirstPredictor
from tests.builders.apiserver import World
from tests.unit.engine_world import cluster, node, pods, policy, policy_set, pool, snapshot, workload

QUEUE = "apiVersion: overspill.dev/v1alpha1\nkind: Queue\nmetadata: {name: %s}\n"


@pytest.mark.parametrize(
    ("said", "want"),
    [(None, False), ("", False), ("false", False), (" No ", False), ("0", False), ("off", False),
     ("true", True), ("yes", True), ("ture", True), ("1", True)],
)  # fmt: skip
def test_a_switch_that_is_not_plainly_off_is_on(said: str | None, want: bool) -> None:
    assert read_switches({} if said is None else {"paused": said}).paused is want


async def test_switches_that_cannot_be_read_are_as_they_were_and_paused_at_first() -> None:
    world = World()
    control = Control(world.api, "kube-system", "overspill-x")
    assert control.switches.paused
    assert not (await control.look()).paused, "no ConfigMap: nothing is switched off"
    data = {"paused": "true", "bursting-paused": "true", "approve.i1": "drain", "other": "x"}
    await world.api.create(CONFIG_MAPS, "kube-system", {"metadata": {"name": "overspill-x"}, "data": data})
    found = await control.look()
    assert (found.paused, found.bursting_paused, found.approved) == (True, True, frozenset({"i1/drain"}))

    async def silent(*_: Any) -> Any:
        raise TransientError("no answer")

    world.api.get = silent  # type: ignore[method-assign,assignment]
    found = await control.look()
    assert (found.paused, found.bursting_paused, found.error) == (True, True, "no answer")
    fresh = Control(world.api, "kube-system", "overspill-x")
    assert (await fresh.look()).paused, "it is not known: nothing moves"


def test_places_are_read_and_written() -> None:
    assert parse_places("eks/p4d, onprem/a100 ,bad,/x,y/,eks/p4d") == (("eks", "p4d"), ("onprem", "a100"))
    assert parse_places(7) == parse_places(None) == ()
    assert parse_places(format_places([("b", "2"), ("a", "1")])) == (("a", "1"), ("b", "2"))
    hints = parse_hints({"overspill.dev/avoided-pools": "eks/p4d"}, 0.0).hints
    assert hints.avoided_pools == (PoolRef(ClusterId("eks"), PoolId("p4d")),)


def test_excluded_nodes_are_kept_off_by_every_alternative_of_the_affinity() -> None:
    facts = MemberFacts(ClusterId("eks"), "hub", (("pool", "p"),), (), ("n1", "n2"))
    zone = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
    other = {"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n0"]}]}
    required = "requiredDuringSchedulingIgnoredDuringExecution"
    affinity = {"podAffinity": {"x": 1}, "nodeAffinity": {required: {"nodeSelectorTerms": [zone, other]}}}
    made = pinned_template({"spec": {"affinity": affinity}}, Uid("u"), facts)["spec"]["affinity"]
    kept_off = [{"key": "metadata.name", "operator": "NotIn", "values": [name]} for name in ("n1", "n2")]
    assert made["podAffinity"] == {"x": 1}
    assert made["nodeAffinity"][required]["nodeSelectorTerms"] == [
        {**zone, "matchFields": kept_off},
        {"matchFields": [*other["matchFields"], *kept_off]},
    ]
    bare = pinned_template({"spec": {}}, Uid("u"), facts)["spec"]["affinity"]
    assert bare["nodeAffinity"][required]["nodeSelectorTerms"] == [{"matchFields": kept_off}]
    assert "affinity" not in pinned_template({"spec": {}}, Uid("u"), replace(facts, excluded_nodes=()))["spec"]
    assert set(load_kinds()) >= {"job"}


def test_a_set_of_policies_is_rolled_back_until_the_files_change(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(QUEUE % "first")
    folder = PolicyFolder([tmp_path])
    first = folder.current
    assert folder.roll_back() is first, "there is nothing before it"
    file.write_text(QUEUE % "second")
    assert folder.reload().outcome == "changed"
    assert folder.roll_back() is first
    assert folder.reload().outcome == "unchanged", "the files still hold what was taken back"
    assert folder.current is first
    file.write_text(QUEUE % "third")
    assert folder.reload().outcome == "changed"
    assert [queue.id for queue in folder.current.queues] == ["third"]


def two_homes(**changes: Any) -> Any:
    """A cluster with two equal pools, one of them changed."""
    first, second = pool("c", "first", **changes), pool("c", "second")
    return cluster("c", (first, second), (node("first", "n1"), node("second", "n2")))


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_quarantined_pool_takes_nothing_new(one_by_one: bool) -> None:
    jobs = tuple(workload(f"j{number}") for number in range(12))
    snap = snapshot(two_homes(quarantined=True), workloads=jobs)
    plan = cycle(snap, policy_set(policy(burst=None)), FirstPredictor(), one_by_one=one_by_one)
    assert {intent.placement.pool for intent in plan.placements} == {"second"}
    assert len(plan.placements) == 8
    held = next(decision for decision in plan.decisions if decision.outcome == "held")
    assert {reason.code for reason, _ in held.refused} == {"Quarantined", "NoRoomNow"}


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize(
    ("count", "excluded", "want"),
    [(2, "", 1), (2, "c/n1", 0), (1, "c/n1", 1), (1, "c/n1,c/n2", 0), (2, "other/n1,other/n2", 1)],
)
def test_a_node_that_is_excluded_is_no_room(one_by_one: bool, count: int, excluded: str, want: int) -> None:
    """A gang that would fit only with it waits, instead of hanging half started. A node of that name in another cluster
    is another node."""
    nodes = parse_hints({"overspill.dev/excluded-nodes": excluded}, 0.0).excluded_nodes
    gang = workload("gang", pods(count, 8, excluded_nodes=nodes))
    here = cluster("c", (pool("c", "p"),), (node("p", "n1"), node("p", "n2")))
    plan = cycle(
        snapshot(here, workloads=(gang,)), policy_set(policy(burst=None)), FirstPredictor(), one_by_one=one_by_one
    )
    assert len(plan.placements) == want
    said = parse_hints({"overspill.dev/excluded-nodes": "c/n2,c/n1"}, 0.0).excluded_nodes
    assert said == (("c", "n1"), ("c", "n2"))


@pytest.mark.parametrize("one_by_one", [False, True])
def test_a_pool_is_avoided_by_those_that_did_badly_there_and_by_no_other(one_by_one: bool) -> None:
    avoiding = Hints(avoided_pools=(PoolRef(ClusterId("c"), PoolId("first")),))
    jobs = tuple(workload(f"j{number:02d}", hints=avoiding if number % 2 else Hints()) for number in range(16))
    plan = cycle(
        snapshot(two_homes(), workloads=jobs), policy_set(policy(burst=None)), FirstPredictor(), one_by_one=one_by_one
    )
    where = {intent.workload.name: intent.placement.pool for intent in plan.placements}
    assert all(where.get(job.ref.name, "second") == "second" for job in jobs if job.hints == avoiding)
    assert "first" in where.values()
