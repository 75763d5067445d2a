"""Traces of what requests feel, and metrics by revision: each change once, with its decision."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.daemon.services.ports import ServiceObservation
from scheduler.daemon.services.revision_gauges import RevisionGauges
from scheduler.daemon.services.spans import ServiceTraces
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.telemetry.traces import Trace, trace_id
from scheduler.model.division import ROLLED_BACK, Division, ReplicaTarget, ServingCondition
from scheduler.model.ids import ClusterId, DecisionId, PoolId, Uid
from scheduler.model.serving import RevisionMetrics, TrafficWeight
from tests.builders.measured import REF, Hand
from tests.builders.serving import a_pool


def made(at: float, conditions: tuple[ServingCondition, ...] = (), **replicas: int) -> Division:
    """`onprem=3` and the like."""
    targets = tuple(ReplicaTarget(a_pool(f"{name}/a10"), "r1", count) for name, count in replicas.items())
    weights = tuple(TrafficWeight(ClusterId(name), "r1", 1000 // len(replicas)) for name in replicas)
    return Division(
        REF, at, targets, weights, conditions, changed=True, sentence="why", solver="milp", demand_per_second=2.0
    )


class World:
    def __init__(self) -> None:
        self.told: list[Trace] = []
        self.clock = Hand()
        self.traces = ServiceTraces(self.told.append, self.clock.now)

    def names(self) -> list[str]:
        found, self.told[:] = [one.root.name for one in self.told], []
        return found


def test_a_rescale_is_told_with_its_decision_and_what_it_changes() -> None:
    world = World()
    at = world.clock.at
    world.traces.decided(made(at, onprem=3), DecisionId("d1"))
    assert world.names() == []  # What was before is not known.
    world.traces.decided(made(at, onprem=3), DecisionId("d2"))
    assert world.names() == []
    world.clock.at += 2.0
    world.traces.decided(made(at, onprem=3, eks=2), DecisionId("d3"))
    (trace,) = world.told
    assert (trace.root.name, trace.root.began, trace.root.ended) == ("service rescale", at, at + 2.0)
    assert trace.trace_id == trace_id(REF.uid)
    assert trace.root.attributes["overspill.decision.id"] == "d3"
    assert trace.root.attributes["overspill.replicas.eks/a10.r1"] == 2
    assert "overspill.replicas.onprem/a10.r1" not in trace.root.attributes


def test_a_rollback_is_told_once_and_again_when_there_is_another() -> None:
    world = World()
    back = (ServingCondition(ROLLED_BACK, "r2 was taken back: latency +40 %"),)
    world.traces.decided(made(0.0, onprem=3), DecisionId("d1"))
    world.traces.decided(made(0.0, back, onprem=3), DecisionId("d2"))
    (trace,) = world.told
    assert trace.root.attributes["overspill.rollback.why"] == "r2 was taken back: latency +40 %"
    assert world.names() == ["service rollback"]
    world.traces.decided(made(0.0, back, onprem=3), DecisionId("d3"))
    assert world.names() == []
    world.traces.decided(made(0.0, onprem=3), DecisionId("d4"))
    world.traces.decided(made(0.0, back, onprem=4), DecisionId("d5"))
    assert world.names() == ["service rollback", "service rescale"]


def test_a_shift_is_told_when_it_is_set_and_each_change_has_a_root_of_its_own() -> None:
    world = World()
    for number, division in enumerate((made(0.0, onprem=1), made(0.0, onprem=1), made(0.0, onprem=1, eks=1))):
        world.clock.at += 1.0
        world.traces.decided(division, DecisionId(f"d{number}"))
        world.traces.shifted(division, DecisionId(f"d{number}"), world.clock.at)
    rescale, shift = world.told
    assert (rescale.root.name, shift.root.name) == ("service rescale", "service shift")
    assert shift.root.attributes["overspill.weight.eks.r1"] == 500
    assert rescale.trace_id == shift.trace_id
    assert rescale.root_id != shift.root_id
    world.names()
    world.traces.forget(REF.uid)
    world.traces.shifted(made(0.0, eks=1), DecisionId("d9"), 0.0)
    assert world.names() == []


def measured(revision: str, requests: int | None, pool: str = "a10", **changes: object) -> RevisionMetrics:
    one = RevisionMetrics(ClusterId("onprem"), revision, 0.0, 30.0, PoolId(pool), requests, errors=3)
    return replace(one, **changes)  # type: ignore[arg-type]


def test_metrics_are_by_revision_and_cluster_bounded_and_never_a_lie() -> None:
    telemetry = Telemetry()
    gauges = RevisionGauges(telemetry, 2)
    metrics = (
        measured("r1", 60, p95_latency_seconds=0.4),
        measured("r1", 30, "h100", p95_latency_seconds=0.9),
        measured("r2", -5),
        measured("r3", None),
    )
    services = {
        replace(REF, name=f"chat-{number}", uid=Uid(f"u{number}")): ServiceObservation(metrics=metrics)
        for number in range(3)
    }
    gauges.tell(services)

    def value(name: str, service: str, revision: str) -> float | None:
        labels = {"service": f"federatedworkload/default/{service}", "cluster": "onprem", "revision": revision}
        return telemetry.registry.get_sample_value(f"overspill_service_revision_{name}", labels)

    assert value("requests_per_second", "chat-0", "r1") == pytest.approx(3.0)
    assert value("latency_seconds", "chat-0", "r1") == 0.9
    assert value("error_ratio", "chat-0", "r1") == pytest.approx(6 / 90)
    assert value("requests_per_second", "chat-0", "r2") is None
    assert value("requests_per_second", "chat-0", "r3") is None
    assert value("requests_per_second", "chat-1", "r1") == pytest.approx(3.0)
    assert value("requests_per_second", "chat-2", "r1") is None
    gauges.tell({})
    assert value("requests_per_second", "chat-0", "r1") is None
