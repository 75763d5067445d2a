"""Clients of a service, emulated: how many requests come when and from where, and how replicas take them.

An HTTPRoute of the hub with the annotation `LOAD` has such clients behind it: a JSON object with `LoadPlan`'s keys.
Requests are a fluid: over a few seconds they are split by the route's weights, what a cluster cannot serve waits there,
and what is sent where no replica is ready fails. Latencies are log-normal about a p95 that rises with the load.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import Instant

LOAD: Final = "sandbox.overspill.dev/load"
_STEP_SECONDS: Final = 5.0
_MINUTE: Final = 60.0
_SIGMA: Final = 0.4
"""Of the logarithm of a latency."""
_P95: Final = 1.6448536269514722
_MOST_LOAD: Final = 0.99
_GRACE_SECONDS: Final = 20.0
"""For so long a replica that is told to end goes on answering, as one with a preStop hook does: a gateway hears of it
and of new weights at different times."""
_MOST_MINUTES: Final = 10_000
BOUNDS: Final = tuple(round(0.05 * 1.2**number, 4) for number in range(43))
"""Of the latency histogram: up to two minutes, each a fifth above the one before."""
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]


class _Plain(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=False, alias_generator=to_camel, populate_by_name=True
    )


class Spike(_Plain):
    """A rise and fall on top of the day, as a raised cosine. Seconds after the route was made."""

    at_seconds: float = Field(ge=0, le=1e7)
    seconds: Positive
    per_second: Positive


class LoadPlan(_Plain):
    """Requests per second over a day (its lowest point at the start), and what a replica makes of them."""

    app: str = Field(min_length=1)
    """Label `app` of the pods that answer."""
    backends: dict[str, str]
    """By backendRef: the member that it leads to."""
    base_per_second: float = Field(ge=0, le=1e6)
    peak_per_second: float = Field(ge=0, le=1e6)
    day_seconds: Positive = 86400.0
    spikes: tuple[Spike, ...] = ()
    regions: dict[str, Positive] = Field(default_factory=dict)
    """By region of the clients, its part."""
    speeds: dict[str, Positive]
    """Requests per second that saturate a replica, by GPU model (`nvidia.com/gpu.product`); "": any other."""
    idle_p95_seconds: Positive = 0.5
    latency: Literal["curve", "pooled"] = "curve"
    """curve: idle / (1 - load); pooled: one request each, the rest waits in a queue that a cluster's replicas share."""
    warm_up_seconds: float = Field(default=0.0, ge=0, le=1e5)
    """After a replica is ready, at half its speed."""
    slo_seconds: Positive = 2.0
    """What later answers are counted against."""

    def per_second(self, seconds: float) -> float:
        """Requests per second so long after the start."""
        wave = (1.0 - math.cos(math.tau * seconds / self.day_seconds)) / 2.0
        rate = self.base_per_second + (self.peak_per_second - self.base_per_second) * wave
        for spike in self.spikes:
            part = (seconds - spike.at_seconds) / spike.seconds
            if 0.0 < part < 1.0:
                rate += spike.per_second * (1.0 - math.cos(math.tau * part)) / 2.0
        return rate


def read_plan(text: str) -> LoadPlan:
    """Raises: InvalidObjectError, one line."""
    try:
        return LoadPlan.model_validate(json.loads(text))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the object"
        raise InvalidObjectError(f"{LOAD}: {place}: {first['msg']}") from error
    except ValueError as error:
        raise InvalidObjectError(f"{LOAD}: not JSON ({error})") from error


@dataclass(slots=True)
class Answering:
    """A replica, and what it has counted since it began."""

    namespace: str
    name: str
    per_second: float
    ready_at: Instant
    slower: float = 1.0
    """How much longer it takes for an answer than others; `per_second` is what it does so."""
    answered: float = 0.0
    latency_seconds: float = 0.0
    buckets: list[float] = field(default_factory=lambda: [0.0] * len(BOUNDS))
    ends_at: Instant | None = None
    """It is told to end: then it does."""

    def speed(self, at: Instant, warm_up_seconds: float) -> float:
        return self.per_second if at >= self.ready_at + warm_up_seconds else self.per_second / 2.0


@dataclass(slots=True)
class _Place:
    """One cluster."""

    replicas: dict[str, Answering] = field(default_factory=dict)
    """By UID."""
    weight: float = 0.0
    waiting: float = 0.0
    p95_seconds: float | None = None


@dataclass(slots=True)
class Minute:
    """What happened in one; rates are means over it."""

    at: Instant
    asked: float = 0.0
    answered: float = 0.0
    late: float = 0.0
    failed: float = 0.0
    capacity_per_second: float = 0.0
    """Of ready replicas, saturated."""
    gap_seconds: float = 0.0
    """For how long more was asked than all ready replicas can serve, or was sent where none was ready."""
    p95_seconds: float = 0.0
    """Of the slowest cluster, at its worst."""
    replicas: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        whole = max(self.seconds, 1e-9)
        return {
            "at": self.at,
            "asked_per_second": round(self.asked / whole, 4),
            "answered": round(self.answered, 3),
            "late": round(self.late, 3),
            "failed": round(self.failed, 3),
            "capacity_per_second": round(self.capacity_per_second / whole, 4),
            "gap_seconds": round(self.gap_seconds, 1),
            "p95_seconds": round(self.p95_seconds, 4),
            "replicas": {name: round(count / whole, 3) for name, count in sorted(self.replicas.items())},
            "weights": {name: round(weight / whole, 4) for name, weight in sorted(self.weights.items())},
        }


class ServiceLoad:
    """One service under load. Changed in place by `advance`; who changes what it is made of calls that first."""

    def __init__(self, plan: LoadPlan, began: Instant) -> None:
        self.plan, self.began = plan, began
        self.asked: dict[str, float] = dict.fromkeys(plan.regions or {"": 1.0}, 0.0)
        """By region, since the beginning."""
        self.minutes: list[Minute] = []
        self._at = began
        self._places: dict[str, _Place] = {cluster: _Place() for cluster in plan.backends.values()}

    # -- what it is made of ----------------------------------------------------------------------------------------

    def weigh(self, weights: Mapping[str, int]) -> None:
        """By backendRef."""
        for place in self._places.values():
            place.weight = 0.0
        for name, weight in weights.items():
            if (cluster := self.plan.backends.get(name)) is not None:
                self._places[cluster].weight += weight

    def ready(self, cluster: str, uid: str, replica: Answering) -> None:
        place = self._places.get(cluster)
        if place is not None and uid not in place.replicas:
            place.replicas[uid] = replica

    def gone(self, cluster: str, uid: str) -> None:
        """It is told to end; what it counted goes with it."""
        place = self._places.get(cluster)
        one = None if place is None else place.replicas.get(uid)
        if one is not None and one.ends_at is None:
            one.ends_at = self._at + _GRACE_SECONDS

    def replicas(self, cluster: str) -> list[Answering]:
        place = self._places.get(cluster)
        return [] if place is None else list(place.replicas.values())

    def waiting(self, cluster: str) -> float:
        place = self._places.get(cluster)
        return 0.0 if place is None else place.waiting

    # -- time ------------------------------------------------------------------------------------------------------

    def advance(self, now: Instant) -> None:
        """All that happens until then."""
        while self._at < now:
            end = min(now, self._at + _STEP_SECONDS, (math.floor(self._at / _MINUTE) + 1) * _MINUTE)
            self._step(self._at, end - self._at)
            self._at = end

    def _step(self, at: Instant, seconds: float) -> None:
        plan, minute = self.plan, self._minute(at)
        rate = plan.per_second(at + seconds / 2 - self.began)
        shares = sum(plan.regions.values()) or 1.0
        for region in self.asked:
            self.asked[region] += rate * seconds * plan.regions.get(region, 1.0) / shares
        weights = sum(place.weight for place in self._places.values())
        capacity = 0.0
        stranded = weights <= 0
        for cluster, place in self._places.items():
            part = place.weight / weights if weights > 0 else 0.0
            for uid in [uid for uid, one in place.replicas.items() if one.ends_at is not None and one.ends_at <= at]:
                del place.replicas[uid]
            power = sum(one.speed(at, plan.warm_up_seconds) for one in place.replicas.values())
            staying = [one for one in place.replicas.values() if one.ends_at is None]
            capacity += sum(one.speed(at, plan.warm_up_seconds) for one in staying)
            stranded |= part * rate > 0 and power <= 0
            self._serve(place, part * rate * seconds, power, seconds, minute)
            minute.replicas[cluster] = minute.replicas.get(cluster, 0.0) + len(staying) * seconds
            minute.weights[cluster] = minute.weights.get(cluster, 0.0) + part * seconds
        if weights <= 0:
            minute.failed += rate * seconds
        minute.asked += rate * seconds
        minute.capacity_per_second += capacity * seconds
        minute.seconds += seconds
        if rate > 0 and (stranded or rate > capacity):
            minute.gap_seconds += seconds

    def _serve(self, place: _Place, asked: float, power: float, seconds: float, minute: Minute) -> None:
        """What one cluster makes of so many requests."""
        if power <= 0:
            minute.failed += asked + place.waiting
            place.waiting, place.p95_seconds = 0.0, None
            return
        served = min(place.waiting + asked, power * seconds)
        place.waiting = place.waiting + asked - served
        load = min(_MOST_LOAD, asked / seconds / power)
        p95 = place.p95_seconds = self._p95(load, len(place.replicas), power) + place.waiting / power
        slowest = max(one.slower for one in place.replicas.values())
        minute.p95_seconds = max(minute.p95_seconds, p95 * slowest if served > 0 else 0.0)
        minute.answered += served
        whole = sum(each.per_second for each in place.replicas.values())
        told: dict[float, tuple[float, list[float], float]] = {}
        for one in place.replicas.values():
            if one.slower not in told:
                told[one.slower] = _latencies(p95 * one.slower, self.plan.slo_seconds)
            mean, below, late = told[one.slower]
            part = served * one.per_second / whole
            minute.late += part * late
            one.answered += part
            one.latency_seconds += part * mean
            one.buckets = [old + part * share for old, share in zip(one.buckets, below, strict=True)]

    def _p95(self, load: float, servers: int, power: float) -> float:
        if self.plan.latency == "curve":
            return self.plan.idle_p95_seconds / (1.0 - load)
        waits = _erlang_c(servers, load * servers)
        free = power * (1.0 - load)
        return self.plan.idle_p95_seconds + max(0.0, math.log(max(waits, 1e-12) / 0.05)) / free

    def _minute(self, at: Instant) -> Minute:
        start = math.floor(at / _MINUTE) * _MINUTE
        if not self.minutes or self.minutes[-1].at != start:
            self.minutes.append(Minute(start))
            del self.minutes[:-_MOST_MINUTES]
        return self.minutes[-1]


def _latencies(p95: float, slo_seconds: float) -> tuple[float, list[float], float]:
    """Of log-normal latencies: their mean, the parts below each bound, and the part above the SLO."""
    median = p95 / math.exp(_P95 * _SIGMA)
    below = [_normal((math.log(bound) - math.log(median)) / _SIGMA) for bound in BOUNDS]
    late = 1.0 - _normal((math.log(slo_seconds) - math.log(median)) / _SIGMA)
    return median * math.exp(_SIGMA**2 / 2), below, late


def _normal(deviations: float) -> float:
    return 0.5 * (1.0 + math.erf(deviations / math.sqrt(2.0)))


def _erlang_c(servers: int, load: float) -> float:
    """Chance that a request waits (Kleinrock, "Queueing Systems" vol. 1, 3.5), by Erlang B's recursion."""
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = load * blocked / (count + load * blocked)
    return blocked / (1.0 - load / servers * (1.0 - blocked))
