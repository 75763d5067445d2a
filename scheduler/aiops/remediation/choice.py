"""The choice: incidents, memory, policies and the fleet in; what is to be done now, the new memory, and why not out.

Pure. `remediate` is called again and again; an action that it gives out is given out again until `settle` says what
came of it, so whoever carries actions out does each once, by its id. A case goes

    ready -> acting -> (verifying ->) ready -> ... -> holding | exhausted
    and, from anywhere, once the signal is gone: recovering -> (undoing ->) gone
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.aiops.remediation import breaker as breakers
from scheduler.aiops.remediation import guards
from scheduler.aiops.remediation.cases import judge, next_step, resumed
from scheduler.aiops.remediation.facts import (
    RESOLVED,
    SUPPRESSED,
    Fleet,
    IncidentLike,
    NodeFact,
    PoolFact,
    WorkloadFact,
    family,
    severity_rank,
    subject_key,
)
from scheduler.aiops.remediation.matching import policy_for, signal_of, target_of
from scheduler.aiops.remediation.order import ordered
from scheduler.aiops.remediation.state import (
    ACTING,
    EXHAUSTED,
    HOLDING,
    MAX_CASES,
    READY,
    RECOVERING,
    UNDOING,
    VERIFYING,
    Breaker,
    Case,
    Disruption,
    RemediationState,
    bounded,
)
from scheduler.model.ids import Instant, PoolRef
from scheduler.model.remediation import (
    CONTAINING,
    NODE_ACTIONS,
    NOTIFY,
    QUARANTINE_CLUSTER,
    QUARANTINE_POOL,
    REPLACE,
    SCALE_UP,
    UNDO,
    WORKLOAD_ACTIONS,
    Action,
    ActionRule,
    RemediationPolicy,
)
from scheduler.model.verdict import Reason

FORGOTTEN_SECONDS: Final = 86400.0
"""A case whose incident nobody has told of for so long is given up; its node stays as it is."""
_MERGES: Final = 20
"""So many merges of incidents are followed."""
_NOT_JUDGED: Final = frozenset({RECOVERING, UNDOING, EXHAUSTED})


@dataclass(frozen=True, slots=True)
class Note:
    """Why something is not done (yet), or what would be."""

    incident: str
    policy: str
    action: str
    reason: Reason


@dataclass(frozen=True, slots=True)
class Remedy:
    """`actions`: all that should be under way now."""

    actions: tuple[Action, ...]
    state: RemediationState
    notes: tuple[Note, ...]


def remediate(
    incidents: Iterable[IncidentLike],
    state: RemediationState,
    policies: Sequence[RemediationPolicy],
    fleet: Fleet,
    now: Instant,
) -> Remedy:
    """What is to be done at `now`; the same for every order of the input.

    While `fleet.paused`, nothing at all, and no time passes for the cases. A policy in dry run only leaves notes.
    """
    if fleet.paused:
        since = now if state.paused_since is None else min(state.paused_since, now)
        note = Note("", "", "", Reason("Paused", "remediation is paused for the whole fleet"))
        return Remedy((), replace(state, paused_since=since), (note,))
    known: dict[str, IncidentLike] = {}
    for incident in sorted(incidents, key=_by_id):
        known.setdefault(incident.id, incident)
    return _Round(known, resumed(bounded(state, now), now), policies, fleet, now).run()


class _Round:
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

    def run(self) -> Remedy:
        for case in sorted(self.cases.values(), key=lambda each: each.incident):
            self._advance(case)
        self._look_at_breakers()
        for case, incident in self._waiting():
            self._begin(case, incident)
        for case in sorted(self.cases.values(), key=lambda each: each.incident):
            self._give_out(case)
        state = replace(self.state, cases=tuple(self.cases.values()), breakers=tuple(self.breakers.values()))
        notes = sorted(self.notes, key=lambda note: (note.incident, note.policy, note.action, note.reason))
        return Remedy(tuple(self.actions), bounded(state, self.now), tuple(notes))

    # -- cases that are under way --------------------------------------------------------------------------------

    def _advance(self, case: Case) -> None:
        """What time and the signal alone change."""
        incident = self.incidents.get(case.incident)
        if incident is not None:
            case = replace(case, seen_at=self.now)
        elif self.now - case.seen_at > FORGOTTEN_SECONDS:
            del self.cases[case.incident]
            return
        self.cases[case.incident] = case
        policy = self.policies.get(case.policy)
        if policy is None or policy.guards.dry_run:
            if case.holds_node:
                self._note(case, case.action, "NoPolicy", "its policy is gone or in dry run; the node stays closed")
            else:
                # What it has in force (a quarantine, a pause) ends with it.
                del self.cases[case.incident]
            return
        if case.phase == UNDOING:
            return
        if self._is_well(case, incident):
            self._recover(case, policy)
        elif case.phase == RECOVERING:
            # It flaps. What is closed stays closed, and time runs anew before anything else is tried.
            due = self.now + policy.guards.healthy_seconds
            self.cases[case.incident] = replace(case, phase=VERIFYING, well_since=None, due=due)
            self._note(case, case.action, "Flapping", "the signal came back")
        elif case.phase in (ACTING, VERIFYING) and case.due is not None and self.now >= case.due:
            if incident is None and case.phase == VERIFYING:
                self._note(case, case.action, "Unknown", "nobody tells of the incident any more")
                return
            if not case.judged:
                self._judge(case, helped=False)
            self.cases[case.incident] = next_step(replace(case, judged=True))

    def _is_well(self, case: Case, incident: IncidentLike | None) -> bool:
        """Whether the signal is gone: told so, or its node is no longer there. Not knowing is not well."""
        if case.target.node_uid:
            node = self.fleet.node_of.get((str(case.target.cluster), str(case.target.node)))
            seen = case.target.cluster in self.fleet.available
            if seen and (node is None or node.uid != case.target.node_uid):
                return True
        told = self._root(incident)
        resolved = told is not None and told.state == RESOLVED
        return resolved and (case.subject, case.kind) not in self.open

    def _root(self, incident: IncidentLike | None) -> IncidentLike | None:
        """The incident that this one became part of, else itself."""
        for _ in range(_MERGES):
            root = self.incidents.get(str(getattr(incident, "merged_into", "") or ""))
            if root is None:
                break
            incident = root
        return incident

    def _recover(self, case: Case, policy: RemediationPolicy) -> None:
        if case.phase != RECOVERING:
            mends = case.phase in (VERIFYING, HOLDING, ACTING) and case.tried and case.tried[-1] not in CONTAINING
            if mends and not case.judged:
                self._judge(case, helped=True)
            case = replace(case, phase=RECOVERING, judged=True, well_since=self.now, due=None)
        if not case.undoes:
            del self.cases[case.incident]
            return
        if case.well_since is not None and self.now >= case.well_since + policy.guards.healthy_seconds:
            case = replace(case, phase=UNDOING, attempt=case.attempt + 1)
        self.cases[case.incident] = case

    def _judge(self, case: Case, *, helped: bool) -> None:
        self.state = judge(self.state, case, helped=helped, now=self.now)

    # -- the breakers ----------------------------------------------------------------------------------------------

    def _look_at_breakers(self) -> None:
        spoken = [(self.incidents[key], policy) for key, policy in sorted(self.policy_of.items())]
        before = {(each.policy, each.family): self._trial_over(each) for each in self.state.breakers}
        self.breakers = breakers.look(before, spoken, self.state.outcomes, self.now)

    def _trial_over(self, breaker: Breaker) -> Breaker:
        """Without its trial, when that came to nothing."""
        case = self.cases.get(breaker.trial)
        if breaker.trial and (case is None or case.phase in _NOT_JUDGED or case.since is None):
            return replace(breaker, trial="")
        if breaker.trial and case is not None and case.phase == HOLDING:
            # Contained, and nothing to judge by: another may be tried after a pause.
            return replace(breaker, trial="", over_at=self.now)
        return breaker

    # -- what may begin ----------------------------------------------------------------------------------------------

    def _waiting(self) -> list[tuple[Case, IncidentLike]]:
        """Cases whose next step is due: the pool that was disrupted longest ago first, then the most urgent."""
        last = {each.pool: each.at for each in sorted(self.state.disruptions, key=lambda each: each.at)}
        found: list[tuple[tuple[object, ...], Case, IncidentLike]] = []
        for incident in self.incidents.values():
            case = self.cases.get(incident.id) or self._new_case(incident)
            if case is None or case.phase != READY or incident.state == RESOLVED:
                continue
            if incident.state == SUPPRESSED:
                self._note(case, case.action, "Suppressed", "the incident is suppressed")
                continue
            pool = f"{case.target.cluster}/{case.target.pool}" if case.target.pool else ""
            order = (
                case.since is None, last.get(pool, float("-inf")), severity_rank(incident.severity),
                incident.opened_at, incident.id,
            )  # fmt: skip
            found.append((order, case, incident))
        return [(case, incident) for _, case, incident in sorted(found, key=lambda each: each[0])]

    def _new_case(self, incident: IncidentLike) -> Case | None:
        if incident.state in (RESOLVED, SUPPRESSED):
            return None
        policy = self.policy_of.get(incident.id)
        if policy is None:
            self.notes.append(Note(incident.id, "", "", Reason("NoPolicy", "no policy speaks of it")))
            return None
        return Case(
            incident=incident.id,
            kind=incident.kind,
            policy=policy.name,
            subject=subject_key(incident.subject),
            target=target_of(incident.subject, self.fleet),
            order=ordered(policy, incident.kind, self.state.outcomes),
            phase=READY,
            seen_at=self.now,
        )

    def _begin(self, case: Case, incident: IncidentLike) -> None:
        """Give out the next step that applies, if the guards let it pass."""
        policy = self.policies.get(case.policy)
        if policy is None:
            self._note(case, "", "NoPolicy", "its policy is gone")
            return
        if case.since is None:
            case = replace(case, target=target_of(incident.subject, self.fleet))
        signal = signal_of(incident, self.fleet, self.now)
        while case.action:
            rule = next((each for each in policy.actions if each.action == case.action), None)
            why = "the policy has no such step any more" if rule is None else self._inapplicable(case, rule)
            if why is None and rule is not None and (rule.expression is None or rule.expression.matches(signal)):
                break
            if why is not None:
                self._note(case, case.action, "NotApplicable", why)
            case = replace(case, step=case.step + 1)
        else:
            if case.incident in self.cases:
                self.cases[case.incident] = replace(case, phase=EXHAUSTED if case.tried else READY)
            if case.tried or not case.order:
                self._note(case, "", "Exhausted", "nothing that the policy knows is left to try")
            return
        assert rule is not None
        step = self._step(case, incident, policy, rule)
        reason = guards.refusal(step)
        if reason is None and policy.guards.dry_run:
            reason = Reason("DryRun", f"would {rule.action}")
        if reason is None and case.incident not in self.cases and len(self.cases) >= MAX_CASES:
            reason = Reason("TooMany", "more incidents are under way than can be kept in mind")
        if reason is not None:
            self.notes.append(Note(case.incident, policy.name, rule.action, reason))
            if case.incident in self.cases:
                self.cases[case.incident] = case
            return
        self._start(step)

    def _start(self, step: guards.Step) -> None:
        case, rule = step.case, step.rule
        key = guards.disruption_key(case, rule.action)
        if rule.action != NOTIFY and key not in case.begun:
            case = replace(case, begun=(*case.begun, key), since=self.now if case.since is None else case.since)
        self._spend(step)
        breaker = step.breaker
        if breaker is not None and rule.action != NOTIFY and not breaker.trial:
            self.breakers[breaker.policy, breaker.family] = replace(breaker, trial=case.incident)
        self.cases[case.incident] = replace(
            case,
            phase=ACTING,
            attempt=case.attempt + 1,
            tried=(*case.tried, rule.action),
            due=self.now + rule.timeout_seconds,
            verify_seconds=rule.verify_seconds,
            judged=False,
        )

    def _spend(self, step: guards.Step) -> Instant:
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

    def _inapplicable(self, case: Case, rule: ActionRule) -> str | None:
        """Why the step is left out for good: what it needs is not there."""
        target, fleet = case.target, self.fleet
        if rule.action in NODE_ACTIONS:
            if target.node is None:
                return "the incident is about no single node"
            node = fleet.node_of.get((str(target.cluster), target.node))
            if target.cluster in fleet.available and (node is None or node.uid != target.node_uid):
                return "the node is gone"
            pool = fleet.pool_of.get(node.pool) if node is not None and node.pool is not None else None
            if rule.action == REPLACE and pool is not None and not pool.replaceable:
                return "the pool's provider cannot replace a node"
        if rule.action in WORKLOAD_ACTIONS and (target.workload is None or target.workload not in fleet.workload_of):
            return "the incident is about no workload of the federation"
        if rule.action in (QUARANTINE_POOL, SCALE_UP) and (target.pool is None or target.cluster is None):
            return "the incident is about no pool"
        if rule.action == QUARANTINE_CLUSTER and target.cluster is None:
            return "the incident is about no cluster"
        return None

    def _step(self, case: Case, incident: IncidentLike, policy: RemediationPolicy, rule: ActionRule) -> guards.Step:
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

    # -- what is given out -------------------------------------------------------------------------------------------

    def _give_out(self, case: Case) -> None:
        """The action that a case is at, unless something has come between."""
        policy = self.policies.get(case.policy)
        if case.phase not in (ACTING, UNDOING) or policy is None or policy.guards.dry_run:
            return
        name = UNDO if case.phase == UNDOING else case.action
        rule = next((each for each in policy.actions if each.action == name), ActionRule(name))
        incident = self.incidents.get(case.incident)
        since = self.now
        if case.phase == ACTING:
            if incident is None:
                self._note(case, name, "Unknown", "nobody tells of the incident any more")
                return
            step = self._step(case, incident, policy, rule)
            reason = next((found for guard in guards.GOING_ON if (found := guard(step)) is not None), None)
            if reason is not None:
                self.notes.append(Note(case.incident, policy.name, name, reason))
                return
            since = self._spend(step)
        elif case.phase == UNDOING and case.target.cluster not in (None, *self.fleet.available):
            return
        self.actions.append(
            Action(
                id=case.action_id,
                incident=case.incident,
                signal=case.kind,
                policy=case.policy,
                action=name,
                target=case.target,
                since=since,
                reason=f"{case.kind} on {case.subject}",
                grace_seconds=rule.grace_seconds,
                nodes=rule.nodes,
                undoes=case.undoes if name == UNDO else (),
            )
        )

    def _note(self, case: Case, action: str, code: str, text: str) -> None:
        self.notes.append(Note(case.incident, case.policy, action, Reason(code, text)))


def _by_id(incident: IncidentLike) -> tuple[object, ...]:
    return (incident.id, incident.opened_at, incident.kind, incident.state, subject_key(incident.subject))


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
