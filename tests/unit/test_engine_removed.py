"""What becomes of workloads whose member or pool was taken out of the federation file."""

from __future__ import annotations

import pytest

from scheduler.engine.cycle import cycle
from scheduler.model.policy import DisruptionRule
from scheduler.model.workload import PlacementState
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import cluster, copy_of, node, placement, policy, policy_set, pool, snapshot, workload

HERE = cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),))


@pytest.mark.parametrize(("patience", "want"), [(900.0, ["MemberRemoved"]), (None, [])])
def test_a_removed_member_is_given_up_at_once_unless_the_policy_never_does(
    patience: float | None, want: list[str]
) -> None:
    job = workload("w", placement=placement("gone", "p", PlacementState.STARTED))
    plan = cycle(
        snapshot(HERE, workloads=(job,)), policy_set(policy(disruption=DisruptionRule(patience))), FirstPredictor()
    )
    assert [decision.reason.code for decision in plan.decisions] == want
    assert [move.placement.state for move in plan.placements] == [PlacementState.RELEASING] * len(want)


@pytest.mark.parametrize(("has_copy", "want"), [(False, ["PoolVanished"]), (True, [])])
def test_a_removed_pool_releases_only_what_does_not_run_yet(has_copy: bool, want: list[str]) -> None:
    job = workload("w", placement=placement("onprem", "gone", PlacementState.STARTED))
    copies = (copy_of(job),) if has_copy else ()
    plan = cycle(snapshot(HERE, workloads=(job,), copies=copies), policy_set(policy()), FirstPredictor())
    assert [decision.reason.code for decision in plan.decisions] == want
