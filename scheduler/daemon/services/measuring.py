"""What the division of services is fed with and acts on, wired: measurements, forecasts, verdicts, traffic."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from scheduler.daemon.config.federation import Federation
from scheduler.daemon.gathering.metrics import MetricsKeeper
from scheduler.daemon.history.store import History
from scheduler.daemon.leading.fence import Lead
from scheduler.daemon.services.canaries import Canaries
from scheduler.daemon.services.compose import Measured
from scheduler.daemon.services.dns_hook import DnsPoster
from scheduler.daemon.services.forecasts import DemandForecasts
from scheduler.daemon.services.places import MirroredPlaces
from scheduler.daemon.services.ports import TrafficKeeper, Unmeasured
from scheduler.daemon.services.readings import ServiceMeasures
from scheduler.daemon.services.revision_gauges import RevisionGauges
from scheduler.daemon.services.spans import ServiceTraces
from scheduler.daemon.services.traffic import Traffic
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.telemetry.traces import Trace
from scheduler.model.ids import ClusterId
from scheduler.model.ports import Clock, KubeApi


@dataclass(frozen=True, slots=True)
class Measuring:
    """One daemon's. `traces` None: nobody wants them."""

    measures: ServiceMeasures
    forecasts: DemandForecasts
    canaries: Canaries
    traffic: TrafficKeeper
    gauges: RevisionGauges
    traces: ServiceTraces | None

    @property
    def measured(self) -> Measured:
        return Measured(self.measures, self.forecasts, self.canaries, self.traffic)


def open_measuring(
    mirror: Mirror,
    readings: MetricsKeeper,
    history: History,
    clock: Clock,
    telemetry: Telemetry,
    federation: Federation,
    *,
    hub_api: KubeApi,
    member_apis: Mapping[ClusterId, KubeApi],
    lead: Lead,
    export_trace: Callable[[Trace], None] | None,
    shadow: bool,
) -> Measuring:
    """`hub_api`, `member_apis`: fenced. In shadow mode nothing is steered. Raises: InvalidObjectError for a CA file of
    the DNS hook that cannot be used."""
    places = MirroredPlaces(mirror)
    traces = None if export_trace is None or shadow else ServiceTraces(export_trace, clock.now)
    traffic: TrafficKeeper = Unmeasured()
    if not shadow:
        steering = Traffic(
            mirror,
            hub_api,
            member_apis,
            clock,
            telemetry,
            places=places,
            current_revision=places.current_revision,
            lead=lead,
            hook=None if federation.dns is None else DnsPoster(federation.dns, federation.name),
        )
        if traces is not None:
            steering.on_set = traces.shifted
        traffic = steering
    return Measuring(
        measures=ServiceMeasures(mirror, readings, clock, places, own_queries=federation.own_queries),
        forecasts=DemandForecasts(history, clock, saves=not shadow),
        canaries=Canaries(),
        traffic=traffic,
        gauges=RevisionGauges(telemetry, federation.workload_metrics),
        traces=traces,
    )
