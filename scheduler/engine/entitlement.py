"""Who may take from whom: a queue its own from those who borrow it, a higher priority from a lower one of its queue.

What follows makes it certain that a federation comes to rest. Let u(q, p) be what the runs of queue q with priority p
or more use of a resource, and c(q, p) the part of it within the queue's nominal quota. Whoever takes stays within
nominal together with all runs of at least its own priority, so c(q, p) rises at its priority; the runs that it stops
in its own queue have a lower one. A run of another queue is stopped only if the runs of at least its priority that stay
still use all of that queue's nominal quota: there c stays as it is, at every priority. So with each run that is stopped
the sums of c over the queues, highest priority first, rise; they are bounded, so this ends. A run with GPUs is stopped
only for one with GPUs, which puts GPUs before cores in that order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final

from scheduler.engine.quota import QuotaLedger
from scheduler.engine.world import World
from scheduler.model.ids import QueueId
from scheduler.model.policy import QueueSpec
from scheduler.model.resources import Resources
from scheduler.model.workload import PlacementState, Workload

_NOTHING: Final = Resources()
Levels = Mapping[QueueId, Mapping[int, Resources]]
"""Amounts by queue and priority."""
NOBODY: Final[Levels] = MappingProxyType({})


class Entitlement:
    """One cycle's. Counts what stays: without what is on its way out, and with those who are promised room."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._by_priority: dict[QueueId, dict[int, Resources]] = defaultdict(dict)
        self._ledger = QuotaLedger(world.policies)
        self._outranking: dict[QueueId, int] = {}
        """The lowest priority in each queue, of those who wait as well."""
        for workload in world.workloads:
            if workload.finished or workload.deleting or workload.suspended:
                continue
            lowest = self._outranking.get(workload.queue, workload.priority)
            self._outranking[workload.queue] = min(lowest, workload.priority)
            if stays(workload) and workload.ref.uid not in world.released:
                self.add(workload, 1)

    def add(self, workload: Workload, sign: int) -> None:
        """It has room or is getting it; with -1 it is leaving."""
        asked = self._requests(workload).times(sign)
        _count(self._by_priority[workload.queue], workload.priority, asked)
        self._ledger.add(workload.queue, asked)

    def entitled(self, workload: Workload) -> bool:
        """Whether others may be stopped for it, if there are such: its queue says so, and with all runs that it may
        not stop there the queue stays within its nominal quota."""
        spec = self._world.quotas.spec(workload.queue)
        asked = self._requests(workload)
        if not asked.amount(principal(asked)):
            return False
        if spec.preemption.lower_priority and self._outranking[workload.queue] < workload.priority:
            return _within(spec, self._used(workload.queue, workload.priority), asked)
        return spec.preemption.reclaim and _within(spec, self._used(workload.queue), asked)

    def may_stop(self, victim: Workload, taker: Workload, gone: Levels = NOBODY) -> bool:
        """Whether the one may be stopped for the other, who is entitled, when so much has been stopped already.
        O(priorities in the two queues)."""
        spec = self._world.quotas.spec(taker.queue)
        held, asked = self._requests(victim), self._requests(taker)
        resource = principal(held)
        if victim.runs_forever or not asked.amount(resource):
            return False
        if victim.queue == taker.queue:
            return spec.preemption.lower_priority and victim.priority < taker.priority
        theirs = self._world.quotas.spec(victim.queue)
        if not spec.preemption.reclaim or spec.cohort is None or theirs.cohort != spec.cohort:
            return False
        nominal = _nominal(theirs, resource)
        if nominal is None or _nominal(spec, resource) is None or not held.amount(resource):
            return False
        if not _within(spec, self._used(taker.queue), asked):
            return False
        left = self._used(victim.queue, victim.priority).amount(resource) - held.amount(resource)
        stopped = gone.get(victim.queue, {})
        left -= sum(each.amount(resource) for priority, each in stopped.items() if priority >= victim.priority)
        return left >= nominal

    def allowed(self, taker: Workload, order: Iterable[Workload]) -> list[bool]:
        """Of each in that order, whether it may be stopped for the taker when those before it that may are stopped:
        as long as no queue loses what is its own."""
        gone: defaultdict[QueueId, dict[int, Resources]] = defaultdict(dict)
        answers: list[bool] = []
        for victim in order:
            answers.append(self.may_stop(victim, taker, gone))
            if answers[-1]:
                _count(gone[victim.queue], victim.priority, self._requests(victim))
        return answers

    def has_quota(self, workload: Workload, gone: Iterable[Workload]) -> bool:
        """Whether its quota lets it start when those have gone."""
        before = dict(self._ledger.used)
        for each in gone:
            self._ledger.add(each.queue, self._requests(each).times(-1))
        refused = self._ledger.refusal(workload.queue, self._requests(workload))
        self._ledger.used = before
        return refused is None

    def _used(self, queue: QueueId, least_priority: int | None = None) -> Resources:
        """By its runs of at least that priority; None: by all."""
        total = _NOTHING
        for priority, used in self._by_priority[queue].items():
            if least_priority is None or priority >= least_priority:
                total = total + used
        return total

    def _requests(self, workload: Workload) -> Resources:
        return self._world.shape_of(workload).requests


def _count(levels: dict[int, Resources], priority: int, amount: Resources) -> None:
    levels[priority] = levels.get(priority, _NOTHING) + amount


def stays(workload: Workload) -> bool:
    """Whether it has a placement and keeps it."""
    placement = workload.placement
    return (
        placement is not None
        and placement.state is not PlacementState.RELEASING
        and not (workload.finished or workload.deleting or workload.suspended)
    )


def principal(requests: Resources) -> str:
    """The resource by which it is told whether a run is within quota or borrows."""
    return "gpu" if requests.gpus else "cpu"


def _nominal(spec: QueueSpec, resource: str) -> int | None:
    return next((quota.nominal for quota in spec.quotas if quota.resource == resource), None)


def _within(spec: QueueSpec, used: Resources, asked: Resources) -> bool:
    return all(
        used.amount(quota.resource) + asked.amount(quota.resource) <= quota.nominal
        for quota in spec.quotas
        if asked.amount(quota.resource)
    )
