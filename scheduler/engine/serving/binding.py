"""Which limits bind a division, and what each costs: the same question is asked again without it, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from scheduler.engine.serving.programme import Answer, solve
from scheduler.engine.serving.question import STAY_SECONDS, Question
from scheduler.model.division import Binding
from scheduler.model.serving_policy import DomainRule

_MOST: Final = 12
_LEAST_USD: Final = 0.005
"""An hour; less is nobody's concern."""
_WIDER: Final = 1000
"""Replicas that an offer is taken to have room for when its own limit is lifted."""


def binding(question: Question, answer: Answer, *, use_milp: bool = True) -> tuple[Binding, ...]:
    """The limits without which the division would be cheaper, or would serve more; the dearest first, at most _MOST."""
    cost, lacks = question.cost(answer.counts), sum(question.lacks(answer.counts))
    found = []
    for name, meaning, other in _without(question, answer):
        counts = solve(other, use_milp=use_milp).counts
        # Reckoned by the same question, so that only the limit differs.
        less, more = cost - other.cost(counts), lacks - sum(other.lacks(counts))
        usd = round(less * 3600.0 / STAY_SECONDS, 6)
        if more > 1e-9:
            found.append(Binding(name, f"{meaning}; without it {more:.3g} requests/s more would be served", None))
        elif usd >= _LEAST_USD:
            found.append(Binding(name, meaning, usd))
    return tuple(sorted(found, key=lambda one: (one.saves_usd_per_hour is not None, -(one.saves_usd_per_hour or 0.0),
                                                one.name))[:_MOST])  # fmt: skip


def _without(question: Question, answer: Answer) -> Iterator[tuple[str, str, Question]]:
    """The question without each limit that could bind."""
    slo = question.slo
    if slo.max_reclaimable_share < 1.0:
        text = f"at most {100 * slo.max_reclaimable_share:g} % of the capacity on spot nodes"
        yield "maxReclaimableShare", text, replace(question, slo=replace(slo, max_reclaimable_share=1.0))
    if slo.max_provider_share < 1.0:
        text = f"at most {100 * slo.max_provider_share:g} % of the capacity at one provider"
        yield "maxProviderShare", text, replace(question, slo=replace(slo, max_provider_share=1.0))
    if slo.domains.min_replicas > 0:
        text = f"{slo.domains.min_replicas} replicas in each of {slo.domains.domains} by {slo.domains.key}"
        yield "failureDomains", text, replace(question, slo=replace(slo, domains=DomainRule()))
    if slo.scaling.max_replicas is not None and sum(answer.counts.values()) >= slo.scaling.max_replicas:
        wider = replace(slo, scaling=replace(slo.scaling, max_replicas=None))
        yield "maxReplicas", f"at most {slo.scaling.max_replicas} replicas", replace(question, slo=wider)
    for index, one in enumerate(question.rated):
        full = answer.counts.get(one.offer.pool, 0) >= question.most(one) > 0
        if full and one.offer.pool not in question.fixed:
            room = replace(one, offer=replace(one.offer, most_replicas=one.offer.most_replicas + _WIDER))
            rated = (*question.rated[:index], room, *question.rated[index + 1 :])
            text = f"room for {one.offer.most_replicas} replicas on {one.offer.pool}"
            yield f"room/{one.offer.pool}", text, replace(question, rated=rated)
