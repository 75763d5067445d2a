"""One look at one service of the daemon: from what is seen of it to what is to be written on its hub object. Pure.

`look` divides; `adopt` is for what runs as a whole when a ServingSLO begins to match it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from scheduler.engine.explain import short_hash
from scheduler.engine.serving.cycle import serve
from scheduler.engine.serving.memory import Memory, from_json, to_json
from scheduler.engine.serving.offers import Offered
from scheduler.engine.serving.slots import Slot
from scheduler.model.division import Division, ReplicaTarget, ServingCondition
from scheduler.model.ids import ClusterId, DecisionId, Instant, PoolRef, Uid
from scheduler.model.service_intent import Adopted, ServiceIntent, StoredRevision
from scheduler.model.serving import (
    CanaryVerdict,
    ClientDemand,
    ClientLatency,
    ExpectedRate,
    ReplicaGroup,
    ReplicaOwner,
    Revision,
    RevisionMetrics,
    Service,
    ServiceView,
    TrafficWeight,
)
from scheduler.model.serving_policy import ServingSLO
from scheduler.model.workload import Workload

REMEMBERED_SECONDS: Final = 300.0
"""What is remembered is written at least so often, if nothing else is: losing it loses hysteresis only."""
_LEAST_SHIFT: Final = 10
"""Of 1000: less than that is not worth a write."""
SUSPENDED: Final = "Suspended"


@dataclass(frozen=True, slots=True)
class PartState:
    """A part as its member tells."""

    wanted: int
    ready: int
    warm: int | None = None
    deleting: bool = False
    leaving: int = 0
    """Of those that are ready, on nodes that are being taken back."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen of a service now."""

    now: Instant
    workload: Workload
    """As it is decided."""
    revision: StoredRevision
    """The one that its template asks for."""
    replicas: int
    """That its template asks for, were it not divided."""
    parts: Mapping[Slot, PartState]
    owner: ReplicaOwner = ReplicaOwner.OVERSPILL
    owner_bounds: tuple[int | None, int | None] = (None, None)
    demand: tuple[ClientDemand, ...] = ()
    latency: tuple[ClientLatency, ...] = ()
    metrics: tuple[RevisionMetrics, ...] = ()
    last_request_at: Instant | None = None
    weights: tuple[TrafficWeight, ...] = ()
    verdict: CanaryVerdict | None = None

    @property
    def intent(self) -> ServiceIntent | None:
        return self.workload.intent


@dataclass(frozen=True, slots=True)
class Looked:
    """What follows. `intent`: what is to stand on the hub object; `differs`: whether it has to be written now."""

    view: ServiceView | None
    """None: it was not divided."""
    division: Division
    intent: ServiceIntent
    memory: Memory
    differs: bool


def look(
    sight: Sight,
    slo: ServingSLO,
    offered: Offered,
    forecast: tuple[ExpectedRate, ...],
    memory: Memory,
    *,
    explain: bool = False,
) -> Looked:
    """Divide the service anew."""
    view = view_of(sight, slo, offered, forecast)
    division, after = serve(view, memory, explain=explain)
    if sight.workload.suspended:
        told = ServingCondition(SUSPENDED, "its user suspended it")
        division = replace(division, targets=(), weights=(), conditions=(told,), sentence=told.message)
    silent = tuple(sorted({one.pool.cluster for one in view.offers if not one.reachable}))
    return _looked(sight, slo.name, division, after, view, silent)


def view_of(sight: Sight, slo: ServingSLO, offered: Offered, forecast: tuple[ExpectedRate, ...]) -> ServiceView:
    """All that dividing it looks at. The queue's quota limits the replicas of all pools together."""
    service = service_of(sight)
    asked = sum(group.wanted for group in service.groups)
    tops = [asked + offered.more] if offered.more < 100_000 else []
    tops += [] if slo.scaling.max_replicas is None else [slo.scaling.max_replicas]
    limited = replace(slo, scaling=replace(slo.scaling, max_replicas=min(tops, default=None)))
    return ServiceView(sight.now, service, limited, offered.offers, forecast, sight.verdict)


def service_of(sight: Sight) -> Service:
    intent = sight.intent
    stored = () if intent is None else intent.revisions
    known = {one.name: Revision(one.name, one.created_at) for one in (sight.revision, *stored)}
    return Service(
        ref=sight.workload.ref,
        queue=sight.workload.queue,
        revision=sight.revision.name,
        revisions=tuple(known[name] for name in sorted(known)),
        groups=_groups(sight),
        demand=sight.demand,
        latency=sight.latency,
        metrics=sight.metrics,
        owner=sight.owner,
        owner_bounds=sight.owner_bounds,
        scales_to_zero=sight.owner is not ReplicaOwner.OVERSPILL and sight.owner_bounds[0] == 0,
        last_request_at=sight.last_request_at,
        weights=sight.weights,
        asked_before=None if intent is None else sum(one.replicas for one in intent.targets),
    )


def _groups(sight: Sight) -> tuple[ReplicaGroup, ...]:
    """What is asked for counts as wanted even before its member has been told; what is there beyond that, too."""
    intent = sight.intent
    asked = {} if intent is None else {Slot(one.pool, one.revision): one.replicas for one in intent.targets}
    found = []
    for slot in sorted({*asked, *sight.parts}):
        part = sight.parts.get(slot)
        if part is None or part.deleting:
            part = PartState(0, 0)
        wanted = asked.get(slot, part.wanted)
        if sight.owner is not ReplicaOwner.OVERSPILL:
            wanted = max(wanted, part.wanted, part.ready)
        found.append(ReplicaGroup(slot.pool, slot.revision, wanted, part.ready, part.warm, part.leaving))
    return tuple(found)


def remembered(intent: ServiceIntent | None) -> Memory:
    """What was written; what cannot be read is forgotten, which loses hysteresis and no replica."""
    if intent is None or not intent.memory:
        return Memory()
    try:
        return from_json(orjson.loads(intent.memory))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError):
        return Memory()


def _looked(
    sight: Sight, slo: str, division: Division, memory: Memory, view: ServiceView | None, silent: tuple[ClusterId, ...]
) -> Looked:
    before = sight.intent
    targets = tuple(sorted(division.targets, key=lambda one: (one.pool, one.revision)))
    after = ServiceIntent(
        slo=slo,
        decision=decision_id(sight.workload.ref.uid, sight.now),
        decided_at=sight.now,
        targets=targets,
        weights=division.weights or (() if before is None else before.weights),
        revisions=_revisions(sight, targets, memory),
        adopted=_adopted(sight, targets),
        silent=silent,
        memory=orjson.dumps(to_json(memory)).decode(),
    )
    return Looked(view, division, after, memory, _differs(before, after))


def _differs(before: ServiceIntent | None, after: ServiceIntent) -> bool:
    """Whether anything that is carried out is new, a rollout has gone on, or it was last written long ago."""
    if before is None:
        return True
    same = replace(after, decision=before.decision, decided_at=before.decided_at, memory=before.memory)
    if _alike(before.weights, after.weights):
        same = replace(same, weights=before.weights)
    old, new = remembered(before), remembered(after)
    course = (old.stable, old.rollout, old.rejected) != (new.stable, new.rollout, new.rejected)
    aged = after.decided_at - before.decided_at >= REMEMBERED_SECONDS and before.memory != after.memory
    return same != before or course or aged


def _alike(before: Sequence[TrafficWeight], after: Sequence[TrafficWeight]) -> bool:
    """The same places with nearly the same shares: measurements wobble."""
    shares = {(one.cluster, one.revision): one.weight for one in before}
    if shares.keys() != {(one.cluster, one.revision) for one in after}:
        return False
    return all(abs(shares[one.cluster, one.revision] - one.weight) < _LEAST_SHIFT for one in after)


def _revisions(sight: Sight, targets: Sequence[ReplicaTarget], memory: Memory) -> tuple[StoredRevision, ...]:
    """Those that run, are to run, or may have to run again."""
    used = {sight.revision.name, memory.stable, *(one.revision for one in targets)}
    used |= {slot.revision for slot in sight.parts}
    if memory.rollout is not None:
        used |= {memory.rollout.old, memory.rollout.new}
    before = () if sight.intent is None else sight.intent.revisions
    known = {sight.revision.name: sight.revision} | {one.name: one for one in before}
    return tuple(known[name] for name in sorted(used & known.keys()))


def _adopted(sight: Sight, targets: Sequence[ReplicaTarget]) -> tuple[Adopted, ...]:
    before = () if sight.intent is None else sight.intent.adopted
    used = {*sight.parts, *(Slot(one.pool, one.revision) for one in targets)}
    return tuple(one for one in before if Slot(one.pool_ref, one.revision) in used)


def decision_id(uid: Uid, now: Instant) -> DecisionId:
    return short_hash(f"division|{uid}|{round(now * 1000)}")


def adopt(sight: Sight, slo: str, pool: PoolRef, name: str, replicas: int) -> ServiceIntent:
    """What runs as a whole, as the one part of a service: what `look` goes on from."""
    revision = sight.revision.name
    return ServiceIntent(
        slo=slo,
        decision=decision_id(sight.workload.ref.uid, sight.now),
        decided_at=sight.now,
        targets=(ReplicaTarget(pool, revision, replicas),),
        revisions=(sight.revision,),
        adopted=(Adopted(pool.cluster, pool.pool, revision, name),),
        memory=orjson.dumps(to_json(Memory(stable=revision))).decode(),
    )
