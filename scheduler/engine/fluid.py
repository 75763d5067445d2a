"""A backlog that may be moved at every time slice, as one linear programme. Arrays in, arrays out.

Where a run may be stopped and go on elsewhere at no cost, work is a fluid: what is to be decided is which part of each
workload is done on which pool in which interval of time. The intervals grow, the first is the next slice. That is the
interval-indexed relaxation of scheduling on unrelated machines with preemption (Schulz and Skutella, "Scheduling
unrelated machines by randomized rounding", SIAM J. Discrete Math. 15, 2002): a workload's completion is bounded from
below by the mean time at which its work is done and half of the time that it runs. Only the first slice is acted on;
it is rounded to whole gangs, and at the next slice everything is asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from scheduler.engine.programme import MOST_ITERATIONS, Floats, Indices, UnsolvedError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

GROWTH: Final = 1.6
"""Each interval over the one before it."""
MOST_COLUMNS: Final = 100_000
_LEAST_SHARE: Final = 1e-3
"""Less than that of a slice is nothing."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """K workloads, P pools, R resources."""

    seconds: Floats
    """(K, P) what is left of each, run there alone; inf: it cannot."""
    usd: Floats
    """(K, P) money for all of that."""
    value: Floats
    """(K,) USD for each second until it is done."""
    demand: Floats
    """(K, R) what its gang takes."""
    capacity: Floats
    """(P, R) what is free; every gang fits by itself where `seconds` is finite."""
    slice_seconds: float
    last_end_value: float
    """USD for each second until all are done."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What the optimum does in the next slice."""

    share: Floats
    """(K, P) part of the slice for which each runs there."""
    regret: Floats
    """(K, P) USD that running there all slice costs beyond the optimum; inf: it cannot."""
    price: Floats
    """(P, R) dual: USD that one more unit for this slice would save."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """One for each workload, pool and interval in which it may run, then one for each interval: it is used at all."""

    workload: Indices
    pool: Indices
    interval: Indices
    seconds: Floats


def intervals(backlog: Backlog) -> Floats:
    """(B + 1,) their edges: long enough for all that may run on a pool to be done there, whichever pool that is."""
    seconds = np.where(np.isfinite(backlog.seconds), backlog.seconds, 0.0)
    load = seconds.T @ backlog.demand
    busy = np.divide(load, backlog.capacity, out=np.zeros_like(load), where=backlog.capacity > 0)
    horizon = max(float(seconds.max()), float(busy.max()))
    width = backlog.slice_seconds
    edges = [0.0, width]
    while edges[-1] < horizon:
        width *= GROWTH
        edges.append(edges[-1] + width)
    return np.array(edges)


def next_slice(backlog: Backlog) -> Slice:
    """The first interval of the optimum. Raises: UnsolvedError when HiGHS finds none."""
    # Imported when there is something to solve, as in `programme`.
    from scipy.optimize import linprog
    from scipy.sparse import coo_array

    edges = intervals(backlog)
    columns = _columns(backlog, len(edges) - 1)
    runs, many, widths = len(columns.workload), len(edges) - 1, np.diff(edges)
    k, p, b, seconds = columns.workload, columns.pool, columns.interval, columns.seconds
    middle = (edges[:-1] + edges[1:]) / 2
    cost = np.concatenate(
        [backlog.value[k] * (middle[b] + seconds / 2) + backlog.usd[k, p], backlog.last_end_value * widths]
    )
    everyone = coo_array((np.ones(runs), (k, np.arange(runs))), shape=(len(backlog.value), runs + many)).tocsr()
    limits = _limits(backlog, columns, widths)
    found = linprog(
        cost,
        A_ub=limits,
        b_ub=np.zeros(limits.shape[0]),
        A_eq=everyone,
        b_eq=np.ones(len(backlog.value)),
        bounds=np.column_stack([np.zeros(runs + many), np.repeat([np.inf, 1.0], [runs, many])]),
        method="highs",
        options={"maxiter": MOST_ITERATIONS},
    )
    if found.status != 0:
        raise UnsolvedError("HiGHS found no optimum within its iterations")
    first = np.flatnonzero(b == 0)
    at = k[first], p[first]
    part = np.minimum(1.0, seconds[first] / backlog.slice_seconds)
    reduced = (cost - everyone.T @ found.eqlin.marginals - limits.T @ found.ineqlin.marginals)[first]
    share = np.zeros(backlog.seconds.shape)
    share[at] = found.x[first] * seconds[first] / backlog.slice_seconds
    regret = np.full(backlog.seconds.shape, np.inf)
    regret[at] = np.maximum(0.0, reduced) * part / np.maximum(seconds[first] / backlog.slice_seconds, 1e-9)
    return Slice(share, regret, _prices(backlog, -found.ineqlin.marginals, many))


def whole(backlog: Backlog, found: Slice) -> npt.NDArray[np.int64]:
    """(K,) the pool on which each runs in the next slice, -1: on none; capacity is kept.

    First those to whom the optimum gives most of the slice; then, in what is left, those who would sooner run at once
    than wait one slice more, the least regret first. Ties go to the workload and the pool that come first.
    """
    chosen = np.full(len(backlog.value), -1, dtype=np.int64)
    free = backlog.capacity.copy()
    planned = _order(-found.share, found.share > _LEAST_SHARE)
    waits = backlog.value * backlog.slice_seconds
    rather = _order(found.regret, found.regret <= waits[:, None])
    for row, pool in [*planned, *rather]:
        if chosen[row] < 0 and bool((backlog.demand[row] <= free[pool] + 1e-9).all()):
            chosen[row] = pool
            free[pool] -= backlog.demand[row]
    return chosen


def _columns(backlog: Backlog, many: int) -> _Columns:
    k, p = np.nonzero(np.isfinite(backlog.seconds))
    interval = np.tile(np.arange(many), len(k))
    k, p = np.repeat(k, many), np.repeat(p, many)
    return _Columns(k, p, interval, backlog.seconds[k, p])


def _limits(backlog: Backlog, columns: _Columns, widths: Floats) -> csr_array:
    """Each row is a part of an interval that may not exceed the part of it that is used: of a pool's resource, then of
    a workload, which runs in one place at a time."""
    from scipy.sparse import coo_array

    (pools, resources), many = backlog.capacity.shape, len(widths)
    k, p, b = columns.workload, columns.pool, columns.interval
    runs, busy = len(k), columns.seconds / widths[b]
    rows, cols, values = [], [], []
    for resource in range(resources):
        asked, there = backlog.demand[k, resource], backlog.capacity[p, resource]
        kept = np.flatnonzero(asked > 0)
        rows.append(((p * resources + resource) * many + b)[kept])
        cols.append(kept)
        values.append((busy * asked)[kept] / there[kept])
    first = pools * resources * many
    rows.append(first + k * many + b)
    cols.append(np.arange(runs))
    values.append(busy)
    total = first + len(backlog.value) * many
    rows.append(np.arange(total))
    cols.append(runs + np.arange(total) % many)
    values.append(np.full(total, -1.0))
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(cols))
    return coo_array(entries, shape=(total, runs + many)).tocsr()


def _prices(backlog: Backlog, duals: Floats, many: int) -> Floats:
    pools, resources = backlog.capacity.shape
    of_all = duals[: pools * resources * many].reshape(pools, resources, many)[:, :, 0]
    there = backlog.capacity > 0
    return np.divide(of_all, backlog.capacity, out=np.zeros_like(of_all), where=there)


def _order(keys: Floats, kept: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    rows, pools = np.nonzero(kept)
    order = np.lexsort((pools, rows, np.round(keys[rows, pools], 9)))
    return [(int(rows[each]), int(pools[each])) for each in order]
