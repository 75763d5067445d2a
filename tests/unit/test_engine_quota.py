"""Quota, borrowing and lending, fair share, and who goes first."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from scheduler.engine.cycle import cycle
from scheduler.engine.fairshare import dominant_share, weighted_share
from scheduler.engine.quota import QuotaLedger
from scheduler.model.ids import QueueId
from scheduler.model.plan import Plan
from scheduler.model.policy import PolicySet, QueueSpec, Quota
from scheduler.model.resources import Resources
from scheduler.model.workload import PlacementState, PodSet, Workload
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import (
    NOW,
    amount,
    cluster,
    node,
    placement,
    pods,
    policy,
    policy_set,
    pool,
    snapshot,
    workload,
)

BLUE, RED, GREY = QueueId("blue"), QueueId("red"), QueueId("grey")


def queue(name: str, nominal: int, borrowing: int | None = None, lending: int | None = None) -> QueueSpec:
    return QueueSpec(QueueId(name), "both", quotas=(Quota("gpu", nominal, borrowing, lending),))


@pytest.mark.parametrize(
    ("blue", "red", "used_blue", "used_red", "want_blue"),
    [
        pytest.param(queue("blue", 8), queue("red", 8), 0, 0, 16, id="own and borrowed"),
        pytest.param(queue("blue", 8, borrowing=2), queue("red", 8), 0, 0, 10, id="borrowing limit"),
        pytest.param(queue("blue", 8, borrowing=0), queue("red", 8), 5, 0, 3, id="may not borrow"),
        pytest.param(queue("blue", 8), queue("red", 8, lending=3), 0, 0, 11, id="lending limit"),
        pytest.param(queue("blue", 8), queue("red", 8, lending=3), 0, 6, 10, id="lender uses some of what it lends"),
        pytest.param(queue("blue", 8), queue("red", 8), 0, 12, 4, id="red has borrowed"),
        pytest.param(queue("blue", 8, lending=0), queue("red", 8), 0, 8, 8, id="never lent"),
        pytest.param(queue("blue", 8), queue("red", 8), 8, 12, -4, id="over-admitted"),
        pytest.param(replace(queue("blue", 8), cohort=None), queue("red", 8), 3, 0, 5, id="no cohort"),
    ],
)
def test_what_a_queue_may_still_use(
    blue: QueueSpec, red: QueueSpec, used_blue: int, used_red: int, want_blue: int
) -> None:
    ledger = QuotaLedger(PolicySet(queues=(red, blue)))
    ledger.add(BLUE, amount(used_blue))
    ledger.add(RED, amount(used_red))
    assert ledger.available(BLUE, "gpu") == want_blue
    assert ledger.available(BLUE, "cpu") is None
    assert (ledger.refusal(BLUE, amount(max(0, want_blue) + 1)) is None) is False
    assert want_blue < 1 or ledger.refusal(BLUE, amount(want_blue)) is None


def plan_for(queues: tuple[QueueSpec, ...], nodes: int, *workloads: Workload) -> Plan:
    member = cluster("onprem", (pool("onprem", "a"),), tuple(node("a", f"n{i}") for i in range(nodes)))
    rules = policy_set(policy(burst=None), queues=queues)
    return cycle(snapshot(member, workloads=workloads), rules, FirstPredictor())


def placed(plan: Plan) -> list[str]:
    return [change.workload.name for change in plan.placements]


def test_a_lender_waits_and_is_told_who_borrowed() -> None:
    borrower = workload("red", pods(2, 6), queue="red", placement=placement("onprem", "a"))
    plan = plan_for((queue("blue", 8), queue("red", 8)), 4, borrower, workload("blue", pods(1, 8), queue="blue"))
    (decision,) = plan.decisions
    assert decision.reason.code == "QuotaExceeded"
    assert decision.sentence == "queue blue: gpu quota of 8 is lent out to red"


def test_suspended_and_finished_workloads_use_no_quota_but_releasing_ones_do() -> None:
    spec = replace(queue("blue", 8), cohort=None)
    held = workload("old", pods(1, 8), queue="blue", placement=placement("onprem", "a"))
    fresh = workload("new", pods(1, 8), queue="blue")
    leaving = replace(held, placement=placement("onprem", "a", PlacementState.RELEASING))
    paused = replace(held, suspended=True, placement=placement("onprem", "a", PlacementState.PAUSED))
    for before, want in (
        (paused, ["new"]),
        (replace(held, finished=True), ["new"]),
        (held, []),
        (leaving, []),
    ):
        assert placed(plan_for((spec,), 4, before, fresh)) == want


@pytest.mark.parametrize(
    ("used", "weight", "want"),
    [
        (amount(0), "1", 0.0),
        (amount(4, 8), "1", 0.5),
        (amount(1, 72), "1", 0.75),
        (amount(4), "2", 0.25),
        (amount(4), "0", float("inf")),
    ],
)
def test_the_dominant_share_is_weighted(used: Resources, weight: str, want: float) -> None:
    assert weighted_share(dominant_share(used, amount(8, 96, 960)), Decimal(weight)) == want


def test_queues_take_turns_by_weighted_share() -> None:
    queues = (QueueSpec(BLUE, weight=Decimal(3)), QueueSpec(RED))
    jobs = [workload(f"{name}{i}", queue=name) for name in ("blue", "red") for i in range(8)]
    plan = plan_for(queues, 1, *jobs)
    assert sorted(placed(plan)) == ["blue0", "blue1", "blue2", "blue3", "blue4", "blue5", "red0", "red1"]
    shares = {usage.queue: usage.dominant_share for usage in plan.queues}
    assert shares[BLUE] == shares[RED] == 0.25


def test_within_a_queue_priority_goes_before_age() -> None:
    old = workload("old", pods(1, 8), queued_at=NOW - 100)
    older = workload("older", pods(1, 8), queued_at=NOW - 200)
    urgent = workload("urgent", pods(1, 8), priority=5)
    assert placed(plan_for((), 1, old, urgent, older)) == ["urgent"]
    assert placed(plan_for((), 2, old, urgent, older)) == ["urgent", "older"]


@pytest.mark.parametrize(
    ("strict", "head", "want"),
    [
        pytest.param(True, pods(2, 8), [], id="strict: the head waits for room and all behind it wait"),
        pytest.param(False, pods(2, 8), ["small"], id="otherwise smaller ones go ahead"),
        pytest.param(True, pods(1, 9), ["small"], id="a head that can never fit blocks nobody"),
    ],
)
def test_strict_queues_wait_behind_their_head(strict: bool, head: PodSet, want: list[str]) -> None:
    first = workload("big", head, queued_at=NOW - 10)
    plan = plan_for((QueueSpec(QueueId("team"), strict_fifo=strict),), 1, first, workload("small"))
    assert placed(plan) == want
    if not want:
        assert {decision.reason.code for decision in plan.decisions} == {"NoRoomNow", "QueueBlocked"}


def test_unknown_queues_can_be_refused() -> None:
    rules = policy_set(policy(), default_queue_allowed=False)
    plan = cycle(snapshot(workloads=(workload("w"),)), rules, FirstPredictor())
    assert plan.decisions[0].reason.code == "QueueUnknown"
    assert "create it" in plan.decisions[0].sentence
