"""Workloads by name in the metrics: who is told of, what of them, and what is taken away; and what a choice cost."""

from __future__ import annotations

from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from scheduler.daemon.placing.decisions import regret_usd
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.telemetry.gauges import WorkloadGauges
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.plan import Candidate, CostPart, WaitOption
from scheduler.model.snapshot import Progress
from scheduler.model.workload import Workload
from tests.unit.engine_world import NOW, placement, pods, workload

ORDER = ("queue", "workload", "phase", "cluster", "pool", "capacity_type", "quantile")
RUNS = workload("runs", pods(2, 4), placement=placement("eks", "spot"), created_at=NOW - 900)
WAITS = workload("waits", pods(), created_at=NOW - 600, queued_at=NOW - 500)
LATER = workload("later", pods(), queue="other", created_at=NOW - 300, queued_at=NOW - 300)
OLD = workload("old", pods(), created_at=NOW - 9000, finished=True)
NEW = workload("new", pods(), created_at=NOW - 100, finished=True)


def scraped(*workloads: Workload, most: int = 9, telemetry: Telemetry | None = None) -> dict[tuple[str, ...], float]:
    """Values by name and label values."""
    by_uid = {each.ref.uid: each for each in workloads}
    saying: Any = {
        WAITS.ref.uid: [
            {"cluster": "a", "expected_seconds": 60.0, "p90_seconds": 90.0},
            {"cluster": "b", "expected_seconds": 40.0, "p90_seconds": 95.0},
        ]
    }
    waits: Any = SimpleNamespace(of=lambda uid: saying.get(uid, []), said=lambda: list(saying))
    mirror: Any = SimpleNamespace(
        hub={uid: SimpleNamespace(workload=each) for uid, each in by_uid.items()}, workload=by_uid.get
    )
    ledger: Any = SimpleNamespace(paid_each=lambda uids: {uid: Decimal("1.5") for uid in uids if uid == RUNS.ref.uid})
    telemetry = telemetry or Telemetry()
    done = {RUNS.ref.uid: Progress(RUNS.ref.uid, done=0.25)}
    WorkloadGauges(telemetry, mirror, ledger, waits, done.get, most).refresh(NOW)
    families = text_string_to_metric_families(telemetry.expose().decode())
    return {
        (
            sample.name.removeprefix("overspill_"),
            *(sample.labels[one] for one in ORDER if one in sample.labels),
        ): sample.value
        for family in families
        for sample in family.samples
        if family.name.startswith(("overspill_workload_", "overspill_queue_oldest", "overspill_queue_wait_forecast"))
    }


def test_what_is_told() -> None:
    assert scraped(RUNS, WAITS, LATER) == {
        ("queue_oldest_wait_seconds", "team"): 500.0,
        ("queue_oldest_wait_seconds", "other"): 300.0,
        ("queue_wait_forecast_seconds", "team"): 40.0,
        ("workload_phase", "team", "job/default/runs", "started"): 1.0,
        ("workload_phase", "team", "job/default/waits", "pending"): 1.0,
        ("workload_phase", "other", "job/default/later", "pending"): 1.0,
        ("workload_placed", "team", "job/default/runs", "eks", "spot", "owned"): 1.0,
        ("workload_gpus", "team", "job/default/runs"): 8.0,
        ("workload_gpus", "team", "job/default/waits"): 1.0,
        ("workload_gpus", "other", "job/default/later"): 1.0,
        ("workload_waiting_seconds", "team", "job/default/waits"): 500.0,
        ("workload_waiting_seconds", "other", "job/default/later"): 300.0,
        ("workload_wait_forecast_seconds", "team", "job/default/waits", "0.5"): 40.0,
        ("workload_wait_forecast_seconds", "team", "job/default/waits", "0.9"): 90.0,
        ("workload_progress_ratio", "team", "job/default/runs"): 0.25,
        ("workload_spend_usd", "team", "job/default/runs"): 1.5,
    }


@pytest.mark.parametrize(
    ("most", "want"),
    [
        (0, []),
        (1, ["runs"]),
        (3, ["later", "runs", "waits"]),
        (4, ["later", "new", "runs", "waits"]),
        (9, ["later", "new", "old", "runs", "waits"]),
    ],
)
def test_of_whom_it_is_told(most: int, want: list[str]) -> None:
    found = scraped(OLD, LATER, NEW, WAITS, RUNS, most=most)
    assert sorted(key[2].rpartition("/")[2] for key in found if key[0] == "workload_phase") == want


def test_what_is_no_longer_so_is_taken_away() -> None:
    telemetry = Telemetry()
    scraped(RUNS, WAITS, telemetry=telemetry)
    assert scraped(NEW, telemetry=telemetry) == {
        ("queue_oldest_wait_seconds", "team"): 0.0,
        ("workload_phase", "team", "job/default/new", "finished"): 1.0,
        ("workload_gpus", "team", "job/default/new"): 1.0,
    }


def candidate(score: float | None, usd: str | None, *, timed: bool = False) -> Candidate:
    pool = PoolRef(ClusterId("eks"), PoolId("p"))
    parts = (CostPart("time", 1.0),) if timed else ()
    cost = None if usd is None else Decimal(usd)
    return Candidate(pool, "spot", True, score, None, cost, None, None, 1, cost_parts=parts)


@pytest.mark.parametrize(
    ("chosen", "others", "wait", "want"),
    [
        (candidate(0, "3"), (), None, 0.0),
        (candidate(0, "3"), (candidate(1, "2"), candidate(2, None)), None, 1.0),
        (candidate(0, "3"), (candidate(None, "1"),), None, 0.0),
        (candidate(0, None), (candidate(1, "2"),), None, 0.0),
        (candidate(0, "1"), (candidate(1, "2"),), None, 0.0),
        (candidate(9, "3", timed=True), (candidate(7, "4", timed=True),), None, 2.0),
        (candidate(9, "3", timed=True), (candidate(7, "4", timed=True),), 5.0, 4.0),
        (candidate(9, "3", timed=True), (candidate(1, "4"),), 20.0, 0.0),
    ],
)
def test_regret(chosen: Candidate, others: tuple[Candidate, ...], wait: float | None, want: float) -> None:
    option = None if wait is None else WaitOption(chosen.pool, 60.0, wait)
    decision: Any = SimpleNamespace(alternatives=others, wait=option)
    assert regret_usd(decision, chosen) == pytest.approx(want)
