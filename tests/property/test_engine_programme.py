"""The programme against brute force on small questions: whole workloads, every assignment tried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from scheduler.engine.programme import Floats, Question, UnsolvedError, solve

EDGES = np.array([0.0, 600.0, 3600.0, 86400.0])
INSTANCES = 500
NOWHERE = -1


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


def options(q: Question, row: int) -> Iterator[tuple[float, Floats, Floats, Floats]]:
    """(USD, capacity taken, reserve seconds taken, limits taken) of everything that one workload could do."""
    none, idle, free = np.zeros(q.capacity.shape[0]), np.zeros(q.freed.shape), np.zeros(len(q.limits))
    yield float(q.hold_cost[row]), none, idle, free
    for column in np.flatnonzero(np.isfinite(q.start_cost[row])):
        taken, used = none.copy(), idle.copy()
        taken[column] = q.demand[row, 0]
        reserve = q.reserve_of[row, column]
        if reserve >= 0:
            used[reserve] = overlap(0.0, q.run[row, reserve]) * q.units[row]
        yield float(q.start_cost[row, column]), taken, used, q.limit_use[:, row, column]
    for reserve, interval in zip(*np.nonzero(np.isfinite(q.wait_cost[row])), strict=True):
        used = idle.copy()
        used[reserve] = overlap(EDGES[interval], q.run[row, reserve]) * q.units[row]
        yield float(q.wait_cost[row, reserve, interval]), none, used, free


def overlap(begin: float, seconds: float) -> Floats:
    return np.clip(np.minimum(begin + seconds, EDGES[1:]) - np.maximum(begin, EDGES[:-1]), 0.0, None)


def brute_force(q: Question) -> float:
    """The least cost of all ways to choose one option for each workload that keep every capacity."""
    best = np.inf
    for choice in itertools.product(*(list(options(q, row)) for row in range(len(q.counts)))):
        cost = sum(each[0] for each in choice)
        if (
            cost < best
            and np.all(sum(each[1] for each in choice) <= q.capacity[:, 0] + 1e-9)
            and np.all(sum(each[2] for each in choice) <= q.freed + 1e-6)
            and np.all(sum(each[3] for each in choice) <= q.limits + 1e-9)
        ):
            best = cost
    return best


def cheap_enough(q: Question) -> bool:
    """Whether brute force ends within a second or so."""
    return float(np.prod([len(list(options(q, row))) for row in range(len(q.counts))])) <= 20_000


def test_whole_answers_are_within_two_per_cent_of_brute_force() -> None:
    tried, seed, worst = 0, 0, 0.0
    while tried < INSTANCES:
        q = random_question(seed)
        seed += 1
        if not cheap_enough(q):
            continue
        tried += 1
        answer = solve(q)
        optimum = brute_force(q)
        worst = max(worst, answer.cost / optimum - 1.0)
        assert answer.cost <= optimum * 1.02 + 1e-6, f"seed {seed - 1}: {answer.cost} against {optimum}"
        assert answer.cost >= optimum * (1 - 1e-6) - 1e-6, f"seed {seed - 1} breaks a constraint"
    assert worst <= 0.02


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
