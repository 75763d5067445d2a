"""The composition of one daemon: the parts, wired, over whatever APIs, providers and clock it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from clusters.clock import BootClock
from clusters.kubernetes.reviews import Exchange, Wanted
from scheduler.daemon.config.federation import Federation
from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.gathering.gathered import Gathered
from scheduler.daemon.gathering.gatherers import Gatherers
from scheduler.daemon.gathering.metrics import MetricsKeeper, OpenCollector
from scheduler.daemon.gathering.prices import OpenBook, PriceKeeper
from scheduler.daemon.gathering.shards import Gathering, Shards
from scheduler.daemon.history.store import History
from scheduler.daemon.http.access import Access
from scheduler.daemon.http.api import Served
from scheduler.daemon.http.status import StatusReport
from scheduler.daemon.http.stream import DecisionStream
from scheduler.daemon.incidents.alerts import AlertBook, AlertPoster
from scheduler.daemon.incidents.control import Control
from scheduler.daemon.incidents.effects import Effects
from scheduler.daemon.incidents.fleet_watch import Beside, FleetWatch
from scheduler.daemon.incidents.incident_log import IncidentLog
from scheduler.daemon.incidents.incident_views import IncidentViews
from scheduler.daemon.incidents.node_remedies import NodeRemedies
from scheduler.daemon.incidents.remedies import Remedies
from scheduler.daemon.incidents.watch_store import WatchStore
from scheduler.daemon.incidents.workload_facts import Facts
from scheduler.daemon.leading.fence import FencedApi, FencedProvider
from scheduler.daemon.leading.leader import Leader, LeaseSettings
from scheduler.daemon.learning.learner import Learner
from scheduler.daemon.learning.progress import ProgressBook
from scheduler.daemon.learning.runs import RunEnded, RunLog, RunStarted
from scheduler.daemon.learning.waits import WaitBook
from scheduler.daemon.money.costs import CostBook
from scheduler.daemon.money.exploration import ExplorationBook
from scheduler.daemon.money.ledger import Ledger
from scheduler.daemon.placing.decisions import DecisionLog
from scheduler.daemon.placing.events import EventWriter
from scheduler.daemon.placing.planning import Planner
from scheduler.daemon.placing.pools import PoolKeeper
from scheduler.daemon.placing.reconciler import Reconciler
from scheduler.daemon.services.compose import Around, Services, compose
from scheduler.daemon.services.measuring import open_measuring
from scheduler.daemon.services.ports import ServiceObservation
from scheduler.daemon.services.views import ServiceViews
from scheduler.daemon.state.mirror import Mirror
from scheduler.daemon.state.reclaims import ReclaimLog
from scheduler.daemon.state.watching import watches
from scheduler.daemon.supervise import Pulse, measure_lag, supervised
from scheduler.daemon.telemetry import Telemetry
from scheduler.daemon.telemetry.gauges import WorkloadGauges
from scheduler.daemon.telemetry.traces import Trace, TraceBook
from scheduler.engine.matching import Matcher
from scheduler.model.ids import ClusterId, Uid, WorkloadRef
from scheduler.model.ports import Clock, KubeApi, NodePoolProvider, Predictor, WorkloadKind
from scheduler.model.remediation import NOTIFY, Action
from scheduler.model.workload import Workload

log = structlog.get_logger(__name__)
_LOOK_AGAIN_SECONDS: Final = 20.0
_LEAST_ROUND_WALL_SECONDS: Final = 0.05
_SAVE_SECONDS: Final = 5.0
"""At the end, for a history that is slow: a standby waits for the Lease meanwhile."""


@dataclass(frozen=True, slots=True)
class Outside:
    """Everything the daemon reaches, given from outside so that tests and the real process compose it alike."""

    federation: Federation
    hub_api: KubeApi
    hub_reviews: Exchange
    """Where callers of our own API are looked up."""
    member_apis: Mapping[ClusterId, KubeApi]
    providers: Mapping[ClusterId, NodePoolProvider]
    kinds: Mapping[str, WorkloadKind]
    clock: Clock
    policies: LivePolicies
    prices: OpenBook
    metrics: OpenCollector
    predictor: Predictor
    """Where nothing is learned: the federation's `predictor` is first."""
    history: History
    telemetry: Telemetry
    identity: str
    lease: LeaseSettings = field(default_factory=LeaseSettings)
    lease_clock: Clock = field(default_factory=BootClock)
    """Times the Lease; never set, and the same for no two machines."""
    gathering: Gathering | None = None
    """None: this replica gathers all by itself."""
    export_trace: Callable[[Trace], None] | None = None
    """None: no traces are told."""
    ping_seconds: float = 15.0
    """Between two small reads of a member, of wall time."""


class Daemon:
    """One scheduler. `run` until cancelled; raises FencedError when leadership is lost."""

    def __init__(self, outside: Outside, *, shadow: bool) -> None:
        self.outside = outside
        self.shadow = shadow
        federation, clock, telemetry = outside.federation, outside.clock, outside.telemetry
        self.pulse = Pulse(asyncio.get_running_loop().time)
        self.mirror = Mirror(federation, outside.kinds, clock, telemetry)
        self.ledger = Ledger(self.mirror, outside.history, clock)
        self.reclaims = ReclaimLog(outside.history, clock, telemetry)
        self.prices = PriceKeeper(
            self.mirror, outside.prices, outside.history, clock, telemetry, self.ledger.prices_changed
        )
        self.readings = MetricsKeeper(self.mirror, outside.metrics, clock, telemetry)
        self.runs = RunLog(self.mirror, outside.history, clock)
        self.learner = (
            Learner(self.mirror, outside.history, clock, telemetry) if federation.predictor == "learned" else None
        )
        self.progress = ProgressBook(
            self.mirror, self.readings, outside.history, clock, self.predictor, own_queries=federation.own_queries
        )
        self.waits = WaitBook(self.mirror, outside.policies, self.predictor)
        self.costs = CostBook(self.mirror, self.ledger, outside.history, self.predictor)
        self.explorations = ExplorationBook(outside.history, clock, saves=not shadow)
        self.decisions = DecisionLog(outside.history, telemetry, shadow=shadow)
        self.leader = Leader(
            outside.hub_api, outside.identity, clock, telemetry.leader.set, outside.lease, outside.lease_clock
        )
        hub_api = self._hub_api = FencedApi(outside.hub_api, self.leader)
        member_apis = self._member_apis = {
            cluster: FencedApi(api, self.leader) for cluster, api in outside.member_apis.items()
        }
        self.events = EventWriter(self.mirror, hub_api, clock, telemetry, self.leader.check)
        self.reconciler = Reconciler(
            self.mirror,
            hub_api,
            member_apis,
            clock,
            telemetry,
            fence=self.leader.check,
            is_lost=self._is_lost,
            emit=self.events.emit,
        )
        self.keepers = {
            cluster: PoolKeeper(
                self.mirror,
                self.mirror.members[cluster],
                FencedProvider(provider, self.leader),
                member_apis[cluster],
                clock,
                telemetry,
                self.leader.check,
            )
            for cluster, provider in outside.providers.items()
        }
        self.planner = Planner(
            self.mirror,
            outside.policies,
            self.predictor,
            clock,
            telemetry,
            self.decisions,
            spend=self.ledger.buckets,
            explorations=self.explorations,
            placements=None if shadow else self.reconciler,
            pools={} if shadow else self.keepers,
        )
        self.measuring = open_measuring(
            self.mirror,
            self.readings,
            outside.history,
            clock,
            telemetry,
            federation,
            hub_api=hub_api,
            member_apis=member_apis,
            lead=self.leader,
            export_trace=outside.export_trace,
            shadow=shadow,
        )
        self.services = self._services()
        self.traces = self._traces()
        self.gatherers = self._gatherers()
        self.control = Control(outside.hub_api, outside.lease.namespace, outside.lease.name)
        self.stream = DecisionStream(f"{outside.clock.now():.0f}")
        self.decisions.on_add = self.stream.add
        self.alerts = AlertBook(federation.webhook_token_file, clock, telemetry)
        self.remedies = self._remedies()
        self.past = IncidentLog(outside.history, clock, telemetry, federation.unnoticed_seconds)
        self.watch = self._watch()
        self.readings.on_round = self._metrics_read
        if federation.clock_file is not None:
            # Services are divided by what is measured now: in emulated time, that is soon over.
            self.readings.least_wall_seconds = lambda: _LEAST_ROUND_WALL_SECONDS if self.mirror.services else 1.0
        self.remedies.sources.append(self.watch.incidents)
        self.remedies.on_done = self._acted
        self.incidents = IncidentViews(self.remedies, self.control, outside.history, clock.now)
        if self.learner is not None:
            self.costs.on_paid = self.learner.paid
            self.progress.on_speed, self.waits.on_wait = self.learner.speed_told, self.learner.waited
            self.reclaims.on_reclaim = self.learner.reclaimed
            self.planner.on_undelivered = self.learner.undelivered
        self.runs.on_start, self.runs.on_end = self._run_started, self._run_ended
        self.mirror.progress = self.progress.progress
        self.mirror.on_change = self._changed
        outside.policies.on_change = self._policies_changed
        self.mirror.on_key = self._on_key
        self.mirror.on_node = self.ledger.node_seen
        self.mirror.on_pod = self.ledger.pod_moved
        self.mirror.on_nodes_listed = self._nodes_listed
        for member in self.mirror.members.values():
            member.on_reclaim = self.reclaims.noticed
            member.on_reclaim_withdrawn = self.reclaims.withdrawn
            member.on_node_gone = self.reclaims.node_gone
            member.on_advice = self.reclaims.advised
            member.on_copy_gone = self.reconciler.dependents.look_soon
        self.report = StatusReport(
            name=federation.name,
            mode="shadow" if shadow else "active",
            clock=clock,
            mirror=self.mirror,
            planner=self.planner,
            decisions=self.decisions,
            ledger=self.ledger,
            history=outside.history,
            policies=outside.policies,
            telemetry=telemetry,
            progress=self.progress.of,
            waits=self.waits.of,
            cost=self.costs.of,
            gauges=WorkloadGauges(
                telemetry, self.mirror, self.ledger, self.waits, self.progress.of, federation.workload_metrics
            ),
            services=ServiceViews(self.services.keeper),
            service_gauges=self.services.gauges,
            gathered=Gathered(clock, self.mirror, self.prices, self.readings),
            pulse=self.pulse,
            is_leader=lambda: self.leader.is_leader,
            is_idle=self.is_idle,
        )

    @property
    def served(self) -> Served:
        """What the HTTP server tells of, and who may ask it."""
        outside = self.outside
        throw = Wanted("patch", "", "configmaps", outside.lease.namespace, outside.lease.name)
        monotonic = asyncio.get_running_loop().time
        access = Access(outside.hub_reviews, outside.federation.api_token_file, throw, monotonic)
        shared = None if self.gatherers is None else self.gatherers.routes
        return Served(
            self.report, outside.telemetry, self.alerts, self.incidents, self.control, self.stream, access, shared
        )

    def _services(self) -> Services:
        outside = self.outside
        around = Around(
            mirror=self.mirror,
            policies=outside.policies,
            predictor=self.predictor,
            clock=outside.clock,
            telemetry=outside.telemetry,
            history=outside.history,
            decisions=self.decisions,
            reconciler=self.reconciler,
            spend=self.ledger.buckets,
            bursting_paused=lambda: self.planner.bursting_paused,
            fence=self.leader.check,
            is_lost=self._is_lost,
            emit=self.events.emit,
            named=outside.federation.workload_metrics,
            shadow=self.shadow,
        )
        services = compose(around, self.measuring.measured)
        self.measuring.measures.on_told = self._services_measured
        if services.actuator is not None and self.measuring.traces is not None:
            services.actuator.on_divided = self.measuring.traces.decided
        return services

    def _services_measured(self, told: Mapping[WorkloadRef, ServiceObservation]) -> None:
        self.measuring.gauges.tell(told)
        for ref, observed in told.items():
            self.services.speeds.told(ref, observed)
        self.services.keeper.trigger()

    def _changed(self) -> None:
        self.planner.trigger()
        self.services.keeper.trigger()

    def _policies_changed(self) -> None:
        self.services.policies_changed(self.mirror)
        self.planner.trigger()

    def _traces(self) -> TraceBook | None:
        """None: nobody wants them, or nothing is done that they could tell of."""
        if self.outside.export_trace is None or self.shadow:
            return None
        book = TraceBook(lambda uid: (entry.copy for entry in self.mirror.copies(uid)), self.outside.export_trace)
        self.planner.on_decision = book.decided
        self.reconciler.on_write = book.wrote
        return book

    def _remedies(self) -> Remedies:
        outside = self.outside
        nodes = NodeRemedies(outside.federation.name, self._member_apis, outside.clock, self.leader.check)
        effects = Effects(
            self.mirror,
            self._hub_api,
            nodes,
            self.keepers,
            outside.clock,
            fence=self.leader.check,
            want=self.reconciler.want,
            roll_back=outside.policies.roll_back,
            notify=self._notify,
        )
        return Remedies(
            self.mirror,
            outside.policies,
            self.planner,
            effects,
            self.control,
            outside.history,
            outside.clock,
            outside.telemetry,
        )

    def _watch(self) -> FleetWatch:
        outside, federation = self.outside, self.outside.federation
        beside = Beside(
            facts=Facts(self.mirror, outside.policies, self.predictor, federation.queue_wait_seconds),
            alerts=self.alerts,
            store=WatchStore(outside.history),
            incidents=self.past,
            may_save=lambda: self.shadow or self.leader.is_leader,
            alarms_per_day=federation.false_alarms_per_day,
            learn_seconds=federation.learn_seconds,
        )
        return FleetWatch(lambda: self.mirror.snapshot(()), self.readings.readings, outside.telemetry, beside)

    def _acted(self, action: Action) -> None:
        if action.action != NOTIFY:
            self.past.acted(action.incident)

    def _notify(self, action: Action) -> None:
        log.warning("incident", incident=action.incident, signal=action.signal, why=action.reason, policy=action.policy)

    def predictor(self) -> Predictor:
        """The one that the next cycle predicts with."""
        return self.outside.predictor if self.learner is None else self.learner.predictor

    def is_idle(self) -> bool:
        """Whether nothing is under way: no cycle due, no write waiting, no cloud call open."""
        return (
            self.planner.idle
            and (self.shadow or self.reconciler.idle)
            and self.events.idle
            and all(keeper.idle for keeper in self.keepers.values())
            and self.services.idle
        )

    async def run(self) -> None:
        """All loops. Watches run from the start (a standby keeps its mirror warm); writers only once leader."""
        if not self.shadow:
            self.outside.history.stand_by()
            self.outside.history.may_write = lambda: self.leader.is_leader
        await self.ledger.load()
        await self.reclaims.load()
        await self.runs.load()
        await self.progress.load()
        await self.costs.load()
        await self.services.speeds.load()
        await self.measuring.forecasts.load()
        await self.remedies.load()
        await self.watch.load()
        if self.learner is not None:
            await self.learner.load()
        try:
            async with asyncio.TaskGroup() as group:
                for name, loop in self._watches().items():
                    group.create_task(supervised(name, loop, self.outside.telemetry, self.pulse))
                group.create_task(measure_lag(self.outside.telemetry, self.pulse))
                group.create_task(supervised("policies", self.outside.policies.run, self.outside.telemetry, self.pulse))
                group.create_task(supervised("history", self.outside.history.run, self.outside.telemetry, self.pulse))
                if self.learner is not None:
                    group.create_task(supervised("learner", self.learner.run, self.outside.telemetry, self.pulse))
                if not self.shadow:
                    group.create_task(self.leader.run())
                    await self.leader.acquired.wait()
                    await self._take_over()
                await self.explorations.load()
                for name, loop in self._deciders().items():
                    group.create_task(supervised(name, loop, self.outside.telemetry, self.pulse))
        finally:
            self.reconciler.keys.close()
            try:
                await self._save()
            finally:
                if self.gatherers is not None:
                    await self.gatherers.close()
                await self.leader.release()

    async def _take_over(self) -> None:
        """What only the last leader knew, and saved: its incidents, remedies, and what it placed to learn. The rest a
        standby has seen for itself."""
        self.outside.history.lead()
        await self.remedies.load()
        await self.watch.take_over()
        await self.services.speeds.load()
        await self.measuring.forecasts.load()

    async def _save(self) -> None:
        """What is remembered, before the Lease is released: the next leader reads it. From one that was fenced the
        history takes nothing."""
        try:
            async with asyncio.timeout(_SAVE_SECONDS):
                await self.watch.close()
                self.progress.save()
                self.costs.save(self.outside.clock.now(), anyway=True)
                self.services.speeds.save()
                self.measuring.forecasts.save()
                if self.learner is not None:
                    await self.learner.close()
                await self.outside.history.flush()
        except TimeoutError:
            log.warning("history_not_flushed", seconds=_SAVE_SECONDS)

    def _watches(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """One reflector for each resource of each cluster, and what looks at the node pools (it acts on plans only, of
        which a standby makes none)."""
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            f"pools:{cluster}": keeper.run for cluster, keeper in self.keepers.items()
        }
        loops |= {f"clusters:{cluster}": keeper.run_discovery for cluster, keeper in self.keepers.items()}
        loops |= {"prices": self.prices.run, "metrics": self.readings.run, "alerts in": self.watch.run_alerts}
        loops |= watches(self.outside, self.mirror, self.gatherers)
        if self.gatherers is not None:
            loops["shards"] = self.gatherers.shards.run
        return loops

    def _gatherers(self) -> Gatherers | None:
        """None: this process gathers all by itself."""
        outside = self.outside
        if outside.gathering is None or self.shadow:
            return None
        shards = Shards(
            outside.hub_api, outside.identity, outside.gathering, outside.clock, outside.lease, outside.lease_clock
        )
        return Gatherers(shards, outside.gathering, tuple(outside.member_apis))

    def _deciders(self) -> dict[str, Callable[[], Awaitable[None]]]:
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "planner": self.planner.run,
            "ledger": self.ledger.run,
            "services": self.services.keeper.run,
        }
        if not self.shadow:
            loops["reconciler"] = self.reconciler.run
            loops["events"] = self.events.run
            if self.outside.federation.dependents:
                loops["dependents"] = self.reconciler.dependents.run
            loops["control"] = self.control.run
            loops["remedies"] = self.remedies.run
            federation = self.outside.federation
            if federation.alertmanager_url is not None:
                loops["alerts"] = AlertPoster(
                    federation.alertmanager_url,
                    federation.alertmanager_token_file,
                    federation.name,
                    self.outside.clock,
                    lambda: [each for each in self.remedies.incidents() if not self.watch.is_told(each)],
                ).run
            loops["second look"] = self._look_again
        return loops

    async def _look_again(self) -> None:
        """Have every workload that is not at rest looked at now and then: a guard against a missed event."""
        while True:
            await asyncio.sleep(_LOOK_AGAIN_SECONDS)
            for uid in self.mirror.unsettled():
                self.reconciler.keys.add(uid)

    def _nodes_listed(self, cluster: ClusterId) -> None:
        self.ledger.nodes_listed(cluster)
        self.reclaims.nodes_listed(cluster, {facts.uid for facts in self.mirror.members[cluster].nodes.values()})

    async def _metrics_read(self) -> None:
        await self.measuring.measures.on_round()
        await self.watch.look()
        await self.progress.on_round()
        self.costs.save(self.outside.clock.now())
        if self.learner is not None:
            self.learner.look_at_serving(self.readings.readings())
        if self.mirror.ever_synced:
            await self.waits.look()

    def _run_started(self, started: RunStarted) -> None:
        if self.traces is not None and self.leader.is_leader:
            self.traces.started(started)
        self.waits.started(started)
        self.costs.started(started)
        if self.learner is not None:
            self.learner.run_started(started)

    def _run_ended(self, ended: RunEnded) -> None:
        attempt = self.progress.finished(ended.uid)
        self.costs.ended(ended)
        self.explorations.ended(ended.uid, lambda: self.ledger.paid(ended.uid))
        if self.learner is not None:
            self.learner.run_ended(ended, attempt)

    def _on_key(self, uid: Uid) -> None:
        self.runs.look(uid)
        self.progress.look(uid)
        if not self.shadow:
            self.reconciler.keys.add(uid)

    def _is_lost(self, workload: Workload | None, cluster: ClusterId) -> bool:
        """Whether a silent member is given up, by the policy of the workload; one that left the federation is."""
        member = self.mirror.members.get(cluster)
        if member is None:
            return True
        since = member.unreachable_since
        if since is None:
            return False
        policy = Matcher(self.outside.policies.current).policy_of(workload) if workload is not None else None
        limit = policy.disruption.member_lost_seconds if policy is not None else None
        return limit is not None and self.outside.clock.now() - since >= limit
