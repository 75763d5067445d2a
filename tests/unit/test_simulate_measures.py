"""Figures of a replay, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.policy import ValueOfTime
from scheduler.simulate.measures import Spread, jain, measure, spread
from scheduler.simulate.record import JobRecord, MachineRecord, RunRecord
from tests.sim.worlds import job

CLOUD = PoolRef(ClusterId("cloud"), PoolId("od"))


def a_record() -> RunRecord:
    """Two hours: a 4-GPU job that waited 10 minutes, a 1-GPU job that was interrupted, one that never ran."""
    record = RunRecord("r", "policy", 3, ("cloud", "onprem"), owned_gpus=8, started_at=1000.0, ended_at=8200.0)
    record.jobs = [
        JobRecord(job("a", run=3600.0, gpus=4, queue="x"), 1000.0, 1600.0, 5200.0),
        JobRecord(
            job("b", run=600.0, gpus=1, queue="y", deadline_seconds=1800.0), 1000.0, 1000.0, 3400.0, CLOUD,
            interruptions=2, preemptions=1, lost_seconds=360.0, burst=True,
        ),
        JobRecord(job("c", run=100.0, gpus=2, queue="y", deadline_seconds=1e6), 2800.0),
    ]  # fmt: skip
    record.machines = [
        MachineRecord(CLOUD, "on-demand", 1000.0, 4600.0, 8, 7200.0, Decimal("16.00"), reclaimed=False),
        MachineRecord(CLOUD, "spot", 1000.0, 2800.0, 8, 0.0, None, reclaimed=True),
    ]
    record.owned_busy_gpu_seconds = 14_400.0
    record.cycles = 7
    return record


def test_by_hand() -> None:
    found = measure(a_record(), ValueOfTime(Decimal("0.5"), Decimal(1)), budgets_broken=2)
    # a: 4200 s at 4.5 USD/h, b: 2400 s at 1.5 USD/h, c: 5400 s (to the end) at 2.5 USD/h.
    time_value = (4200 * 4.5 + 2400 * 1.5 + 5400 * 2.5) / 3600
    assert found.time_value_usd == pytest.approx(time_value)
    assert found.cloud_spend_usd == 16.0
    assert found.total_cost_usd == pytest.approx(16.0 + time_value)
    assert found.delay_value_usd == pytest.approx((600 * 4.5 + 1800 * 1.5 + 5300 * 2.5) / 3600)
    assert found.wait == Spread(300.0, 0.0, 600.0, 600.0)
    assert found.completion == Spread(3300.0, 2400.0, 4200.0, 4200.0)
    # 4200 s over 3600 s; 2400 s over the bounded 600 s. What never ends has missed its deadline, however late that is.
    assert found.slowdown.mean == pytest.approx((4200 / 3600 + 4.0) / 2)
    assert (found.jobs, found.finished, found.deadline_misses) == (3, 2, 2)
    assert found.gpu_utilization == pytest.approx(14_400 / (8 * 7200))
    assert found.bought_utilization == pytest.approx(7200 / (8 * 5400))
    assert found.burst_gpu_hours == 12.0
    assert (found.burst_jobs, found.preemptions, found.interruptions) == (1, 1, 2)
    assert found.lost_gpu_hours == pytest.approx(0.1)
    assert found.fairness == pytest.approx((4200 / 3600 + 4) ** 2 / (2 * ((4200 / 3600) ** 2 + 16)))
    assert (found.worst_queue, found.worst_queue_slowdown) == ("y", 4.0)
    assert found.unpriced_gpu_hours == 4.0
    assert (found.budgets_broken, found.makespan_seconds, found.cycles) == (2, 4200.0, 7)


def test_nothing_measured_is_none_and_never_zero() -> None:
    found = measure(RunRecord("r", "policy", 0, (), 0, 0.0), ValueOfTime(usd_per_gpu_hour=Decimal(1)))
    assert (found.wait, found.fairness, found.worst_queue_slowdown) == (Spread(None, None, None, None), None, None)
    assert (found.gpu_utilization, found.bought_utilization, found.total_cost_usd) == (None, None, 0.0)


def test_the_json_is_flat_rounded_and_without_wall_times() -> None:
    record = a_record()
    found = measure(record, ValueOfTime(usd_per_gpu_hour=Decimal(1))).as_json()
    wanted = {
        "name", "kind", "seed", "total_cost_usd", "cloud_spend_usd", "wait_mean_seconds", "wait_p95_seconds",
        "completion_mean_seconds", "completion_p95_seconds", "deadline_misses", "preemptions", "slowdown_p99",
        "gpu_utilization", "burst_gpu_hours", "lost_gpu_hours", "fairness", "worst_queue",
    }  # fmt: skip
    assert wanted <= found.keys()
    assert all(not isinstance(value, dict) for value in found.values())
    record.decide_seconds = 99.0
    assert measure(record, ValueOfTime(usd_per_gpu_hour=Decimal(1))).as_json() == found
    assert "decide_seconds" not in found


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([5.0], Spread(5.0, 5.0, 5.0, 5.0)),
        ([float(n) for n in range(1, 101)], Spread(50.5, 50.0, 95.0, 99.0)),
        ([1.0, 2.0], Spread(1.5, 1.0, 2.0, 2.0)),
    ],
)
def test_quantiles_are_values_that_occurred(values: list[float], want: Spread) -> None:
    assert spread(values) == want


@pytest.mark.parametrize(
    ("values", "want"), [([], None), ([0.0], None), ([3.0, 3.0, 3.0], 1.0), ([1.0, 0.0], 0.5), ([1.0, 3.0], 0.8)]
)
def test_jain(values: list[float], want: float | None) -> None:
    assert jain(values) == want


def test_a_job_that_met_its_deadline_to_the_second_has_not_missed_it() -> None:
    record = a_record()
    record.jobs = [replace_deadline(record.jobs[1], 2400.0), replace_deadline(record.jobs[1], 2399.0)]
    assert measure(record, ValueOfTime()).deadline_misses == 1


def replace_deadline(record: JobRecord, seconds: float) -> JobRecord:
    return JobRecord(
        replace(record.job, deadline_seconds=seconds), record.arrived_at, record.first_started_at, record.finished_at
    )
