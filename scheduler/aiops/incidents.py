"""Incidents: findings that share a cause, with their course. `scheduler.aiops.grouping` makes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Final

from scheduler.aiops.findings import Finding, Subject, severity_rank
from scheduler.aiops.topology import Scope
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

OPEN: Final = "open"
ACTING: Final = "acting"
VERIFYING: Final = "verifying"
RESOLVED: Final = "resolved"
SUPPRESSED: Final = "suppressed"
"""Not to be acted upon: somebody said so, or it became part of another incident."""

_NEXT: Final = {
    OPEN: (ACTING, VERIFYING, RESOLVED, SUPPRESSED),
    ACTING: (VERIFYING, OPEN, RESOLVED, SUPPRESSED),
    VERIFYING: (OPEN, ACTING, RESOLVED, SUPPRESSED),
    SUPPRESSED: (OPEN, RESOLVED),
    RESOLVED: (OPEN,),
}

SignalKey = tuple[str, Subject]
"""Kind and subject."""

MOST_OPEN: Final = 2000
MOST_CLOSED: Final = 1000
MOST_PENDING: Final = 20_000
MOST_SIGNALS: Final = 300
"""Of one incident; of the others only their number is kept."""
MOST_HISTORY: Final = 50


@dataclass(frozen=True, slots=True)
class Signal:
    """One kind of finding about one subject, however often it was reported."""

    kind: str
    subject: Subject
    severity: str
    origin: str
    remedy: str
    first_at: Instant
    last_at: Instant
    count: int
    evidence: tuple[tuple[str, float], ...]
    """As of the last report."""

    @property
    def key(self) -> SignalKey:
        return self.kind, self.subject


@dataclass(frozen=True, slots=True)
class Cause:
    """What may have caused an incident. Scores of one incident add up to 1."""

    kind: str
    scope: Scope
    score: float
    why: str


@dataclass(frozen=True, slots=True)
class Impact:
    """What is at risk while the incident lasts."""

    nodes: int = 0
    gpus: int = 0
    """Of the workloads that are hit; without one, of the nodes."""
    workloads: tuple[str, ...] = ()
    gpu_hours_at_risk: float | None = None
    """Work since the last checkpoints, which is lost if they stop now; None: no checkpoint is known."""
    usd_at_risk: Decimal | None = None
    """The same at the nodes' prices; None: not known."""
    usd_per_hour: Decimal | None = None
    """What the GPUs that are hit cost; None: not known."""
    deadlines: tuple[str, ...] = ()
    """Workloads that miss their deadline if that work must be done again."""


@dataclass(frozen=True, slots=True)
class Event:
    """A change in an incident's course."""

    at: Instant
    state: str
    why: str


@dataclass(frozen=True, slots=True)
class Incident:
    id: str
    kind: str
    """Of the likeliest cause."""
    severity: str
    subject: Subject
    scope: Scope
    state: str
    opened_at: Instant
    last_at: Instant
    """When something of it was last seen."""
    signals: tuple[Signal, ...]
    """By kind and subject."""
    omitted: int = 0
    """Signals that are only counted."""
    causes: tuple[Cause, ...] = ()
    """Likeliest first."""
    impact: Impact = Impact()
    history: tuple[Event, ...] = ()
    merged_into: str = ""
    """Id of the incident that this one became part of."""

    @property
    def closed(self) -> bool:
        return self.state == RESOLVED or bool(self.merged_into)

    @property
    def findings(self) -> int:
        """How many findings it stands for."""
        return sum(signal.count for signal in self.signals) + self.omitted

    @property
    def remedy(self) -> str:
        """What helps against the most urgent of its signals that say so of the likeliest cause's kind."""
        first = min(
            (one for one in self.signals if one.kind == self.causes[0].kind) if self.causes else self.signals,
            key=lambda one: (severity_rank(one.severity), one.first_at, one.key),
            default=None,
        )
        return first.remedy if first else ""


@dataclass(frozen=True, slots=True)
class Incidents:
    """All that is remembered of them."""

    open: tuple[Incident, ...] = ()
    """Neither resolved nor merged, by id."""
    closed: tuple[Incident, ...] = ()
    """The latest, oldest first."""
    pending: tuple[Signal, ...] = ()
    """Seen lately, and no incident so far."""
    watched_since: Instant = 0.0
    """Since when somebody has looked: silence before that says nothing."""

    def find(self, incident_id: str) -> Incident | None:
        return next((one for one in (*self.open, *self.closed) if one.id == incident_id), None)


def fold(findings: Sequence[Finding]) -> tuple[Signal, ...]:
    """Findings as signals, by kind and subject: repeated ones are one. The same for any order."""
    groups: dict[tuple[str, Subject], list[Finding]] = {}
    for one in findings:
        groups.setdefault((one.kind, one.subject), []).append(one)
    return tuple(_signal(groups[key]) for key in sorted(groups))


def _signal(alike: Sequence[Finding]) -> Signal:
    """Findings of one kind about one subject."""
    late = max(alike, key=lambda one: (one.at, one.evidence, one.remedy, one.origin))
    worst = min({one.severity for one in alike}, key=lambda word: (severity_rank(word), word))
    first, count = min(one.at for one in alike), sum(one.count for one in alike)
    return Signal(late.kind, late.subject, worst, late.origin, late.remedy, first, late.at, count, late.evidence)


def joined(one: Signal, other: Signal) -> Signal:
    """Both as one. The same whichever comes first."""
    late = max(one, other, key=lambda signal: (signal.last_at, signal.evidence, signal.remedy, signal.origin))
    urgent = min((one.severity, other.severity), key=lambda word: (severity_rank(word), word))
    return replace(
        late,
        severity=urgent,
        first_at=min(one.first_at, other.first_at),
        last_at=max(one.last_at, other.last_at),
        count=one.count + other.count,
    )


def with_state(incident: Incident, state: str, at: Instant, why: str) -> Incident:
    """The incident in another state. Raises: InvalidObjectError when that cannot follow."""
    if state not in _NEXT[incident.state]:
        allowed = ", ".join(_NEXT[incident.state])
        raise InvalidObjectError(f"incident {incident.id} is {incident.state}, not to be {state}; it can be {allowed}")
    history = (*incident.history, Event(at, state, why))[-MOST_HISTORY:]
    return replace(incident, state=state, history=history)


def moved(incidents: Incidents, incident_id: str, state: str, at: Instant, why: str) -> Incidents:
    """All incidents after one has changed its state. Raises: InvalidObjectError when there is none, or it cannot."""
    found = incidents.find(incident_id)
    if found is None:
        raise InvalidObjectError(f"no incident {incident_id[:100]!r}; `overspill incidents` lists them")
    if found.merged_into:
        raise InvalidObjectError(f"incident {incident_id} is part of {found.merged_into} now; name that one")
    return placed(incidents, (with_state(found, state, at, why),))


def placed(incidents: Incidents, changed: Sequence[Incident], pending: Sequence[Signal] | None = None) -> Incidents:
    """All incidents with new versions of some, each where it belongs, within the bounds."""
    names = {one.id for one in changed}
    going = [one for one in incidents.open if one.id not in names] + [one for one in changed if not one.closed]
    gone = [one for one in incidents.closed if one.id not in names]
    gone += sorted((one for one in changed if one.closed), key=lambda one: (one.last_at, one.id))
    if len(going) > MOST_OPEN:
        going = sorted(going, key=lambda one: (severity_rank(one.severity), one.opened_at, one.id))[:MOST_OPEN]
    left = incidents.pending if pending is None else tuple(pending)
    if len(left) > MOST_PENDING:
        left = tuple(sorted(left, key=lambda one: (-one.last_at, one.key))[:MOST_PENDING])
    opened = tuple(sorted(going, key=lambda one: one.id))
    return Incidents(opened, tuple(gone[-MOST_CLOSED:]), left, incidents.watched_since)
