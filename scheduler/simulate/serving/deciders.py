"""What is replayed: the daemon's own division, and the usual rules beside it.

Baselines know how busy replicas are and what waits, as an autoscaler's metrics tell. Traffic follows ready capacity.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Protocol

from scheduler.aiops.canary import CanaryJudge
from scheduler.engine.serving import Memory, horizons, serve
from scheduler.engine.serving.capacity import rate
from scheduler.engine.serving.rollout import JUDGING
from scheduler.engine.serving.slots import Slot
from scheduler.engine.serving.weights import traffic
from scheduler.model.cluster import OWNED
from scheduler.model.division import Division
from scheduler.model.serving import CanaryVerdict, ExpectedRate, ServiceView, ServingOffer, TrafficWeight
from scheduler.predict.demand import DemandForecaster

_GRID: Final = 1.02
"""Forecasts are rounded up by this at most, so that the same question is not asked anew at every look."""


@dataclass(frozen=True, slots=True)
class Load:
    """What an autoscaler's metrics say."""

    busy: float
    """Replicas' worth of work in the last interval, of the recorded speed."""
    waiting: int
    """Requests."""
    service_seconds: float
    """Of a request, mean."""


@dataclass(frozen=True, slots=True)
class Orders:
    targets: Mapping[Slot, int]
    weights: tuple[TrafficWeight, ...]
    division: Division | None = None


class ServingDecider(Protocol):
    name: str
    kind: str
    """policy or baseline."""

    def decide(self, view: ServiceView, load: Load) -> Orders: ...


class Engine:
    """`scheduler.engine.serving.serve`, with what it is to remember, and a forecaster."""

    kind = "policy"

    def __init__(self, name: str, *, use_milp: bool = True) -> None:
        self.name, self._use_milp = name, use_milp
        self.memory = Memory()
        self._forecaster = DemandForecaster()
        self._learned_at = -math.inf
        self._judge: CanaryJudge | None = None
        self._step: tuple[str, str, int, int] | None = None

    def decide(self, view: ServiceView, load: Load) -> Orders:
        view = replace(view, verdict=self._judged(view))
        demand = sum(one.requests_per_second or 0.0 for one in view.service.demand)
        if view.service.demand and view.now >= self._learned_at + 60.0:
            self._forecaster.learn(view.now, demand)
            self._learned_at = view.now
        asked = view.slo.scaling.confidence
        forecast = tuple(
            ExpectedRate(ahead, _rounded(expected))
            for ahead in horizons(view.offers, view.slo)
            if (expected := self._forecaster.expected(ahead, asked)) is not None
        )
        division, self.memory = serve(replace(view, forecast=forecast), self.memory, use_milp=self._use_milp)
        targets = {Slot(one.pool, one.revision): one.replicas for one in division.targets}
        return Orders(targets, division.weights, division)

    def _judged(self, view: ServiceView) -> CanaryVerdict | None:
        """Of the rollout's present step, once its share is reached."""
        rollout = self.memory.rollout
        if rollout is None or rollout.phase != JUDGING:
            self._step = None
            return None
        step = rollout.new, rollout.phase, rollout.cluster, rollout.step
        if self._judge is None or self._judge.new != rollout.new:
            self._judge = CanaryJudge(rollout.old, rollout.new, view.slo.rollout)
        if step != self._step:
            # What was measured until now is of the step before.
            self._step = step
            self._judge.restart()
            return None
        self._judge.learn(view.service.metrics, {one.pool.cluster: one.speed for one in view.offers if one.speed})
        return self._judge.verdict()


def _rounded(value: float) -> float:
    """Up, on a geometric grid."""
    return 0.0 if value <= 1e-6 else _GRID ** math.ceil(math.log(value, _GRID) - 1e-9)


class Static:
    """As many replicas on every cluster, always: what the peak needs, split evenly."""

    kind = "baseline"

    def __init__(self, replicas: int, name: str = "static-even") -> None:
        self.name, self._replicas = name, replicas

    def decide(self, view: ServiceView, load: Load) -> Orders:
        offers = _usable(view)
        clusters = sorted({one.pool.cluster for one in offers})
        counts: dict[Slot, int] = {}
        for number, cluster in enumerate(clusters):
            part = self._replicas // len(clusters) + (number < self._replicas % len(clusters))
            here = [one for one in offers if one.pool.cluster == cluster and not one.reclaimable]
            here = here or [one for one in offers if one.pool.cluster == cluster]
            first = min(here, key=_price)
            counts[Slot(first.pool, view.service.revision)] = min(part, first.most_replicas)
        return Orders(counts, _by_ready(view))


@dataclass(frozen=True, slots=True)
class HpaRule:
    """Kubernetes' horizontal autoscaler: replicas = busy / target, tolerance 10 %, down only after a window."""

    target: float = 0.7
    down_seconds: float = 300.0
    least: int = 1
    tolerance: float = 0.1
    use_spot: bool = False
    """Whether bursts may take spot nodes, as far as the SLO's share allows."""
    by_capacity: bool = True
    """Whether offerings are compared by price for what they do, or by price alone."""
    max_spot_share: float = 0.0


class Hpa:
    """On-prem only."""

    kind = "baseline"

    def __init__(self, rule: HpaRule, name: str = "onprem-hpa") -> None:
        self.name, self._rule = name, rule
        self._wanted: deque[tuple[float, int]] = deque()
        self._last = rule.least

    def decide(self, view: ServiceView, load: Load) -> Orders:
        owned = sorted((one for one in _usable(view) if one.capacity_type == OWNED), key=_price)
        counts: dict[Slot, int] = {}
        rest = self._replicas(view, load)
        for offer in owned:
            part = min(rest, offer.most_replicas)
            if part > 0:
                counts[Slot(offer.pool, view.service.revision)] = part
            rest -= part
        return Orders(counts, _by_ready(view))

    def _replicas(self, view: ServiceView, load: Load) -> int:
        """As the HPA says, of the recorded speed."""
        rule = self._rule
        want = (load.busy + load.waiting) / rule.target
        if self._last > 0 and abs(want / self._last - 1.0) <= rule.tolerance:
            want = float(self._last)
        self._wanted.append((view.now, max(rule.least, math.ceil(want - 1e-9))))
        while self._wanted and self._wanted[0][0] < view.now - rule.down_seconds:
            self._wanted.popleft()
        self._last = max(count for _, count in self._wanted)
        return self._last


class ThresholdBurst(Hpa):
    """On-prem first; what the HPA wants beyond goes to the cheapest offering of the clouds."""

    def __init__(self, rule: HpaRule, name: str = "threshold-burst") -> None:
        super().__init__(rule, name)

    def decide(self, view: ServiceView, load: Load) -> Orders:
        rule, usable = self._rule, _usable(view)
        owned = sorted((one for one in usable if one.capacity_type == OWNED), key=_price)
        rented = [one for one in usable if one.capacity_type != OWNED]
        order = _price if rule.by_capacity else _plain_price
        counts: dict[Slot, int] = {}
        rest = float(self._replicas(view, load))
        whole = rest
        for offer in owned:
            rest -= self._put(view, counts, offer, rest)
        spot = sorted((one for one in rented if one.reclaimable), key=order)
        firm = sorted((one for one in rented if not one.reclaimable), key=order)
        if rule.use_spot and spot:
            allowed = rule.max_spot_share * whole
            for offer in spot:
                took = self._put(view, counts, offer, min(rest, allowed), down=True)
                rest, allowed = rest - took, allowed - took
        for offer in firm:
            rest -= self._put(view, counts, offer, rest)
        return Orders(counts, _by_ready(view))

    def _put(
        self, view: ServiceView, counts: dict[Slot, int], offer: ServingOffer, work: float, *, down: bool = False
    ) -> float:
        """So many of them that do that much work; how much they do, at most `work`."""
        speed, most = _speed(view, offer), offer.most_replicas
        count = min(most, math.floor(work / speed + 1e-9) if down else math.ceil(work / speed - 1e-9))
        if count > 0:
            counts[Slot(offer.pool, view.service.revision)] = count
        return max(0.0, min(work, count * speed))


def _speed(view: ServiceView, offer: ServingOffer) -> float:
    """Against the slowest owned offering, which is where the autoscaler's replicas are counted."""
    owned = [one.speed.most_per_second for one in view.offers if one.capacity_type == OWNED and one.speed]
    everything = [one.speed.most_per_second for one in view.offers if one.speed]
    assert offer.speed is not None
    return offer.speed.most_per_second / min(owned or everything)


def _usable(view: ServiceView) -> list[ServingOffer]:
    return [
        one
        for one in sorted(view.offers, key=lambda one: one.pool)
        if one.open and one.speed is not None and one.usd_per_replica_hour is not None
    ]


def _price(offer: ServingOffer) -> tuple[float, str]:
    assert offer.speed is not None
    return float(offer.usd_per_replica_hour or 0) / offer.speed.most_per_second, str(offer.pool)


def _plain_price(offer: ServingOffer) -> tuple[float, str]:
    return float(offer.usd_per_replica_hour or 0), str(offer.pool)


def _by_ready(view: ServiceView) -> tuple[TrafficWeight, ...]:
    """By what is ready, as the policies' own traffic is."""
    rated = tuple(rate(offer, view.slo, view.service) for offer in view.offers)
    demand = sum(one.requests_per_second or 0.0 for one in view.service.demand)
    return traffic(rated, view.service.groups, view.service.revision, {}, demand, {view.service.revision})
