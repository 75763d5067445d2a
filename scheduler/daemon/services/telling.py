"""What people are told of a divided service: conditions on its hub object, Events and decisions on change, metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from clusters.kubernetes.conditions import with_note
from scheduler.daemon.placing.decisions import DecisionLog
from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.serving.looking import SUSPENDED, Looked
from scheduler.model import division as reasons
from scheduler.model.contract import CONDITION_PLACED, CONDITION_SERVING
from scheduler.model.division import Division
from scheduler.model.ids import Uid
from scheduler.model.plan import Decision
from scheduler.model.ports import Said
from scheduler.model.service_intent import ServiceIntent
from scheduler.model.verdict import Reason
from scheduler.model.workload import Workload

DIVIDED: Final = "Divided"
LEAVING: Final = "LeavingDivision"
INVALID: Final = "InvalidWorkload"
_STATUS: Final = {
    reasons.SHORT_OF_CAPACITY: "False",
    reasons.CONTRADICTORY: "False",
    reasons.NO_OFFERS: "False",
    reasons.CLUSTER_LOST: "False",
    SUSPENDED: "False",
    reasons.NO_METRICS: "Unknown",
    reasons.IMPLAUSIBLE_METRICS: "Unknown",
}
"""Of the condition Serving, by its reason; what is not there is well."""


def conditions(division: Division, note: str) -> tuple[Said, ...]:
    """The gravest is the reason, all are told. `note`: what the division does not know of where it may run."""
    first = division.conditions[0]
    text = with_note("; ".join(one.message for one in division.conditions), note)
    placed = Said(CONDITION_PLACED, "True" if division.targets else "False", DIVIDED, division.sentence)
    return placed, Said(CONDITION_SERVING, _STATUS.get(first.reason, "True"), first.reason, text)


def ends(text: str) -> tuple[Said, ...]:
    """Of one that is no service any more, until it is handed back."""
    return (Said(CONDITION_SERVING, "Unknown", LEAVING, text),)


def refused(text: str) -> tuple[Said, ...]:
    return (Said(CONDITION_PLACED, "False", INVALID, text),)


class Teller:
    """Belongs to the event loop. `emit`: writes an Event (nowhere in shadow mode)."""

    def __init__(
        self, telemetry: Telemetry, decisions: DecisionLog, emit: Callable[[Workload, str, str], None] | None
    ) -> None:
        self._telemetry = telemetry
        self._decisions = decisions
        self._emit = emit
        self._told: dict[Uid, tuple[str, ...]] = {}
        self._rejected: dict[Uid, frozenset[str]] = {}

    def divided(self, workload: Workload, found: Looked, before: ServiceIntent | None, digest: str) -> None:
        """After each look: what has changed is told once."""
        uid, division = workload.ref.uid, found.division
        codes = tuple(one.reason for one in division.conditions)
        rejected = frozenset(found.memory.rejected)
        # What was taken back before this process began was counted then.
        self._telemetry.service_rollbacks.inc(len(rejected - self._rejected.get(uid, rejected)))
        self._rejected[uid] = rejected
        moved = before is None or before.targets != found.intent.targets
        if not moved and self._told.get(uid) == codes:
            return
        if self._told.get(uid) != codes:
            self._say(workload, division.conditions[0].reason, division.conditions[0].message)
        if moved:
            self._say(workload, DIVIDED, division.sentence)
            self._telemetry.service_changes.inc()
        self._told[uid] = codes
        first = division.conditions[0]
        self._decisions.add(
            Decision(
                id=found.intent.decision,
                at=division.decided_at,
                workload=workload.ref,
                queue=workload.queue,
                outcome="divided",
                reason=Reason(first.reason, first.message),
                sentence=division.sentence,
                policy=found.intent.slo,
                policy_digest=digest,
            )
        )

    def _say(self, workload: Workload, reason: str, message: str) -> None:
        if self._emit is not None:
            self._emit(workload, reason, message)

    def forget(self, uid: Uid) -> None:
        self._told.pop(uid, None)
        self._rejected.pop(uid, None)
