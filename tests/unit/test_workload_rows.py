"""Workloads as rows: what their pods measure, when they were rolled out, and what is forecast of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scheduler.aiops.telemetry import telemetry_of
from scheduler.aiops.workload_rows import Forecast, PodPlace, WorkloadFacts, workload_rows
from scheduler.daemon.incidents.fleet_watch import Beside, FleetWatch
from scheduler.daemon.incidents.forecasts import MOST_WAITING, forecasts
from scheduler.daemon.incidents.workload_facts import Facts, digest_of
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.ids import ClusterId, PoolId, PoolRef, QueueId, owner_uid
from scheduler.model.metrics import OK, Reading, Sample
from scheduler.model.policy import BurstRule, Constraints, Match, QueueSpec
from scheduler.model.ports import Prediction
from scheduler.model.serving_policy import ServingSLO
from scheduler.model.snapshot import Backoff
from scheduler.model.workload import Hints, Workload
from scheduler.predict.learned import Known, LearnedPredictor
from scheduler.predict.served import Serving
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

ONPREM = ClusterId("onprem")


def reading(metric: str, unit: str, *samples: tuple[dict[str, str], float]) -> Reading:
    told = tuple(Sample(tuple(sorted(labels.items())), value, NOW) for labels, value in samples)
    return Reading(ONPREM, metric, unit, OK, told, "test", NOW, 0.1)


def pod(name: str) -> dict[str, str]:
    return {"namespace": "default", "pod": name}


SERVE = workload("serve", pods(2, 1), placement=placement("onprem", "a"), runs_forever=True)
COPY = copy_of(SERVE, holds=(("n1", amount(2)),))
PODS = {("onprem", "default", f"serve-{number}"): PodPlace("uid-serve", "n1") for number in (0, 1)}
HERE = cluster("onprem", (pool("onprem", "a"),), (node("a", "n1"),))
WORLD = snapshot(HERE, workloads=(SERVE,), copies=(COPY,))


def row(*readings: Reading, **facts: Any) -> dict[str, float]:
    told = telemetry_of(WORLD, list(readings), WorkloadFacts(**{"pods": PODS, **facts}))
    table = told.tables["workload"]
    assert [each.workload for each in told.subjects["workload"]] == ["uid-serve"]
    return {name: float(column[0]) for name, column in table.columns.items()}


def test_rates_are_summed_over_pods_and_latency_is_weighted_by_what_each_serves() -> None:
    latency = reading("serving_latency_p95_seconds", "seconds", (pod("serve-0"), 1.0), (pod("serve-1"), 3.0))
    served = reading("serving_requests_per_second", "per_second", (pod("serve-0"), 30.0), (pod("serve-1"), 10.0))
    assert row(latency)["serving_latency_p95_seconds"] == 2.0
    both = row(latency, served)
    assert both == {"serving_latency_p95_seconds": 1.5, "serving_requests_per_second": 40.0}
    stranger = reading("serving_latency_p95_seconds", "seconds", (pod("other-0"), 9.0))
    assert row(stranger) == {}


def test_a_service_is_found_by_the_name_of_its_copy() -> None:
    labels = {"namespace": COPY.namespace, "service": COPY.name}
    told = row(reading("serving_first_token_p95_seconds", "seconds", (labels, 0.25)))
    assert told == {"serving_first_token_p95_seconds": 0.25}


def test_forecasts_and_rollouts_stand_in_the_row() -> None:
    told = row(
        forecasts={"uid-serve": Forecast(60.0, 600.0, NOW - 100.0, NOW + 500.0, NOW + 400.0)},
        rolled_out_at={"uid-serve": NOW - 5.0},
    )
    assert told == {
        "queue_wait_forecast_seconds": 160.0, "queue_wait_objective_seconds": 600.0, "deadline_seconds": NOW + 400.0,
        "finish_forecast_seconds": NOW + 500.0, "workload_rolled_out_at_seconds": NOW - 5.0,
    }  # fmt: skip


def test_a_rank_s_time_is_its_node_s_gpus_where_the_node_is_one_workload_s_alone() -> None:
    power = reading("gpu_power_watts", "watts", *(({"node": "n1", "gpu": str(gpu)}, 300.0) for gpu in (0, 1)))
    steps = reading("workload_step_compute_seconds", "seconds", (pod("serve-0"), 1.5), (pod("serve-1"), 2.0))
    told = telemetry_of(WORLD, [power, steps], WorkloadFacts(pods=PODS))
    assert told.tables["gpu"].of("workload_step_compute_seconds").tolist() == [2.0, 2.0]


def test_a_gpu_that_is_silent_keeps_its_row_while_its_node_is_there() -> None:
    power = reading("gpu_power_watts", "watts", ({"node": "n1", "gpu": "0"}, 300.0))
    first = telemetry_of(WORLD, [power])
    again = telemetry_of(WORLD, [], None, first.subjects["gpu"])
    assert again.subjects["gpu"] == first.subjects["gpu"]
    assert np.isnan(again.tables["gpu"].of("gpu_power_watts")).all()
    assert again.tables["node"].of("gpu_reporting_count").tolist() == [0.0], "it is not counted as there"
    gone = snapshot(replace(HERE, nodes=()), workloads=(), copies=())
    assert telemetry_of(gone, [], None, first.subjects["gpu"]).subjects["gpu"] == ()


ANY = policy_set()


class Hours:
    """Everything runs for so long."""

    def __init__(self, hours: float | None) -> None:
        self._seconds = None if hours is None else 3600.0 * hours

    def predict(self, *_: object) -> Prediction:
        return Prediction(self._seconds, 0.0)


@pytest.mark.parametrize(
    ("hours", "free", "want_wait", "want_finish"),
    [(2.0, 8, 0.0, 7200.0), (2.0, 0, 3600.0, 10800.0), (None, 0, None, None)],
)
def test_a_wait_is_foretold_by_what_is_left_of_those_who_run(
    hours: float | None, free: int, want_wait: float | None, want_finish: float | None
) -> None:
    runs = workload("runs", pods(1, 8), placement=placement("onprem", "a"))
    waits = workload("waits", pods(1, 8), queued_at=NOW - 60.0, hints=Hints(deadline_at=NOW + 9000.0))
    copy = copy_of(runs, holds=(("n1", amount(8)),), started_at=NOW - 3600.0)
    here = replace(HERE, nodes=(node("a", "n1", used=amount(8), workload_pods=1), *([node("a", "n2")] if free else [])))
    told = forecasts(snapshot(here, workloads=(runs, waits), copies=(copy,)), ANY, Hours(hours), 600.0)
    found = told["uid-waits"]
    assert (found.wait_seconds, found.queued_at, found.deadline_at) == (want_wait, NOW - 60.0, NOW + 9000.0)
    assert found.finish_at == (None if want_finish is None else NOW + want_finish)
    assert "uid-runs" not in told, "it has no deadline"


def line_of(count: int, **changes: Any) -> tuple[Workload, ...]:
    """Workloads of a node each, in the order in which they came."""
    return tuple(
        workload(f"w{number:04}", pods(1, 8), queued_at=NOW - 60.0 + number * 1e-3, **changes)
        for number in range(count)
    )


def wait_of(told: Mapping[str, Forecast], name: str) -> float | None:
    return told[f"uid-{name}"].wait_seconds


def test_everybody_in_a_long_line_is_told_and_of_those_beyond_nothing_is() -> None:
    """One node and an hour each, and a cluster of its own for the last one, which waits for nobody."""
    other = cluster("other", (pool("other", "b"),), (node("b", "n9"),))
    policies = policy_set(
        policy("near", burst=None, constraints=Constraints(clusters=("onprem",)), match=Match(queues=("team",))),
        policy("far", burst=None, constraints=Constraints(clusters=("other",)), match=Match(queues=("far",))),
    )
    line = (*line_of(300), workload("z-last", pods(1, 8), queued_at=NOW, queue="far"))
    told = forecasts(snapshot(HERE, other, workloads=line), policies, Hours(1.0), 600.0)
    assert [wait_of(told, f"w{number:04}") for number in (0, 1, 150, 299)] == [0.0, 3600.0, 150 * 3600.0, 299 * 3600.0]
    assert wait_of(told, "z-last") == 0.0, "the line of another pool is not its"
    many = forecasts(snapshot(HERE, workloads=line_of(MOST_WAITING + 5)), ANY, Hours(1.0), 600.0)
    assert len(many) == MOST_WAITING


def test_where_nothing_was_promised_nothing_is_foretold() -> None:
    assert forecasts(snapshot(HERE, workloads=line_of(3)), ANY, Hours(1.0), None) == {}
    objective = policy_set(queues=(QueueSpec(QueueId("team"), wait_objective_seconds=60.0),))
    told = forecasts(snapshot(HERE, workloads=line_of(3)), objective, Hours(1.0), 7200.0)
    assert [each.wait_objective_seconds for each in told.values()] == [60.0] * 3, "a queue's own goes first"


@pytest.mark.parametrize(
    ("after", "queued_ago", "changes", "want"),
    [
        (600.0, 60.0, {}, [540.0, 540.0, 36_000.0]),  # two nodes may be bought; the third waits for the one that runs
        (600.0, 900.0, {}, [36_000.0, 72_000.0, 108_000.0]),  # it should have been bought for: something forbids it
        (600.0, 60.0, {"bursting_paused": True}, [36_000.0, 72_000.0, 108_000.0]),
        (600.0, 60.0, {"backoffs": (Backoff(PoolRef(ClusterId("eks"), PoolId("p")), NOW + 5000.0, 1, "x"),)},
         [5000.0, 5000.0, 36_000.0]),
    ],
)  # fmt: skip
def test_who_may_be_bought_for_waits_for_that_and_no_longer(
    after: float, queued_ago: float, changes: dict[str, Any], want: list[float]
) -> None:
    runs = workload("runs", pods(1, 8), placement=placement("onprem", "a"))
    onprem = replace(HERE, nodes=(node("a", "n1", used=amount(8), workload_pods=1),))
    eks = cluster("eks", (bought_pool("eks", "p", max_nodes=2),))
    line = tuple(replace(each, queued_at=NOW - queued_ago + number) for number, each in enumerate(line_of(3)))
    world = snapshot(onprem, eks, workloads=(runs, *line), copies=(copy_of(runs, started_at=NOW),), **changes)
    told = forecasts(world, policy_set(policy(burst=BurstRule(after_wait_seconds=after))), Hours(10.0), 600.0)
    found = [wait_of(told, each.ref.name) for each in line]
    assert found == pytest.approx(want, abs=3.0)
    grows = [told[each.ref.uid].grows for each in line]
    assert grows[0] == PoolRef(ClusterId("eks"), PoolId("p")), "where a remedy may have nodes bought for it"
    assert (grows[2] is None) == (want[0] < 36_000.0), "not where all that may be bought is spoken for"


def test_nobody_waits_for_a_pool_that_policy_or_pods_do_not_allow() -> None:
    full = replace(HERE, nodes=(node("a", "n1", used=amount(8), workload_pods=1),))
    free = cluster("other", (pool("other", "b", gpu_model="T4"),), (node("b", "n9"),))
    runs = workload("runs", pods(1, 8), placement=placement("onprem", "a"))
    copies = (copy_of(runs, started_at=NOW),)
    for limits in (Constraints(excluded_clusters=("other",)), Constraints(gpu_models=("A100",))):
        world = snapshot(full, free, workloads=(runs, *line_of(1)), copies=copies)
        told = forecasts(world, policy_set(policy(constraints=limits)), Hours(1.0), 600.0)
        assert wait_of(told, "w0000") == 3600.0
    assert wait_of(forecasts(world, ANY, Hours(1.0), 600.0), "w0000") == 0.0


def learned(p95_seconds: float, at: float) -> LearnedPredictor:
    view = Serving(at, 0.3, p95_seconds, 10.0, 2, None)
    return LearnedPredictor(Known(serving={"uid-serve": view}))


def test_a_latency_that_will_break_its_objective_is_an_incident_of_the_workload() -> None:
    promised = policy_set(queues=(QueueSpec(QueueId("team"), latency_objective_seconds=0.5),))
    mirror: Any = SimpleNamespace(members={}, hub={})
    policies: Any = SimpleNamespace(current=promised)
    now, p95 = [NOW], 0.9
    watch = FleetWatch(
        lambda: replace(WORLD, now=now[0]), list, Telemetry(),
        Beside(facts=Facts(mirror, policies, lambda: learned(p95, now[0] // 300.0 * 300.0), None)),
    )  # fmt: skip
    for _ in range(3):
        now[0] += 300.0
        asyncio.run(watch.look())
    (found,) = watch.incidents()
    assert (found.kind, found.severity, found.scope.name) == ("workload.latency-slo", "warning", "uid-serve")
    assert dict(found.signals[0].evidence)["serving_latency_p95_forecast_seconds"] == 0.9
    p95 = 0.4
    for _ in range(8):
        now[0] += 300.0
        asyncio.run(watch.look())
    assert [each.state for each in watch.incidents()] == ["resolved"]


@pytest.mark.parametrize(("age", "objective"), [(3600.0, 0.5), (10.0, None)])
def test_a_latency_that_is_not_promised_or_of_which_nothing_new_is_known_is_not_foretold(
    age: float, objective: float | None
) -> None:
    promised = policy_set(queues=(QueueSpec(QueueId("team"), latency_objective_seconds=objective),))
    told = forecasts(WORLD, promised, learned(0.9, NOW - age), None)
    assert told == ({} if objective is None else {"uid-serve": Forecast(p95_objective_seconds=objective)})


@pytest.mark.parametrize(
    ("queue", "slo", "want"), [(0.5, None, 0.5), (None, 0.8, 0.8), (0.5, 0.8, 0.5), (2.0, 0.8, 0.8), (None, None, None)]
)
def test_what_an_slo_promises_is_foretold_as_what_a_queue_does(
    queue: float | None, slo: float | None, want: float | None
) -> None:
    queues = (QueueSpec(QueueId("team"), latency_objective_seconds=queue),)
    serving = () if slo is None else (ServingSLO("chat", p95_latency_seconds=slo, match=Match(queues=("team",))),)
    promised = replace(policy_set(queues=queues), serving=serving)
    told = forecasts(WORLD, promised, learned(0.9, NOW), None)
    assert told == ({} if want is None else {"uid-serve": Forecast(None, None, None, None, None, 0.9, want, None, NOW)})
    # A service that is divided is told of once, as itself.
    (whole,) = WORLD.workloads
    parts = tuple(
        replace(whole, ref=replace(whole.ref, uid=owner_uid(whole.ref.uid, part)), part=part) for part in "ab"
    )
    assert forecasts(replace(WORLD, workloads=parts), promised, learned(0.9, NOW), None) == told
    rows, subjects = workload_rows(NOW, parts, (), (), WorkloadFacts(forecasts=told))
    assert [each.workload for each in subjects] == ([] if want is None else ["uid-serve"])
    assert len(rows) == len(subjects)


def test_a_deadline_that_will_be_missed_is_an_incident_of_the_workload() -> None:
    late = workload("late", pods(1, 8), placement=placement("onprem", "a"), hints=Hints(deadline_at=NOW + 3600.0))
    copy = copy_of(late, holds=(("n1", amount(8)),), started_at=NOW)
    world = snapshot(HERE, workloads=(late,), copies=(copy,))
    mirror: Any = SimpleNamespace(members={}, hub={})
    policies: Any = SimpleNamespace(current=ANY)
    now = [NOW]
    watch = FleetWatch(
        lambda: replace(world, now=now[0]),
        list,
        Telemetry(),
        Beside(facts=Facts(mirror, policies, lambda: Hours(3.0), None)),
    )
    for _ in range(3):
        now[0] += 30.0
        asyncio.run(watch.look())
    (found,) = watch.incidents()
    assert (found.kind, found.scope.kind, found.scope.name) == ("workload.deadline", "workload", "uid-late")


def serving(image: str, replicas: int) -> dict[str, Any]:
    template = {"spec": {"containers": [{"image": image}]}}
    return {"spec": {"template": {"kind": "Deployment", "spec": {"replicas": replicas, "template": template}}}}


def test_a_rollout_is_another_template_and_not_another_size() -> None:
    assert digest_of(serving("a:1", 2)) == digest_of(serving("a:1", 9)) != digest_of(serving("a:2", 2))
    entry = SimpleNamespace(workload=SERVE, raw=serving("a:1", 2))
    mirror: Any = SimpleNamespace(members={}, hub={"uid-serve": entry})
    policies: Any = SimpleNamespace(current=ANY)
    facts = Facts(mirror, policies, lambda: Hours(None), None)

    def rolled_out(at: float) -> dict[str, float]:
        return dict(facts.gather(replace(WORLD, now=at))().rolled_out_at)

    assert rolled_out(NOW) == {}, "it was so when it was first seen"
    entry.raw = serving("a:2", 2)
    assert rolled_out(NOW + 30.0) == {"uid-serve": NOW + 30.0}
    again = Facts(mirror, policies, lambda: Hours(None), None)
    again.take_up(facts.kept())
    assert dict(again.gather(replace(WORLD, now=NOW + 90.0))().rolled_out_at) == {"uid-serve": NOW + 30.0}
    for garbage in (None, [1], {"x": 3}, {"uid-serve": ["a", 1.0]}, {"uid-serve": [1, "x"]}):
        again.take_up(garbage)
