"""The division as a mixed-integer linear programme, solved by HiGHS (Huangfu and Hall, 2018) through scipy.

Columns: replicas asked for now, of which new ones; replicas by `far`; replicas of slow offers at `near`; per shared
queue what it carries at both times and whether it is there at all; per failure domain whether it holds enough; what is
missing. A shared queue's capacity is convex in its replicas, so it is bounded by a supporting line with a fixed charge;
the line is drawn anew at the answer until both agree (an outer linearisation, as Kelley's cutting planes, 1960).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

import numpy as np

from scheduler.engine.serving.capacity import Rated, slope
from scheduler.engine.serving.greedy import fill, stay, trim
from scheduler.engine.serving.question import STAY_SECONDS, Question
from scheduler.model.ids import ClusterId, PoolRef

MILP: Final = "milp"
GREEDY: Final = "greedy"
_ROUNDS: Final = 2
_REMEMBERED: Final = 1024
_SECONDS: Final = 2.0
_GAP: Final = 0.002
_LATER: Final = 0.5
"""What a replica that may be asked for later counts, of its price."""


@dataclass(frozen=True, slots=True)
class Answer:
    counts: dict[PoolRef, int]
    solver: str
    """milp or greedy."""


@lru_cache(maxsize=_REMEMBERED)
def solve(question: Question, *, use_milp: bool = True) -> Answer:
    """The best division found; within every hard limit, and short of demand only where nothing more may be added.

    Greedy where the solver fails, is not there, or finds nothing. Not to be changed by who gets it: it is remembered.
    """
    best: dict[PoolRef, int] | None = None
    if use_milp and (question.far_per_second > 0 or question.least_replicas > 0):
        sizes: dict[ClusterId, int] = _sizes(question, question.have)
        for _ in range(_ROUNDS):
            raw = _milp(question, sizes)
            if raw is None:
                break
            found = trim(question, fill(question, raw))
            if question.keeps_limits(found) and (best is None or _key(question, found) < _key(question, best)):
                best = found
            if (now := _sizes(question, found)) == sizes:
                break
            sizes = now
        if best is not None:
            return Answer(stay(question, best), MILP)
    start = question.fixed if not question.keeps_limits(question.have) else question.have
    tried = [trim(question, fill(question, each)) for each in (start, question.fixed)]
    good = [each for each in tried if question.keeps_limits(each)] or [dict(question.fixed)]
    best = min(good, key=lambda each: _key(question, each))
    return Answer(stay(question, best), GREEDY)


def _key(question: Question, counts: dict[PoolRef, int]) -> tuple[float, int, int, float, list[tuple[PoolRef, int]]]:
    missing = max(0, question.least_replicas - sum(counts.values()))
    return (
        round(sum(question.lacks(counts)), 9), question.domains_short(counts), missing, round(question.cost(counts), 9),
        sorted(counts.items()),
    )  # fmt: skip


def _sizes(question: Question, counts: Mapping[PoolRef, int]) -> dict[ClusterId, int]:
    """Replicas that share each cluster's queue; of one that has none, as many as would carry everything."""
    found: dict[ClusterId, int] = {}
    for one in question.rated:
        if one.pooled and one.usable:
            cluster = one.offer.pool.cluster
            found[cluster] = found.get(cluster, 0) + counts.get(one.offer.pool, 0)
    fastest = {
        one.offer.pool.cluster: one.most_per_second
        for one in sorted(question.rated, key=lambda one: one.most_per_second)
        if one.pooled
    }
    return {
        cluster: size or max(1, math.ceil(question.far_per_second / fastest[cluster]))
        for cluster, size in found.items()
    }


@dataclass(slots=True)
class _Rows:
    """Columns and rows as they are added."""

    cost: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    rows: list[tuple[dict[int, float], float, float]] = field(default_factory=list)

    def column(self, cost: float, lower: float, upper: float, *, whole: bool = True) -> int:
        self.cost.append(cost)
        self.lower.append(lower)
        self.upper.append(upper)
        self.whole.append(int(whole))
        return len(self.cost) - 1

    def row(self, parts: Sequence[tuple[int, float]], low: float, high: float) -> None:
        summed: dict[int, float] = {}
        for column, value in parts:
            summed[column] = summed.get(column, 0.0) + value
        self.rows.append((summed, low, high))

    def solution(self) -> Any:
        """The columns' values, or None."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        at = [
            (index, column, value) for index, (parts, _, _) in enumerate(self.rows) for column, value in parts.items()
        ]
        rows, columns, values = zip(*at, strict=True)
        matrix = csr_array((values, (rows, columns)), shape=(len(self.rows), len(self.cost)))
        limits = LinearConstraint(matrix, [low for _, low, _ in self.rows], [high for _, _, high in self.rows])
        found = milp(
            np.array(self.cost),
            integrality=np.array(self.whole),
            bounds=Bounds(np.array(self.lower), np.array(self.upper)),
            constraints=limits,
            options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
        )
        return found.x


def _milp(question: Question, sizes: Mapping[ClusterId, int]) -> dict[PoolRef, int] | None:
    """The replicas asked for now; None: no solution in time."""
    rows = _Rows()
    now, far = _replicas(question, rows)
    near = {
        one.offer.pool: now[one.offer.pool] if question.quick(one) else _held(question, one, rows, now)
        for one in question.rated
    }
    penalty = 100.0 * _dearest(question) * STAY_SECONDS / 3600.0
    for columns, needed in ((near, question.near_per_second), (far, question.far_per_second)):
        short = rows.column(penalty, 0.0, max(0.0, needed), whole=False)
        rows.row([(short, 1.0), *_carries(question, rows, columns, sizes)], needed, math.inf)
    for columns in (now, far):
        _limits(question, rows, columns)
    fewer = rows.column(penalty, 0.0, float(question.least_replicas), whole=False)
    rows.row([(fewer, 1.0), *((column, 1.0) for column in now.values())], question.least_replicas, math.inf)
    _domains(question, rows, now, penalty)
    values = rows.solution()
    if values is None:
        return None
    return {pool: count for pool, column in now.items() if (count := round(float(values[column]))) > 0}


def _dearest(question: Question) -> float:
    """USD an hour for one request per second, at the dearest usable offer."""
    prices = [question.usd_per_hour(one) / question.weight(one) for one in question.rated if question.most(one) > 0]
    return max([*prices, 0.01])


def _replicas(question: Question, rows: _Rows) -> tuple[dict[PoolRef, int], dict[PoolRef, int]]:
    """Columns of replicas asked for now and by `far`; the same of a slow offer."""
    now: dict[PoolRef, int] = {}
    far: dict[PoolRef, int] = {}
    for one in question.rated:
        pool, most = one.offer.pool, question.most(one)
        least = question.fixed.get(pool, 0)
        price = question.usd_per_hour(one) * STAY_SECONDS / 3600.0
        quick = question.quick(one) and pool not in question.fixed
        # Equal offers are told apart by their order, so that the same one is always taken.
        tie = 1e-7 * len(now)
        now[pool] = rows.column(price * (_LATER if quick else 1.0) + tie, least, most)
        far[pool] = rows.column(price * (1.0 - _LATER), least, most, whole=False) if quick else now[pool]
        if quick:
            rows.row([(far[pool], 1.0), (now[pool], -1.0)], 0.0, math.inf)
        new = rows.column(question.start_usd(one), 0.0, math.inf, whole=False)
        rows.row([(new, 1.0), (now[pool], -1.0)], -float(question.have.get(pool, 0)), math.inf)
    return now, far


def _held(question: Question, one: Rated, rows: _Rows, now: Mapping[PoolRef, int]) -> int:
    """Column of a slow offer's replicas at `near`: no more than are ready already."""
    column = rows.column(0.0, 0.0, float(question.there.get(one.offer.pool, 0)), whole=False)
    rows.row([(column, 1.0), (now[one.offer.pool], -1.0)], -math.inf, 0.0)
    return column


def _carries(
    question: Question, rows: _Rows, columns: Mapping[PoolRef, int], sizes: Mapping[ClusterId, int]
) -> list[tuple[int, float]]:
    """What these replicas carry, as parts of a row."""
    parts: list[tuple[int, float]] = []
    queues: dict[ClusterId, list[tuple[int, float, float]]] = {}
    for one in question.rated:
        if not one.usable:
            continue
        column, cluster = columns[one.offer.pool], one.offer.pool.cluster
        each, once = slope(one, sizes.get(cluster, 1))
        if once > 0:
            queues.setdefault(cluster, []).append((column, each, once))
        else:
            parts.append((column, each))
    for _, members in sorted(queues.items()):
        most = sum(each * rows.upper[column] for column, each, _ in members)
        carried = rows.column(0.0, 0.0, math.inf, whole=False)
        there = rows.column(0.0, 0.0, 1.0)
        once = max(once for _, _, once in members)
        rows.row([(carried, 1.0), (there, once), *((column, -each) for column, each, _ in members)], -math.inf, 0.0)
        rows.row([(carried, 1.0), (there, -most)], -math.inf, 0.0)
        parts.append((carried, 1.0))
    return parts


def _limits(question: Question, rows: _Rows, columns: Mapping[PoolRef, int]) -> None:
    slo = question.slo
    weights = {one.offer.pool: question.weight(one) for one in question.rated}
    if slo.scaling.max_replicas is not None:
        rows.row([(column, 1.0) for column in columns.values()], -math.inf, slo.scaling.max_replicas)
    spot = [one for one in question.rated if one.offer.reclaimable]
    groups = [(slo.max_reclaimable_share, spot)]
    groups += [
        (slo.max_provider_share, [one for one in question.rated if one.offer.provider == provider])
        for provider in sorted({one.offer.provider for one in question.rated})
    ]
    for share, members in groups:
        if share < 1.0 and members:
            whole = [(columns[pool], -share * weight) for pool, weight in weights.items()]
            theirs = [(columns[one.offer.pool], weights[one.offer.pool]) for one in members]
            rows.row([*whole, *theirs], -math.inf, 0.0)


def _domains(question: Question, rows: _Rows, now: Mapping[PoolRef, int], penalty: float) -> None:
    rule = question.slo.domains
    if rule.min_replicas <= 0 or question.least_replicas <= 0:
        return
    held: dict[str, list[int]] = {}
    for one in question.rated:
        held.setdefault(one.offer.domain(rule.key), []).append(now[one.offer.pool])
    missing = rows.column(penalty, 0.0, float(rule.domains), whole=False)
    enough = []
    for _, columns in sorted(held.items()):
        full = rows.column(0.0, 0.0, 1.0)
        rows.row([(full, -float(rule.min_replicas)), *((column, 1.0) for column in columns)], 0.0, math.inf)
        enough.append((full, 1.0))
    rows.row([(missing, 1.0), *enough], float(rule.domains), math.inf)
