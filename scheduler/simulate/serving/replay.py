"""One replay: the world moves on, is looked at every cycle, and does what it is told."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

import numpy as np

from scheduler.engine.serving.capacity import carried, rate
from scheduler.model.cluster import SPOT
from scheduler.model.division import Division
from scheduler.model.ids import ClusterId, PoolRef, QueueId, Uid, WorkloadRef
from scheduler.model.serving import (
    ClientDemand,
    ClientLatency,
    ReplicaGroup,
    ReplicaSpeed,
    Revision,
    RevisionMetrics,
    Service,
    ServiceView,
    ServingOffer,
    TrafficWeight,
)
from scheduler.model.serving_policy import ServingSLO
from scheduler.simulate.driver import EPOCH
from scheduler.simulate.serving.deciders import Load, ServingDecider
from scheduler.simulate.serving.log import RequestLog
from scheduler.simulate.serving.site import ServingSite
from scheduler.simulate.serving.world import ServingWorld

DEMAND_SECONDS: Final = 60.0
"""Rates are measured over so long."""
_LEARN_SECONDS: Final = 600.0
_LEARN_LAST: Final = 1000
"""Requests whose service times tell what a replica does."""
_LEAST_LEARNED: Final = 50


@dataclass(frozen=True, slots=True)
class Rollout:
    """A new revision that its user asks for at a time."""

    at_seconds: float
    revision: str
    slower: float = 1.0
    """How much longer a request takes."""


@dataclass(frozen=True, slots=True)
class Happening:
    """What goes wrong, or is changed, during a replay."""

    lose: tuple[tuple[float, ClusterId], ...] = ()
    """(second, cluster)."""
    rollout: Rollout | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """As it was at one look."""

    at: float
    demand_per_second: float
    planned_per_second: float | None
    capacity_per_second: float | None
    """What is ready carries within the SLO; less where requests have waited for too long, until they are served."""
    unhindered_per_second: float
    """What is ready carries within the SLO where nothing has waited."""
    replicas: Mapping[str, int]
    """Ready, by pool."""
    shares: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    """Of the traffic, by revision."""


@dataclass(frozen=True, slots=True)
class ServingRun:
    """What came of it."""

    decider: str
    kind: str
    seed: int
    world: ServingWorld
    slo: ServingSLO
    moments: tuple[Moment, ...]
    changes: int
    """Slots whose number was changed."""
    solvers: Mapping[str, int]


def replay(
    log: RequestLog,
    site: ServingSite,
    slo: ServingSLO,
    decider: ServingDecider,
    *,
    seed: int = 0,
    cycle_seconds: float = 30.0,
    happening: Happening = Happening(),
    prior_service_seconds: float | None = None,
) -> ServingRun:
    """Raises: nothing of its own; the same arguments give the same run."""
    slower = {} if happening.rollout is None else {happening.rollout.revision: happening.rollout.slower}
    world = ServingWorld(log, site, seed, slower)
    observer = _Observer(world, slo, happening, prior_service_seconds, cycle_seconds)
    moments: list[Moment] = []
    solvers: dict[str, int] = {}
    changes = 0
    losses = sorted(happening.lose)
    end = float(log.at[-1]) + 600.0 if len(log) else 0.0
    for look in range(math.ceil(end / cycle_seconds) + 1):
        at = look * cycle_seconds
        while losses and losses[0][0] <= at:
            when, cluster = losses.pop(0)
            world.run_until(when)
            world.lose(cluster)
        world.run_until(at)
        view, load = observer.look()
        orders = decider.decide(view, load)
        changes += world.obey(orders.targets, orders.weights)
        observer.obeyed(orders.weights)
        division = orders.division
        if division is not None:
            solvers[division.solver] = solvers.get(division.solver, 0) + 1
        moments.append(observer.moment(view, division))
    world.close()
    return ServingRun(decider.name, decider.kind, seed, world, slo, tuple(moments), changes, solvers)


class _Observer:
    """What would be measured of the world: nothing that the daemon could not know."""

    def __init__(
        self, world: ServingWorld, slo: ServingSLO, happening: Happening, prior: float | None, cycle_seconds: float
    ) -> None:
        self._world, self._slo, self._happening, self._interval = world, slo, happening, cycle_seconds
        known = world.log.service_seconds
        self._mean = float(np.median(known)) if prior is None else prior
        self._variation, self._p95 = 1.0, 3.0 * self._mean
        self._learned_at = -math.inf
        self._weights: tuple[TrafficWeight, ...] = ()
        self._demand = 0.0

    def look(self) -> tuple[ServiceView, Load]:
        world = self._world
        self._learn()
        demand = self._demand_by_region()
        self._demand = sum(one.requests_per_second or 0.0 for one in demand)
        metrics = self._metrics()
        rollout = self._happening.rollout
        revision = "r1"
        revisions = [Revision("r1", EPOCH)]
        if rollout is not None and world.now >= rollout.at_seconds:
            revision = rollout.revision
            revisions.append(Revision(revision, EPOCH + rollout.at_seconds))
        groups = tuple(
            ReplicaGroup(slot.pool, slot.revision, wanted, ready)
            for slot, (wanted, ready) in sorted(world.counts().items())
        )
        arrived = world.arrived
        service = Service(
            ref=WorkloadRef("deployment", "default", "replayed", Uid("replayed")),
            queue=QueueId("serving"),
            revision=revision,
            revisions=tuple(revisions),
            groups=groups,
            demand=demand,
            latency=self._latency(),
            metrics=metrics,
            last_request_at=None if arrived == 0 else EPOCH + float(world.log.at[arrived - 1]),
            scales_to_zero=self._slo.scaling.zero_after_seconds is not None,
            weights=self._weights,
        )
        view = ServiceView(EPOCH + world.now, service, self._slo, self._offers())
        busy = self._busy()
        return view, Load(busy, world.waiting(), self._mean)

    def obeyed(self, weights: tuple[TrafficWeight, ...]) -> None:
        self._weights = weights or self._weights

    def moment(self, view: ServiceView, division: Division | None) -> Moment:
        ready: dict[PoolRef, int] = {}
        for slot, (_, count) in self._world.counts().items():
            ready[slot.pool] = ready.get(slot.pool, 0) + count
        calm = replace(view.service, metrics=())
        unhindered = carried([rate(offer, view.slo, calm) for offer in view.offers], ready)
        shares: dict[str, float] = {}
        for one in self._weights:
            shares[one.revision] = shares.get(one.revision, 0.0) + one.weight / 1000.0
        return Moment(
            self._world.now,
            self._demand,
            None if division is None else division.planned_per_second,
            None if division is None else division.ready_per_second,
            unhindered,
            {str(pool): count for pool, count in ready.items()},
            shares,
        )

    def _learn(self) -> None:
        """What a request takes of a worker of the recorded speed, from those that ended lately."""
        world = self._world
        if world.now < self._learned_at + _LEARN_SECONDS:
            return
        self._learned_at = world.now
        last = world.arrived
        first = max(0, last - _LEARN_LAST)
        done = ~np.isnan(world.ended[first:last])
        seconds = world.log.service_seconds[first:last][done]
        if len(seconds) >= _LEAST_LEARNED:
            self._mean = _two_digits(float(seconds.mean()))
            self._variation = round(float(seconds.var()) / float(seconds.mean()) ** 2, 1)
            self._p95 = _two_digits(float(np.quantile(seconds, 0.95)))

    def _offers(self) -> tuple[ServingOffer, ...]:
        world, site = self._world, self._world.site
        return tuple(
            ServingOffer(
                pool=pool.pool,
                provider=pool.provider,
                region=pool.region,
                gpu_model=pool.gpu_model,
                capacity_type=pool.capacity_type,
                usd_per_replica_hour=pool.usd_per_replica_hour,
                most_replicas=pool.most_replicas,
                load_seconds=site.load_seconds,
                provisioning_seconds=pool.provisioning_seconds,
                speed=ReplicaSpeed(pool.speed / self._mean, self._p95 / pool.speed, 0.0, True, self._variation),
                reclaims_per_hour=site.spot_reclaims_per_hour if pool.capacity_type == SPOT else 0.0,
                open=pool.pool.cluster not in world.lost,
                reachable=pool.pool.cluster not in world.lost,
                why_closed="lost" if pool.pool.cluster in world.lost else "",
            )
            for pool in site.pools
        )

    def _demand_by_region(self) -> tuple[ClientDemand, ...]:
        world, log = self._world, self._world.log
        begin = world.now - DEMAND_SECONDS
        first = int(np.searchsorted(log.at[: world.arrived], begin, side="left"))
        counts = np.bincount(log.client[first : world.arrived], minlength=len(log.clients))
        seconds = min(DEMAND_SECONDS, max(1.0, world.now))
        return tuple(
            ClientDemand(region, float(count) / seconds, EPOCH + world.now)
            for region, count in zip(log.clients, counts, strict=True)
        )

    def _latency(self) -> tuple[ClientLatency, ...]:
        site = self._world.site
        return tuple(
            ClientLatency(region, cluster, site.way(region, cluster), EPOCH + self._world.now)
            for region in self._world.log.clients
            for cluster in site.clusters
        )

    def _busy(self) -> float:
        """Replicas of the recorded speed that the arrivals of the last interval keep busy."""
        return self._demand * self._mean

    def _metrics(self) -> tuple[RevisionMetrics, ...]:
        world = self._world
        found = []
        counts = world.counts()
        for slot, interval in sorted(world.intervals.items()):
            ended, began = np.array(interval.ended, dtype=np.int64), np.array(interval.began, dtype=np.int64)
            latency = world.ended[ended] - world.log.at[ended]
            wait = world.began[began] - world.log.at[began]
            spent = world.began[ended] - world.log.at[ended]
            found.append(
                RevisionMetrics(
                    cluster=slot.pool.cluster, pool=slot.pool.pool, revision=slot.revision,
                    at=EPOCH + world.now, interval_seconds=self._interval,
                    requests=len(ended),
                    mean_latency_seconds=float(latency.mean()) if len(ended) else None,
                    mean_first_token_seconds=float(spent.mean()) if len(ended) else None,
                    p95_latency_seconds=None,
                    p95_first_token_seconds=float(np.quantile(wait, 0.95)) if len(began) >= 5 else None,
                    errors=0, replicas=counts.get(slot, (0, 0))[1],
                )
            )  # fmt: skip
        world.intervals.clear()
        return tuple(found)


def _two_digits(value: float) -> float:
    """Rounded so that small wobbles change nothing."""
    return float(f"{value:.2g}")
