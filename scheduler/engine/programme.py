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
from scipy.optimize import linprog
from scipy.sparse import coo_array

Floats = npt.NDArray[np.float64]
EPSILON: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Question:
    """K classes, J offerings, R resources, P reserves, B intervals."""

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
    """(J,) the reserve that an offering is part of; -1: none."""
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
    cost: float


class Unsolved(Exception):
    """HiGHS gave no optimum in time; `str` says why."""


def solve(question: Question, *, seconds: float) -> Answer:
    """The optimum. Raises: Unsolved when it is not found within `seconds`."""
    q = question
    classes, offerings = q.start_cost.shape
    reserves, intervals = q.freed.shape
    k_start, j_start = np.nonzero(np.isfinite(q.start_cost) & (q.start_most > 0))
    k_wait, p_wait, b_wait = np.nonzero(np.isfinite(q.wait_cost))
    starts, waits = len(k_start), len(k_wait)
    columns = starts + waits + classes
    cost = np.concatenate([q.start_cost[k_start, j_start], q.wait_cost[k_wait, p_wait, b_wait], q.hold_cost])
    upper = np.concatenate(
        [np.minimum(q.start_most[k_start, j_start], q.counts[k_start]), np.full(waits + classes, np.inf)]
    )

    everyone = coo_array(
        (np.ones(columns), (np.concatenate([k_start, k_wait, np.arange(classes)]), np.arange(columns))),
        shape=(classes, columns),
    )
    rows, cols, values = _capacity_rows(q, k_start, j_start)
    more = _reserve_rows(q, k_start, j_start, k_wait, p_wait, b_wait, first_row=offerings * q.capacity.shape[1])
    limits = coo_array(
        (np.concatenate([values, more[2]]), (np.concatenate([rows, more[0]]), np.concatenate([cols, more[1]]))),
        shape=(q.capacity.size + reserves * intervals, columns),
    )
    room = np.concatenate([q.capacity.ravel(), q.freed.ravel()])
    found = linprog(
        cost, A_ub=limits.tocsr(), b_ub=room, A_eq=everyone.tocsr(), b_eq=q.counts,
        bounds=np.column_stack([np.zeros(columns), upper]), method="highs-ds", options={"time_limit": seconds, "presolve": True},
    )  # fmt: skip
    if found.status != 0:
        raise Unsolved(str(found.message))
    start = np.zeros((classes, offerings))
    start[k_start, j_start] = found.x[:starts]
    wait = np.zeros((classes, reserves, intervals))
    wait[k_wait, p_wait, b_wait] = found.x[starts : starts + waits]
    duals = -found.ineqlin.marginals
    return Answer(
        start,
        wait,
        np.asarray(found.eqlin.marginals),
        duals[: q.capacity.size].reshape(q.capacity.shape),
        duals[q.capacity.size :].reshape(reserves, intervals),
        float(found.fun),
    )


def _capacity_rows(
    q: Question, k_start: npt.NDArray[np.int64], j_start: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Row (offering, resource): what all that start there now take."""
    resources = q.capacity.shape[1]
    values = q.demand[k_start]
    column = np.repeat(np.arange(len(k_start)), resources)
    row = (j_start[:, None] * resources + np.arange(resources)).ravel()
    flat = values.ravel()
    kept = flat > 0
    return row[kept], column[kept], flat[kept]


def _reserve_rows(
    q: Question,
    k_start: npt.NDArray[np.int64],
    j_start: npt.NDArray[np.int64],
    k_wait: npt.NDArray[np.int64],
    p_wait: npt.NDArray[np.int64],
    b_wait: npt.NDArray[np.int64],
    *,
    first_row: int,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Row (reserve, interval): unit-seconds of it that all use there which start now, or in it, or before it."""
    intervals = q.freed.shape[1]
    on_reserve = q.reserve_of[j_start] >= 0
    k_all = np.concatenate([k_start[on_reserve], k_wait])
    p_all = np.concatenate([q.reserve_of[j_start[on_reserve]], p_wait])
    begin = np.concatenate([np.zeros(int(on_reserve.sum())), q.edges[b_wait]])
    column = np.concatenate([np.flatnonzero(on_reserve), len(k_start) + np.arange(len(k_wait))])
    end = begin + q.run[k_all, p_all]
    used = np.minimum(end[:, None], q.edges[None, 1:]) - np.maximum(begin[:, None], q.edges[None, :-1])
    used = np.maximum(used, 0.0) * q.units[k_all][:, None]
    which, interval = np.nonzero(used > 0)
    return first_row + p_all[which] * intervals + interval, column[which], used[which, interval]
