"""Collects the members' metrics, round after round, and keeps the latest reading of each query on each member."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from clusters.metrics import load_metrics_source
from clusters.metrics.collector import Collector
from clusters.metrics.queries import load_queries
from scheduler.daemon.config.federation import Federation
from scheduler.daemon.state.member_mirror import MemberMirror
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.ids import ClusterId, Instant
from scheduler.model.metrics import FAILED, OK, MetricQuery, MetricsSource, Reading, Sample
from scheduler.model.ports import Clock

log = structlog.get_logger(__name__)
_ROUND_SECONDS: Final = 30.0
"""From one round's beginning to the next one's, in the federation's time."""
_AT_LEAST_WALL_SECONDS: Final = 1.0
ROUND_TRIP: Final = "api_round_trip_seconds"
"""Our own measurement, told beside what the sources say."""


@dataclass(frozen=True, slots=True)
class OpenCollector:
    """The sources of all members, and the names of the metrics that they are asked for."""

    collector: Collector
    names: tuple[str, ...]


def open_collector(federation: Federation, clock: Clock) -> OpenCollector:
    """The metrics sources and queries that the federation file names; nothing is sent yet.

    Raises: OverspillError for settings of no use (a certificate that cannot be read, say) and mistakes in the queries.
    """
    queries = load_queries(federation.metric_queries)
    sources: dict[ClusterId, MetricsSource] = {}
    for member in federation.members:
        if member.metrics is not None:
            module = load_metrics_source(member.metrics.type)
            context = {"base_dir": member.metrics.base_dir}
            settings = module.Settings.model_validate(dict(member.metrics.settings), context=context)
            sources[member.id] = module.create(settings, cluster=member.id, clock=clock)
    return OpenCollector(Collector(sources, queries, clock=clock), tuple(query.name for query in queries))


class MetricsKeeper:
    """The latest readings. Belongs to the event loop."""

    def __init__(self, mirror: Mirror, metrics: OpenCollector, clock: Clock, telemetry: Telemetry) -> None:
        self._mirror = mirror
        self._collector = metrics.collector
        self._clock = clock
        self._telemetry = telemetry
        self._names = metrics.names
        self._latest: dict[tuple[ClusterId, str], Reading] = {}
        self._silent: frozenset[ClusterId] = frozenset()
        self.collected_at: Instant | None = None
        """When the last round began that has come to its end, with all that follows from it."""
        self.on_round: Callable[[], Awaitable[None]] | None = None
        """Called after each round; it raises nothing."""
        self.least_wall_seconds: Callable[[], float] = lambda: _AT_LEAST_WALL_SECONDS
        """From one round's beginning to the next one's, however fast the federation's time passes."""

    async def run(self) -> None:
        """A round every thirty seconds, for ever. A standby and shadow mode collect, too."""
        while True:
            due = self._clock.now() + _ROUND_SECONDS
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(self.least_wall_seconds()))
                group.create_task(self.collect())
            await self._clock.sleep(max(0.0, due - self._clock.now()))

    async def collect(self) -> None:
        """One round. What a source does wrong is a failed reading, never an exception."""
        found = await self._collector.collect()
        self._telemetry.metrics_round_seconds.observe(found.took_seconds)
        for reading in found.readings:
            self._latest[reading.cluster, reading.metric] = reading
        for cluster, state, count in found.counts:
            self._telemetry.metric_readings.labels(cluster, state).inc(count)
        self._tell_silent(frozenset(found.silent))
        if self.on_round is not None:
            await self.on_round()
        self.collected_at = found.asked_at

    async def ask(self, cluster: ClusterId, queries: Sequence[MetricQuery]) -> tuple[Reading, ...]:
        """Readings of a workload's own queries; nothing is kept of them."""
        return await self._collector.ask(cluster, queries)

    def _tell_silent(self, silent: frozenset[ClusterId]) -> None:
        """Log the first round in which nothing could be read of a member, and the first in which it could again."""
        for cluster in sorted(silent - self._silent):
            error = next((one.error for one in self.readings(cluster) if one.metric != ROUND_TRIP), "")
            log.warning("metrics_not_read", cluster=cluster, error=error[:300])
        for cluster in sorted(self._silent - silent):
            log.info("metrics_read_again", cluster=cluster)
        self._silent = silent

    def readings(self, cluster: str = "", metric: str = "") -> list[Reading]:
        """The latest of each query on each member, and our own round trips; by member and metric ("": all)."""
        pings = (round_trip_reading(member) for member in self._mirror.members.values())
        found = [*self._latest.values(), *(ping for ping in pings if ping is not None)]
        chosen = (one for one in found if cluster in ("", one.cluster) and metric in ("", one.metric))
        return sorted(chosen, key=lambda one: (one.cluster, one.metric))

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of all metrics that there may be readings of, sorted."""
        return tuple(sorted({ROUND_TRIP, *self._names, *(metric for _, metric in self._latest)}))


def round_trip_reading(member: MemberMirror) -> Reading | None:
    """What a small read of the member's API took when it was last pinged; None: it never was."""
    seconds, at = member.round_trip_seconds, member.round_trip_at
    if at is None:
        return None
    failure = member.error or "its API does not answer, or does not permit reading namespaces"
    return Reading(
        cluster=member.member.id,
        metric=ROUND_TRIP,
        unit="seconds",
        state=FAILED if seconds is None else OK,
        samples=() if seconds is None else (Sample((), seconds, at),),
        source="overspill, a read of namespaces/default",
        asked_at=at,
        took_seconds=seconds or 0.0,
        error=failure if seconds is None else "",
    )
