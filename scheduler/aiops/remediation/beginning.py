"""What may begin: the cases whose next step is due, the most urgent first, as far as the guards let them pass."""

from __future__ import annotations

from dataclasses import replace

from scheduler.aiops.remediation import guards
from scheduler.aiops.remediation.facts import RESOLVED, SUPPRESSED, IncidentLike, severity_rank, subject_key
from scheduler.aiops.remediation.matching import signal_of, target_of
from scheduler.aiops.remediation.order import ordered
from scheduler.aiops.remediation.round import Note, Round
from scheduler.aiops.remediation.state import ACTING, EXHAUSTED, MAX_CASES, READY, Case
from scheduler.model.remediation import (
    NODE_ACTIONS,
    NOTIFY,
    QUARANTINE_CLUSTER,
    QUARANTINE_POOL,
    REPLACE,
    SCALE_UP,
    WORKLOAD_ACTIONS,
    ActionRule,
)
from scheduler.model.verdict import Reason


def waiting(round_: Round) -> list[tuple[Case, IncidentLike]]:
    """Cases whose next step is due: the pool that was disrupted longest ago first, then the most urgent."""
    last = {each.pool: each.at for each in sorted(round_.state.disruptions, key=lambda each: each.at)}
    found: list[tuple[tuple[object, ...], Case, IncidentLike]] = []
    for incident in round_.incidents.values():
        case = round_.cases.get(incident.id) or _new_case(round_, incident)
        if case is None or case.phase != READY or incident.state == RESOLVED:
            continue
        if incident.state == SUPPRESSED:
            round_.note(case, case.action, "Suppressed", "the incident is suppressed")
            continue
        pool = f"{case.target.cluster}/{case.target.pool}" if case.target.pool else ""
        order = (
            case.since is None, last.get(pool, float("-inf")), severity_rank(incident.severity),
            incident.opened_at, incident.id,
        )  # fmt: skip
        found.append((order, case, incident))
    return [(case, incident) for _, case, incident in sorted(found, key=lambda each: each[0])]


def _new_case(round_: Round, incident: IncidentLike) -> Case | None:
    if incident.state in (RESOLVED, SUPPRESSED):
        return None
    policy = round_.policy_of.get(incident.id)
    if policy is None:
        round_.notes.append(Note(incident.id, "", "", Reason("NoPolicy", "no policy speaks of it")))
        return None
    return Case(
        incident=incident.id,
        kind=incident.kind,
        policy=policy.name,
        subject=subject_key(incident.subject),
        target=target_of(incident.subject, round_.fleet),
        order=ordered(policy, incident.kind, round_.state.outcomes),
        phase=READY,
        seen_at=round_.now,
    )


def begin(round_: Round, case: Case, incident: IncidentLike) -> None:
    """Give out the next step that applies, if the guards let it pass."""
    policy = round_.policies.get(case.policy)
    if policy is None:
        round_.note(case, "", "NoPolicy", "its policy is gone")
        return
    if case.since is None:
        case = replace(case, target=target_of(incident.subject, round_.fleet))
    signal = signal_of(incident, round_.fleet, round_.now)
    while case.action:
        rule = next((each for each in policy.actions if each.action == case.action), None)
        why = "the policy has no such step any more" if rule is None else _inapplicable(round_, case, rule)
        if why is None and rule is not None and (rule.expression is None or rule.expression.matches(signal)):
            break
        if why is not None:
            round_.note(case, case.action, "NotApplicable", why)
        case = replace(case, step=case.step + 1)
    else:
        if case.incident in round_.cases:
            round_.cases[case.incident] = replace(case, phase=EXHAUSTED if case.tried else READY)
        if case.tried or not case.order:
            round_.note(case, "", "Exhausted", "nothing that the policy knows is left to try")
        return
    assert rule is not None
    step = round_.step(case, incident, policy, rule)
    reason = guards.refusal(step)
    if reason is None and policy.guards.dry_run:
        reason = Reason("DryRun", f"would {rule.action}")
    if reason is None and case.incident not in round_.cases and len(round_.cases) >= MAX_CASES:
        reason = Reason("TooMany", "more incidents are under way than can be kept in mind")
    if reason is not None:
        round_.notes.append(Note(case.incident, policy.name, rule.action, reason))
        if case.incident in round_.cases:
            round_.cases[case.incident] = case
        return
    _start(round_, step)


def _start(round_: Round, step: guards.Step) -> None:
    case, rule = step.case, step.rule
    key = guards.disruption_key(case, rule.action)
    if rule.action != NOTIFY and key not in case.begun:
        case = replace(case, begun=(*case.begun, key), since=round_.now if case.since is None else case.since)
    round_.spend(step)
    breaker = step.breaker
    if breaker is not None and rule.action != NOTIFY and not breaker.trial:
        round_.breakers[breaker.policy, breaker.family] = replace(breaker, trial=case.incident)
    round_.cases[case.incident] = replace(
        case,
        phase=ACTING,
        attempt=case.attempt + 1,
        tried=(*case.tried, rule.action),
        due=round_.now + rule.timeout_seconds,
        verify_seconds=rule.verify_seconds,
        judged=False,
    )


def _inapplicable(round_: Round, case: Case, rule: ActionRule) -> str | None:
    """Why the step is left out for good: what it needs is not there."""
    target, fleet = case.target, round_.fleet
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
