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
