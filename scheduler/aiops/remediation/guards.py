"""The guards: each says why one action must not begin now, or nothing.

All are always on. They run in the order of `GUARDS`, and the first refusal is what is told. Codes are stable; texts
carry no number that time changes, so that the same refusal is told once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from scheduler.aiops.remediation.breaker import half_open
from scheduler.aiops.remediation.facts import Fleet, IncidentLike, NodeFact, PoolFact, WorkloadFact
from scheduler.aiops.remediation.state import EXHAUSTED, Breaker, Case, Disruption
from scheduler.model.ids import Instant, PoolRef
from scheduler.model.remediation import (
    NODE_ACTIONS,
    NOTIFY,
    QUARANTINE_CLUSTER,
    QUARANTINES,
    REPLACE,
    SCALE_UP,
    WORKLOAD_ACTIONS,
    ActionRule,
    RemediationPolicy,
)
from scheduler.model.verdict import Reason


@dataclass(frozen=True, slots=True)
class Step:
    """An action that may begin, and all that its guards look at."""

    case: Case
    incident: IncidentLike
    policy: RemediationPolicy
    rule: ActionRule
    fleet: Fleet
    now: Instant
    node: NodeFact | None
    pool: PoolFact | None
    workload: WorkloadFact | None
    others: tuple[Case, ...]
    """All other cases as they stand after what this round has begun, in no order."""
    disruptions: tuple[Disruption, ...]
    """With those of this round."""
    memory_since: Instant
    breaker: Breaker | None

    @property
    def action(self) -> str:
        return self.rule.action

    @property
    def disrupts(self) -> bool:
        return self.action in NODE_ACTIONS or self.action in WORKLOAD_ACTIONS

    @property
    def begins(self) -> bool:
        """Whether the case disrupts that thing for the first time."""
        return disruption_key(self.case, self.action) not in self.case.begun

    @property
    def spends(self) -> bool:
        """Whether it is a disruption that is yet to come: what was begun counts when it takes effect."""
        waits = self.action in NODE_ACTIONS and self.node is not None and not self.node.held
        return self.begins or waits or self.action == SCALE_UP

    @property
    def approved(self) -> bool:
        return f"{self.incident.id}/{self.action}" in self.fleet.approved

    @property
    def ref(self) -> PoolRef | None:
        return self.pool.ref if self.pool is not None else None


Guard = Callable[[Step], Reason | None]


def cluster_unavailable(step: Step) -> Reason | None:
    cluster = step.case.target.cluster
    if cluster is None or cluster in step.fleet.available or step.action == NOTIFY:
        return None
    return Reason("ClusterUnavailable", f"cluster {cluster} is not synced or does not answer")


def other_owner(step: Step) -> Reason | None:
    """One owner of a node at a time."""
    node = step.node
    if node is None or step.action not in NODE_ACTIONS:
        return None
    if node.owner:
        return Reason("OtherOwner", f"{node.owner} has a hand on the node")
    mark = node.mark
    if node.held and mark is not None and mark.by != step.fleet.name:
        return Reason("OtherOwner", f"federation {mark.by} has a hand on the node")
    if node.held and mark is not None and mark.signal != step.incident.kind and step.begins:
        return Reason("OtherOwner", f"the node is closed for {mark.signal} already")
    return None


def do_not_disrupt(step: Step) -> Reason | None:
    if step.node is None or step.action not in NODE_ACTIONS or not step.node.do_not_disrupt:
        return None
    return Reason("DoNotDisrupt", "the node says that it must not be disrupted")


def busy(step: Step) -> Reason | None:
    """One remedy at a time for one thing."""
    if step.action == NOTIFY:
        return None
    subject, node = step.case.subject, step.case.target.node_uid
    there = [
        other.incident
        for other in step.others
        if (other.subject == subject and (other.phase != EXHAUSTED or other.holds_node))
        or (node and other.target.node_uid == node)
    ]
    return Reason("Busy", f"incident {min(there)} is being remedied there") if there else None


def too_young(step: Step) -> Reason | None:
    if step.action == NOTIFY or step.approved or not step.begins:
        return None
    if step.now - step.incident.opened_at < step.policy.guards.persist_seconds:
        return Reason("NotYet", "the signal has not lasted long enough")
    return None


def cooling_down(step: Step) -> Reason | None:
    """Nothing is disrupted again soon after: what flaps is disrupted once."""
    if step.action == NOTIFY or not step.begins:
        return None
    since = step.now - step.policy.guards.cool_down_seconds
    key = disruption_key(step.case, step.action)
    if any(each.key == key and each.at > since for each in step.disruptions) and not continues(step):
        return Reason("CoolDown", "it was disrupted not long ago")
    node, workload = step.node, step.workload
    marked = node is not None and node.mark is not None and node.mark.since > since
    if step.action in NODE_ACTIONS and marked and not continues(step):
        return Reason("CoolDown", "it was disrupted not long ago, as its mark says")
    interrupted = workload is not None and workload.interrupted_at is not None and workload.interrupted_at > since
    if step.action in WORKLOAD_ACTIONS and interrupted and step.memory_since > since:
        return Reason("CoolDown", "it was interrupted not long ago")
    return None


def just_come(step: Step) -> Reason | None:
    """A node is not replaced while it may itself have replaced another: of two disruptions in one place only one would
    show when memory is lost."""
    node = step.node
    if step.action == REPLACE and node is not None and node.created_at > step.now - step.policy.guards.rate_seconds:
        return Reason("JustCome", "the node came not long ago and is not replaced yet")
    return None


def breaker_open(step: Step) -> Reason | None:
    breaker = step.breaker
    if breaker is None or step.action == NOTIFY or step.approved or breaker.trial == step.incident.id:
        return None
    if half_open(breaker, step.now) and not breaker.trial:
        return None
    if breaker.cause == "alike":
        text = f"too many show {breaker.family} at once; suspect the monitor or the network"
        return Reason("BreakerOpen", text)
    return Reason("BreakerOpen", f"what was done about {breaker.family} did not help")


def outside_window(step: Step) -> Reason | None:
    windows = step.policy.guards.windows
    if not windows or not step.disrupts or step.approved or any(window.holds(step.now) for window in windows):
        return None
    return Reason("OutsideWindow", "outside the maintenance windows")


def over_budget(step: Step) -> Reason | None:
    """Away are nodes that are not usable, whoever took them away, and machines that are missing."""
    if step.action not in NODE_ACTIONS:
        return None
    if step.ref is None or step.pool is None or step.node is None:
        return Reason("NotOurs", "the node belongs to no pool of the federation")
    nodes = step.fleet.nodes_in.get(step.ref, ())
    away = {node.uid for node in nodes if not node.usable or node.held}
    there = {node.uid for node in nodes}
    away |= {
        other.target.node_uid for other in (*step.others, step.case) if other.holds_node
    } & there  # its mark may not have been seen yet
    away.add(step.node.uid)
    most = step.policy.guards.max_unavailable.of(len(nodes) + step.pool.missing)
    if len(away) + step.pool.missing > most:
        return Reason("OverBudget", f"more than {most} nodes of {step.ref} would be away at once")
    return None


def over_rate(step: Step) -> Reason | None:
    counted = step.disrupts or step.action == SCALE_UP
    if not counted or not step.spends or continues(step):
        return None
    if step.ref is None:
        return None if step.action in WORKLOAD_ACTIONS else Reason("NotOurs", "it belongs to no pool of the federation")
    if recent(step) >= step.policy.guards.rate:
        return Reason("OverRate", f"{step.ref} has had its disruptions for a while")
    return None


def too_much_quarantine(step: Step) -> Reason | None:
    if step.action not in QUARANTINES:
        return None
    closed = {pool for other in step.others for pool in quarantined_by(other, step.fleet)}
    closed |= set(pools_of(step.case, step.action, step.fleet))
    most = min(step.policy.guards.max_quarantined.of(len(step.fleet.pools)), len(step.fleet.pools) - 1)
    if len(closed) > most:
        return Reason("OverQuarantine", f"more than {most} pools would be quarantined at once")
    return None


def unapproved(step: Step) -> Reason | None:
    asked = step.rule.approval or (step.policy.guards.approval and step.disrupts)
    if not asked or step.approved:
        return None
    return Reason("ApprovalNeeded", f"`overspill incidents approve {step.incident.id}` lets it {step.action}")


GUARDS: Final[tuple[Guard, ...]] = (
    cluster_unavailable,
    other_owner,
    do_not_disrupt,
    busy,
    too_young,
    cooling_down,
    just_come,
    breaker_open,
    outside_window,
    too_much_quarantine,
    over_budget,
    over_rate,
    unapproved,
)
GOING_ON: Final[tuple[Guard, ...]] = (cluster_unavailable, other_owner, do_not_disrupt, over_budget, over_rate)
"""What stops an action that has begun, too: the fleet may have changed since."""


def refusal(step: Step) -> Reason | None:
    """The first; None: the action may begin."""
    return next((reason for guard in GUARDS if (reason := guard(step)) is not None), None)


def recent(step: Step) -> int:
    """Disruptions of the pool within the window of the rate: those remembered, or, while memory is shorter than the
    window, all that may have been one: marked nodes, young ones (each may have replaced another), missing machines,
    and workloads that were interrupted (wherever they are now)."""
    began = step.now - step.policy.guards.rate_seconds
    name = str(step.ref)
    own = (disruption_key(step.case, step.action), step.incident.id)
    known = {(each.key, each.incident) for each in step.disruptions if each.pool == name and each.at > began} - {own}
    if step.memory_since <= began:
        return len(known)
    keys = {key for key, _ in known}
    assert step.ref is not None
    seen = 0
    for node in step.fleet.nodes_in.get(step.ref, ()):
        marked = node.mark is not None and node.mark.since > began
        if (marked or node.created_at > began) and f"node/{node.cluster}/{node.name}" not in keys:
            seen += 1
    interrupted = sum(
        workload.interrupted_at is not None
        and workload.interrupted_at > began
        and f"workload/{workload.uid}" not in keys
        for workload in step.fleet.workloads
    )
    missing = step.pool.missing if step.pool is not None else 0
    return len(known) + seen + interrupted + missing


def continues(step: Step) -> bool:
    """Whether the node is still closed by us for that very signal (the memory of it was lost): not a second time."""
    node = step.node
    return (
        step.action in NODE_ACTIONS
        and node is not None
        and node.held
        and node.mark is not None
        and node.mark.by == step.fleet.name
        and node.mark.signal == step.incident.kind
    )


def disruption_key(case: Case, action: str) -> str:
    """What is disrupted, for cool-down."""
    target = case.target
    if action in NODE_ACTIONS:
        return f"node/{target.cluster}/{target.node}"
    if action in WORKLOAD_ACTIONS:
        return f"workload/{target.workload}"
    if action == QUARANTINE_CLUSTER:
        return f"{action}/{target.cluster}"
    if action in QUARANTINES or action == SCALE_UP:
        return f"{action}/{target.cluster}/{target.pool}"
    return action


def quarantined_by(case: Case, fleet: Fleet) -> tuple[PoolRef, ...]:
    return tuple(pool for action in QUARANTINES if action in case.tried for pool in pools_of(case, action, fleet))


def pools_of(case: Case, action: str, fleet: Fleet) -> tuple[PoolRef, ...]:
    """What a quarantine closes."""
    target = case.target
    if target.cluster is None:
        return ()
    if action == QUARANTINE_CLUSTER:
        return tuple(pool.ref for pool in fleet.pools if pool.ref.cluster == target.cluster)
    return (PoolRef(target.cluster, target.pool),) if target.pool is not None else ()
