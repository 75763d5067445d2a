"""Kubernetes Events on transitions: best effort, bounded, never in the way of a placement."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any, Final

import structlog

from clusters.kubernetes.codec import format_time
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.contract import EVENTS
from scheduler.model.errors import AlreadyExistsError, ExternalError
from scheduler.model.ports import Clock, KubeApi
from scheduler.model.workload import Workload

log = structlog.get_logger(__name__)
_WAITING_AT_MOST: Final = 2000
_WARNINGS: Final = frozenset(
    {
        "CopyRefused",
        "DependentMissing",
        "DependentNotOurs",
        "MemberLost",
        "OverBudget",
        "QuotaExceeded",
        "InvalidWorkload",
    }
)


class EventWriter:
    """Writes one Event for each transition that it is told, oldest first; drops (and counts) what is too much."""

    def __init__(
        self, mirror: Mirror, api: KubeApi, clock: Clock, telemetry: Telemetry, fence: Callable[[], None]
    ) -> None:
        self._mirror = mirror
        self._api = api
        self._clock = clock
        self._telemetry = telemetry
        self._fence = fence
        self._waiting: asyncio.Queue[dict[str, Any]] = asyncio.Queue(_WAITING_AT_MOST)

    @property
    def idle(self) -> bool:
        return self._waiting.empty()

    def emit(self, workload: Workload, reason: str, message: str) -> None:
        """Queue an Event about `workload`."""
        try:
            self._waiting.put_nowait(self._event(workload, reason, message))
        except asyncio.QueueFull:
            self._telemetry.events_dropped.inc()

    async def run(self) -> None:
        while True:
            event = await self._waiting.get()
            self._fence()
            try:
                await self._api.create(EVENTS, event["metadata"]["namespace"], event)
            except AlreadyExistsError:
                continue
            except ExternalError as error:
                self._telemetry.events_dropped.inc()
                log.warning("event_not_written", reason=event["reason"], error=str(error)[:200])

    def _event(self, workload: Workload, reason: str, message: str) -> dict[str, Any]:
        ref = workload.ref
        resource = self._mirror.kinds[ref.kind].hub_resource
        now = self._clock.now()
        stamp = format_time(now)
        digest = hashlib.sha256(f"{ref.uid}{reason}{message}{now}".encode()).hexdigest()[:16]
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{ref.name[:200]}.{digest}", "namespace": ref.namespace or "default"},
            "involvedObject": {
                "apiVersion": resource.api_version,
                "kind": resource.kind,
                "namespace": ref.namespace,
                "name": ref.name,
                "uid": ref.uid,
            },
            "reason": reason,
            "message": message[:1000],
            "type": "Warning" if reason in _WARNINGS else "Normal",
            "source": {"component": "overspill"},
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
