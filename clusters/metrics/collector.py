"""One collection round: every query on every member, all at once. A slow or broken source delays nobody else."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clusters.metrics._samples import Asked
from scheduler.model.ids import ClusterId, Instant
from scheduler.model.metrics import FAILED, MetricQuery, MetricsSource, Reading
from scheduler.model.ports import Clock

LIMIT_SECONDS: Final = 20.0
"""Sources end their own calls earlier (`roundLimitSeconds`) and say which queries were answered; this is for one that
does not."""


@dataclass(frozen=True, slots=True)
class Round:
    """What one round gave."""

    readings: tuple[Reading, ...]
    """By cluster, then in the order of the queries: one for each of both."""
    asked_at: Instant
    took_seconds: float
    counts: tuple[tuple[ClusterId, str, int], ...]
    """(cluster, state, how many readings), sorted."""
    silent: tuple[ClusterId, ...]
    """Members of which every reading failed, sorted."""


class Collector:
    """Asks the members' sources. Owns them: `close` closes them."""

    def __init__(
        self,
        sources: Mapping[ClusterId, MetricsSource],
        queries: Sequence[MetricQuery],
        *,
        clock: Clock,
        limit_seconds: float = LIMIT_SECONDS,
    ) -> None:
        self._sources = dict(sorted(sources.items()))
        self._queries = tuple(queries)
        self._clock = clock
        self._limit_seconds = limit_seconds
        self.totals: Counter[tuple[ClusterId, str]] = Counter()
        """Readings since the start, by (cluster, state)."""
        self.timeouts: Counter[ClusterId] = Counter()
        """Rounds in which a source had to be cut off."""

    async def collect(self) -> Round:
        """One round: as long as the slowest source takes, at most the limit. Never raises for what a source does."""
        asked_at = self._clock.now()
        started = time.monotonic()
        by_member = await asyncio.gather(*(self._member(each, asked_at, self._queries) for each in self._sources))
        took = time.monotonic() - started
        readings = tuple(reading for readings in by_member for reading in readings)
        counts = Counter((reading.cluster, reading.state) for reading in readings)
        self.totals.update(counts)
        asked = [cluster for cluster in self._sources if self._queries]
        return Round(
            readings=readings,
            asked_at=asked_at,
            took_seconds=took,
            counts=tuple((cluster, state, count) for (cluster, state), count in sorted(counts.items())),
            silent=tuple(cluster for cluster in asked if counts[cluster, FAILED] == len(self._queries)),
        )

    async def ask(self, cluster: ClusterId, queries: Sequence[MetricQuery]) -> tuple[Reading, ...]:
        """Readings of other queries on one member, in their order; none where it has no source. As bounded as a round,
        and never raises for what a source does."""
        if cluster not in self._sources or not queries:
            return ()
        return await self._member(cluster, self._clock.now(), tuple(queries))

    async def close(self) -> None:
        """Raises: what a source raises when it is closed, after all of them were."""
        results = await asyncio.gather(*(source.close() for source in self._sources.values()), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _member(
        self, cluster: ClusterId, asked_at: Instant, queries: Sequence[MetricQuery]
    ) -> tuple[Reading, ...]:
        source = self._sources[cluster]
        asked = Asked(cluster, getattr(source, "source", type(source).__name__), asked_at)
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._limit_seconds):
                readings = await source.read(queries)
        except TimeoutError:
            self.timeouts[cluster] += 1
            problem = f"no answer within {self._limit_seconds:g} s"
        except Exception as error:  # noqa: BLE001  (an edge: a source's own fault must not end the round)
            problem = f"the source failed ({type(error).__name__})"
        else:
            if len(readings) == len(queries):
                return tuple(readings)
            problem = f"the source gave {len(readings)} readings to {len(queries)} queries"
        took = time.monotonic() - started
        return tuple(asked.failed(query, problem, took) for query in queries)
