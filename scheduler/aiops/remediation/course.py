"""What time and the signal alone change of a case that is under way."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from scheduler.aiops.remediation.cases import judge, next_step
from scheduler.aiops.remediation.facts import RESOLVED, IncidentLike
from scheduler.aiops.remediation.round import Round
from scheduler.aiops.remediation.state import ACTING, HOLDING, RECOVERING, UNDOING, VERIFYING, Case
from scheduler.model.remediation import CONTAINING, RemediationPolicy

FORGOTTEN_SECONDS: Final = 86400.0
"""A case whose incident nobody has told of for so long is given up; its node stays as it is."""
_MERGES: Final = 20
"""So many merges of incidents are followed."""


def advance(round_: Round, case: Case) -> None:
    """What time and the signal alone change."""
    incident = round_.incidents.get(case.incident)
    if incident is not None:
        case = replace(case, seen_at=round_.now)
    elif round_.now - case.seen_at > FORGOTTEN_SECONDS:
        del round_.cases[case.incident]
        return
    round_.cases[case.incident] = case
    policy = round_.policies.get(case.policy)
    if policy is None or policy.guards.dry_run:
        if case.holds_node:
            round_.note(case, case.action, "NoPolicy", "its policy is gone or in dry run; the node stays closed")
        else:
            # What it has in force (a quarantine, a pause) ends with it.
            del round_.cases[case.incident]
        return
    if case.phase == UNDOING:
        return
    if _is_well(round_, case, incident):
        _recover(round_, case, policy)
    elif case.phase == RECOVERING:
        # It flaps. What is closed stays closed, and time runs anew before anything else is tried.
        due = round_.now + policy.guards.healthy_seconds
        round_.cases[case.incident] = replace(case, phase=VERIFYING, well_since=None, due=due)
        round_.note(case, case.action, "Flapping", "the signal came back")
    elif case.phase in (ACTING, VERIFYING) and case.due is not None and round_.now >= case.due:
        if incident is None and case.phase == VERIFYING:
            round_.note(case, case.action, "Unknown", "nobody tells of the incident any more")
            return
        if not case.judged:
            _judge(round_, case, helped=False)
        round_.cases[case.incident] = next_step(replace(case, judged=True))


def _is_well(round_: Round, case: Case, incident: IncidentLike | None) -> bool:
    """Whether the signal is gone: told so, or its node is no longer there. Not knowing is not well."""
    if case.target.node_uid:
        node = round_.fleet.node_of.get((str(case.target.cluster), str(case.target.node)))
        seen = case.target.cluster in round_.fleet.available
        if seen and (node is None or node.uid != case.target.node_uid):
            return True
    told = _root(round_, incident)
    resolved = told is not None and told.state == RESOLVED
    return resolved and (case.subject, case.kind) not in round_.open


def _root(round_: Round, incident: IncidentLike | None) -> IncidentLike | None:
    """The incident that this one became part of, else itself."""
    for _ in range(_MERGES):
        root = round_.incidents.get(str(getattr(incident, "merged_into", "") or ""))
        if root is None:
            break
        incident = root
    return incident


def _recover(round_: Round, case: Case, policy: RemediationPolicy) -> None:
    if case.phase != RECOVERING:
        mends = case.phase in (VERIFYING, HOLDING, ACTING) and case.tried and case.tried[-1] not in CONTAINING
        if mends and not case.judged:
            _judge(round_, case, helped=True)
        case = replace(case, phase=RECOVERING, judged=True, well_since=round_.now, due=None)
    if not case.undoes:
        del round_.cases[case.incident]
        return
    if case.well_since is not None and round_.now >= case.well_since + policy.guards.healthy_seconds:
        case = replace(case, phase=UNDOING, attempt=case.attempt + 1)
    round_.cases[case.incident] = case


def _judge(round_: Round, case: Case, *, helped: bool) -> None:
    round_.state = judge(round_.state, case, helped=helped, now=round_.now)
