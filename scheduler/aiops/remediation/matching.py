"""Which policy speaks for an incident, and what in the fleet it is about."""

from __future__ import annotations

from collections.abc import Sequence

from scheduler.aiops.remediation.facts import Fleet, IncidentLike, SubjectLike
from scheduler.model.ids import ClusterId, Instant, NodeName, PoolId, PoolRef, Uid
from scheduler.model.remediation import RemediationPolicy, Signal, Target


def policy_for(signal: Signal, policies: Sequence[RemediationPolicy]) -> RemediationPolicy | None:
    """The policy with the highest precedence that matches, by name among equals; None: none does."""
    for policy in sorted(policies, key=lambda each: (-each.precedence, each.name)):
        if _matches(policy, signal):
            return policy
    return None


def signal_of(incident: IncidentLike, fleet: Fleet, now: Instant) -> Signal:
    """The incident as expressions see it."""
    subject = incident.subject
    target = target_of(subject, fleet)
    node = fleet.node_of.get((str(target.cluster), target.node)) if target.node is not None else None
    workload = fleet.workload_of.get(target.workload) if target.workload is not None else None
    known = target.cluster is not None and target.pool is not None
    pool = fleet.pool_of.get(PoolRef(target.cluster, target.pool)) if known else None  # type: ignore[arg-type]
    gpus = node.gpus if node is not None else workload.gpus if workload is not None else 0
    return Signal(
        kind=incident.kind,
        severity=incident.severity,
        cluster=target.cluster or "",
        provider=pool.provider if pool is not None else "",
        region=pool.region if pool is not None else "",
        pool=target.pool or "",
        capacity_type=pool.capacity_type if pool is not None else "",
        node=target.node or "",
        gpu=subject.gpu or "",
        workload=workload.name if workload is not None else "",
        queue=workload.queue if workload is not None else "",
        gpus=gpus,
        age_seconds=max(0.0, now - incident.opened_at),
    )


def target_of(subject: SubjectLike, fleet: Fleet) -> Target:
    """What actions would act on. The pool is the node's own, whatever the incident says."""
    cluster = ClusterId(subject.cluster) if subject.cluster else None
    node = fleet.node_of.get((subject.cluster or "", subject.node)) if subject.node else None
    workload = fleet.workload_of.get(subject.workload) if subject.workload else None
    pool = PoolId(subject.pool) if subject.pool else None
    if node is not None:
        pool = node.pool.pool if node.pool is not None else None
    elif workload is not None and workload.pool is not None and cluster in (None, workload.pool.cluster):
        cluster, pool = workload.pool.cluster, pool or workload.pool.pool
    return Target(
        cluster=cluster,
        pool=pool,
        node=NodeName(subject.node) if subject.node else None,
        node_uid=node.uid if node is not None else "",
        workload=Uid(subject.workload) if subject.workload else None,
        gpu=subject.gpu or "",
    )


def _matches(policy: RemediationPolicy, signal: Signal) -> bool:
    if policy.signals and not any(_named(pattern, signal.kind) for pattern in policy.signals):
        return False
    if policy.severities and signal.severity not in policy.severities:
        return False
    return policy.expression is None or policy.expression.matches(signal)


def _named(pattern: str, kind: str) -> bool:
    return kind.startswith(pattern[:-1]) if pattern.endswith("*") else kind == pattern
