"""The whole backlog against all capacity, now and later, as one linear programme. Arrays in, arrays out.

A class is a set of identical pending workloads, an offering one place where they could start now, a reserve owned
capacity that is busy now and frees over time. For each class the programme says how many start on which offering now,
and how many had better wait for which reserve and until about when, so that the money plus the value of the time until
completion is least. Capacity over time is a transportation problem on a time-expanded network (Ford and Fulkerson,
1958), fluid within each interval. Solved by HiGHS (Huangfu and Hall, 2018) through scipy; the dual prices say what one
more GPU (now, or in an interval) would save.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Rows = tuple[Indices, Indices, Floats]
"""Row, column and value of the entries of a sparse matrix."""
MOST_ITERATIONS: Final = 200_000
FEW_WORKLOADS: Final = 8
"""So many are also solved in whole numbers, by branch and bound."""
MOST_BRANCHES: Final = 400
GOOD_ENOUGH: Final = 0.01
"""A branch that promises less than this part of the cost is not followed."""
INTEGRAL: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Question:
    """K classes, J offerings, R resources, P reserves, B intervals, M further limits."""

    counts: Floats
    """(K,) workloads of each class."""
    demand: Floats
    """(K, R) what one gang takes of each resource, in the units of `capacity`."""
    start_cost: Floats
    """(K, J) USD of starting one there now, its time until completion valued; inf: not allowed."""
    start_most: Floats
    """(K, J) how many fit there, each class by itself."""
    capacity: Floats
    """(J, R) what is free, or can be bought, now."""
    edges: Floats
    """(B + 1,) seconds from now, the first 0: the intervals in which waiting ones may start."""
    reserve_of: npt.NDArray[np.int64]
    """(K, J) the reserve on which one that starts there runs; -1: none."""
    run: Floats
    """(K, P) seconds that one runs on the reserve; inf: not allowed there."""
    units: Floats
    """(K,) what one gang takes of a reserve (GPUs)."""
    freed: Floats
    """(P, B) unit-seconds of each reserve that nothing placed now uses in each interval."""
    wait_cost: Floats
    """(K, P, B) USD of starting one on the reserve about the middle of an interval; inf: not allowed."""
    hold_cost: Floats
    """(K,) USD of doing nothing for one: larger than any sensible alternative."""
    limit_use: Floats
    """(M, K, J) what one start takes of each further limit (a budget in USD, a quota, bought nodes)."""
    limits: Floats
    """(M,) how much of each there is."""


@dataclass(frozen=True, slots=True)
class Answer:
    start: Floats
    """(K, J) how many start now; not whole."""
    wait: Floats
    """(K, P, B) how many wait for which reserve and interval."""
    class_price: Floats
    """(K,) dual: USD that one more workload of the class would cost in all."""
    capacity_price: Floats
    """(J, R) dual: USD that one more unit now would save."""
    reserve_price: Floats
    """(P, B) dual: USD that one more unit-second in the interval would save."""
    limit_price: Floats
    """(M,) dual: USD that one more unit of each further limit would save."""
    cost: float


class UnsolvedError(Exception):
    """HiGHS gave no optimum within its iterations; `str` says why."""


def solve(question: Question, *, iterations: int = MOST_ITERATIONS) -> Answer:
    """The optimum; where there are few workloads, the one in which every start is whole.

    Raises: UnsolvedError when it is not found within so many simplex iterations (counted rather than timed, so that the
    same question has the same answer on every machine).
    """
    model = _model(question)
    easy = _uncontended(question, model)
    if easy is not None:
        return easy
    found = _relaxed(question, model, model.lower, model.upper, iterations)
    if found is None:
        raise UnsolvedError("HiGHS found no optimum within its iterations")
    values, cost = found.x, float(found.fun)
    if question.counts.sum() <= FEW_WORKLOADS:
        values, cost = _whole(question, model, values, cost, iterations)
    reserves, intervals = question.freed.shape
    start, wait = np.zeros(question.start_cost.shape), np.zeros(question.wait_cost.shape)
    start[model.start] = values[: len(model.start[0])]
    wait[model.wait] = values[len(model.start[0]) : len(model.start[0]) + len(model.wait[0])]
    duals = -found.ineqlin.marginals
    first = question.capacity.size
    return Answer(
        start,
        wait,
        np.asarray(found.eqlin.marginals),
        duals[:first].reshape(question.capacity.shape),
        duals[first : first + reserves * intervals].reshape(reserves, intervals),
        duals[first + reserves * intervals :],
        cost,
    )


def _uncontended(q: Question, model: _Model) -> Answer | None:
    """The answer in which every class has whatever is cheapest for it, where that breaks no limit: nothing can be
    cheaper, nothing binds, and nobody need be asked. None where they stand in one another's way."""
    classes, columns = len(q.counts), len(model.cost)
    waits = len(model.wait[0])
    order = np.lexsort((np.arange(columns), model.cost, model.class_of))
    best = order[np.searchsorted(model.class_of[order], np.arange(classes))]
    values = np.zeros(columns)
    values[best] = q.counts
    rows, cols, amounts = model.entries
    if (values > model.upper).any() or (np.bincount(rows, amounts * values[cols], len(model.room)) > model.room).any():
        return None
    start, wait = np.zeros(q.start_cost.shape), np.zeros(q.wait_cost.shape)
    start[model.start] = values[: len(model.start[0])]
    wait[model.wait] = values[len(model.start[0]) : len(model.start[0]) + waits]
    return Answer(
        start,
        wait,
        model.cost[best],
        np.zeros(q.capacity.shape),
        np.zeros(q.freed.shape),
        np.zeros(len(q.limits)),
        float(model.cost @ values),
    )


def _relaxed(q: Question, model: _Model, lower: Floats, upper: Floats, iterations: int) -> Any:
    """scipy's result for the programme in fractions between these bounds; None: there is no optimum."""
    # Imported when there is something to solve: scipy takes 50 MiB, and a daemon whose policies do not value time
    # never needs it.
    from scipy.optimize import linprog

    found = linprog(
        model.cost,
        A_ub=model.limits,
        b_ub=model.room,
        A_eq=model.everyone,
        b_eq=q.counts,
        bounds=np.column_stack([lower, upper]),
        method="highs-ds",
        options={"maxiter": iterations},
    )
    return found if found.status == 0 else None


def _whole(q: Question, model: _Model, values: Floats, cost: float, iterations: int) -> tuple[Floats, float]:
    """The best answer in which every start is whole, and its cost, by branch and bound (Land and Doig, 1960): the most
    fractional start is rounded down in one branch and up in the other, the cheaper branch first. The fractions as they
    are when `MOST_BRANCHES` show nothing whole. Those that wait need not be whole: they are decided on again.

    Not by HiGHS' own branching, which writes to standard output.
    """
    starts = len(model.start[0])
    best: tuple[Floats, float] | None = None
    open_ = [(cost, 0, values, model.lower, model.upper)]
    made = 1
    while open_ and made < MOST_BRANCHES:
        bound, _, at, lower, upper = heapq.heappop(open_)
        if best is not None and bound >= best[1] - abs(best[1]) * GOOD_ENOUGH:
            break
        off = np.abs(at[:starts] - np.round(at[:starts]))
        column = int(np.argmax(off)) if starts else 0
        if not starts or off[column] < INTEGRAL:
            best = (np.concatenate([np.round(at[:starts]), at[starts:]]), bound)
            continue
        for low, high in ((None, np.floor(at[column])), (np.ceil(at[column]), None)):
            left, right = lower.copy(), upper.copy()
            if low is not None:
                left[column] = low
            if high is not None:
                right[column] = high
            found = _relaxed(q, model, left, right, iterations)
            made += 1
            if found is not None and (best is None or found.fun < best[1]):
                heapq.heappush(open_, (float(found.fun), made, found.x, left, right))
    return (values, cost) if best is None else best


@dataclass(frozen=True, eq=False)
class _Model:
    """Columns: starts, then waits, then one for each class that does nothing. Its matrices are made when HiGHS is
    asked."""

    start: tuple[Indices, Indices]
    wait: tuple[Indices, Indices, Indices]
    cost: Floats
    lower: Floats
    upper: Floats
    class_of: Indices
    """The class of each column."""
    entries: Rows
    """Of `limits`."""
    room: Floats

    @cached_property
    def everyone(self) -> csr_array:
        """(K, columns) one row a class: all of its columns together are all of its workloads."""
        from scipy.sparse import coo_array

        columns = len(self.cost)
        return coo_array((np.ones(columns), (self.class_of, np.arange(columns)))).tocsr()

    @cached_property
    def limits(self) -> csr_array:
        """(rows of `room`, columns)."""
        from scipy.sparse import coo_array

        rows, cols, values = self.entries
        return coo_array((values, (rows, cols)), shape=(len(self.room), len(self.cost))).tocsr()


def _model(q: Question) -> _Model:
    classes = len(q.counts)
    reserves, intervals = q.freed.shape
    k_start, j_start = np.nonzero(np.isfinite(q.start_cost) & (q.start_most > 0))
    k_wait, p_wait, b_wait = np.nonzero(np.isfinite(q.wait_cost))
    starts, waits = len(k_start), len(k_wait)
    columns = starts + waits + classes
    most = np.minimum(q.start_most[k_start, j_start], q.counts[k_start])
    first = q.capacity.size
    parts = [
        _capacity_rows(q, k_start, j_start),
        _reserve_rows(q, (k_start, j_start), (k_wait, p_wait, b_wait), first_row=first),
        _limit_rows(q, k_start, j_start, first_row=first + reserves * intervals),
    ]
    rows, cols, values = (np.concatenate([part[index] for part in parts]) for index in range(3))
    room = np.concatenate([q.capacity.ravel(), q.freed.ravel(), q.limits])
    return _Model(
        (k_start, j_start),
        (k_wait, p_wait, b_wait),
        np.concatenate([q.start_cost[k_start, j_start], q.wait_cost[k_wait, p_wait, b_wait], q.hold_cost]),
        np.zeros(columns),
        np.concatenate([most, np.full(waits + classes, np.inf)]),
        np.concatenate([k_start, k_wait, np.arange(classes)]),
        (rows, cols, values),
        room,
    )


def _capacity_rows(q: Question, k_start: Indices, j_start: Indices) -> Rows:
    """Row (offering, resource): what all that start there now take."""
    resources = q.capacity.shape[1]
    column = np.repeat(np.arange(len(k_start)), resources)
    row = (j_start[:, None] * resources + np.arange(resources)).ravel()
    flat = q.demand[k_start].ravel()
    kept = flat > 0
    return row[kept], column[kept], flat[kept]


def _reserve_rows(
    q: Question, start: tuple[Indices, Indices], wait: tuple[Indices, Indices, Indices], *, first_row: int
) -> Rows:
    """Row (reserve, interval): unit-seconds of it that all use there which start now, or in it, or before it."""
    intervals = q.freed.shape[1]
    owned = q.reserve_of[start] >= 0
    k_all = np.concatenate([start[0][owned], wait[0]])
    p_all = np.concatenate([q.reserve_of[start][owned], wait[1]])
    begin = np.concatenate([np.zeros(int(owned.sum())), q.edges[wait[2]]])
    column = np.concatenate([np.flatnonzero(owned), len(start[0]) + np.arange(len(wait[0]))])
    end = begin + q.run[k_all, p_all]
    used = np.minimum(end[:, None], q.edges[None, 1:]) - np.maximum(begin[:, None], q.edges[None, :-1])
    used = np.maximum(used, 0.0) * q.units[k_all][:, None]
    which, interval = np.nonzero(used > 0)
    return first_row + p_all[which] * intervals + interval, column[which], used[which, interval]


def _limit_rows(q: Question, k_start: Indices, j_start: Indices, *, first_row: int) -> Rows:
    """Row of each further limit: what all that start now take of it."""
    use = q.limit_use[:, k_start, j_start]
    row, column = np.nonzero(use)
    return first_row + row, column, use[row, column]
