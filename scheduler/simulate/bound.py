"""A clairvoyant lower bound: no scheduler, however well it foresees, does better than this on the same jobs and prices.

It knows all arrivals and run times, may split and interrupt runs at no cost, is bothered by no node's size, start-up or
reclaim, and buys seconds of the cheapest offering without limit. The time from arrival to completion is bounded from
below by the job's mean busy time plus half its run (Goemans, Queyranne, Schulz, Skutella, Wang, "Single machine
scheduling with release dates", SIAM J. Discrete Math. 15, 2002), on owned capacity that is fluid within intervals.

A linear programme over groups of jobs that came in the same interval and whose time is worth about the same for each
GPU-second of work. Far from its arrival a group chooses among ever longer blocks of intervals, whose work is then
spread over them, so that the programme stays small. Every rounding is to the cheaper side: the optimum is a bound, not
an estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import coo_array

from scheduler.model.cluster import Cluster
from scheduler.model.errors import OverspillError
from scheduler.model.policy import ValueOfTime
from scheduler.simulate.trace import Trace

LEVELS: Final = 9
"""2 ** LEVELS intervals."""
_ARRIVING: Final = 7 / 8
"""The part of the intervals that are equal; the rest grows until everything could be done."""
_STEPS_AN_OCTAVE: Final = 2
_SECONDS: Final = 300.0
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bound:
    total_cost_usd: float
    cloud_spend_usd: float
    intervals: int
    groups: int


@dataclass(slots=True)
class _Group:
    interval: int
    rate: float
    """USD for each GPU-second of work and second that it is later: the least of the members'."""
    arrival: float = math.inf
    """The first of its members."""
    gpus: float = 0.0
    """Of all members together: no more of them can be at work on it at once."""
    work: float = 0.0
    """GPU-seconds."""
    undelayed: float = 0.0
    """Sum of work x (arrival + half the run): what the mean busy times add up to when nothing ever waits."""


def lower_bound(trace: Trace, clusters: tuple[Cluster, ...], owned_gpus: int, value: ValueOfTime) -> Bound:
    """Least total cost (cloud spend and value of time from arrival to completion) of any schedule.

    Jobs without GPUs never wait in it, and what has no known price is bought for nothing in it. Raises: OverspillError
    when there is neither owned nor bought capacity, or HiGHS finds no optimum in five minutes.
    """
    fastest = {profile: max(speeds.values()) for profile, speeds in trace.speeds.items() if speeds}
    runs = [job.run_seconds / fastest.get(job.profile, 1.0) for job in trace.jobs]
    edges = _edges(trace, runs, owned_gpus)
    groups: dict[tuple[int, int], _Group] = {}
    unavoidable = 0.0
    for job, run in zip(trace.jobs, runs, strict=True):
        worth = value.usd_per_second(job.gpus)
        unavoidable += worth * run
        if not job.gpus:
            continue
        interval = int(np.searchsorted(edges, job.arrival_seconds, side="right")) - 1
        work = run * job.gpus
        density = worth / work
        key = (interval, round(math.log2(max(density, 1e-30)) * _STEPS_AN_OCTAVE))
        group = groups.setdefault(key, _Group(interval, density))
        group.rate = min(group.rate, density)
        group.arrival = min(group.arrival, job.arrival_seconds)
        group.gpus += job.gpus
        group.work += work
        group.undelayed += work * (job.arrival_seconds + run / 2)
    if not groups:
        return Bound(unavoidable, 0.0, len(edges) - 1, 0)
    ordered = [groups[key] for key in sorted(groups)]
    price = cheapest_usd_per_gpu_second(clusters)
    if price is None and not owned_gpus:
        raise OverspillError("there is no bound: there are no GPUs, neither owned nor to be bought")
    bought, cost = _solve(ordered, edges, owned_gpus, price)
    return Bound(unavoidable + cost, bought, len(edges) - 1, len(ordered))


def _solve(groups: list[_Group], edges: Floats, owned_gpus: int, price: float | None) -> tuple[float, float]:
    """(cloud USD, cloud USD and USD of delay). Columns: work of a group in a block; flow from a block to each of its
    two halves; work of a group that is bought; USD of delay of a group."""
    count = len(groups)
    chosen = [(g, *block) for g, group in enumerate(groups) for block in _blocks(group.interval)] if owned_gpus else []
    g_of, level_of, index_of = np.array(chosen, dtype=np.int64).reshape(-1, 3).T
    many, flows = len(chosen), 2 * (2**LEVELS - 1)
    columns = many + flows + 2 * count
    buy, late = many + flows + np.arange(count), many + flows + count + np.arange(count)
    rate = np.array([group.rate for group in groups])
    arrival = np.array([group.arrival for group in groups])
    work = np.array([group.work for group in groups])
    # The earliest that work in a block can be, never before the group's first arrival. What is bought runs at once.
    when = np.maximum(edges[index_of << level_of], arrival[g_of])
    undelayed = np.array([group.undelayed for group in groups])
    at_once = undelayed / work
    entries = [
        (g_of, np.arange(many), rate[g_of] * when),
        (np.arange(count), buy, rate * at_once),
        (np.arange(count), late, -np.ones(count)),
    ]
    # Blocks: what is put in and what flows in from above is no more than what flows out below, or its capacity.
    node = count + _node(level_of, index_of)
    entries.append((node, np.arange(many), np.ones(many)))
    entries += _flow_entries(count, many)
    leaves = 2**LEVELS
    limits = np.zeros(count + 2 * leaves - 1)
    limits[:count] = rate * undelayed
    limits[count + _node(np.zeros(leaves, dtype=np.int64), np.arange(leaves))] = owned_gpus * np.diff(edges)
    rows, cols, values = (np.concatenate([part[k] for part in entries]) for k in range(3))
    everything = coo_array(
        (np.ones(many + count), (np.concatenate([g_of, np.arange(count)]), np.concatenate([np.arange(many), buy]))),
        shape=(count, columns),
    )
    cost = np.zeros(columns)
    cost[buy], cost[late] = 0.0 if price is None else price, 1.0
    upper = np.full(columns, np.inf)
    upper[:many] = np.array([group.gpus for group in groups])[g_of] * (
        edges[(index_of + 1) << level_of] - np.maximum(edges[index_of << level_of], arrival[g_of])
    )
    upper[buy] = 0.0 if price is None else work
    found = linprog(
        cost,
        A_ub=coo_array((values, (rows, cols)), shape=(len(limits), columns)).tocsr(),
        b_ub=limits,
        A_eq=everything.tocsr(),
        b_eq=work,
        bounds=np.column_stack([np.zeros(columns), upper]),
        method="highs-ipm",
        options={"time_limit": _SECONDS},
    )
    if found.status != 0:
        raise OverspillError(f"the clairvoyant bound was not found: {found.message}")
    return float(cost[buy] @ found.x[buy]), float(found.fun)


def _blocks(first: int) -> list[tuple[int, int]]:
    """(level, index) of disjoint blocks that cover the intervals from `first` on: short near it, longer further on."""
    blocks: list[tuple[int, int]] = []
    at, end = first, 2**LEVELS
    while at < end:
        level = 0
        # As long as it is aligned, and no longer than a fourth of the way already gone.
        while at % (2 << level) == 0 and (2 << level) <= max(1, (at - first) // 4) and at + (2 << level) <= end:
            level += 1
        blocks.append((level, at >> level))
        at += 1 << level
    return blocks


def _node(level: npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Rows of the tree of blocks: the whole time first, the single intervals last."""
    row: npt.NDArray[np.int64] = (1 << (LEVELS - level)) - 1 + index
    return row


def _flow_entries(
    first_row: int, first_column: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]]:
    """Each block that is not a single interval hands its work down to its two halves."""
    inner = np.arange(2**LEVELS - 1)
    found = []
    for side in (0, 1):
        column = first_column + 2 * inner + side
        found.append((first_row + inner, column, -np.ones(len(inner))))
        found.append((first_row + 2 * inner + 1 + side, column, np.ones(len(inner))))
    return found


def _edges(trace: Trace, runs: list[float], owned_gpus: int) -> Floats:
    """Equal intervals to the last arrival and until what had gathered by then could be done on owned capacity, then
    ever longer ones, until all could be done one job after another."""
    intervals = 2**LEVELS
    equal = round(intervals * _ARRIVING)
    last = max(1.0, (trace.jobs[-1].arrival_seconds if trace.jobs else 0.0) + _backlog(trace, runs, owned_gpus))
    needed = sum(runs) + last
    rest = intervals - equal
    step = last / equal
    growth = 1.0
    while step * sum(growth**k for k in range(1, rest + 1)) < needed:
        growth *= 1.01
    tail = last + step * np.cumsum(growth ** np.arange(1, rest + 1))
    return np.concatenate([np.linspace(0.0, last, equal + 1), tail])


def _backlog(trace: Trace, runs: list[float], owned_gpus: int) -> float:
    """Seconds that owned capacity needs, as a fluid, after the last arrival for what came before."""
    left = at = 0.0
    if not owned_gpus:
        return 0.0
    for job, run in zip(trace.jobs, runs, strict=True):
        left = max(0.0, left - (job.arrival_seconds - at)) + run * job.gpus / owned_gpus
        at = job.arrival_seconds
    return left


def cheapest_usd_per_gpu_second(clusters: tuple[Cluster, ...]) -> float | None:
    prices = [
        0.0 if pool.price is None else float(pool.price.usd_per_hour) / pool.node_resources.gpus / 3600
        for cluster in clusters
        for pool in cluster.pools
        if pool.bought and pool.max_nodes and pool.node_resources.gpus
    ]
    return min(prices, default=None)
