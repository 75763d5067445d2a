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
from scheduler.aiops.remediation.beginning import begin, waiting
from scheduler.aiops.remediation.cases import resumed
from scheduler.aiops.remediation.course import advance
from scheduler.aiops.remediation.facts import Fleet, IncidentLike, subject_key
from scheduler.aiops.remediation.round import Note, Round
from scheduler.aiops.remediation.state import (
    ACTING,
    EXHAUSTED,
    HOLDING,
    RECOVERING,
    UNDOING,
    Breaker,
    Case,
    RemediationState,
    bounded,
)
from scheduler.model.ids import Instant
from scheduler.model.remediation import UNDO, Action, ActionRule, RemediationPolicy
from scheduler.model.verdict import Reason

__all__ = ["Note", "Remedy", "remediate"]
_NOT_JUDGED: Final = frozenset({RECOVERING, UNDOING, EXHAUSTED})


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
    return _run(Round(known, resumed(bounded(state, now), now), policies, fleet, now))


def _run(round_: Round) -> Remedy:
    for case in sorted(round_.cases.values(), key=lambda each: each.incident):
        advance(round_, case)
    _look_at_breakers(round_)
    for case, incident in waiting(round_):
        begin(round_, case, incident)
    for case in sorted(round_.cases.values(), key=lambda each: each.incident):
        _give_out(round_, case)
    state = replace(round_.state, cases=tuple(round_.cases.values()), breakers=tuple(round_.breakers.values()))
    notes = sorted(round_.notes, key=lambda note: (note.incident, note.policy, note.action, note.reason))
    return Remedy(tuple(round_.actions), bounded(state, round_.now), tuple(notes))


def _look_at_breakers(round_: Round) -> None:
    spoken = [(round_.incidents[key], policy) for key, policy in sorted(round_.policy_of.items())]
    before = {(each.policy, each.family): _trial_over(round_, each) for each in round_.state.breakers}
    round_.breakers = breakers.look(before, spoken, round_.state.outcomes, round_.now)


def _trial_over(round_: Round, breaker: Breaker) -> Breaker:
    """Without its trial, when that came to nothing."""
    case = round_.cases.get(breaker.trial)
    if breaker.trial and (case is None or case.phase in _NOT_JUDGED or case.since is None):
        return replace(breaker, trial="")
    if breaker.trial and case is not None and case.phase == HOLDING:
        # Contained, and nothing to judge by: another may be tried after a pause.
        return replace(breaker, trial="", over_at=round_.now)
    return breaker


def _give_out(round_: Round, case: Case) -> None:
    """The action that a case is at, unless something has come between."""
    policy = round_.policies.get(case.policy)
    if case.phase not in (ACTING, UNDOING) or policy is None or policy.guards.dry_run:
        return
    name = UNDO if case.phase == UNDOING else case.action
    rule = next((each for each in policy.actions if each.action == name), ActionRule(name))
    incident = round_.incidents.get(case.incident)
    since = round_.now
    if case.phase == ACTING:
        if incident is None:
            round_.note(case, name, "Unknown", "nobody tells of the incident any more")
            return
        step = round_.step(case, incident, policy, rule)
        reason = next((found for guard in guards.GOING_ON if (found := guard(step)) is not None), None)
        if reason is not None:
            round_.notes.append(Note(case.incident, policy.name, name, reason))
            return
        since = round_.spend(step)
    elif case.phase == UNDOING and case.target.cluster not in (None, *round_.fleet.available):
        return
    round_.actions.append(
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


def _by_id(incident: IncidentLike) -> tuple[object, ...]:
    return (incident.id, incident.opened_at, incident.kind, incident.state, subject_key(incident.subject))
