"""What is measured of each service, after each round of metrics: demand, where clients are, what its revisions do.

Demand is what its user's own query says (`contract.ANNOTATION_DEMAND_QUERY`), else what gateways count, else what its
replicas answer and what begins to wait. Of what cannot be told whole nothing is told: half of a demand would have
replicas given back. Nothing is judged here: negative and huge values pass, the engine refuses them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from clusters.kubernetes.annotations import ServingQueries, parse_serving_queries
from clusters.kubernetes.codec import PodFacts
from clusters.metrics.queries import own_query
from scheduler.daemon.gathering.metrics import MetricsKeeper
from scheduler.daemon.services.growth import Counters, Growth, per_second
from scheduler.daemon.services.ports import ServiceObservation
from scheduler.daemon.services.replicas import (
    P95,
    REQUESTS,
    WAITING,
    Places,
    Readings,
    Replica,
    metrics_of,
    newest,
    replicas_of,
)
from scheduler.daemon.services.traffic_spec import NO_TRAFFIC, TrafficSpec, traffic_of
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.engine.serving.demand import STALE_SECONDS
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, Instant, PoolRef, Uid, WorkloadRef
from scheduler.model.metrics import ABSENT, OK, SUM, MetricQuery, Reading
from scheduler.model.money import Usd
from scheduler.model.ports import Clock
from scheduler.model.serving import ClientDemand, ClientLatency, RevisionMetrics
from scheduler.predict.bounded import Recent

GATEWAY: Final = "gateway_requests_count"
ROUND_TRIP: Final = "client_round_trip_seconds"
_REGION: Final = "client_region"
_MOST_SERVICES: Final = 10_000
_ASKED_AT_MOST: Final = 100
"""Services' own queries on one member in one round; the others have their turn in the next ones."""
_NEW_SECONDS: Final = 120.0
"""So long may ready replicas go untold before that means that nobody tells of them."""
_ENVOY: Final = re.compile(r"(?:httproute|grpcroute)/([^/]+)/([^/]+)/")
"""How Envoy Gateway names its clusters: httproute/NAMESPACE/NAME/rule/NUMBER."""
_ANSWERED, _GATEWAYS, _OWN = "answered", "gateways", "own query"


@dataclass(slots=True)
class _Part:
    """Of one service's demand: what one cluster told last."""

    demand: tuple[ClientDemand, ...]
    at: Instant


@dataclass(slots=True)
class _Known:
    """Of one service."""

    kind: str = ""
    parts: dict[ClusterId, _Part] = field(default_factory=dict)
    metrics: dict[tuple[str, str, str], RevisionMetrics] = field(default_factory=dict)
    latency: tuple[ClientLatency, ...] = ()
    ready_since: dict[ClusterId, Instant] = field(default_factory=dict)
    asked_at: Instant | None = None
    told: ServiceObservation = field(default_factory=ServiceObservation)


@dataclass(frozen=True, slots=True)
class _Own:
    """A service's own query, and what it is of."""

    uid: Uid
    what: str
    query: MetricQuery


Gateways = dict[tuple[ClusterId, str, str], list[Growth]]
"""What gateways count of backends of one name, by cluster, namespace and region."""


@dataclass(frozen=True, slots=True)
class _Round:
    now: Instant
    readings: Readings
    replicas: Mapping[Uid, Mapping[tuple[ClusterId, str], Replica]]
    gateways: Mapping[str, Gateways]
    """By the backend's name, so that a service finds its own without looking at all others'."""
    own: Mapping[Uid, Mapping[tuple[str, ClusterId], Reading]]
    """Answers to services' own queries."""

    def asked(self, uid: Uid, what: str) -> dict[ClusterId, Reading]:
        """What this service's own query of that kind was answered, by cluster in order."""
        mine = self.own.get(uid, {})
        return {cluster: mine[each, cluster] for each, cluster in sorted(mine) if each == what}


class ServiceMeasures:
    """See `ports.ServiceReadings`. Belongs to the event loop."""

    def __init__(
        self, mirror: Mirror, readings: MetricsKeeper, clock: Clock, places: Places, *, own_queries: bool = True
    ) -> None:
        """`own_queries` False: what services say in annotations is not asked, as if they had said nothing."""
        self._mirror = mirror
        self._readings = readings
        self._clock = clock
        self._places = places
        self._own_queries = own_queries
        self._counters = Counters()
        self._waiting: Recent[tuple[ClusterId, str], tuple[float, Instant]] = Recent(100_000)
        self._known: Recent[Uid, _Known] = Recent(_MOST_SERVICES)
        self._asked_last: dict[ClusterId, Uid] = {}
        self.on_told: Callable[[Mapping[WorkloadRef, ServiceObservation]], None] = lambda told: None
        """After each round, of all services."""

    def of(self, ref: WorkloadRef) -> ServiceObservation:
        known = self._known.get(ref.uid)
        return ServiceObservation() if known is None else known.told

    async def on_round(self) -> None:
        """After each round of metrics."""
        readings = {(one.cluster, one.metric): one for one in self._readings.readings()}
        services = [entry for entry in self._mirror.hub.values() if entry.workload.runs_forever]
        look = _Round(
            now=self._clock.now(),
            readings=readings,
            replicas=replicas_of(self._mirror, readings, self._counters, self._places),
            gateways=self._gateways(readings),
            own=await self._ask(services),
        )
        for entry in services:
            known = self._known.touch(entry.workload.ref.uid, _Known)
            self._look(entry, known, look)
        self.on_told({entry.workload.ref: self.of(entry.workload.ref) for entry in services})

    # -- one service -------------------------------------------------------------------------------------------------

    def _look(self, entry: HubEntry, known: _Known, look: _Round) -> None:
        uid, said = entry.workload.ref.uid, _said(entry)
        mine = list(look.replicas.get(uid, {}).values())
        self._take_demand(entry, said, known, look, mine)
        for one in metrics_of(_with_own_latency(mine, uid, look), self._usd_per_hour):
            known.metrics[one.cluster, one.pool or "", one.revision] = one
        known.metrics = {key: one for key, one in known.metrics.items() if look.now - one.at <= STALE_SECONDS}
        demand = self._demand(uid, known, look)
        if known.asked_at is None and demand:
            known.asked_at = look.now  # Since when nobody has asked is not known: not before now.
        asked = [one.at for one in demand if one.requests_per_second is not None and one.requests_per_second > 0]
        known.asked_at = max([*asked, *([] if known.asked_at is None else [known.asked_at])], default=None)
        known.told = ServiceObservation(
            demand=demand,
            latency=self._latency(uid, look),
            metrics=tuple(known.metrics[key] for key in sorted(known.metrics)),
            last_request_at=known.asked_at,
        )

    def _take_demand(
        self, entry: HubEntry, said: ServingQueries, known: _Known, look: _Round, mine: list[Replica]
    ) -> None:
        """What was told in this round, by the best source that there is."""
        uid = entry.workload.ref.uid
        own = look.asked(uid, _DEMAND)
        gateways = _of_gateways(entry, look, said.demand_from)
        if own or (said.demand and self._own_queries):
            found, kind = {cluster: _own_demand(one) for cluster, one in own.items()}, _OWN
        elif gateways or (known.kind == _GATEWAYS and known.parts):
            found, kind = gateways, _GATEWAYS
        else:
            found, kind = self._answered(mine), _ANSWERED
        if kind != known.kind:
            known.kind, known.parts = kind, {}
        for cluster, demand in found.items():
            if demand:
                known.parts[ClusterId(cluster)] = _Part(demand, max(one.at for one in demand))

    def _demand(self, uid: Uid, known: _Known, look: _Round) -> tuple[ClientDemand, ...]:
        """Of all clusters together, each with its age; where one that matters has been silent for too long: that
        nothing is known."""
        untold = list(self._untold(uid, known, look.now))
        self._forget_parts(uid, known, look)
        silent = any(look.now - part.at > STALE_SECONDS for part in known.parts.values())
        silent |= known.kind == _ANSWERED and any(untold)
        told = tuple(one for _, part in sorted(known.parts.items()) for one in part.demand)
        return tuple(replace(one, requests_per_second=None) for one in told) if silent else told

    def _forget_parts(self, uid: Uid, known: _Known, look: _Round) -> None:
        """Of a member that left, or is silent (its requests go elsewhere, and are counted there); of one that has
        nothing more to tell of the service, or is not asked any more."""
        for cluster, part in list(known.parts.items()):
            member = self._mirror.members.get(cluster)
            reading = look.readings.get((cluster, GATEWAY))
            gone = {
                _GATEWAYS: reading is not None and reading.state in (OK, ABSENT),
                _ANSWERED: cluster not in known.ready_since,
                _OWN: (_DEMAND, cluster) not in look.own.get(uid, {}),
            }[known.kind]
            old = look.now - part.at > STALE_SECONDS
            if member is None or not member.available or (old and gone):
                del known.parts[cluster]

    def _untold(self, uid: Uid, known: _Known, now: Instant) -> Iterable[bool]:
        """For each available cluster with ready replicas, whether nothing was ever told of them."""
        for cluster, member in self._mirror.members.items():
            ready = any(member.ready_pods(one.copy.owner) for one in member.copies_for(uid))
            if not member.available or not ready:
                known.ready_since.pop(cluster, None)
                continue
            since = known.ready_since.setdefault(cluster, now)
            yield cluster not in known.parts and now - since > _NEW_SECONDS

    def _answered(self, mine: list[Replica]) -> dict[ClusterId, tuple[ClientDemand, ...]]:
        """Requests answered, and by how many more wait than before: what arrives at replicas."""
        found: dict[ClusterId, tuple[ClientDemand, ...]] = {}
        for cluster in sorted({one.cluster for one in mine}):
            here = [one for one in mine if one.cluster == cluster]
            growths = [one.grown[REQUESTS] for one in here if REQUESTS in one.grown]
            at = newest(here)
            if not growths or at is None:
                continue
            rate = per_second(growths)
            if rate >= 0:
                rate = max(0.0, rate + sum(self._more_waiting(one) for one in here))
            found[cluster] = (ClientDemand("", rate, at),)
        return found

    def _more_waiting(self, one: Replica) -> float:
        """Requests per second by which the queue grew."""
        waits, at = one.gauges.get(WAITING), one.waiting_at
        if waits is None or at is None:
            return 0.0
        key = one.cluster, one.pod.uid
        before = self._waiting.get(key)
        self._waiting.put(key, (waits, at))
        return 0.0 if before is None or at <= before[1] else (waits - before[0]) / (at - before[1])

    def _latency(self, uid: Uid, look: _Round) -> tuple[ClientLatency, ...]:
        """Measured, else as the federation file declares it."""
        found: dict[tuple[str, ClusterId], ClientLatency] = {}
        for cluster, member in self._mirror.members.items():
            for region, seconds in member.member.client_latency:
                found[region, cluster] = ClientLatency(region, cluster, seconds, look.now)
        own = look.asked(uid, _WAY)
        common = [one for (_, metric), one in sorted(look.readings.items()) if metric == ROUND_TRIP]
        for reading in [*common, *(own[cluster] for cluster in sorted(own))]:
            for sample in reading.samples if reading.state == OK else ():
                labels = dict(sample.labels)
                where = ClusterId(labels.get("target_cluster") or reading.cluster)
                region = labels.get(_REGION, "")
                if region and where in self._mirror.members:
                    found[region, where] = ClientLatency(region, where, sample.value, sample.at)
        return tuple(found[key] for key in sorted(found))

    def _usd_per_hour(self, ref: PoolRef, pod: PodFacts) -> Usd | None:
        """A replica's part of a node's price, by what it takes most of."""
        pool = self._mirror.pool(ref)
        if pool is None or pool.price is None:
            return None
        node, asked = pool.node_resources, pod.requests
        parts = [
            Decimal(amount) / Decimal(whole)
            for amount, whole in (
                (asked.gpus, node.gpus),
                (asked.cpu_milli, node.cpu_milli),
                (asked.memory_bytes, node.memory_bytes),
            )
            if whole > 0
        ]
        return pool.price.usd_per_hour * max(parts) if parts else None

    # -- what is asked -----------------------------------------------------------------------------------------------

    def _gateways(self, readings: Readings) -> dict[str, Gateways]:
        found: dict[str, Gateways] = {}
        for (cluster, metric), reading in sorted(readings.items()):
            for sample in reading.samples if metric == GATEWAY and reading.state == OK else ():
                labels = dict(sample.labels)
                growth = self._counters.grown((cluster, GATEWAY, sample.labels), sample.value, sample.at)
                namespace, name = labels.get("backend_namespace", ""), labels.get("backend", "")
                if envoy := _ENVOY.match(name):
                    namespace, name = envoy[1], envoy[2]
                key = cluster, namespace, labels.get(_REGION, "")
                if growth is not None:
                    found.setdefault(name, {}).setdefault(key, []).append(growth)
        return found

    async def _ask(self, services: list[HubEntry]) -> dict[Uid, dict[tuple[str, ClusterId], Reading]]:
        """Services' own queries, of each member that may know."""
        if not self._own_queries:
            return {}
        wanted: dict[ClusterId, list[_Own]] = {}
        for entry in services:
            said = _said(entry)
            if said.demand or said.latency or said.client_latency:
                for cluster in self._mirror.members:
                    wanted.setdefault(cluster, []).extend(self._queries(entry, said, cluster))
        found: dict[Uid, dict[tuple[str, ClusterId], Reading]] = {}
        for cluster, queries in sorted(wanted.items()):
            chosen = self._turn(cluster, queries)
            answers = await self._readings.ask(cluster, [one.query for one in chosen])
            for one, answer in zip(chosen, answers, strict=False):
                found.setdefault(one.uid, {})[one.what, cluster] = answer
        return found

    def _queries(self, entry: HubEntry, said: ServingQueries, cluster: ClusterId) -> list[_Own]:
        ref, member = entry.workload.ref, self._mirror.members[cluster]
        copies = [one.copy.name for one in member.copies_for(ref.uid)]
        names = {
            "namespace": ref.namespace,
            "service": ref.name,
            "cluster": str(cluster),
            "pods": f"({'|'.join(map(re.escape, copies)) or re.escape(ref.name)})-.*",
        }
        found = []
        if said.demand and (cluster == said.demand_from if said.demand_from else bool(copies)):
            found.append(_Own(ref.uid, _DEMAND, own_query(said.demand, names, (_REGION,), combine=SUM)))
        if said.latency and copies:
            found.append(_Own(ref.uid, P95, own_query(said.latency, names, ("namespace", "pod"))))
        if said.client_latency:
            found.append(_Own(ref.uid, _WAY, own_query(said.client_latency, names, (_REGION,))))
        return found

    def _turn(self, cluster: ClusterId, wanted: list[_Own]) -> list[_Own]:
        """As many as may be asked in a round, after those who had their turn in the last one."""
        if len(wanted) <= _ASKED_AT_MOST:
            return wanted
        last = self._asked_last.get(cluster)
        at = next((index + 1 for index, one in enumerate(wanted) if one.uid == last), 0)
        chosen = (wanted[at:] + wanted[:at])[:_ASKED_AT_MOST]
        self._asked_last[cluster] = chosen[-1].uid
        return chosen


_DEMAND: Final = "demand"
_WAY: Final = "client latency"


def _said(entry: HubEntry) -> ServingQueries:
    return parse_serving_queries(entry.raw["metadata"].get("annotations") or {})


def _spec(entry: HubEntry) -> TrafficSpec:
    try:
        return traffic_of(entry.raw)
    except InvalidObjectError:
        return NO_TRAFFIC


def _of_gateways(entry: HubEntry, look: _Round, only: str) -> dict[ClusterId, tuple[ClientDemand, ...]]:
    """What gateways count of what leads to the service, by cluster of the gateway and region of the clients."""
    ref = entry.workload.ref
    names = {ref.name, *_spec(entry).names}
    by_cluster: dict[ClusterId, dict[str, list[Growth]]] = {}
    for name in sorted(names):
        for (cluster, namespace, region), growths in look.gateways.get(name, {}).items():
            if namespace in ("", ref.namespace) and only in ("", cluster):
                by_cluster.setdefault(cluster, {}).setdefault(region, []).extend(growths)
    return {
        cluster: tuple(
            ClientDemand(region, per_second(growths), max(one.at for one in growths))
            for region, growths in sorted(regions.items())
        )
        for cluster, regions in by_cluster.items()
    }


def _own_demand(reading: Reading) -> tuple[ClientDemand, ...]:
    """As it was told; a value that is no number passes as that."""
    if reading.state == OK:
        return tuple(ClientDemand(dict(one.labels).get(_REGION, ""), one.value, one.at) for one in reading.samples)
    if reading.state == ABSENT and reading.dropped:
        return (ClientDemand("", math.nan, reading.asked_at),)
    return ()


def _with_own_latency(mine: list[Replica], uid: Uid, look: _Round) -> list[Replica]:
    """With what the service's own query says of p95, by pod or of all pods of a cluster alike."""
    for cluster, reading in look.asked(uid, P95).items():
        for sample in reading.samples if reading.state == OK else ():
            pod = dict(sample.labels).get("pod")
            for one in mine:
                if one.cluster == cluster and pod in (None, one.pod.name):
                    one.gauges[P95] = sample.value
    return mine
