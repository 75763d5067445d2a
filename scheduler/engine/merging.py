"""Offerings that are alike to every class, and their reserves, taken together before the programme is solved.

Offerings whose columns and rows are equal can be exchanged for one another, and of an optimum of a linear programme the
mean over all such exchanges is an optimum too. So it loses nothing to ask only how much starts on all offerings of a
kind together: n times the capacity, and whatever the answer, a n-th of it on each is an answer of the same cost to the
question as it was (symmetry reduction: Boedi, Grundhoefer and Herr, "Symmetries of linear programs", 2010). On which of
them a gang goes is settled when it is placed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from scheduler.engine.programme import Floats, Indices, Question
from scheduler.engine.table import coded

NO_RESERVE: Final = -1


@dataclass(frozen=True, slots=True)
class Kinds:
    """Which columns of a question were taken together; kinds are in the order of their first members."""

    offerings: tuple[Indices, ...]
    """Of each kind of offering, its members in order."""
    reserves: tuple[Indices, ...]


def columns_of(question: Question) -> int:
    """Of the programme, about."""
    return int(np.isfinite(question.start_cost).sum() + np.isfinite(question.wait_cost).sum())


def apart(question: Question) -> Kinds:
    """Everything by itself."""
    offerings, reserves = len(question.capacity), len(question.freed)
    return Kinds(tuple(np.arange(offerings)[:, None]), tuple(np.arange(reserves)[:, None]))


def kinds_of(question: Question) -> Kinds:
    """What can be exchanged: all numbers equal, those of their reserves too. A reserve may belong to one offering only;
    where one belongs to several, everything stays by itself."""
    q, (offerings, reserves) = question, (len(question.capacity), len(question.freed))
    if not offerings:
        return apart(q)
    reserve_code = coded(
        (q.run[:, p].tobytes(), q.freed[p].tobytes(), q.wait_cost[:, p].tobytes()) for p in range(reserves)
    )
    links = np.full(q.reserve_of.shape, NO_RESERVE, dtype=np.int64)
    linked = q.reserve_of >= 0
    links[linked] = reserve_code[q.reserve_of[linked]]
    numbers = (q.start_cost.T, q.start_most.T, q.capacity, np.moveaxis(q.limit_use, 2, 0), links.T)
    code = coded(tuple(each[j].tobytes() for each in numbers) for j in range(offerings))
    owner = np.full(reserves, NO_RESERVE, dtype=np.int64)
    where = np.broadcast_to(np.arange(offerings), linked.shape)[linked]
    owner[q.reserve_of[linked]] = where
    if (owner[q.reserve_of[linked]] != where).any():
        return apart(q)
    theirs = np.where(owner == NO_RESERVE, NO_RESERVE, code[owner])
    return Kinds(_members(code), _members(coded(zip(reserve_code.tolist(), theirs.tolist(), strict=True))))


def merged(question: Question, kinds: Kinds) -> Question:
    """The question about kinds: capacities summed, everything else as of the first of each."""
    first = np.array([each[0] for each in kinds.offerings], dtype=np.int64)
    first_reserve = np.array([each[0] for each in kinds.reserves], dtype=np.int64)
    kind_of_reserve = np.full(len(question.freed) + 1, NO_RESERVE, dtype=np.int64)
    for number, each in enumerate(kinds.reserves):
        kind_of_reserve[each] = number
    return replace(
        question,
        start_cost=question.start_cost[:, first],
        start_most=_summed(question.start_most.T, kinds.offerings).T,
        capacity=_summed(question.capacity, kinds.offerings),
        reserve_of=kind_of_reserve[question.reserve_of[:, first]],
        run=question.run[:, first_reserve],
        freed=_summed(question.freed, kinds.reserves),
        wait_cost=question.wait_cost[:, first_reserve],
        limit_use=question.limit_use[:, :, first],
    )


def likes_of(alike: Indices, owner: Sequence[int], unit: Sequence[int]) -> Kinds:
    """Offerings of equal code (J,), and reserves of equal unit (P,) whose offerings `owner` (P,) are of equal code."""
    return Kinds(_members(alike), _members(coded(zip(alike[list(owner)].tolist(), unit, strict=True))))


def pooled(question: Question, kinds: Kinds, fits: Floats) -> Question:
    """The question about offerings that may differ in what is free: each kind costs what its best member does, and
    takes as many of a class as go on all of them; `fits` (K, J): so many go on each by itself."""
    q = merged(question, kinds)
    starts = np.isfinite(question.start_cost)
    most = np.where(starts, np.minimum(fits, question.start_most), 0.0)
    for number, members in enumerate(kinds.offerings):
        best = members[np.argmin(question.start_cost[:, members], axis=1)]
        rows = np.arange(len(best))
        q.start_cost[:, number] = question.start_cost[rows, best]
        q.limit_use[:, :, number] = question.limit_use[:, rows, best]
    kind_of_reserve = np.full(len(question.freed) + 1, NO_RESERVE, dtype=np.int64)
    for number, members in enumerate(kinds.reserves):
        kind_of_reserve[members] = number
        q.run[:, number] = question.run[:, members].min(axis=1)
        q.wait_cost[:, number] = question.wait_cost[:, members].min(axis=1)
    for number, members in enumerate(kinds.offerings):
        # The members of a kind are suitable for the same classes, so where one starts on a reserve all do.
        q.reserve_of[:, number] = kind_of_reserve[question.reserve_of[:, members]].max(axis=1)
    return replace(q, start_most=_summed(most.T, kinds.offerings).T)


def _summed(rows: Floats, groups: Sequence[Indices]) -> Floats:
    """(groups, ...) the rows of each group added up."""
    found: Floats = np.zeros((len(groups), *rows.shape[1:]))
    for number, members in enumerate(groups):
        found[number] = rows[members[0]] if len(members) == 1 else rows[members].sum(axis=0)
    return found


def _members(code: Indices) -> tuple[Indices, ...]:
    """The numbers with each code, in order."""
    order = np.argsort(code, kind="stable")
    return tuple(np.split(order, np.flatnonzero(np.diff(code[order])) + 1)) if len(code) else ()
