"""Shapes of answers about incidents and their remedies."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from scheduler.daemon.http.answers.base import Answer, At, Exact


class Note(Answer):
    action: str
    reason: str
    text: str


class Subject(Answer):
    cluster: str | None
    pool: str | None
    node: str | None
    gpu: str | None
    workload: str | None


class Case(Answer):
    policy: str | None
    phase: str | None
    action: str | None
    tried: list[str]


class Incident(Case):
    id: str
    kind: str
    severity: str
    state: str
    opened_at: At
    subject: Subject
    notes: list[Note]
    """Why something is not done (yet). `ApprovalNeeded` names an action that a person may approve."""


class Breaker(Answer):
    policy: str
    family: str
    cause: str
    since: At
    over_at: At
    pause_seconds: float
    trial: str
    good: int


class Incidents(Answer):
    paused: bool | None = None
    bursting_paused: bool | None = None
    switches_error: str | None = None
    incidents: list[Incident] | None = None
    breakers: list[Breaker] | None = None
    quarantined_pools: list[str] | None = None
    quarantined_clusters: list[str] | None = None
    past: list[PastIncident] | None = None
    """With `days`, and then alone with the two below."""
    gpu_hours_saved: float | None = None
    usd_saved: Exact | None = None


class PastIncident(Answer):
    id: str
    kind: str
    severity: str
    cluster: str
    opened_at: At
    ended_at: At | None
    outcome: str | None
    gpu_hours_at_risk: float | None
    usd_at_risk: Exact | None
    gpu_hours_saved: float | None
    usd_saved: Exact | None
    subject: str


class Remedy(Answer):
    id: str
    incident: str
    signal: str
    policy: str
    action: str
    began_at: At
    ended_at: At | None
    outcome: str | None


class IncidentDetail(Case):
    id: str
    state: str
    kind: str | None = None
    severity: str | None = None
    opened_at: At | None = None
    subject: Subject | None = None
    notes: list[Note] = Field(default=[])
    past: dict[str, Any] | None = None
    """As the history has it, with evidence."""
    remedies: list[Remedy]
