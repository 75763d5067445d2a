"""Alertmanager's words: its webhook payload (version 4) read into alerts, and incidents as its v2 API takes them. Pure.

Sources: the Alertmanager documentation, `webhook_config`; its OpenAPI definition of POST /api/v2/alerts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from clusters.kubernetes.codec import format_time, parse_time
from scheduler.aiops.findings import HARDWARE, INFRASTRUCTURE, SYMPTOM, Finding
from scheduler.aiops.findings import Subject as FindingSubject
from scheduler.aiops.remediation.facts import RESOLVED, Incident, IncidentLike, Subject
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

MAX_BYTES: Final = 1 << 20
MAX_ALERTS: Final = 1000
MAX_LABELS: Final = 64
_LONGEST: Final = 1024
OURS: Final = "overspill_incident"
"""Label of the alerts that we send: they are not taken back in."""
SIGNAL: Final = "overspill_signal"
"""Label by which a rule says which signal its alert is; without it the signal is alert.ALERTNAME."""
_SEVERITIES: Final = {
    "critical": "critical", "page": "critical", "emergency": "critical", "high": "high", "error": "high",
    "major": "high", "warning": "warning", "minor": "warning",
}  # fmt: skip
_SUBJECT: Final = {
    "cluster": ("overspill_cluster", "cluster"),
    "pool": ("overspill_pool", "nodepool", "pool"),
    "node": ("node", "kubernetes_node", "exported_node", "Hostname"),
    "gpu": ("gpu", "GPU"),
    "workload": ("overspill_workload", "label_overspill_dev_origin_uid"),
}
"""Labels that name each part of a subject, the first that is there counts."""
PARTS: Final = tuple(_SUBJECT)
_ORIGINS: Final = {
    "gpu": HARDWARE, "node": HARDWARE, "network": INFRASTRUCTURE, "pool": INFRASTRUCTURE, "cost": INFRASTRUCTURE,
}  # fmt: skip
"""By the first word of a kind, what it mostly comes of; else it is a symptom."""
_ENDS_AFTER_SECONDS: Final = 300.0
"""Alertmanager takes an alert for resolved when it has not been told of it again for so long."""


@dataclass(frozen=True, slots=True)
class Alert:
    fingerprint: str
    firing: bool
    labels: tuple[tuple[str, str], ...]
    starts_at: Instant


def parse_webhook(body: bytes) -> tuple[Alert, ...]:
    """The alerts of one notification, without those that we sent ourselves.

    Raises: InvalidObjectError, one line that names what is wrong.
    """
    if len(body) > MAX_BYTES:
        raise InvalidObjectError(f"the payload is larger than {MAX_BYTES} bytes; set max_alerts in webhook_config")
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidObjectError(f"the payload is not JSON ({str(error)[:100]})") from error
    if not isinstance(payload, dict):
        raise InvalidObjectError("the payload is not a JSON object")
    if payload.get("version") != "4":
        said = str(payload.get("version"))[:20]
        raise InvalidObjectError(f"version {said!r} of the payload is not supported; it must be '4'")
    alerts = payload.get("alerts")
    if not isinstance(alerts, list):
        raise InvalidObjectError("alerts: not a list")
    if len(alerts) > MAX_ALERTS:
        raise InvalidObjectError(f"alerts: more than {MAX_ALERTS}; set max_alerts in webhook_config")
    read = [_alert(alert, f"alerts[{index}]") for index, alert in enumerate(alerts)]
    return tuple(alert for alert in read if OURS not in dict(alert.labels))


def incident_of(alert: Alert) -> Incident:
    """The alert as an incident; the same alert is the same incident."""
    labels = dict(alert.labels)
    name = labels.get("alertname", "unnamed")
    found = {part: next((labels[key] for key in keys if labels.get(key)), None) for part, keys in _SUBJECT.items()}
    return Incident(
        id=f"alert-{alert.fingerprint}",
        kind=labels.get(SIGNAL) or f"alert.{name}",
        severity=_severity(labels),
        subject=Subject(**found),
        opened_at=alert.starts_at,
        state="open" if alert.firing else RESOLVED,
    )


def _severity(labels: Mapping[str, str]) -> str:
    """An alert that says which signal it is wants to be acted upon: no information alone."""
    least = "warning" if SIGNAL in labels or "severity" not in labels else "info"
    return _SEVERITIES.get(labels.get("severity", "").lower(), least)


def finding_of(alert: Incident, now: Instant) -> Finding:
    """An alert that fires, as a finding of this moment."""
    subject = FindingSubject(**{part: getattr(alert.subject, part) or "" for part in PARTS})
    first = alert.kind.partition(".")[0]
    return Finding(now, alert.kind, subject, alert.severity, _ORIGINS.get(first, SYMPTOM))


def alerts_of(incidents: Iterable[IncidentLike], federation: str, now: Instant) -> list[dict[str, Any]]:
    """The body of a POST to /api/v2/alerts: open incidents fire for a while yet, resolved ones end now. Those that came
    from Alertmanager are left out."""
    found = []
    for incident in incidents:
        if incident.id.startswith("alert-"):
            continue
        subject = incident.subject
        parts = {part: getattr(subject, part) or "" for part in ("cluster", "pool", "node", "gpu", "workload")}
        labels = {
            "alertname": "OverspillIncident",
            OURS: incident.id,
            "federation": federation,
            "signal": incident.kind,
            "severity": incident.severity,
            **{part: value for part, value in parts.items() if value},
        }
        ends = now if incident.state == RESOLVED else now + _ENDS_AFTER_SECONDS
        where = "/".join(value for value in parts.values() if value) or "the federation"
        found.append(
            {
                "labels": labels,
                "annotations": {"summary": f"{incident.kind} on {where}"},
                "startsAt": format_time(min(incident.opened_at, now)),
                "endsAt": format_time(ends),
            }
        )
    return found


def _alert(value: object, place: str) -> Alert:
    if not isinstance(value, dict):
        raise InvalidObjectError(f"{place}: not an object")
    status = value.get("status")
    if status not in ("firing", "resolved"):
        raise InvalidObjectError(f"{place}.status: {str(status)[:40]!r} is neither 'firing' nor 'resolved'")
    labels = _labels(value.get("labels"), place)
    starts = value.get("startsAt")
    if not isinstance(starts, str):
        raise InvalidObjectError(f"{place}.startsAt: missing, or not text")
    try:
        starts_at = parse_time(starts)
    except InvalidObjectError as error:
        raise InvalidObjectError(f"{place}.startsAt: {error}") from error
    told = value.get("fingerprint")
    known = isinstance(told, str) and 0 < len(told) <= 64 and told.isascii() and told.isalnum()
    return Alert(str(told) if known else _fingerprint(labels), status == "firing", labels, starts_at)


def _labels(value: object, place: str) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, Mapping) or not value:
        raise InvalidObjectError(f"{place}.labels: missing, or not an object")
    if len(value) > MAX_LABELS:
        raise InvalidObjectError(f"{place}.labels: more than {MAX_LABELS}")
    for name, text in value.items():
        if not isinstance(text, str):
            raise InvalidObjectError(f"{place}.labels.{name[:60]!r}: not text")
        if len(name) + len(text) > _LONGEST:
            raise InvalidObjectError(f"{place}.labels.{name[:60]!r}: longer than {_LONGEST} characters")
    return tuple(sorted(value.items()))


def _fingerprint(labels: tuple[tuple[str, str], ...]) -> str:
    return hashlib.sha256(orjson.dumps(labels)).hexdigest()[:16]
