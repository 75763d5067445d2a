"""Runs that are stopped for others are counted, by their queue and by why; other releases are not among them."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from prometheus_client import generate_latest

from scheduler.daemon.placing.decisions import DecisionLog
from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.cycle import cycle
from scheduler.model.ids import QueueId
from scheduler.model.plan import Plan
from scheduler.model.policy import PreemptionRule, QueueSpec, Quota
from scheduler.model.workload import Hints
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


def plan_of(victim_queue: str, *, priority: int) -> Plan:
    """A full node; one of `blue` wants it, whose nominal quota it is, or who goes before it."""
    where = placement("onprem", "a", decided_at=NOW - 3600)
    run = workload("run", pods(1, 8), queue=victim_queue, hints=Hints(9000.0), placement=where)
    held = amount(8, 8, 64, 1)
    home = cluster("onprem", (pool("onprem", "a"),), (node("a", "n0", used=held, workload_pods=1),))
    wants = replace(workload("wants", pods(1, 8), queue="blue"), priority=priority)
    quotas = {"blue": 8, "red": 0}
    rule = PreemptionRule(reclaim=True, lower_priority=True)
    queues = tuple(
        QueueSpec(QueueId(name), "all", quotas=(Quota("gpu", gpus),), preemption=rule) for name, gpus in quotas.items()
    )
    snap = snapshot(home, workloads=(run, wants), copies=(copy_of(run, holds=(("n0", held),)),))
    return cycle(snap, policy_set(policy(burst=None), queues=queues), FirstPredictor())


def test_they_are_counted_by_queue_and_reason() -> None:
    telemetry = Telemetry()
    history: Any = SimpleNamespace(record=lambda table, row: None)
    log = DecisionLog(history, telemetry, shadow=False)
    reclaimed, preempted = plan_of("red", priority=0), plan_of("blue", priority=5)
    gone = replace(reclaimed, decisions=tuple(
        each._replace(reason=replace(each.reason, code="MemberLost")) for each in reclaimed.decisions
        if each.outcome == "released"
    ))  # fmt: skip
    for plan in (reclaimed, preempted, preempted, gone):
        for decision in plan.decisions:
            log.add(decision)
    assert (log.counters["releases"], log.counters["preemptions"]) == (4, 3)
    told = generate_latest(telemetry.registry).decode()
    assert 'overspill_preemptions_total{queue="red",reason="Reclaimed"} 1.0' in told
    assert 'overspill_preemptions_total{queue="blue",reason="Preempted"} 2.0' in told
    assert "MemberLost" not in [line for line in told.splitlines() if "preemptions" in line]
