"""Turns of a large backlog: how far a queue may get ahead, and that a small backlog is placed one by one."""

from __future__ import annotations

from decimal import Decimal

import pytest

from scheduler.engine.bulk import TURNS, turn_size
from scheduler.engine.cycle import cycle
from scheduler.model.ids import QueueId
from scheduler.model.policy import QueueSpec
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import NOW, cluster, node, pods, policy_set, pool, snapshot, workload


@pytest.mark.parametrize(
    ("pending", "want_size"), [(0, 1), (1, 1), (TURNS, 1), (2 * TURNS - 1, 1), (2 * TURNS, 2), (100_000, 2000)]
)
def test_a_turn_takes_one_part_in_so_many_of_the_backlog(pending: int, want_size: int) -> None:
    assert turn_size(pending) == want_size


@pytest.mark.parametrize(("red_weight", "nodes"), [(1, 20), (1, 200), (3, 20)])
def test_no_queue_gets_ahead_of_its_share_by_more_than_a_turn(red_weight: int, nodes: int) -> None:
    """Blue's jobs all came first and are of two classes; whatever is placed when, both have had their shares. Nobody
    has waited for so long yet that room is kept for him."""
    count = 400
    jobs = [
        workload(f"{queue}{n:03d}", pods(1, 1, cpu=1 + n % 2), queue=queue, queued_at=NOW - 2000 + index * 1000 + n)
        for index, queue in enumerate(("blue", "red"))
        for n in range(count)
    ]
    home = cluster("c", (pool("c", "a"),), tuple(node("a", f"n{n:03d}") for n in range(nodes)))
    queues = (QueueSpec(QueueId("blue")), QueueSpec(QueueId("red"), weight=Decimal(red_weight)))
    plan = cycle(snapshot(home, workloads=tuple(jobs)), policy_set(queues=queues), FirstPredictor())
    turn, placed = turn_size(2 * count), {"blue": 0, "red": 0}
    assert turn > 1
    for decision in plan.decisions:
        if decision.outcome == "held":
            continue
        placed[decision.queue] += 1
        if max(placed.values()) < count:
            assert -turn <= placed["blue"] - placed["red"] / red_weight <= turn
    assert sum(placed.values()) == min(2 * count, 8 * nodes)
