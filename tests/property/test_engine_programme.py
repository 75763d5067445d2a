"""The programme against brute force on small questions: whole workloads, every assignment tried."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import linprog

from scheduler.engine.programme import Floats, Question, UnsolvedError, solve

EDGES = np.array([0.0, 600.0, 3600.0, 86400.0])
INSTANCES = 500
NOWHERE = -1

Whole = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def random_question(seed: int) -> Question:
    """Up to 6 workloads (each a class of its own) and 5 offerings, of which the first one or two are owned."""
    rng = np.random.default_rng(seed)
    workloads, offerings = int(rng.integers(1, 7)), int(rng.integers(1, 6))
    owned = min(offerings, int(rng.integers(0, 3)))
    gpus = rng.integers(1, 9, workloads).astype(float)
    run = rng.uniform(60, 20_000, workloads)
    value = gpus * rng.uniform(0.1, 3.0, workloads) / 3600
    price = np.concatenate([np.zeros(owned), rng.uniform(0.5, 4.0, offerings - owned) / 3600])
    delay = np.concatenate([np.full(owned, 15.0), rng.uniform(60, 600, offerings - owned)])
    start_cost = price * gpus[:, None] * run[:, None] + value[:, None] * (delay + run[:, None])
    start_cost[rng.random(start_cost.shape) < 0.15] = np.inf
    reserve_of = np.where(np.arange(offerings) < owned, np.arange(offerings), NOWHERE)
    middles = (EDGES[:-1] + EDGES[1:]) / 2
    budget = rng.random() < 0.3
    money = price * gpus[:, None] * run[:, None]
    return Question(
        counts=np.ones(workloads),
        demand=gpus[:, None],
        start_cost=start_cost,
        start_most=np.ones(start_cost.shape),
        capacity=rng.integers(0, 13, offerings).astype(float)[:, None],
        edges=EDGES,
        reserve_of=np.tile(reserve_of, (workloads, 1)),
        run=np.repeat(run[:, None], owned, axis=1),
        units=gpus,
        freed=rng.uniform(0, 8, (owned, 3)) * np.diff(EDGES),
        wait_cost=np.tile((value[:, None] * (middles + run[:, None]))[:, None, :], (1, owned, 1)),
        hold_cost=value * (3 * EDGES[-1] + run),
        limit_use=money[None] if budget else np.zeros((0, workloads, offerings)),
        limits=np.array([float(rng.uniform(0, money.sum()))]) if budget else np.zeros(0),
    )


def brute_force(q: Question) -> float:
    """The least cost of all ways to start each workload somewhere or not now; those that do not start wait as well as
    can be, in fractions, which is a programme of its own for each way that could still be the best."""
    ways = all_ways(q)
    ways = ways[keeps_capacity(q, ways)]
    idle = np.minimum(q.wait_cost.min(axis=(1, 2), initial=np.inf), q.hold_cost)
    rows = np.arange(ways.shape[1])
    at_least = np.where(ways == NOWHERE, idle, q.start_cost[rows, ways]).sum(axis=1)
    best, waiting = np.inf, dict[tuple[object, ...], float]()
    for number in np.argsort(at_least, kind="stable"):
        if at_least[number] >= best:
            break
        best = min(best, cost_of(q, tuple(ways[number].tolist()), waiting))
    return best


def all_ways(q: Question) -> Whole:
    """(ways, workloads) the offering where each workload would start."""
    places = [np.array([NOWHERE, *np.flatnonzero(np.isfinite(row))]) for row in q.start_cost]
    return np.stack([axis.ravel() for axis in np.meshgrid(*places, indexing="ij")], axis=1)


def keeps_capacity(q: Question, ways: Whole) -> Flags:
    """(ways,) which of them take no more than there is, of capacity and of each limit."""
    kept = np.ones(len(ways), dtype=bool)
    for offering, capacity in enumerate(q.capacity[:, 0]):
        kept &= (ways == offering) @ q.demand[:, 0] <= capacity + 1e-9
    rows = np.arange(ways.shape[1])
    for use, limit in zip(q.limit_use, q.limits, strict=True):
        kept &= np.where(ways == NOWHERE, 0.0, use[rows, ways]).sum(axis=1) <= limit + 1e-9
    return kept


def cost_of(q: Question, way: tuple[int, ...], waiting: dict[tuple[object, ...], float]) -> float:
    """What this way of starting costs, the rest waiting as well as can be; inf where the owned capacity forbids it.
    `waiting`: what is known already of those that wait, by who they are and what is left for them."""
    left = q.freed.copy()
    usd = 0.0
    for row, at in enumerate(way):
        if at != NOWHERE:
            usd += q.start_cost[row, at]
            reserve = q.reserve_of[row, at]
            if reserve >= 0:
                left[reserve] -= overlap(0.0, q.run[row, reserve]) * q.units[row]
    if np.any(left < -1e-6):
        return np.inf
    rest = tuple(row for row, at in enumerate(way) if at == NOWHERE)
    key = (rest, left.tobytes())
    if key not in waiting:
        waiting[key] = waiting_cost(q, rest, np.maximum(left, 0.0))
    return usd + waiting[key]


def waiting_cost(q: Question, rest: tuple[int, ...], left: Floats) -> float:
    """What it costs at least that these workloads wait, for what is left of each reserve in each interval."""
    if not rest:
        return 0.0
    reserves, intervals = q.freed.shape
    columns = [(row, p, b) for row in rest for p in range(reserves) for b in range(intervals)]
    cost = [q.wait_cost[each] for each in columns] + [q.hold_cost[row] for row in rest]
    use = np.zeros((reserves, intervals, len(cost)))
    for index, (row, p, b) in enumerate(columns):
        use[p, :, index] = overlap(EDGES[b], q.run[row, p]) * q.units[row]
    everyone = np.array([[*(each[0] == row for each in columns), *(one == row for one in rest)] for row in rest])
    found = linprog(
        cost,
        A_ub=use.reshape(-1, len(cost)) if reserves else None,
        b_ub=left.ravel() if reserves else None,
        A_eq=everyone.astype(float),
        b_eq=np.ones(len(rest)),
    )
    return float(found.fun)


def overlap(begin: float, seconds: float) -> Floats:
    inside: Floats = np.minimum(begin + seconds, EDGES[1:]) - np.maximum(begin, EDGES[:-1])
    return np.maximum(inside, 0.0)


@pytest.mark.parametrize("first", range(0, INSTANCES, 50))
def test_whole_answers_are_within_two_per_cent_of_brute_force(first: int) -> None:
    for seed in range(first, first + 50):
        q = random_question(seed)
        answer, optimum = solve(q), brute_force(q)
        assert np.allclose(answer.start, np.round(answer.start)), f"seed {seed}: a start is not whole"
        assert answer.cost <= optimum * 1.02 + 1e-6, f"seed {seed}: {answer.cost} against {optimum}"
        assert answer.cost >= optimum * (1 - 1e-6) - 1e-6, f"seed {seed} breaks a constraint"


@pytest.mark.parametrize("seed", range(40))
def test_answers_keep_every_capacity_and_place_everyone(seed: int) -> None:
    q = random_question(10_000 + seed)
    answer = solve(q)
    assert np.all(answer.start.T @ q.demand <= q.capacity + 1e-6)
    assert np.all(answer.start.sum(axis=1) + answer.wait.sum(axis=(1, 2)) <= q.counts + 1e-6)
    assert np.all(answer.start[~np.isfinite(q.start_cost)] == 0)
    assert np.all(answer.capacity_price >= -1e-9)
    assert np.all(answer.reserve_price >= -1e-9)
    if len(q.limits):
        assert float((q.limit_use[0] * answer.start).sum()) <= q.limits[0] + 1e-6


def test_a_question_without_an_optimum_in_its_iterations_is_told() -> None:
    with pytest.raises(UnsolvedError):
        solve(random_question(3), iterations=0)
