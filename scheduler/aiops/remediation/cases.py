"""How a case goes on: what comes of an action, and to the next step. Pure."""

from __future__ import annotations

from dataclasses import replace

from scheduler.aiops.remediation import breaker as breakers
from scheduler.aiops.remediation.state import (
    ACTING,
    EXHAUSTED,
    HOLDING,
    READY,
    UNDOING,
    VERIFYING,
    Breaker,
    Case,
    Outcome,
    RemediationState,
)
from scheduler.model.ids import Instant
from scheduler.model.remediation import NOTIFY


def settle(state: RemediationState, action_id: str, *, done: bool, now: Instant) -> RemediationState:
    """What came of an action: `done`, or failed. One that is not awaited (any more) changes nothing."""
    case = next((each for each in state.cases if each.action_id == action_id), None)
    if case is None or case.phase not in (ACTING, UNDOING):
        return state
    if case.phase == UNDOING:
        return _without(state, case) if done else state
    if not done:
        return _put(judge(state, case, helped=False, now=now), next_step(replace(case, judged=True)))
    if case.verify_seconds is not None:
        return _put(state, replace(case, phase=VERIFYING, due=now + case.verify_seconds))
    return _put(state, next_step(case))


def next_step(case: Case) -> Case:
    """On to the next step."""
    after = replace(case, step=case.step + 1, due=None)
    if after.action:
        return replace(after, phase=READY)
    # Nothing is left: what did not help is told, what was never expected to mend anything waits for the signal.
    return replace(after, phase=EXHAUSTED if case.judged else HOLDING)


def judge(state: RemediationState, case: Case, *, helped: bool, now: Instant) -> RemediationState:
    """Record the outcome of the case's last action, also with the breaker whose trial it was."""
    action = case.tried[-1] if case.tried else ""
    if not action or action == NOTIFY:
        return state
    outcome = Outcome(case.kind, case.policy, action, now, helped)
    kept: list[Breaker] = []
    for breaker in state.breakers:
        if breaker.trial == case.incident:
            after = breakers.judged(breaker, helped=helped, now=now)
            kept += [] if after is None else [after]
        else:
            kept.append(breaker)
    return replace(state, outcomes=(*state.outcomes, outcome), breakers=tuple(kept))


def _put(state: RemediationState, case: Case) -> RemediationState:
    others = tuple(each for each in state.cases if each.incident != case.incident)
    return replace(state, cases=tuple(sorted((*others, case), key=lambda each: each.incident)))


def _without(state: RemediationState, case: Case) -> RemediationState:
    return replace(state, cases=tuple(each for each in state.cases if each.incident != case.incident))


def resumed(state: RemediationState, now: Instant) -> RemediationState:
    """After a pause: the cases' times go on where they stopped."""
    if state.paused_since is None:
        return state
    paused = max(0.0, now - state.paused_since)
    cases = tuple(replace(case, due=None if case.due is None else case.due + paused) for case in state.cases)
    return replace(state, cases=cases, paused_since=None)
