"""Alertmanager both ways: what it tells us becomes findings, and ours are posted to it."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import aiohttp
import structlog

from scheduler.aiops.findings import Finding
from scheduler.aiops.incidents import SignalKey
from scheduler.aiops.remediation.facts import RESOLVED, Incident, IncidentLike, Subject
from scheduler.daemon.incidents.alert_payloads import PARTS, alerts_of, finding_of, incident_of, parse_webhook
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.errors import AuthError, InvalidObjectError
from scheduler.model.ids import Instant
from scheduler.model.ports import Clock

log = structlog.get_logger(__name__)
_ALERTS_AT_MOST: Final = 5000
_RESOLVED_SECONDS: Final = 86400.0
"""How long a resolved alert is told of."""
_LARGEST_TOKEN: Final = 4096
_POST_WALL_SECONDS: Final = 60.0
_POST_TIMEOUT_SECONDS: Final = 10.0
_POSTED_AT_ONCE: Final = 500


class AlertBook:
    """The alerts that Alertmanager tells of, as incidents. Bounded: resolved ones go first, then the oldest."""

    def __init__(self, token_file: Path | None, clock: Clock, telemetry: Telemetry) -> None:
        """`token_file` None: nobody may post."""
        self._token_file = token_file
        self._clock = clock
        self._telemetry = telemetry
        self._incidents: dict[str, Incident] = {}
        self._resolved_at: dict[str, float] = {}
        self.changed = asyncio.Event()
        """Something was received; whoever waits for it clears it."""

    def check(self, authorization: str) -> None:
        """Raises: AuthError unless that is the header of one who may post."""
        try:
            token = read_token(self._token_file)
        except AuthError:
            self._telemetry.webhooks.labels("unauthorized").inc()
            raise
        given = authorization.encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, b"Bearer " + token.encode()):
            self._telemetry.webhooks.labels("unauthorized").inc()
            raise AuthError("the bearer token is missing or wrong; see alerts.webhookTokenFile of the federation file")

    def receive(self, body: bytes) -> int:
        """Take up one notification; how many alerts it had. Raises: InvalidObjectError, one line."""
        try:
            alerts = parse_webhook(body)
        except InvalidObjectError:
            self._telemetry.webhooks.labels("malformed").inc()
            raise
        now = self._clock.now()
        for alert in alerts:
            incident = incident_of(alert)
            if incident.state == RESOLVED:
                self._resolved_at.setdefault(incident.id, now)
            else:
                self._resolved_at.pop(incident.id, None)
            self._incidents.pop(incident.id, None)
            self._incidents[incident.id] = incident
        self._forget(now)
        self.changed.set()
        self._telemetry.webhooks.labels("taken").inc()
        return len(alerts)

    def incidents(self) -> Iterable[Incident]:
        """The alerts as they are now, one for one."""
        return tuple(self._incidents.values())

    def findings(self, now: Instant) -> tuple[list[Finding], frozenset[SignalKey]]:
        """What fires now, as findings; and what has ended."""
        firing = [finding_of(each, now) for each in self._incidents.values() if each.state != RESOLVED]
        ended = (finding_of(each, now) for each in self._incidents.values() if each.state == RESOLVED)
        keys = {(each.kind, each.subject) for each in firing}
        return firing, frozenset((each.kind, each.subject) for each in ended) - keys

    def kept(self) -> list[Any]:
        """JSON values: what fires."""
        return [
            [each.id, each.kind, each.severity, [getattr(each.subject, part) for part in PARTS], each.opened_at]
            for each in self._incidents.values()
            if each.state != RESOLVED
        ]

    def take_up(self, told: Any) -> None:
        """What `kept` gave before a restart: Alertmanager may tell of them again only in hours. Anything else is passed
        over."""
        for value in told[:_ALERTS_AT_MOST] if isinstance(told, list) else ():
            match value:
                case [str(name), str(kind), str(severity), [*parts], float() | int() as at] if len(parts) == len(PARTS):
                    subject = Subject(*(str(part) if part is not None else None for part in parts))
                    self._incidents.setdefault(name, Incident(name, kind, severity, subject, float(at)))

    def _forget(self, now: float) -> None:
        for name in [name for name, at in self._resolved_at.items() if now - at > _RESOLVED_SECONDS]:
            self._drop(name)
        while len(self._incidents) > _ALERTS_AT_MOST:
            self._drop(next(iter(self._resolved_at), next(iter(self._incidents))))

    def _drop(self, name: str) -> None:
        self._incidents.pop(name, None)
        self._resolved_at.pop(name, None)


class AlertPoster:
    """Posts incidents to Alertmanager's v2 API, once a minute; what resolves is posted once more."""

    def __init__(
        self,
        url: str,
        token_file: Path | None,
        federation: str,
        clock: Clock,
        incidents: Callable[[], Iterable[IncidentLike]],
    ) -> None:
        self._url = f"{url.rstrip('/')}/api/v2/alerts"
        self._token_file = token_file
        self._federation = federation
        self._clock = clock
        self._incidents = incidents
        self._firing: set[str] = set()

    async def run(self) -> None:
        """For ever."""
        while True:
            await self.post()
            await asyncio.sleep(_POST_WALL_SECONDS)

    async def post(self) -> bool:
        """Post once; whether it was taken. A failure is logged, and all is told again next time."""
        told = [each for each in self._incidents() if each.state != RESOLVED or each.id in self._firing]
        body = alerts_of(told, self._federation, self._clock.now())
        if not body:
            return True
        headers = {}
        try:
            if self._token_file is not None:
                headers["Authorization"] = f"Bearer {read_token(self._token_file)}"
            timeout = aiohttp.ClientTimeout(total=_POST_TIMEOUT_SECONDS)
            async with aiohttp.ClientSession(timeout=timeout, headers=headers) as http:
                for start in range(0, len(body), _POSTED_AT_ONCE):
                    async with http.post(self._url, json=body[start : start + _POSTED_AT_ONCE]) as answer:
                        if answer.status != 200:
                            raise InvalidObjectError(f"status {answer.status}: {(await answer.text())[:200]}")
        except (aiohttp.ClientError, TimeoutError, InvalidObjectError, AuthError) as error:
            log.warning("alerts_not_posted", error=str(error)[:300] or type(error).__name__)
            return False
        self._firing = {each.id for each in told if each.state != RESOLVED}
        return True


def read_token(file: Path | None) -> str:
    """Anew for each use, so that a rotated one counts at once. Raises: AuthError, without the token."""
    if file is None:
        raise AuthError("no webhook is expected; set alerts.webhookTokenFile in the federation file")
    try:
        with file.open("rb") as opened:
            token = opened.read(_LARGEST_TOKEN + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise AuthError(f"{file}: the token cannot be read ({type(error).__name__})") from error
    if not token or len(token) > _LARGEST_TOKEN or any(char.isspace() for char in token):
        raise AuthError(f"{file}: not a token; write one word into it")
    return token
