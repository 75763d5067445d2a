"""Tells in metrics what services' revisions do, by cluster; of so many services as `listen.workloadMetrics` allows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from scheduler.daemon.services.ports import ServiceObservation
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.ids import ClusterId, WorkloadRef
from scheduler.model.serving import RevisionMetrics


class RevisionGauges:
    """Belongs to the event loop."""

    def __init__(self, telemetry: Telemetry, most_services: int) -> None:
        self._telemetry = telemetry
        self._most = most_services

    def tell(self, services: Mapping[WorkloadRef, ServiceObservation]) -> None:
        """Instead of what was told before; those of which nothing is measured are not told of."""
        told = self._telemetry
        for gauge in (told.revision_requests, told.revision_latency, told.revision_errors):
            gauge.clear()
        measured = [(ref, seen.metrics) for ref, seen in sorted(services.items()) if seen.metrics]
        for ref, metrics in measured[: self._most]:
            for (cluster, revision), rows in _by_revision(metrics).items():
                self._tell((str(ref), cluster, revision), rows)

    def _tell(self, labels: tuple[str, str, str], rows: list[RevisionMetrics]) -> None:
        told = self._telemetry
        known = [one for one in rows if one.requests is not None and one.requests >= 0 and one.interval_seconds > 0]
        requests = sum(one.requests or 0 for one in known)
        if known:
            told.revision_requests.labels(*labels).set(sum((one.requests or 0) / one.interval_seconds for one in known))
        slowest = [one.p95_latency_seconds for one in rows if one.p95_latency_seconds is not None]
        if slowest:
            told.revision_latency.labels(*labels).set(max(slowest))
        errors = [one.errors for one in known if one.errors is not None]
        if errors and requests > 0:
            told.revision_errors.labels(*labels).set(min(1.0, max(0.0, sum(errors) / requests)))


def _by_revision(metrics: Iterable[RevisionMetrics]) -> dict[tuple[ClusterId, str], list[RevisionMetrics]]:
    """All pools together."""
    found: dict[tuple[ClusterId, str], list[RevisionMetrics]] = {}
    for one in metrics:
        found.setdefault((one.cluster, one.revision), []).append(one)
    return found
