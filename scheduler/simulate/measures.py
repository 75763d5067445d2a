"""Figures of a replay: money, waiting, fairness, waste. Times in seconds, money in USD."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from scheduler.model.policy import ValueOfTime
from scheduler.simulate.record import JobRecord, RunRecord

BOUNDED_SLOWDOWN_SECONDS = 600.0
"""Shorter runs count as that long, so that jobs of a few seconds do not rule the mean.
Source: Feitelson et al., "Theory and practice in parallel job scheduling" (JSSPP 1997)."""


@dataclass(frozen=True, slots=True)
class Spread:
    """None where there was nothing to measure."""

    mean: float | None
    p50: float | None
    p95: float | None
    p99: float | None


@dataclass(frozen=True, slots=True)
class Measures:
    name: str
    kind: str
    seed: int
    total_cost_usd: float
    """Cloud spend and the value of the time from arrival to completion."""
    cloud_spend_usd: float
    time_value_usd: float
    delay_value_usd: float
    data_usd: float
    """The part of `time_value_usd` beyond each job's own run time on the trace's reference hardware."""
    wait: Spread
    """From arrival to the first start."""
    completion: Spread
    """From arrival to the end."""
    slowdown: Spread
    """Completion over run time, bounded."""
    jobs: int
    finished: int
    deadline_misses: int
    gpu_utilization: float | None
    """Of the owned GPUs."""
    bought_utilization: float | None
    burst_gpu_hours: float
    burst_jobs: int
    preemptions: int
    moves: int
    interruptions: int
    lost_gpu_hours: float
    """Work that was done and had to be done again."""
    fairness: float | None
    """Jain's index over the queues' mean slowdowns; 1: all alike. None: no queue finished anything."""
    worst_queue: str
    worst_queue_slowdown: float | None
    unpriced_gpu_hours: float
    """On bought machines whose price is unknown: not in the spend."""
    budgets_broken: int
    makespan_seconds: float
    owned_busy_usd: float | None
    """What the owned GPUs' working time comes to at their pools' price; None where one has no price."""
    cycles: int
    extra: dict[str, float] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Flat, as `overspill simulate --json` prints it."""
        flat: dict[str, Any] = {}
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if isinstance(value, Spread):
                for part in ("mean", "p50", "p95", "p99"):
                    label = f"{name}_{part}" if name == "slowdown" else f"{name}_{part}_seconds"
                    flat[label] = _rounded(getattr(value, part))
            elif name == "extra":
                flat |= {key: _rounded(number) for key, number in value.items()}
            else:
                flat[name] = _rounded(value)
        return flat


def measure(record: RunRecord, value: ValueOfTime, *, budgets_broken: int = 0) -> Measures:
    """`value` is the same for all runs that are compared, whatever their policies believe."""
    done = [job for job in record.jobs if job.finished_at is not None]
    spend = sum((machine.usd for machine in record.machines if machine.usd is not None), Decimal(0))
    data = sum((job.data_usd for job in record.jobs), Decimal(0))
    time_value = sum(value.usd_per_second(job.job.gpus) * _until(record, job) for job in record.jobs)
    delay = sum(
        value.usd_per_second(job.job.gpus) * max(0.0, _until(record, job) - job.job.run_seconds) for job in record.jobs
    )
    slowdowns = [(job.job.queue, _slowdown(job)) for job in done]
    by_queue: dict[str, list[float]] = defaultdict(list)
    for queue, slow in slowdowns:
        by_queue[queue].append(slow)
    means = {queue: sum(each) / len(each) for queue, each in by_queue.items()}
    worst = max(sorted(means), key=lambda queue: means[queue], default="")
    span = record.ended_at - record.started_at
    bought = [machine.gpus * (machine.ended_at - machine.created_at) for machine in record.machines]
    return Measures(
        name=record.name,
        kind=record.kind,
        seed=record.seed,
        total_cost_usd=float(spend) + float(data) + time_value,
        cloud_spend_usd=float(spend),
        time_value_usd=time_value,
        delay_value_usd=delay,
        data_usd=float(data),
        wait=spread([job.first_started_at - job.arrived_at for job in record.jobs if job.first_started_at is not None]),
        completion=spread([_until(record, job) for job in done]),
        slowdown=spread([slow for _, slow in slowdowns]),
        jobs=len(record.jobs),
        finished=len(done),
        deadline_misses=sum(_missed(record, job) for job in record.jobs),
        gpu_utilization=_ratio(record.owned_busy_gpu_seconds, record.owned_gpus * span),
        bought_utilization=_ratio(sum(machine.busy_gpu_seconds for machine in record.machines), sum(bought)),
        burst_gpu_hours=sum(bought) / 3600,
        burst_jobs=sum(job.burst for job in record.jobs),
        preemptions=sum(job.preemptions for job in record.jobs),
        moves=sum(job.moves for job in record.jobs),
        interruptions=sum(job.interruptions for job in record.jobs),
        lost_gpu_hours=sum(job.lost_seconds * job.job.gpus for job in record.jobs) / 3600,
        fairness=jain(list(means.values())),
        worst_queue=worst,
        worst_queue_slowdown=means.get(worst),
        unpriced_gpu_hours=sum(s for s, m in zip(bought, record.machines, strict=True) if m.usd is None) / 3600,
        budgets_broken=budgets_broken,
        makespan_seconds=max(
            (job.finished_at for job in done if job.finished_at is not None), default=record.started_at
        )
        - record.started_at,
        owned_busy_usd=None if record.owned_busy_usd is None else float(record.owned_busy_usd),
        cycles=record.cycles,
    )


def spread(values: Sequence[float]) -> Spread:
    """Mean and quantiles (the smallest value that so many are not above)."""
    if not values:
        return Spread(None, None, None, None)
    found = np.quantile(np.array(values), [0.5, 0.95, 0.99], method="inverted_cdf")
    return Spread(float(np.mean(values)), *(float(each) for each in found))


def jain(values: Sequence[float]) -> float | None:
    """Jain's fairness index: (sum x)^2 / (n sum x^2). Source: Jain, Chiu, Hawe, DEC-TR-301 (1984)."""
    squares = sum(each * each for each in values)
    return None if not squares else sum(values) ** 2 / (len(values) * squares)


def _until(record: RunRecord, job: JobRecord) -> float:
    """Seconds from arrival to the end; of a job that never ended, to the end of the replay."""
    return (record.ended_at if job.finished_at is None else job.finished_at) - job.arrived_at


def _slowdown(job: JobRecord) -> float:
    assert job.finished_at is not None
    run = max(job.job.run_seconds, BOUNDED_SLOWDOWN_SECONDS)
    return max(1.0, (job.finished_at - job.arrived_at) / run)


def _missed(record: RunRecord, job: JobRecord) -> bool:
    limit = job.job.deadline_seconds
    return limit is not None and (job.finished_at is None or job.finished_at - job.arrived_at > limit)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value
