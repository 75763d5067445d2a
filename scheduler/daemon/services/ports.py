"""What the division of services takes from others: measurements, forecasts, verdicts; and who steers traffic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from scheduler.daemon.state.mirror import HubEntry
from scheduler.model.division import Division
from scheduler.model.ids import Instant, WorkloadRef
from scheduler.model.serving import (
    CanaryVerdict,
    ClientDemand,
    ClientLatency,
    ExpectedRate,
    RevisionMetrics,
    ServiceView,
    TrafficWeight,
)


@dataclass(frozen=True, slots=True)
class ServiceObservation:
    """What was measured of one service, as of the last round. Empty: nobody measures it."""

    demand: tuple[ClientDemand, ...] = ()
    latency: tuple[ClientLatency, ...] = ()
    metrics: tuple[RevisionMetrics, ...] = ()
    last_request_at: Instant | None = None


class ServiceReadings(Protocol):
    def of(self, ref: WorkloadRef) -> ServiceObservation: ...


class DemandBook(Protocol):
    """Forecasts of demand. Remembers by itself, in the history."""

    def observe(self, ref: WorkloadRef, at: Instant, demand: Sequence[ClientDemand]) -> None:
        """What was asked; called at each look, also with what was told before."""
        ...

    def forecast(self, ref: WorkloadRef, leads_seconds: Sequence[float], confidence: float) -> tuple[ExpectedRate, ...]:
        """Not exceeded in `confidence` of all cases, at each lead; empty: nothing is known."""
        ...


class Canary(Protocol):
    def verdict(self, ref: WorkloadRef, revision: str) -> CanaryVerdict | None:
        """Of the revision that is being rolled out, in its present step; None: nobody judges it."""
        ...

    def looked(self, view: ServiceView, division: Division, memory_step: tuple[str, str, int, int] | None) -> None:
        """After each look: what was measured, and which step (old, new, cluster, step) is being judged (None: none),
        so that each step is judged by itself."""
        ...


class TrafficKeeper(Protocol):
    async def apply(self, service: HubEntry, division: Division) -> None:
        """Have the weights set, and the rest stay; idempotent. Raises the typed errors of the model."""
        ...

    def weights(self, ref: WorkloadRef) -> tuple[TrafficWeight, ...]:
        """As they are set now; empty: none are, or nobody steers it."""
        ...

    def astray(self, ref: WorkloadRef) -> bool:
        """Whether requests may still go where they were sent before, for what sends them there could not be set."""
        ...


class Unmeasured:
    """Nothing is measured, nothing is foretold, nobody judges and nobody steers: what is true where nothing is set up
    for it."""

    def of(self, ref: WorkloadRef) -> ServiceObservation:
        return ServiceObservation()

    def observe(self, ref: WorkloadRef, at: Instant, demand: Sequence[ClientDemand]) -> None:
        return

    def forecast(self, ref: WorkloadRef, leads_seconds: Sequence[float], confidence: float) -> tuple[ExpectedRate, ...]:
        return ()

    def verdict(self, ref: WorkloadRef, revision: str) -> CanaryVerdict | None:
        return None

    def looked(self, view: ServiceView, division: Division, memory_step: tuple[str, str, int, int] | None) -> None:
        return

    async def apply(self, service: HubEntry, division: Division) -> None:
        return

    def weights(self, ref: WorkloadRef) -> tuple[TrafficWeight, ...]:
        return ()

    def astray(self, ref: WorkloadRef) -> bool:
        return False
