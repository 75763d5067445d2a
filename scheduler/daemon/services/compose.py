"""The parts that divide services, wired."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.history.store import History
from scheduler.daemon.placing.decisions import DecisionLog
from scheduler.daemon.placing.reconciler import Reconciler
from scheduler.daemon.services.actuator import ServiceActuator
from scheduler.daemon.services.gauges import ServiceGauges
from scheduler.daemon.services.keeper import ServiceKeeper
from scheduler.daemon.services.ports import Canary, DemandBook, ServiceReadings, TrafficKeeper
from scheduler.daemon.services.sights import Sights
from scheduler.daemon.services.speeds import Speeds
from scheduler.daemon.services.telling import Teller
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.serving.matching import is_divided
from scheduler.engine.serving.offers import Expected
from scheduler.model.cluster import SPOT, NodePool
from scheduler.model.ids import ClusterId
from scheduler.model.ports import Clock, Predictor
from scheduler.model.snapshot import SpendBucket
from scheduler.model.workload import Workload
from scheduler.predict.first import SPOT_RECLAIMS_PER_HOUR
from scheduler.predict.learned import LearnedPredictor


@dataclass(frozen=True, slots=True)
class Around:
    """What the division of services shares with the rest of the daemon."""

    mirror: Mirror
    policies: LivePolicies
    predictor: Callable[[], Predictor]
    clock: Clock
    telemetry: Telemetry
    history: History
    decisions: DecisionLog
    reconciler: Reconciler
    spend: Callable[[], tuple[SpendBucket, ...]]
    bursting_paused: Callable[[], bool]
    fence: Callable[[], None]
    is_lost: Callable[[Workload | None, ClusterId], bool]
    emit: Callable[[Workload, str, str], None]
    named: int
    """Of so many services the metrics tell by name."""
    shadow: bool


@dataclass(frozen=True, slots=True)
class Measured:
    """What others measure and steer."""

    readings: ServiceReadings
    book: DemandBook
    canary: Canary
    traffic: TrafficKeeper


@dataclass(frozen=True, slots=True)
class Services:
    keeper: ServiceKeeper
    sights: Sights
    speeds: Speeds
    gauges: ServiceGauges
    actuator: ServiceActuator | None
    """None in shadow mode."""

    @property
    def idle(self) -> bool:
        return self.keeper.idle

    def policies_changed(self, mirror: Mirror) -> None:
        mirror.sort_services()
        self.keeper.trigger()


def compose(around: Around, measured: Measured) -> Services:
    """Wire them; the mirror knows from now on what a service is, and the reconciler who looks after it."""
    mirror, shadow = around.mirror, around.shadow
    mirror.is_service = lambda workload: is_divided(workload, around.policies.current)
    sights = Sights(mirror, measured.readings, measured.canary, measured.traffic)
    speeds = Speeds(mirror, around.history, around.clock, saves=not shadow)
    actuator = None
    if not shadow:
        actuator = ServiceActuator(
            mirror,
            around.reconciler.writes,
            sights,
            measured.traffic,
            around.reconciler.keys,
            around.clock,
            around.telemetry,
            fence=around.fence,
            is_lost=around.is_lost,
            emit=around.emit,
        )
        around.reconciler.divided = actuator.reconcile
        around.reconciler.dependents.planned = actuator.planned
    keeper = ServiceKeeper(
        mirror,
        around.policies,
        around.predictor,
        around.clock,
        around.telemetry,
        sights=sights,
        book=measured.book,
        expected=partial(_expected, speeds, around.predictor),
        spend=around.spend,
        bursting_paused=around.bursting_paused,
        teller=Teller(around.telemetry, around.decisions, None if shadow else around.emit),
        actuator=actuator,
    )
    return Services(keeper, sights, speeds, ServiceGauges(around.telemetry, keeper.looked, around.named), actuator)


def _expected(speeds: Speeds, predictor: Callable[[], Predictor]) -> Expected:
    known = predictor()

    def reclaims_per_hour(pool: NodePool) -> float:
        if pool.capacity_type != SPOT:
            return 0.0
        return known.reclaims_per_hour(pool) if isinstance(known, LearnedPredictor) else SPOT_RECLAIMS_PER_HOUR

    return Expected(speeds.frozen(), reclaims_per_hour)
