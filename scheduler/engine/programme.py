"""The whole backlog against all capacity, now and later, as one linear programme. Arrays in, arrays out.

A class is a set of identical pending workloads, an offering one place where they could start now, a reserve owned
capacity that is busy now and frees over time. For each class the programme says how many start on which offering now,
and how many had better wait for which reserve and until about when, so that the money plus the value of the time until
completion is least. Capacity over time is a transportation problem on a time-expanded network (Ford and Fulkerson,
1958), fluid within each interval. Solved by HiGHS (Huangfu and Hall, 2018) through scipy; the dual prices say what one
more GPU (now, or in an interval) would save.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import coo_array, csr_array

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
Rows = tuple[Indices, Indices, Floats]
"""Row, column and value of the entries of a sparse matrix."""
MOST_ITERATIONS: Final = 200_000
FEW_WORKLOADS: Final = 24
"""So many are also solved in whole numbers, by branch and bound."""
MOST_NODES: Final = 500
EPSILON: Final = 1e-9


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
    """The optimum, in whole workloads where there are few of them.

    Raises: UnsolvedError when it is not found within so many simplex iterations (counted rather than timed, so that the
    same question has the same answer on every machine).
    """
    model = _model(question)
    found = linprog(
        model.cost,
        A_ub=model.limits,
        b_ub=model.room,
        A_eq=model.everyone,
        b_eq=question.counts,
        bounds=np.column_stack([np.zeros(len(model.cost)), model.upper]),
        method="highs-ds",
        options={"maxiter": iterations},
    )
    if found.status != 0:
        raise UnsolvedError(str(found.message))
    values, cost = found.x, float(found.fun)
    if question.counts.sum() <= FEW_WORKLOADS:
        whole = _whole(question, model)
        values, cost = (values, cost) if whole is None else whole
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


@dataclass(frozen=True, slots=True)
class _Model:
    """Columns: starts, then waits, then one for each class that does nothing."""

    start: tuple[Indices, Indices]
    wait: tuple[Indices, Indices, Indices]
    cost: Floats
    upper: Floats
    everyone: csr_array
    limits: csr_array
    room: Floats


def _model(q: Question) -> _Model:
    classes = len(q.counts)
    reserves, intervals = q.freed.shape
    k_start, j_start = np.nonzero(np.isfinite(q.start_cost) & (q.start_most > 0))
    k_wait, p_wait, b_wait = np.nonzero(np.isfinite(q.wait_cost))
    starts, waits = len(k_start), len(k_wait)
    columns = starts + waits + classes
    most = np.minimum(q.start_most[k_start, j_start], q.counts[k_start])
    everyone = coo_array(
        (np.ones(columns), (np.concatenate([k_start, k_wait, np.arange(classes)]), np.arange(columns))),
        shape=(classes, columns),
    )
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
        np.concatenate([most, np.full(waits + classes, np.inf)]),
        everyone.tocsr(),
        coo_array((values, (rows, cols)), shape=(len(room), columns)).tocsr(),
        room,
    )


def _whole(q: Question, model: _Model) -> tuple[Floats, float] | None:
    """The best answer in whole workloads, and its cost; None when branching found none within its bound."""
    found = milp(
        model.cost,
        integrality=np.ones(len(model.cost)),
        bounds=Bounds(np.zeros(len(model.cost)), model.upper),
        constraints=[
            LinearConstraint(model.everyone, q.counts, q.counts),
            LinearConstraint(model.limits, -np.inf, model.room + EPSILON),
        ],
        options={"node_limit": MOST_NODES, "mip_rel_gap": 1e-4},
    )
    return (np.round(found.x), float(found.fun)) if found.x is not None else None


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
