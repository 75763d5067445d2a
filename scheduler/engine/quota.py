"""Quota arithmetic: nominal amounts per queue, borrowed and lent within a cohort.

The rules are Kueue's for a flat cohort (kubernetes-sigs/kueue pkg/cache/scheduler/resource_node.go): what a queue may
not lend is guaranteed to it; the rest of everyone's nominal quota is one pot, from which a queue takes its own part
and, up to its borrowing limit, more.
"""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

from scheduler.model.ids import QueueId
from scheduler.model.policy import PolicySet, QueueSpec, Quota
from scheduler.model.resources import Resources
from scheduler.model.verdict import Reason


class QuotaLedger:
    """What each queue uses, against its quota. Changed in place within one cycle."""

    def __init__(self, policies: PolicySet) -> None:
        self._specs = {spec.id: spec for spec in sorted(policies.queues, key=lambda spec: spec.id)}
        self._quotas = {spec.id: {quota.resource: quota for quota in spec.quotas} for spec in self._specs.values()}
        self._members: dict[str, list[QueueSpec]] = defaultdict(list)
        for spec in self._specs.values():
            if spec.cohort is not None:
                self._members[spec.cohort].append(spec)
        self.used: dict[QueueId, Resources] = {}

    def defined(self, queue: QueueId) -> bool:
        return queue in self._specs

    def spec(self, queue: QueueId) -> QueueSpec:
        """The queue's own object, or that of a queue that nobody defined: no quota, weight 1."""
        return self._specs.get(queue) or QueueSpec(queue)

    def add(self, queue: QueueId, requests: Resources) -> None:
        before = self.used.get(queue)
        self.used[queue] = requests if before is None else before + requests

    def available(self, queue: QueueId, resource: str) -> int | None:
        """How much more of `resource` the queue may use, borrowing included; None: it has no quota for it.

        Units: as in `Quota`. Negative when the queue or its cohort uses more than it may. O(members of the cohort).
        """
        quota = self._quotas.get(queue, {}).get(resource)
        if quota is None:
            return None
        used = self._used(queue, resource)
        cohort = self._specs[queue].cohort
        if cohort is None:
            return quota.nominal - used
        pot = sum(self._left_in_pot(member, resource) for member in self._members[cohort])
        guaranteed = _guaranteed(quota)
        if quota.borrowing_limit is not None:
            own_part = (quota.nominal - guaranteed) - max(0, used - guaranteed)
            pot = min(pot, own_part + quota.borrowing_limit)
        return max(0, guaranteed - used) + pot

    def refusal(self, queue: QueueId, requests: Resources) -> Reason | None:
        """Why the queue may not use `requests` more; None: it may. The text changes only when the cause does."""
        for quota in self._quotas.get(queue, {}).values():
            asked = requests.amount(quota.resource)
            available = self.available(queue, quota.resource)
            if asked and available is not None and asked > available:
                return Reason("QuotaExceeded", self._why(queue, quota, asked))
        return None

    def most(self, queue: QueueId, requests: Resources, limit: int) -> int:
        """How many times `requests` the queue may still use, at most `limit`: each use takes as much off what is
        available as it asks for."""
        for quota in self._quotas.get(queue, {}).values():
            asked = requests.amount(quota.resource)
            available = self.available(queue, quota.resource)
            if asked and available is not None:
                limit = min(limit, max(0, available // asked))
        return limit

    def _why(self, queue: QueueId, quota: Quota, asked: int) -> str:
        cohort = self._specs[queue].cohort
        limit = f"queue {queue}: {quota.resource} quota of {_amount(quota.resource, quota.nominal)}"
        if cohort is None:
            return f"{limit} does not leave room for it"
        others = (member for member in self._members[cohort] if member.id != queue)
        borrowers = [member.id for member in others if self._borrows(member, quota.resource)]
        if borrowers and self._used(queue, quota.resource) + asked <= quota.nominal:
            return f"{limit} is lent out to {', '.join(borrowers)}"
        return f"{limit} is used up and cohort {cohort} has too little left to borrow"

    def _used(self, queue: QueueId, resource: str) -> int:
        used = self.used.get(queue)
        return 0 if used is None else used.amount(resource)

    def _borrows(self, member: QueueSpec, resource: str) -> bool:
        quota = self._quotas[member.id].get(resource)
        return quota is not None and self._used(member.id, resource) > quota.nominal

    def _left_in_pot(self, member: QueueSpec, resource: str) -> int:
        quota = self._quotas[member.id].get(resource)
        if quota is None:
            return 0
        guaranteed = _guaranteed(quota)
        return (quota.nominal - guaranteed) - max(0, self._used(member.id, resource) - guaranteed)


def _guaranteed(quota: Quota) -> int:
    """The part of its nominal quota that the queue never lends."""
    return 0 if quota.lending_limit is None else max(0, quota.nominal - quota.lending_limit)


def _amount(resource: str, amount: int) -> str:
    """An amount as people write it."""
    if resource == "cpu":
        return f"{float(Fraction(amount, 1000)):g}"
    if resource == "memory":
        return f"{float(Fraction(amount, 2**30)):g}Gi"
    return str(amount)
