"""A second clairvoyant bound, for jobs that lose all their work when they are stopped: each runs once, in one piece.

The fluid bound (`bound`) lets a run be slowed and put off at will, which costs a run of weeks next to nothing. Here a
job that makes no checkpoints is decided on as a whole: bought, or started on owned capacity in one interval of time,
whose GPUs it then holds until it ends. That is the time-indexed relaxation of scheduling without interruption (Sousa
and Wolsey, "A time indexed formulation of non-preemptive single machine scheduling problems", Mathematical Programming
54, 1992), with parts of a job allowed. An earlier attempt that was stopped only takes capacity, so what holds of the
last attempt holds of every schedule. Short jobs, those that make checkpoints, and all beyond `MOST_WHOLE` are fluid:
what is done of such a job after it could have ended is late by no more than the job itself.

All rounding is to the cheaper side, as in `bound`: a start counts from the beginning of its interval, and holds GPUs
only from that interval's end.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.optimize import linprog
from scipy.sparse import coo_array, vstack

from scheduler.model.cluster import Cluster
from scheduler.model.policy import ValueOfTime
from scheduler.simulate.bound import Bound, Floats, cheapest_usd_per_gpu_second, lower_bound
from scheduler.simulate.trace import Trace, TraceJob

MOST_WHOLE: Final = 1200
"""The jobs with most GPU-seconds."""
_EQUAL: Final = 192
"""Intervals until what has come could be done; after that they grow."""
_GROWTH: Final = 1.06
_GROWING: Final = 120
_LEAST_INTERVALS: Final = 4
"""A shorter run is fluid: it would hold nothing of what rounding leaves."""
_SECONDS: Final = 300.0


@dataclass(frozen=True, slots=True)
class _Fluid:
    """Jobs alike that came in one interval."""

    interval: int
    work: float
    """GPU-seconds."""
    rate: float
    """USD for each GPU-second of work and second that it is late: the least of the members'."""
    run: float
    """Seconds: the longest of the members'."""


@dataclass(slots=True)
class _Columns:
    """Of the programme: what each costs, whose it is, and what GPUs it begins and ceases to hold where."""

    cost: list[float] = field(default_factory=list)
    owner: list[int] = field(default_factory=list)
    steps: list[tuple[int, int, float]] = field(default_factory=list)
    """(interval, column, GPUs more than in the interval before)."""
    busy: list[tuple[int, int]] = field(default_factory=list)
    """(interval, column) of fluid work."""
    bought: list[int] = field(default_factory=list)
    totals: list[float] = field(default_factory=list)
    """Of each owner: 1, or GPU-seconds."""

    def add(self, cost: float) -> int:
        self.cost.append(cost)
        self.owner.append(len(self.totals) - 1)
        return len(self.cost) - 1


def tightest_bound(
    trace: Trace, clusters: tuple[Cluster, ...], owned_gpus: int, value: ValueOfTime, *, keeps_work: bool = False
) -> Bound:
    """The larger of the two bounds. `keeps_work`: runs may be interrupted and lose nothing, so that only the fluid one
    holds. Raises: as `lower_bound`."""
    fluid = lower_bound(trace, clusters, owned_gpus, value)
    whole = None if keeps_work else whole_bound(trace, clusters, owned_gpus, value)
    return fluid if whole is None or whole.total_cost_usd <= fluid.total_cost_usd else whole


def whole_bound(trace: Trace, clusters: tuple[Cluster, ...], owned_gpus: int, value: ValueOfTime) -> Bound | None:
    """Least total cost of any schedule that never interrupts what makes no checkpoints, or starts it over; None where
    nothing is owned, no job is of that kind, or HiGHS finds no optimum in five minutes."""
    fastest = {profile: max(speeds.values()) for profile, speeds in trace.speeds.items() if speeds}
    runs = [job.run_seconds / fastest.get(job.profile, 1.0) for job in trace.jobs]
    unavoidable = sum(value.usd_per_second(job.gpus) * run for job, run in zip(trace.jobs, runs, strict=True))
    jobs = [(job, run) for job, run in zip(trace.jobs, runs, strict=True) if job.gpus and run > 0]
    if not owned_gpus or not jobs:
        return None
    edges = _edges(jobs, owned_gpus)
    ranked = sorted(jobs, key=lambda each: (-each[0].gpus * each[1], each[0].arrival_seconds, each[0].name))
    shortest = _LEAST_INTERVALS * float(edges[1])
    able = [each for each in ranked if each[0].checkpoint_seconds is None and each[1] >= shortest]
    whole, names = able[:MOST_WHOLE], {id(each[0]) for each in able[:MOST_WHOLE]}
    if not whole:
        return None
    price = cheapest_usd_per_gpu_second(clusters)
    columns = _Columns()
    for job, run in whole:
        _decide_whole(columns, job, run, edges, value, price)
    groups = _fluid([each for each in jobs if id(each[0]) not in names], edges, value)
    for group in groups:
        _decide_fluid(columns, group, edges, price)
    found = _solve(columns, edges, owned_gpus)
    if found is None:
        return None
    values, cost = found
    bought = sum(columns.cost[column] * float(values[column]) for column in columns.bought)
    return Bound(unavoidable + cost, bought, len(edges) - 1, len(whole) + len(groups))


def _decide_whole(
    columns: _Columns, job: TraceJob, run: float, edges: Floats, value: ValueOfTime, price: float | None
) -> None:
    columns.totals.append(1.0)
    arrival, last = job.arrival_seconds, len(edges) - 1
    dearest = math.inf
    if price is not None:
        dearest = price * job.gpus * run
        columns.bought.append(columns.add(dearest))
    for interval in range(_interval(edges, arrival), last + 1):
        start = max(float(edges[interval]), arrival)
        cost = value.usd_per_second(job.gpus) * (start - arrival)
        if cost > dearest:
            return
        column = columns.add(cost)
        first, end = interval + 1, int(np.searchsorted(edges, start + run, side="right")) - 1
        if first < min(end, last):
            columns.steps.append((first, column, float(job.gpus)))
            if end < last:
                columns.steps.append((end, column, -float(job.gpus)))


def _decide_fluid(columns: _Columns, group: _Fluid, edges: Floats, price: float | None) -> None:
    columns.totals.append(group.work)
    if price is not None:
        columns.bought.append(columns.add(price))
    came_by = float(edges[group.interval + 1])
    for interval in range(group.interval, len(edges) - 1):
        cost = group.rate * max(0.0, float(edges[interval]) - came_by - group.run)
        if price is not None and cost > price:
            return
        columns.busy.append((interval, columns.add(cost)))


def _fluid(jobs: list[tuple[TraceJob, float]], edges: Floats, value: ValueOfTime) -> list[_Fluid]:
    grouped: dict[tuple[int, int, int], list[tuple[float, float, float]]] = {}
    for job, run in jobs:
        work = job.gpus * run
        rate = value.usd_per_second(job.gpus) / work
        key = (_interval(edges, job.arrival_seconds), round(math.log2(run)), round(math.log2(max(rate, 1e-30))))
        grouped.setdefault(key, []).append((work, rate, run))
    return [
        _Fluid(key[0], sum(each[0] for each in of), min(each[1] for each in of), max(each[2] for each in of))
        for key, of in sorted(grouped.items())
    ]


def _solve(columns: _Columns, edges: Floats, owned_gpus: int) -> tuple[Floats, float] | None:
    """(value of each column, USD). After the columns, one for each interval: GPUs held in it by whole jobs."""
    many, widths = len(columns.cost), np.diff(edges)
    count = len(widths)
    held = many + np.arange(count)
    rows = [each[0] for each in columns.steps]
    cols = [each[1] for each in columns.steps]
    more = np.array([each[2] for each in columns.steps], dtype=np.float64)
    # What whole jobs hold in an interval is what they hold in the one before, and what begins less what ends.
    flow = coo_array(
        (
            np.concatenate([-more, np.ones(count), -np.ones(count - 1)]),
            (
                np.concatenate([np.array(rows, dtype=np.int64), np.arange(count), np.arange(1, count)]),
                np.concatenate([np.array(cols, dtype=np.int64), held, held[:-1]]),
            ),
        ),
        shape=(count, many + count),
    )
    everyone = coo_array((np.ones(many), (columns.owner, np.arange(many))), shape=(len(columns.totals), many + count))
    busy = np.array(columns.busy, dtype=np.int64).reshape(-1, 2)
    limits = coo_array(
        (
            np.concatenate([np.ones(len(busy)), widths]),
            (np.concatenate([busy[:, 0], np.arange(count)]), np.concatenate([busy[:, 1], held])),
        ),
        shape=(count, many + count),
    )
    found = linprog(
        np.concatenate([columns.cost, np.zeros(count)]),
        A_ub=limits.tocsr(),
        b_ub=owned_gpus * widths,
        A_eq=vstack([flow, everyone]).tocsr(),
        b_eq=np.concatenate([np.zeros(count), columns.totals]),
        bounds=(0, None),
        method="highs-ipm",
        options={"time_limit": _SECONDS},
    )
    return (found.x, float(found.fun)) if found.status == 0 else None


def _interval(edges: Floats, at: float) -> int:
    return min(int(np.searchsorted(edges, at, side="right")) - 1, len(edges) - 2)


def _edges(jobs: list[tuple[TraceJob, float]], owned_gpus: int) -> Floats:
    """Equal intervals to the last arrival and twice as long as what has come takes on owned capacity (a day at most),
    then ever longer ones, until all could be done one job after another."""
    last = max(job.arrival_seconds for job, _ in jobs)
    backlog = sum(job.gpus * run for job, run in jobs) / owned_gpus
    step = max(1.0, last + min(2.0 * backlog, 86400.0)) / _EQUAL
    growing = step * np.cumsum(_GROWTH ** np.arange(1, _GROWING + 1))
    needed = last + sum(run for _, run in jobs)
    edges = np.concatenate([step * np.arange(_EQUAL + 1), step * _EQUAL + growing])
    return edges if edges[-1] >= needed else np.append(edges, needed)
