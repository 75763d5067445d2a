"""An answer without a solver, and the polish of any answer: one replica at a time, within every hard limit.

Used where the programme finds none in time, and to give back what a linear view of capacity took too much.
"""

from __future__ import annotations

from typing import Final

from scheduler.engine.serving.capacity import Rated, carried
from scheduler.engine.serving.question import ROUNDING, Counts, Question
from scheduler.model.ids import PoolRef

_MOST_STEPS: Final = 20_000
_FREE: Final = 0.01
"""Of the dearest price: up to that nothing is saved by giving a replica back for a few minutes."""


def fill(question: Question, counts: Counts) -> dict[PoolRef, int]:
    """Adds the replica that costs least for what it brings until everything asked for is there, or nothing helps.

    Limits that are shares may need two replicas at once (one here, one there), so a pair is tried when no single one
    keeps them.
    """
    found = {pool: count for pool, count in counts.items() if count > 0}
    order = sorted((one for one in question.rated if question.most(one) > 0), key=lambda one: _price(question, one))
    for _ in range(_MOST_STEPS):
        if question.suffices(found):
            break
        step = _next(question, found, order)
        if step is None:
            break
        for one in step:
            found[one.offer.pool] = found.get(one.offer.pool, 0) + 1
    return found


def _next(question: Question, counts: Counts, order: list[Rated]) -> tuple[Rated, ...] | None:
    """The best step; None: none helps."""
    helping = [one for one in order if _helps(question, counts, one)]
    others = [one for one in order if one not in helping]
    pairs = [(one, other) for index, one in enumerate(helping) for other in (*helping[index + 1 :], *others)]
    before, cost = sum(question.lacks(counts)), question.cost(counts)
    for steps in ([(one,) for one in helping], pairs):
        best: tuple[float, int, tuple[Rated, ...]] | None = None
        for index, step in enumerate(steps):
            trial = dict(counts)
            for one in step:
                trial[one.offer.pool] = trial.get(one.offer.pool, 0) + 1
            if not question.keeps_limits(trial):
                continue
            # More servers share a queue better: the first ones bring little, yet lead somewhere.
            brings = max(before - sum(question.lacks(trial)), 0.1 * sum(question.weight(one) for one in step))
            worth = (question.cost(trial) - cost) / brings
            if best is None or (worth, index) < best[:2]:
                best = worth, index, step
        if best is not None:
            return best[2]
    return None


def _helps(question: Question, counts: Counts, one: Rated) -> bool:
    """Whether one more there brings what is asked for nearer. A quick offer is counted on for `far` anyway."""
    near, far = question.lacks(counts)
    if (near > 0 and question.quick(one)) or (far > 0 and not question.quick(one)):
        return True
    return sum(counts.values()) < question.least_replicas or _fuller(question, counts, one)


def _fuller(question: Question, counts: Counts, one: Rated) -> bool:
    """Whether it stands in a failure domain that lacks replicas while too few have enough."""
    rule = question.slo.domains
    if question.domains_short(counts) == 0:
        return False
    domain = one.offer.domain(rule.key)
    there = (other for other in question.rated if other.offer.domain(rule.key) == domain)
    return sum(counts.get(other.offer.pool, 0) for other in there) < rule.min_replicas


def _price(question: Question, one: Rated) -> tuple[float, PoolRef]:
    return question.usd_per_hour(one) / question.weight(one), one.offer.pool


def trim(question: Question, counts: Counts) -> dict[PoolRef, int]:
    """Takes away what is not needed, the dearest for what it does first, as long as nothing gets worse."""
    found = {pool: count for pool, count in counts.items() if count > 0}
    lacks, short = question.lacks(found), question.domains_short(found)
    least = min(question.least_replicas, sum(found.values()))
    order = sorted(question.rated, key=lambda one: _price(question, one), reverse=True)
    for one in order:
        pool = one.offer.pool
        while found.get(pool, 0) > 0 and pool not in question.fixed:
            trial = {**found, pool: found[pool] - 1}
            worse = question.domains_short(trial) > short
            worse = worse or any(after > now for after, now in zip(question.lacks(trial), lacks, strict=True))
            if worse or sum(trial.values()) < least or not question.keeps_limits(trial):
                break
            found = {key: count for key, count in trial.items() if count > 0}
    return found


def stay(question: Question, counts: Counts) -> dict[PoolRef, int]:
    """With the quick replicas that are there, cost next to nothing beside others (owned ones, where on-prem goes
    first), and that `far` counts on: they would only be asked for again in a minute. The cheapest first."""
    found = dict(counts)
    dearest = max((question.usd_per_hour(one) for one in question.rated if question.most(one) > 0), default=0.0)
    for one in sorted(question.rated, key=lambda one: _price(question, one)):
        pool = one.offer.pool
        free = question.usd_per_hour(one) <= _FREE * dearest
        there = min(question.have.get(pool, 0), question.most(one)) if free and question.quick(one) else 0
        while found.get(pool, 0) < there and carried(question.rated, found) + ROUNDING < question.far_per_second:
            trial = {**found, pool: found.get(pool, 0) + 1}
            if not question.keeps_limits(trial):
                break
            found = trial
    return found
