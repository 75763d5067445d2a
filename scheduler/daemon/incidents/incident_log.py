"""The history of incidents: what each was, what came of it, what was at risk and what was saved.

At risk is what would have been lost at the worst moment: work since the last checkpoints of all that was hit, and what
it costs. Saved is reckoned only where a remedy was carried out and the incident ended after it: the GPUs that were hit,
for the rest of the time that such trouble used to go unnoticed (`aiops.unnoticedAfter`, the operator's word).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

import orjson

from scheduler.aiops.incidents import Incident
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import INCIDENTS
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock

REMEDIED: Final = "remedied"
PASSED: Final = "passed"
MERGED: Final = "merged"
_ENDED_AT_MOST: Final = 5000
_SIGNALS: Final = 100
"""Of one incident that are told with their evidence."""
_CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class _Course:
    """What is remembered of an incident that is open."""

    shown: Incident
    gpu_hours: float | None = None
    """The most that was at risk."""
    usd: Decimal | None = None
    gpus: int = 0
    usd_per_hour: Decimal | None = None
    acted_at: Instant | None = None
    """When the first remedy that does more than tell was done."""


class IncidentLog:
    """Belongs to the event loop."""

    def __init__(self, history: History, clock: Clock, telemetry: Telemetry, unnoticed_seconds: float) -> None:
        self._history = history
        self._clock = clock
        self._telemetry = telemetry
        self._unnoticed = unnoticed_seconds
        self._open: dict[str, _Course] = {}
        self._ended: dict[str, None] = {}

    def look(self, opened: Iterable[Incident], closed: Iterable[Incident]) -> None:
        """Write what has changed. An incident that comes back is written again, with what it was before."""
        for incident in opened:
            self._ended.pop(incident.id, None)
            before = self._open.get(incident.id)
            after = _grown(before or _Course(incident), incident)
            self._open[incident.id] = after
            if before is None or _told(before.shown) != _told(incident):
                self._write(after, None, None)
        for incident in closed:
            if incident.id not in self._ended:
                self._end(incident)

    def acted(self, incident: str) -> None:
        """A remedy that does more than tell has been carried out."""
        course = self._open.get(incident)
        if course is not None and course.acted_at is None:
            self._open[incident] = replace(course, acted_at=self._clock.now())

    def kept(self) -> dict[str, Any]:
        """JSON values: when open incidents were acted upon, and which ended ones were written."""
        acted = {name: course.acted_at for name, course in self._open.items() if course.acted_at is not None}
        return {"acted": acted, "ended": list(self._ended)}

    def take_up(self, told: Any, opened: Iterable[Incident]) -> None:
        """What `kept` gave before a restart, so that nothing is counted twice."""
        acted = told.get("acted") if isinstance(told, dict) else None
        ended = told.get("ended") if isinstance(told, dict) else None
        self._ended |= {str(name): None for name in ended[-_ENDED_AT_MOST:]} if isinstance(ended, list) else {}
        for incident in opened:
            at = acted.get(incident.id) if isinstance(acted, dict) else None
            course = _grown(_Course(incident), incident)
            self._open[incident.id] = replace(course, acted_at=float(at) if isinstance(at, int | float) else None)

    def _end(self, incident: Incident) -> None:
        course = self._open.pop(incident.id, None) or _Course(incident)
        course = _grown(course, incident)
        self._ended[incident.id] = None
        while len(self._ended) > _ENDED_AT_MOST:
            del self._ended[next(iter(self._ended))]
        outcome = MERGED if incident.merged_into else REMEDIED if course.acted_at is not None else PASSED
        hours, usd = (None, None) if outcome != REMEDIED else self._saved(course)
        self._write(course, outcome, (hours, usd))
        self._telemetry.incidents.labels(incident.kind.partition(".")[0], outcome).inc()
        if hours:
            self._telemetry.gpu_seconds_saved.inc(hours * 3600.0)
        if usd:
            self._telemetry.usd_saved.inc(float(usd))

    def _saved(self, course: _Course) -> tuple[float, Decimal | None]:
        """GPU-hours and USD."""
        took = max((course.acted_at or 0.0) - course.shown.opened_at, 0.0)
        hours = max(self._unnoticed - took, 0.0) / 3600.0
        usd = None if course.usd_per_hour is None else (course.usd_per_hour * Decimal(str(hours))).quantize(_CENT)
        return course.gpus * hours, usd

    def _write(self, course: _Course, outcome: str | None, saved: tuple[float | None, Decimal | None] | None) -> None:
        incident = course.shown
        hours, usd = saved or (None, None)
        self._history.record(
            INCIDENTS,
            {
                "id": incident.id[:320],
                "kind": incident.kind[:253],
                "severity": incident.severity,
                "cluster": incident.subject.cluster[:253],
                "opened_at": incident.opened_at,
                "ended_at": None if outcome is None else self._clock.now(),
                "outcome": outcome,
                "gpu_hours_at_risk": course.gpu_hours,
                "usd_at_risk": None if course.usd is None else str(course.usd),
                "gpu_hours_saved": hours,
                "usd_saved": None if usd is None else str(usd),
                "body": orjson.dumps(described(incident)).decode(),
            },
        )


def described(incident: Incident) -> dict[str, Any]:
    """An incident with its evidence, as JSON values."""
    impact = incident.impact
    return {
        "subject": str(incident.subject),
        "scope": f"{incident.scope.kind} {incident.scope.name}",
        "state": incident.state,
        "findings": incident.findings,
        "last_at": incident.last_at,
        "merged_into": incident.merged_into or None,
        "causes": [{"kind": one.kind, "score": round(one.score, 3), "why": one.why} for one in incident.causes],
        "impact": {
            "nodes": impact.nodes,
            "gpus": impact.gpus,
            "workloads": list(impact.workloads[:_SIGNALS]),
            "deadlines": list(impact.deadlines[:_SIGNALS]),
            "gpu_hours_at_risk": impact.gpu_hours_at_risk,
            "usd_at_risk": None if impact.usd_at_risk is None else str(impact.usd_at_risk),
        },
        "signals": [
            {
                "kind": one.kind,
                "subject": str(one.subject),
                "severity": one.severity,
                "first_at": one.first_at,
                "last_at": one.last_at,
                "count": one.count,
                "evidence": dict(one.evidence),
            }
            for one in incident.signals[:_SIGNALS]
        ],
        "history": [{"at": one.at, "state": one.state, "why": one.why} for one in incident.history],
    }


def _told(incident: Incident) -> tuple[object, ...]:
    """Its change is worth a write; that it was seen once more is not."""
    return incident.state, incident.kind, incident.severity, len(incident.signals), incident.impact.gpus


def _grown(course: _Course, incident: Incident) -> _Course:
    impact = incident.impact
    return replace(
        course,
        shown=incident,
        gpu_hours=_most(course.gpu_hours, impact.gpu_hours_at_risk),
        usd=_most(course.usd, impact.usd_at_risk),
        gpus=max(course.gpus, impact.gpus),
        usd_per_hour=_most(course.usd_per_hour, impact.usd_per_hour),
    )


def _most(one: Any, other: Any) -> Any:
    return max((each for each in (one, other) if each is not None), default=None)
