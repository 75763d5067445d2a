"""What a cycle makes is freed when it ends. State that held itself would live until somebody looks for garbage: with
it the snapshots of all cycles since, whose search then takes longer than many cycles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from decimal import Decimal

import pytest

from scheduler.engine.cycle import cycle
from scheduler.engine.memory import Memory
from scheduler.model.ids import QueueId
from scheduler.model.policy import (
    Budget,
    PlacementPolicy,
    PreemptionRule,
    QueueSpec,
    Quota,
    ReservationRule,
    ReturnRule,
    TimeSliceRule,
    ValueOfTime,
)
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Hints, PlacementState
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
    pool,
    snapshot,
    workload,
)

VALUE = ValueOfTime(usd_per_gpu_hour=Decimal(2))
POLICIES = {
    "plain": policy(),
    "guided": policy(value_of_time=VALUE),
    "sliced": policy(value_of_time=VALUE, time_slice=TimeSliceRule(360.0)),
    "budget": policy(budgets=(Budget("all", Decimal(1000), "total"),)),
    "moves": policy(give_back=ReturnRule(moves=True, move_after_seconds=60.0)),
    "patient": policy(burst=None, reservation=ReservationRule(0.0)),
}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """What is there already is left out, so that looking at the rest is quick."""
    gc.collect()
    gc.freeze()
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def busy() -> Snapshot:
    """One node with an old run of a borrower, one bought with a run, and gangs of two classes and queues that wait."""
    hints = Hints(expected_seconds=9000.0, checkpoint_every_seconds=300.0)
    owned = placement("onprem", "a", decided_at=NOW - 4000)
    bought = placement("eks", "od", bought=True, decided_at=NOW - 4000)
    running = (
        workload("r0", pods(1, 6), queue="red", hints=hints, placement=owned),
        workload("r1", pods(1, 4), queue="red", hints=hints, placement=bought),
        workload("r2", pods(1, 4), queue="red", placement=placement("eks", "od", PlacementState.RESERVED)),
    )
    waiting = tuple(workload(f"w{n}", pods(1, 4 + n % 2), queue="blue", queued_at=NOW - 60) for n in range(6))
    homes = (
        cluster("onprem", (pool("onprem", "a"),), (node("a", "n0", used=amount(6, 8, 64, 1), workload_pods=1),)),
        cluster(
            "eks",
            (bought_pool("eks", "od", desired_nodes=1),),
            (node("od", "m0", used=amount(4, 8, 64, 1), workload_pods=1),),
        ),
    )
    copies = tuple(
        copy_of(each, holds=((where, each.requests),)) for each, where in zip(running[:2], ("n0", "m0"), strict=True)
    )
    return snapshot(*homes, workloads=(*running, *waiting), copies=copies)


@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("reclaim", [False, True])
@pytest.mark.parametrize("rules", POLICIES.values(), ids=POLICIES)
def test_a_cycle_leaves_no_garbage(
    no_collector: None, rules: PlacementPolicy, *, reclaim: bool, one_by_one: bool
) -> None:
    queues = tuple(
        QueueSpec(QueueId(name), "all", quotas=(Quota("gpu", 16),), preemption=PreemptionRule(reclaim=reclaim))
        for name in ("blue", "red")
    )
    how, snap, memory = policy_set(rules, queues=queues), busy(), Memory()
    cycle(snap, how, FirstPredictor(), memory=memory, one_by_one=one_by_one)  # Loads what is loaded when first used.
    gc.collect()
    plan = cycle(snap, how, FirstPredictor(), memory=memory, one_by_one=one_by_one)
    assert plan.decisions
    assert gc.collect() == 0
