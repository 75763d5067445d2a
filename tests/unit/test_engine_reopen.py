"""A node that was closed for a move which came to nothing is opened again, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.engine.cycle import cycle
from scheduler.model.cluster import Node, Reclaim, Taint
from scheduler.model.contract import TAINT_REMEDIATION
from scheduler.model.ids import ClusterId, NodeName
from scheduler.model.plan import Plan
from scheduler.model.policy import DisruptionRule, ReturnRule
from scheduler.model.workload import MOVED, Copy, Hints, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import (
    NOW,
    amount,
    bought_pool,
    cluster,
    copy_of,
    node,
    placement,
    pods,
    policy,
    policy_set,
    snapshot,
    workload,
)

HALF = amount(4, 8, 64, 1)
RAN = placement("eks", "od", bought=True, capacity_type="on-demand", decided_at=NOW - 4000)
TAKEN = Reclaim(ClusterId("eks"), None, NodeName("n1"), "uid-n1", NOW, None, "taint")


def half(name: str, **changes: Any) -> Workload:
    hints = Hints(expected_seconds=100_000.0, checkpoint_every_seconds=300.0)
    return replace(workload(name, pods(1, 4), hints=hints, placement=RAN), **changes)


def busy(name: str, **changes: Any) -> Node:
    return node("od", name, **({"used": HALF, "workload_pods": 1} | changes))


def planned(*nodes: Node, runs: tuple[tuple[Workload, str], ...], copies: dict[str, Any], moves: int = 0) -> Plan:
    there: tuple[Copy, ...] = tuple(
        copy_of(each, **({"holds": ((on, HALF),)} | copies.get(each.ref.name, {}))) for each, on in runs
    )
    home = cluster("eks", (bought_pool("eks", "od", desired_nodes=len(nodes)),), nodes)
    give_back = ReturnRule(moves=True, move_after_seconds=600.0)
    rules = policy(give_back=give_back, disruption=DisruptionRule(moves_at_once=moves))
    snap = snapshot(home, workloads=tuple(each for each, _ in runs), copies=there)
    return cycle(snap, policy_set(rules), FirstPredictor())


def opened(*nodes: Node, run: Workload, **copies: Any) -> list[str]:
    """Which nodes are, where nobody may be moved any more."""
    return [each.node for each in planned(*nodes, runs=((run, "n1"),), copies={run.ref.name: copies}).openings]


CLOSED = busy("n1", unschedulable=True, closed=True)


def test_one_whose_run_stays_is_opened() -> None:
    assert opened(CLOSED, node("od", "n2"), run=half("w")) == ["n1"]


@pytest.mark.parametrize(
    "changes",
    [
        {"placement": replace(RAN, attempt=2, reason=MOVED, moved_from=ClusterId("eks"))},
        {"placement": replace(RAN, cluster=ClusterId("gke"), attempt=2, reason=MOVED, moved_from=ClusterId("eks"))},
        {"placement": replace(RAN, state=PlacementState.RELEASING)},
        {"deleting": True},
        {"finished": True},
    ],
    ids=["on its way within the pool", "on its way elsewhere", "released", "deleted", "finished"],
)
def test_it_stays_closed_while_its_run_is_to_go(changes: dict[str, Any]) -> None:
    assert opened(CLOSED, node("od", "n2"), run=half("w", **changes), attempt=1, cluster=ClusterId("eks")) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"closed": False},
        {"deleting": True},
        {"reclaim": TAKEN},
        {"taints": (Taint(TAINT_REMEDIATION, "gpu.xid", "NoSchedule"),)},
    ],
    ids=["cordoned by somebody else", "going", "taken back by its cloud", "held by a remedy"],
)
def test_what_is_closed_for_another_reason_stays_so(changes: dict[str, Any]) -> None:
    assert opened(replace(CLOSED, **changes), run=half("w")) == []


def test_an_empty_one_goes_back_instead() -> None:
    empty = replace(CLOSED, used=amount(), workload_pods=0, idle_since=NOW - 1)
    plan = planned(empty, runs=(), copies={})
    assert plan.openings == ()
    assert [each.node for each in plan.removals] == ["n1"]


def test_a_move_that_failed_is_made_again_or_its_node_is_opened() -> None:
    """First the move and the closing are decided; the closing is written, the move is not."""
    runs = ((half("a"), "n1"), (half("b"), "n2"))
    first = planned(busy("n1"), busy("n2"), runs=runs, copies={}, moves=1)
    assert len(first.placements) == 1
    (closing,) = first.closures
    assert first.openings == ()
    nodes = [
        replace(each, unschedulable=True, closed=True) if each.name == closing.node else each
        for each in (busy("n1"), busy("n2"))
    ]
    again = planned(*nodes, runs=runs, copies={}, moves=1)
    assert len(again.placements) == 1
    assert again.openings == ()
    given_up = planned(*nodes, runs=runs, copies={}, moves=0)
    assert given_up.placements == ()
    assert [each.node for each in given_up.openings] == [closing.node]
