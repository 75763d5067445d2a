"""The federation as the choice of a remedy looks at it, read off the mirror. No I/O."""

from __future__ import annotations

from clusters.kubernetes.codec import NodeFacts
from clusters.kubernetes.reclaim import OTHER_OWNERS
from scheduler.aiops.remediation.facts import Fleet, NodeFact, PoolFact, WorkloadFact
from scheduler.daemon.state.member_mirror import MemberMirror
from scheduler.daemon.state.mirror import Mirror
from scheduler.model.cluster import NodePool
from scheduler.model.contract import TAINT_REMEDIATION
from scheduler.model.workload import PlacementState, Workload

REMEDIATORS = frozenset(
    {
        "medik8s.io/remediation",
        "remediator.aks.microsoft.com/unschedulable",
        "node.kubernetes.io/out-of-service",
        "cloud.google.com/impending-node-termination",
    }
)
"""Taints of other controllers that mend, fence or take nodes away."""
_NOT_YET_PLACED = (PlacementState.RESERVED, PlacementState.RELEASING)


def fleet_of(mirror: Mirror, *, paused: bool, approved: frozenset[str]) -> Fleet:
    """Everything that is known now; clusters that do not answer are told of, and marked as such."""
    nodes: list[NodeFact] = []
    pools: list[PoolFact] = []
    for member in mirror.members.values():
        nodes += [_node(member, facts) for facts in member.nodes.values()]
        pools += [_pool(member, pool) for pool in member.pools()]
    return Fleet(
        nodes=tuple(nodes),
        pools=tuple(pools),
        workloads=tuple(_workload(entry.workload) for entry in mirror.hub.values() if not entry.workload.finished),
        available=mirror.available(),
        name=mirror.federation.name,
        paused=paused,
        approved=approved,
    )


def is_held(facts: NodeFacts) -> bool:
    """Whether a remedy has closed the node."""
    return any(taint.key == TAINT_REMEDIATION for taint in facts.taints)


def owner_of(facts: NodeFacts, member: MemberMirror) -> str:
    """Who else has a hand on the node; empty: nobody."""
    for taint in facts.taints:
        if taint.key in OTHER_OWNERS or taint.key in REMEDIATORS:
            return f"the owner of taint {taint.key}"
    if facts.uid in member.reclaims:
        return "its cloud, which takes it back,"
    if facts.deleting:
        return "whoever deletes it"
    if facts.unschedulable and not is_held(facts):
        return "whoever has cordoned it"
    return ""


def _node(member: MemberMirror, facts: NodeFacts) -> NodeFact:
    pool = member.pool_of(facts)
    return NodeFact(
        cluster=member.member.id,
        pool=pool.ref if pool is not None else None,
        name=facts.name,
        uid=facts.uid,
        created_at=facts.created_at,
        usable=facts.ready and not facts.unschedulable and not facts.deleting and facts.uid not in member.reclaims,
        mark=facts.mark,
        held=is_held(facts),
        owner=owner_of(facts, member),
        do_not_disrupt=facts.do_not_disrupt,
        gpus=facts.allocatable.gpus,
    )


def _pool(member: MemberMirror, pool: NodePool) -> PoolFact:
    there = [facts for facts in member.nodes.values() if (found := member.pool_of(facts)) and found.ref == pool.ref]
    managed = pool.scaling == "managed" and pool.desired_nodes is not None
    missing = max(0, (pool.desired_nodes or 0) - len(there)) if managed else 0
    return PoolFact(
        ref=pool.ref,
        provider=member.member.provider_type,
        region=member.member.region,
        capacity_type=pool.capacity_type,
        replaceable=managed,
        growable=managed,
        missing=missing,
    )


def _workload(workload: Workload) -> WorkloadFact:
    placement, ref = workload.placement, workload.ref
    runs = placement is not None and placement.state not in _NOT_YET_PLACED
    return WorkloadFact(
        uid=ref.uid,
        name=str(ref),
        queue=workload.queue,
        pool=placement.pool_ref if placement is not None and runs else None,
        serving=workload.runs_forever,
        gpus=workload.requests.gpus,
        interrupted_at=workload.queued_at if workload.queued_at > workload.created_at else None,
    )
