"""Gathered metrics: what is asked, and what came back. Absent and stale are answers of their own, never 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from scheduler.model.ids import ClusterId, Instant

OK: Final = "ok"
ABSENT: Final = "absent"
"""The source answered, and has no such series."""
STALE: Final = "stale"
"""The newest sample is older than the query allows."""
FAILED: Final = "failed"
"""The source did not answer, or not sensibly; `error` says how."""


MAX: Final = "max"
MIN: Final = "min"
SUM: Final = "sum"


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """One metric by Overspill's own name and unit, and how each type of source finds it."""

    name: str
    """Such as gpu_utilization_ratio; the unit is its ending."""
    unit: str
    """Base unit after scaling: ratio, bytes, watts, celsius, hertz, seconds, count, per_second."""
    promql: str
    """For a Prometheus API; "" when it cannot be had there. `$selector` stands for the source's own label matchers,
    `$window` for the time over which it takes rates."""
    families: tuple[tuple[str, float], ...]
    """For a direct scrape: names of metric families, in order of preference, each with what its values are multiplied
    by to reach `unit`; empty when it cannot be had that way. A name may carry label matchers,
    `kube_node_status_condition{condition="Ready"}`, and may be a sum of families, `A + B`."""
    labels: tuple[str, ...]
    """Labels that are kept, in this order."""
    max_age_seconds: float
    required: bool = False
    """Whether `overspill doctor` calls its absence a failure."""
    help: str = ""
    rate: bool = False
    """The families are counters: their increase per second is meant."""
    quantile: float | None = None
    """The families are histograms: this quantile (0 to 1) of what was observed lately is meant."""
    combine: str = MAX
    """How samples become one that differ only in labels which are not kept: max, min or sum. (Histograms are always
    summed.)"""
    spellings: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """For a kept label, the names that exporters give it, in order of preference; without an entry its own name."""
    most: float | None = None
    """In `unit`. A larger value is an exporter's word for "unknown" (DCGM's blank values) and is dropped."""


@dataclass(frozen=True, slots=True)
class Sample:
    labels: tuple[tuple[str, str], ...]
    value: float
    """In the query's unit; finite."""
    at: Instant


@dataclass(frozen=True, slots=True)
class Reading:
    """What one query gave on one cluster."""

    cluster: ClusterId
    metric: str
    unit: str
    state: str
    """ok, absent, stale or failed."""
    samples: tuple[Sample, ...]
    """Sorted by labels; of an ok reading the fresh ones alone, of a stale one the old ones, of an absent or failed one
    none."""
    source: str
    """Where it was read, for people: type and host, never credentials."""
    asked_at: Instant
    took_seconds: float
    error: str = ""
    """Of a failed reading what is wrong; of another what is worth knowing (warnings, dropped samples), mostly ""."""
    dropped: int = 0
    """Samples that were told and cannot be: not a number, above the query's `most`, of an impossible time."""

    @property
    def newest_at(self) -> Instant | None:
        return max((sample.at for sample in self.samples), default=None)


@runtime_checkable
class MetricsSource(Protocol):
    """Where one cluster's metrics are read; a module of `clusters.metrics`."""

    async def read(self, queries: Sequence[MetricQuery]) -> tuple[Reading, ...]:
        """One reading for each query, in their order. Never raises for what the source does: that is a failed
        reading."""
        ...

    async def close(self) -> None: ...
