"""The working state of one choice: incidents, cases, what has been given out, and why what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scheduler.aiops.remediation import breaker as breakers
from scheduler.aiops.remediation import guards
from scheduler.aiops.remediation.facts import (
    RESOLVED,
    SUPPRESSED,
    Fleet,
    IncidentLike,
    NodeFact,
    PoolFact,
    WorkloadFact,
    family,
    subject_key,
)
from scheduler.aiops.remediation.matching import policy_for, signal_of
from scheduler.aiops.remediation.state import Breaker, Case, Disruption, RemediationState
from scheduler.model.ids import Instant, PoolRef
from scheduler.model.remediation import NOTIFY, SCALE_UP, Action, ActionRule, RemediationPolicy
from scheduler.model.verdict import Reason


@dataclass(frozen=True, slots=True)
class Note:
    """Why something is not done (yet), or what would be."""

    incident: str
    policy: str
    action: str
    reason: Reason


class Round:
    """One call's working state; nothing of it outlives the call."""

    def __init__(
        self,
        incidents: dict[str, IncidentLike],
        state: RemediationState,
        policies: Sequence[RemediationPolicy],
        fleet: Fleet,
        now: Instant,
    ) -> None:
        self.incidents = incidents
        self.state = state
        self.fleet = fleet
        self.now = now
        self.policies = {policy.name: policy for policy in policies}
        self.policy_of = {
            incident.id: policy
            for incident in incidents.values()
            if (policy := policy_for(signal_of(incident, fleet, now), policies)) is not None
        }
        self.cases = {case.incident: case for case in state.cases}
        self.open = {
            (subject_key(incident.subject), incident.kind)
            for incident in incidents.values()
            if incident.state not in (RESOLVED, SUPPRESSED)
        }
        self.actions: list[Action] = []
        self.notes: list[Note] = []
        self.breakers: dict[breakers.Key, Breaker] = {}

    def step(self, case: Case, incident: IncidentLike, policy: RemediationPolicy, rule: ActionRule) -> guards.Step:
        node, pool, workload = _things(case, self.fleet)
        return guards.Step(
            case=case,
            incident=incident,
            policy=policy,
            rule=rule,
            fleet=self.fleet,
            now=self.now,
            node=node,
            pool=pool,
            workload=workload,
            others=tuple([other for key, other in self.cases.items() if key != case.incident]),
            disruptions=self.state.disruptions,
            memory_since=self.state.since,
            breaker=self.breakers.get((policy.name, family(incident.kind))),
        )

    def spend(self, step: guards.Step) -> Instant:
        """Count the disruption as of now, until it has taken effect; since when it counts."""
        if step.action == NOTIFY:
            return self.now
        key = guards.disruption_key(step.case, step.action)
        own = [each for each in self.state.disruptions if each.key == key and each.incident == step.incident.id]
        if own and not step.spends:
            return max(each.at for each in own)
        mark = step.node.mark if step.node is not None and guards.continues(step) else None
        at = self.now if mark is None else min(self.now, mark.since)
        counts = (step.disrupts or step.action == SCALE_UP) and step.ref is not None
        entry = Disruption(key, str(step.ref) if counts else "", at, step.incident.id)
        others = [each for each in self.state.disruptions if each not in own or key not in step.case.begun]
        self.state = replace(self.state, disruptions=(*others, entry))
        return at

    def note(self, case: Case, action: str, code: str, text: str) -> None:
        self.notes.append(Note(case.incident, case.policy, action, Reason(code, text)))


def _things(case: Case, fleet: Fleet) -> tuple[NodeFact | None, PoolFact | None, WorkloadFact | None]:
    """Node, pool and workload of the case, as far as they are there."""
    target = case.target
    node = fleet.node_of.get((str(target.cluster), target.node)) if target.node is not None else None
    if node is not None and node.uid != target.node_uid:
        node = None
    workload = fleet.workload_of.get(target.workload) if target.workload is not None else None
    ref = node.pool if node is not None else None
    if ref is None and target.cluster is not None and target.pool is not None:
        ref = PoolRef(target.cluster, target.pool)
    if ref is None and workload is not None:
        ref = workload.pool
    return node, fleet.pool_of.get(ref) if ref is not None else None, workload
