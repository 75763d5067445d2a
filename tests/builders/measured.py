"""Services as their metrics tell of them, without a cluster: what `ServiceMeasures` reads, made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

from clusters.kubernetes.codec import PodFacts
from scheduler.daemon.gathering.metrics import MetricsKeeper
from scheduler.daemon.services.readings import ServiceMeasures
from scheduler.daemon.services.replicas import Place
from scheduler.daemon.state.member_mirror import CopyEntry
from scheduler.daemon.state.mirror import HubEntry, Mirror
from scheduler.model.cluster import NodePool
from scheduler.model.ids import ClusterId, PoolId, PoolRef, Uid, WorkloadRef
from scheduler.model.metrics import FAILED, OK, MetricQuery, Reading, Sample
from scheduler.model.money import Price, Usd
from scheduler.model.resources import Resources
from scheduler.model.workload import Workload

REF = WorkloadRef("federatedworkload", "default", "chat", Uid("u-chat"))
MEMBERS = ("onprem", "eks")
POOL = PoolId("a10")


class Hand:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


@dataclass
class Member:
    name: str
    available: bool = True
    pods: dict[str, PodFacts] = field(default_factory=dict)
    client_latency: tuple[tuple[str, float], ...] = ()

    @property
    def member(self) -> Any:
        return SimpleNamespace(client_latency=self.client_latency)

    def ready_pods(self, uid: Uid) -> int:
        return sum(1 for pod in self.pods.values() if pod.ready and pod.origin_uid == uid)

    def copies_for(self, uid: Uid) -> list[CopyEntry]:
        copy = SimpleNamespace(name="chat-u", owner=uid)
        return [cast("CopyEntry", SimpleNamespace(copy=copy))] if self.pods else []


class Told:
    """Readings and answers, as they are to be told next."""

    def __init__(self, clock: Hand) -> None:
        self._clock = clock
        self.latest: dict[tuple[str, str], Reading] = {}
        self.answers: dict[str, Reading] = {}
        """To services' own queries, by cluster."""
        self.asked: list[tuple[str, str]] = []

    def tell(self, cluster: str, metric: str, *rows: tuple[Mapping[str, str], float], state: str = OK) -> None:
        """Instead of what was told of it before, taken just now."""
        self.latest[cluster, metric] = self.reading(cluster, metric, *rows, state=state)

    def reading(
        self, cluster: str, metric: str, *rows: tuple[Mapping[str, str], float], state: str = OK, dropped: int = 0
    ) -> Reading:
        now = self._clock.now()
        samples = tuple(Sample(tuple(labels.items()), value, now) for labels, value in rows)
        return Reading(ClusterId(cluster), metric, "count", state, samples, "test", now, 0.0, dropped=dropped)

    def readings(self) -> list[Reading]:
        return list(self.latest.values())

    async def ask(self, cluster: ClusterId, queries: Sequence[MetricQuery]) -> tuple[Reading, ...]:
        self.asked += [(cluster, query.promql) for query in queries]
        failed = self.reading(cluster, "own", state=FAILED)
        return tuple(self.answers.get(cluster, failed) for _ in queries)


class PlacesByName:
    """The revision is what stands before the dash of a pod's name."""

    def of_pod(self, cluster: ClusterId, pod: PodFacts) -> Place | None:
        return Place(POOL, pod.name.partition("-")[0])

    def of_copy(self, entry: CopyEntry) -> str:
        return ""


class Measured:
    """One service on two members."""

    def __init__(self, annotations: Mapping[str, str] | None = None, *, own_queries: bool = True) -> None:
        self.clock = Hand()
        self.told = Told(self.clock)
        self.members = {name: Member(name) for name in MEMBERS}
        workload = SimpleNamespace(ref=REF, runs_forever=True)
        self.raw: dict[str, Any] = {"metadata": {"annotations": dict(annotations or {})}, "spec": {}}
        entry = HubEntry(cast("Workload", workload), self.raw)
        price = Price(Usd("2.00"), "test", 0.0)
        pool = SimpleNamespace(price=price, node_resources=Resources(8000, 64 << 30, 2, 110))
        mirror = SimpleNamespace(
            hub={REF.uid: entry}, members=self.members, pool=lambda ref: cast("NodePool", pool) if ref else None
        )
        self.measures = ServiceMeasures(
            cast("Mirror", mirror),
            cast("MetricsKeeper", self.told),
            self.clock,
            PlacesByName(),
            own_queries=own_queries,
        )

    def pod(self, cluster: str, name: str, *, ready: bool = True) -> None:
        """A replica with one GPU, made just now."""
        self.members[cluster].pods[f"default/{name}"] = PodFacts(
            namespace="default", name=name, uid=f"uid-{name}", node=None, requests=Resources(2000, 4 << 30, 1, 1),
            terminal=False, origin_uid=REF.uid, daemon_or_static=False, created_at=self.clock.now(), deleting=False,
            priority=0, ready=ready,
        )  # fmt: skip

    def tell_pods(self, cluster: str, metric: str, **values: float) -> None:
        """One metric of all pods of a cluster; `_` stands for a dash."""
        rows = [({"namespace": "default", "pod": name.replace("_", "-")}, value) for name, value in values.items()]
        self.told.tell(cluster, metric, *rows)

    async def round(self, seconds: float = 30.0) -> None:
        """A round of metrics, so much later; what is told again has new times."""
        self.clock.at += seconds
        for key, reading in self.told.latest.items():
            samples = tuple(Sample(one.labels, one.value, self.clock.at) for one in reading.samples)
            self.told.latest[key] = Reading(
                reading.cluster, reading.metric, reading.unit, reading.state, samples, "test", self.clock.at, 0.0
            )
        await self.measures.on_round()

    @property
    def per_second(self) -> float | None:
        """Of all regions together; None: something of it is unknown, or all of it."""
        rates = [one.requests_per_second for one in self.measures.of(REF).demand]
        known = [one for one in rates if one is not None]
        return sum(known) if rates and len(known) == len(rates) else None


def pool_ref(cluster: str) -> PoolRef:
    return PoolRef(ClusterId(cluster), POOL)
