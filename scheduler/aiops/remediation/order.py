"""In which order a policy's actions are tried for a signal: as written, but what has seldom helped comes last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from scheduler.aiops.remediation.state import Outcome
from scheduler.model.remediation import CONTAINING, RemediationPolicy

TRIES: Final = 4
"""So many are needed before anything is concluded from them."""
SELDOM: Final = 0.25
"""Below this estimate an action is tried last."""


def chance(outcomes: Iterable[Outcome], signal: str, action: str) -> tuple[int, float]:
    """Tries of an action for a signal, and the estimate that it helps: (helped + 1) / (tries + 2), Laplace's rule of
    succession (the mean of a Beta(1, 1) prior's posterior)."""
    found = [outcome.helped for outcome in outcomes if outcome.signal == signal and outcome.action == action]
    return len(found), (sum(found) + 1) / (len(found) + 2)


def ordered(policy: RemediationPolicy, signal: str, outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """The names of the policy's actions. Those that contain the damage keep their places before all that mend."""
    outcomes = tuple(outcomes)

    def rank(action: str) -> int:
        tries, estimate = chance(outcomes, signal, action)
        return int(action not in CONTAINING and tries >= TRIES and estimate < SELDOM)

    # Stable: within each part as written.
    return tuple(sorted((rule.action for rule in policy.actions), key=rank))
