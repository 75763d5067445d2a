"""Which ServingSLO speaks for a workload."""

from __future__ import annotations

from scheduler.model.policy import PolicySet
from scheduler.model.serving_policy import ServingSLO
from scheduler.model.workload import Workload


def slo_of(workload: Workload, policies: PolicySet) -> ServingSLO | None:
    """The first that matches, highest precedence first, then by name; None: none does, or it is no service."""
    if not workload.runs_forever:
        return None
    for slo in sorted(policies.serving, key=lambda each: (-each.precedence, each.name)):
        match = slo.match
        if (
            (not match.queues or workload.queue in match.queues)
            and (not match.kinds or workload.ref.kind in match.kinds)
            and set(match.labels) <= set(workload.labels)
            and (match.expression is None or match.expression.matches(workload))
        ):
            return slo
    return None


def is_divided(workload: Workload, policies: PolicySet) -> bool:
    """Whether the division of services looks after it, and a cycle leaves it alone: it is divided already, or it is to
    be and runs nowhere as a whole. One that does is taken over from where it is."""
    return workload.intent is not None or (workload.placement is None and slo_of(workload, policies) is not None)
