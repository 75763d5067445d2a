"""Workloads as rows: what their pods measure, when they were rolled out, and what is forecast of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scheduler.aiops.telemetry import telemetry_of
from scheduler.aiops.workload_rows import Forecast, PodPlace, WorkloadFacts
from scheduler.daemon.fleet_watch import Beside, FleetWatch
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.workload_facts import Facts, digest_of, forecasts
from scheduler.model.ids import ClusterId
from scheduler.model.metrics import OK, Reading, Sample
from scheduler.model.ports import Prediction
from scheduler.model.workload import Hints
from tests.unit.engine_world import NOW, amount, cluster, copy_of, node, placement, pods, pool, snapshot, workload

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
    here = replace(HERE, nodes=(node("a", "n1", used=amount(8)), *([node("a", "n2")] if free else [])))
    told = forecasts(
        snapshot(here, workloads=(runs, waits), copies=(copy,)), lambda _: None, Hours(hours), lambda _: 600.0
    )
    found = told["uid-waits"]
    assert (found.wait_seconds, found.queued_at, found.deadline_at) == (want_wait, NOW - 60.0, NOW + 9000.0)
    assert found.finish_at == (None if want_finish is None else NOW + want_finish)
    assert "uid-runs" not in told, "it has no deadline"


def test_a_deadline_that_will_be_missed_is_an_incident_of_the_workload() -> None:
    late = workload("late", pods(1, 8), placement=placement("onprem", "a"), hints=Hints(deadline_at=NOW + 3600.0))
    copy = copy_of(late, holds=(("n1", amount(8)),), started_at=NOW)
    world = snapshot(HERE, workloads=(late,), copies=(copy,))
    mirror: Any = SimpleNamespace(members={}, hub={})
    policies: Any = SimpleNamespace(current=SimpleNamespace(policies=(), queues=()))
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
    policies: Any = SimpleNamespace(current=SimpleNamespace(policies=(), queues=()))
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
