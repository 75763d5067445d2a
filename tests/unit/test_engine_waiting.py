"""What waiting for owned capacity is worth, as the programme tells it."""

from __future__ import annotations

from decimal import Decimal

import pytest

from scheduler.engine.cycle import cycle
from scheduler.model.plan import Decision
from scheduler.model.policy import ValueOfTime
from scheduler.model.workload import Hints, PodSet, Workload
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import (
    NOW,
    amount,
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

HOUR = 3600.0
WORTH = policy(value_of_time=ValueOfTime(usd_per_gpu_hour=Decimal(1)), burst=None)


def decided(what: PodSet, *running: Workload) -> Decision:
    """On a pool of two nodes, of which so many runs hold one each."""
    nodes = [
        node("a", f"n{i}", used=amount(8, 8, 64, 1), workload_pods=1) if i < len(running) else node("a", f"n{i}")
        for i in range(2)
    ]
    copies = [copy_of(run, holds=((nodes[i].name, amount(8, 8, 64, 1)),)) for i, run in enumerate(running)]
    job = workload("w", what, hints=Hints(expected_seconds=HOUR))
    snap = snapshot(
        cluster("onprem", (pool("onprem", "a"),), tuple(nodes)), workloads=(job, *running), copies=tuple(copies)
    )
    (decision,) = cycle(snap, policy_set(WORTH), FirstPredictor()).decisions
    return decision


def test_a_gang_that_its_pool_could_hold_may_wait_for_it() -> None:
    where = placement("onprem", "a", decided_at=NOW - HOUR)
    running = workload("r", pods(1, 8), placement=where, hints=Hints(expected_seconds=2 * HOUR))
    decision = decided(pods(2, 8), running)
    assert decision.outcome == "held"
    assert decision.wait is not None


@pytest.mark.parametrize("what", [pods(3, 8), pods(5, 4), pods(1, 9)])
def test_a_gang_for_which_the_pool_has_too_few_nodes_waits_for_nothing(what: PodSet) -> None:
    decision = decided(what)
    assert decision.outcome == "held"
    assert decision.wait is None


def test_a_gang_is_told_when_nodes_will_really_be_free_for_it_however_much_is_free_in_pieces() -> None:
    """Each of three nodes has half of its GPUs free, and will have for a week: as much as the gang asks for in sum
    comes free in pieces all the time, but no two whole nodes before the runs end."""
    where = placement("onprem", "a", decided_at=NOW - HOUR)
    week = 7 * 24 * HOUR
    running = tuple(
        workload(f"r{i}", pods(1, 4), placement=where, hints=Hints(expected_seconds=week + HOUR)) for i in range(3)
    )
    held = amount(4, 8, 64, 1)
    nodes = tuple(node("a", f"n{i}", used=held, workload_pods=1) for i in range(3))
    copies = tuple(copy_of(run, started_at=NOW - HOUR, holds=((f"n{i}", held),)) for i, run in enumerate(running))
    job = workload("w", pods(2, 8), hints=Hints(expected_seconds=HOUR))
    snap = snapshot(cluster("onprem", (pool("onprem", "a"),), nodes), workloads=(job, *running), copies=copies)
    (decision,) = cycle(snap, policy_set(WORTH), FirstPredictor()).decisions
    assert decision.outcome == "held"
    assert decision.wait is not None
    assert decision.wait.expected_wait_seconds >= week


def test_a_gang_waits_for_nothing_where_what_is_in_its_way_never_ends() -> None:
    where = placement("onprem", "a", decided_at=NOW - HOUR)
    decision = decided(pods(2, 8), workload("r", pods(1, 8), placement=where, runs_forever=True))
    assert decision.outcome == "held"
    assert decision.wait is None


def test_no_wait_is_told_that_ends_while_less_is_free_than_the_gang_takes() -> None:
    """Of cores nobody looks up on which nodes they will be free; but for a week there are too few altogether."""
    week = 7 * 24 * HOUR
    where = placement("onprem", "a", decided_at=NOW - HOUR)
    running = workload("r", pods(1, 0, cpu=90), placement=where, hints=Hints(expected_seconds=week + HOUR))
    held = amount(0, 90, 64, 1)
    nodes = (node("a", "n0", used=held, workload_pods=1), node("a", "n1"))
    copies = (copy_of(running, started_at=NOW - HOUR, holds=(("n0", held),)),)
    job = workload("w", pods(2, 0, cpu=90), hints=Hints(expected_seconds=HOUR))
    snap = snapshot(cluster("onprem", (pool("onprem", "a"),), nodes), workloads=(job, running), copies=copies)
    (decision,) = cycle(snap, policy_set(WORTH), FirstPredictor()).decisions
    assert decision.outcome == "held"
    assert decision.wait is not None
    assert decision.wait.expected_wait_seconds >= week
