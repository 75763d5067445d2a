"""Incidents and what is done about them, as the read API tells them: plain JSON values."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Final

import orjson

from scheduler.aiops.remediation.facts import IncidentLike, severity_rank
from scheduler.aiops.remediation.state import Breaker, Case
from scheduler.daemon.history.store import History
from scheduler.daemon.incidents.control import Control
from scheduler.daemon.incidents.remedies import Remedies
from scheduler.daemon.placing.decisions import to_json
from scheduler.model.errors import NotFoundError
from scheduler.model.ids import Instant

_SHOWN: Final = 1000
_MOST_DAYS: Final = 3650.0
_PARTS: Final = ("cluster", "pool", "node", "gpu", "workload")


class IncidentViews:
    """Reads the remedies; changes nothing."""

    def __init__(self, remedies: Remedies, control: Control, history: History, now: Callable[[], Instant]) -> None:
        self._now = now
        self._remedies = remedies
        self._control = control
        self._history = history

    def incidents(self) -> dict[str, Any]:
        """All that are known, open ones first, the most urgent first; and what bounds the remedies now."""
        state, switches = self._remedies.state, self._control.switches
        found = sorted(self._remedies.incidents(), key=_order)
        return {
            "paused": switches.paused,
            "bursting_paused": switches.bursting_paused or state.bursting_paused,
            "switches_error": switches.error,
            "incidents": [self._incident(incident) for incident in found[:_SHOWN]],
            "breakers": [_breaker(breaker) for breaker in state.breakers],
            "quarantined_pools": [str(ref) for ref in sorted(state.quarantined_pools)],
            "quarantined_clusters": sorted(state.quarantined_clusters),
        }

    async def past(self, days: str) -> dict[str, Any]:
        """Those that opened in the last so many days, newest first, with what was at risk and what was saved. Raises:
        NotFoundError for what is no number of days."""
        try:
            back = float(days)
        except ValueError:
            back = math.nan
        if not 0.0 < back <= _MOST_DAYS:
            raise NotFoundError(f"days={days[:40]!r} is no number of days up to {_MOST_DAYS}")
        rows = await self._history.past_incidents(self._now() - back * 86400.0, _SHOWN)
        saved = [Decimal(row["usd_saved"]) for row in rows if row["usd_saved"] is not None]
        return {
            "past": [_past(row) for row in rows],
            "gpu_hours_saved": sum(row["gpu_hours_saved"] or 0.0 for row in rows),
            "usd_saved": str(sum(saved, Decimal(0))) if saved else None,
        }

    async def incident(self, name: str) -> dict[str, Any]:
        """One, with what was done about it. Raises: NotFoundError."""
        done = await self._history.remedies_of(name)
        found = next((each for each in self._remedies.incidents() if each.id == name), None)
        case = self._remedies.state.case(name)
        before = await self._history.past_incident(name)
        if found is None and case is None and not done and before is None:
            raise NotFoundError(f"no incident {name[:100]!r} is known; `overspill incidents list` lists them")
        told = {"id": name, "state": "unknown", **_case(case)}
        if found is not None:
            told = self._incident(found)
        elif before is not None:
            told |= {"state": before["outcome"] or "unknown", "kind": before["kind"], "severity": before["severity"],
                     "opened_at": before["opened_at"]}  # fmt: skip
        past = {} if before is None else {"past": _past(before) | orjson.loads(before["body"])}
        return {**told, **past, "remedies": [{str(key): row[key] for key in row if key != "body"} for row in done]}

    def _incident(self, incident: IncidentLike) -> dict[str, Any]:
        subject = incident.subject
        notes = [note for note in self._remedies.notes if note.incident == incident.id]
        return {
            "id": incident.id,
            "kind": incident.kind,
            "severity": incident.severity,
            "state": incident.state,
            "opened_at": incident.opened_at,
            "subject": {part: getattr(subject, part) or None for part in _PARTS},
            **_case(self._remedies.state.case(incident.id)),
            "notes": [{"action": note.action, "reason": note.reason.code, "text": note.reason.text} for note in notes],
        }


def _past(row: dict[str, Any]) -> dict[str, Any]:
    told = {str(key): value for key, value in row.items() if key != "body"}
    return told | {"subject": orjson.loads(row["body"])["subject"]}


def _case(case: Case | None) -> dict[str, Any]:
    if case is None:
        return {"policy": None, "phase": None, "action": None, "tried": []}
    return {"policy": case.policy, "phase": case.phase, "action": case.action or None, "tried": list(case.tried)}


def _breaker(breaker: Breaker) -> dict[str, Any]:
    found: dict[str, Any] = to_json(breaker)
    return found


def _order(incident: IncidentLike) -> tuple[bool, int, float, str]:
    return incident.state == "resolved", severity_rank(incident.severity), incident.opened_at, incident.id
