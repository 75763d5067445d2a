"""An answer without a solver, and the polish of any answer: one replica at a time, within every hard limit.

Used where the programme finds none in time, and to give back what a linear view of capacity took too much.
"""

from __future__ import annotations

from typing import Final

from scheduler.engine.serving.capacity import Rated
from scheduler.engine.serving.question import Counts, Question
from scheduler.model.ids import PoolRef

_MOST_STEPS: Final = 20_000


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
    lacks, short = question.lacks(counts), question.domains_short(counts)
    pairs = [(one, other) for index, one in enumerate(order) for other in order[index + 1 :]]
    for steps in ([(one,) for one in order], pairs):
        best: tuple[float, int, tuple[Rated, ...]] | None = None
        for index, step in enumerate(steps):
            trial = dict(counts)
            for one in step:
                trial[one.offer.pool] = trial.get(one.offer.pool, 0) + 1
            if not question.keeps_limits(trial):
                continue
            gain = lacks - question.lacks(trial)
            few = sum(counts.values()) < question.least_replicas
            closer = question.domains_short(trial) < short or _fuller(question, counts, trial)
            if gain <= 0 and not few and not closer and lacks <= 0:
                continue
            # More servers share a queue better: the first ones bring little, yet lead somewhere.
            brings = max(gain, 0.1 * sum(question.weight(one) for one in step))
            worth = (question.cost(trial) - question.cost(counts)) / (brings * (10.0 if closer and short else 1.0))
            if best is None or (worth, index) < best[:2]:
                best = worth, index, step
        if best is not None:
            return best[2]
    return None


def _fuller(question: Question, counts: Counts, trial: Counts) -> bool:
    """Whether a domain that lacks replicas has one more."""
    rule = question.slo.domains
    if question.domains_short(counts) == 0:
        return False
    return any(
        trial.get(one.offer.pool, 0) > counts.get(one.offer.pool, 0)
        and sum(
            counts.get(other.offer.pool, 0)
            for other in question.rated
            if other.offer.domain(rule.key) == one.offer.domain(rule.key)
        )
        < rule.min_replicas
        for one in question.rated
    )


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
            worse = question.lacks(trial) > lacks or question.domains_short(trial) > short
            if worse or sum(trial.values()) < least or not question.keeps_limits(trial):
                break
            found = {key: count for key, count in trial.items() if count > 0}
    return found
