"""One service, one look: what is believed, what is needed, where it goes, and what is asked for now.

`serve` is called by the daemon and by the simulator with everything it needs; it keeps nothing but the memory that it
hands back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from scheduler.engine.serving import rollout
from scheduler.engine.serving.binding import binding
from scheduler.engine.serving.capacity import Rated, carried, rate
from scheduler.engine.serving.demand import believe, plan
from scheduler.engine.serving.handover import Handover, beside_leaving, hand_over
from scheduler.engine.serving.keeping import keep
from scheduler.engine.serving.memory import Demand, Memory, Need
from scheduler.engine.serving.outcome import division
from scheduler.engine.serving.programme import Answer, solve
from scheduler.engine.serving.question import Counts, Question
from scheduler.engine.serving.slots import Slot, by_pool, slot_targets
from scheduler.engine.serving.weights import traffic
from scheduler.model.division import CONTRADICTORY, NO_OFFERS, Division
from scheduler.model.ids import ClusterId, PoolRef
from scheduler.model.policy import Match
from scheduler.model.serving import ReplicaGroup, ReplicaOwner, Service, ServiceView, ServingOffer, TrafficWeight
from scheduler.model.serving_policy import ServingSLO

KEPT: Final = "kept"
_LOOK_SECONDS: Final = 60.0
"""How long it takes until the next look, added to what is known of leads."""


@dataclass(frozen=True, slots=True)
class Course:
    """What was found on the way to a division; `outcome` tells it."""

    view: ServiceView
    rated: tuple[Rated, ...]
    demand: Demand
    need: Need | None
    question: Question | None
    answer: Answer | None
    trouble: tuple[str, str] | None
    """Reason and text of why nothing was decided anew."""
    handover: Handover
    weights: tuple[TrafficWeight, ...]
    memory: Memory


def horizons(offers: Sequence[ServingOffer], slo: ServingSLO) -> tuple[float, float]:
    """How far ahead demand is to be forecast, seconds: the quickest and the slowest lead of what may be used."""
    leads = [
        one.lead_seconds + slo.warm_up_seconds
        for one in offers
        if one.open and one.speed is not None and one.provisioning_seconds is not None
    ]
    return min(leads, default=0.0) + _LOOK_SECONDS, max(leads, default=0.0) + _LOOK_SECONDS


def serve(
    view: ServiceView, memory: Memory, *, use_milp: bool = True, explain: bool = False
) -> tuple[Division, Memory]:
    """The division of one service, and what to remember. Pure; the same for every order of the view's tuples.

    `explain`: also which limits bind, which takes a few more solutions.

    Nothing is decided anew, and what runs is kept, where the demand cannot be believed or the SLO contradicts itself;
    traffic still leaves what does not answer.
    """
    view = replace(view, offers=tuple(sorted(view.offers, key=lambda one: one.pool)))
    service, slo = view.service, view.slo
    rated = tuple(rate(offer, slo, service) for offer in view.offers)
    believed = believe(view.now, service.demand, memory, _most(rated))
    need, memory = _need(view, believed)
    lost = any(not one.offer.open for one in rated if _have(service).get(one.offer.pool))
    if need is None and lost and memory.needs:
        # A cluster was lost while nobody tells demand: what was needed last is needed still.
        need = max(memory.needs, key=lambda one: (one.far, one.near, one.at))
    if need is None:
        trouble = believed.reason, believed.text
        return _kept(view, rated, believed, trouble, memory)
    question = _question(view, rated, need)
    if not any(question.most(one) for one in rated):
        text = "nothing is known that could run it within its SLO" + _why_none(rated)
        return _kept(view, rated, believed, (NO_OFFERS, text), memory, need)
    answer = solve(question, use_milp=use_milp)
    if not answer.counts and question.least_replicas > 0:
        text = "no division keeps maxProviderShare, maxReclaimableShare and maxReplicas at once; what runs is kept"
        return _kept(view, rated, believed, (CONTRADICTORY, text), memory, need)
    division, memory = _decided(view, rated, believed, need, question, answer, memory)
    return (replace(division, binding=binding(question, answer, use_milp=use_milp)) if explain else division), memory


def _need(view: ServiceView, believed: Demand) -> tuple[Need | None, Memory]:
    if believed.per_second is None:
        return None, believed.memory
    return plan(view.now, believed.per_second, view.forecast, view.slo, believed.memory)


def _question(view: ServiceView, rated: tuple[Rated, ...], need: Need) -> Question:
    asleep = _asleep(view)
    # Only who owns the replicas and can be woken by a request gives up the last one.
    awake = need.near > 0 or view.service.owner is ReplicaOwner.OVERSPILL
    near = horizons(view.offers, view.slo)[0]
    return Question(
        rated=rated,
        slo=replace(_within_owner(view), match=Match()),
        asked=tuple(sorted(_have(view.service).items())),
        ready=_there(view.service),
        near_per_second=0.0 if asleep else need.near,
        far_per_second=0.0 if asleep else need.far,
        near_seconds=near,
        least_replicas=0 if asleep else max(_within_owner(view).scaling.min_replicas, int(awake)),
    )


def _within_owner(view: ServiceView) -> ServingSLO:
    """The SLO with the bounds that another autoscaler's user set."""
    least, most = view.service.owner_bounds
    scaling = view.slo.scaling
    tops = [one for one in (most, scaling.max_replicas) if one is not None]
    top = min(tops, default=None)
    low = max(scaling.min_replicas, least or 0)
    return replace(
        view.slo, scaling=replace(scaling, min_replicas=min(low, low if top is None else top), max_replicas=top)
    )


def _asleep(view: ServiceView) -> bool:
    """Whether nobody has asked for so long that not even the least replicas stay."""
    after, last = view.slo.scaling.zero_after_seconds, view.service.last_request_at
    if after is None or not view.service.scales_to_zero:
        return False
    quiet = all(not one.requests_per_second for one in view.service.demand)
    return quiet and last is not None and view.now - last >= after


def _decided(
    view: ServiceView,
    rated: tuple[Rated, ...],
    believed: Demand,
    need: Need,
    question: Question,
    answer: Answer,
    memory: Memory,
) -> tuple[Division, Memory]:
    service = view.service
    slots, memory = _rolled(view, question, answer.counts, memory)
    needed = min(need.near, max(believed.per_second or 0.0, carried(rated, answer.counts)))
    handover = hand_over(question, slots, _slots(service), _ready(service), needed, _counted(memory))
    if service.owner is ReplicaOwner.OVERSPILL:
        handover = beside_leaving(question, handover, slots, _leaving(service))
    weights = _weights(view, rated, memory, _staying(service, handover))
    course = Course(view, rated, believed, need, question, answer, None, handover, weights, memory)
    return division(course), memory


def _kept(
    view: ServiceView,
    rated: tuple[Rated, ...],
    believed: Demand,
    trouble: tuple[str, str],
    memory: Memory,
    need: Need | None = None,
) -> tuple[Division, Memory]:
    """As many replicas as there are, also while a revision takes over from another."""
    service = view.service
    counts = keep(_within_owner(view), service, rated, _have(service))
    question = Question(
        rated=rated,
        slo=replace(_within_owner(view), match=Match()),
        asked=tuple(sorted(_have(service).items())),
        ready=_there(service),
        near_per_second=0.0,
        far_per_second=0.0,
        near_seconds=horizons(view.offers, view.slo)[0],
        least_replicas=sum(counts.values()),
    )
    slots, memory = _rolled(view, question, counts, memory)
    handover = hand_over(question, slots, _slots(service), _ready(service), 0.0, _counted(memory))
    weights = _weights(view, rated, memory, view.service.groups)
    course = Course(view, rated, believed, need, None, None, trouble, handover, weights, memory)
    return division(course), memory


def _rolled(view: ServiceView, question: Question, counts: Counts, memory: Memory) -> tuple[dict[Slot, int], Memory]:
    """The replicas by revision, with the rollout one step on if it is time."""
    groups = view.service.groups
    if not memory.stable:
        memory = rollout.advance(view, memory, {})
    slots = slot_targets(question, counts, memory.stable, rollout.shift(view, memory), groups)
    after = rollout.advance(view, memory, _ready_for(slots, _ready(view.service)))
    if after.rollout != memory.rollout or after.stable != memory.stable:
        slots = slot_targets(question, counts, after.stable, rollout.shift(view, after), groups)
    return slots, after


def _counted(memory: Memory) -> frozenset[str]:
    """Revisions on which capacity may rest: the stable one, and a new one that is not being taken back."""
    coming = memory.rollout is not None and memory.rollout.phase != rollout.BACK
    return frozenset({memory.stable, *((memory.rollout.new,) if coming and memory.rollout is not None else ())})


def _staying(service: Service, handover: Handover) -> tuple[ReplicaGroup, ...]:
    """Without what is to be given up now: its requests go elsewhere before it does. Where another autoscaler owns the
    replicas, all of them stay that are there."""
    if service.owner is not ReplicaOwner.OVERSPILL:
        return service.groups
    left = dict(handover.asked)
    found = []
    for group in sorted(service.groups, key=lambda one: (one.pool, one.revision)):
        slot = Slot(group.pool, group.revision)
        ready = min(group.ready, left.get(slot, 0))
        left[slot] = left.get(slot, 0) - ready
        found.append(replace(group, ready=ready, warm=None if group.warm is None else min(group.warm, ready)))
    return tuple(found)


def _weights(
    view: ServiceView, rated: tuple[Rated, ...], memory: Memory, groups: Sequence[ReplicaGroup]
) -> tuple[TrafficWeight, ...]:
    shift = rollout.shift(view, memory)
    new, shares = (memory.stable, {}) if shift is None else (shift.new, dict(shift.traffic))
    demand = sum(max(0.0, one.requests_per_second or 0.0) for one in view.service.demand)
    return traffic(rated, groups, new, shares, demand, _counted(memory))


def _most(rated: Sequence[Rated]) -> float:
    """Requests per second of everything that could ever be there."""
    return sum(one.most_per_second * max(0, one.offer.most_replicas) for one in rated)


def _have(service: Service) -> dict[PoolRef, int]:
    return by_pool(_slots(service))


def _there(service: Service) -> tuple[tuple[PoolRef, int], ...]:
    """Ready, by pool, and still there at `near`; those that still warm up will have by then."""
    found: dict[PoolRef, int] = {}
    for group in service.groups:
        found[group.pool] = found.get(group.pool, 0) + max(0, min(group.ready - group.leaving, group.wanted))
    return tuple(sorted(found.items()))


def _leaving(service: Service) -> dict[Slot, int]:
    return {Slot(group.pool, group.revision): group.leaving for group in service.groups if group.leaving > 0}


def _slots(service: Service) -> dict[Slot, int]:
    found: dict[Slot, int] = {}
    for group in sorted(service.groups, key=lambda one: (one.pool, one.revision)):
        slot = Slot(group.pool, group.revision)
        found[slot] = found.get(slot, 0) + max(0, group.wanted)
    return found


def _ready(service: Service) -> dict[Slot, int]:
    """Ready and warm."""
    found: dict[Slot, int] = {}
    for group in service.groups:
        slot = Slot(group.pool, group.revision)
        warm = group.ready if group.warm is None else min(group.warm, group.ready)
        found[slot] = found.get(slot, 0) + max(0, warm)
    return found


def _ready_for(slots: Mapping[Slot, int], ready: Mapping[Slot, int]) -> dict[tuple[ClusterId, str], bool]:
    """Whether what a revision needs on a cluster is ready there."""
    wanted: dict[tuple[ClusterId, str], list[int]] = {}
    for slot in sorted({*slots, *ready}):
        sums = wanted.setdefault((slot.pool.cluster, slot.revision), [0, 0])
        sums[0] += slots.get(slot, 0)
        sums[1] += ready.get(slot, 0)
    return {key: there >= needed for key, (needed, there) in wanted.items() if needed > 0}


def _why_none(rated: Sequence[Rated]) -> str:
    reasons = {
        one.offer.why_closed or "closed"
        if not one.offer.open
        else ("speed unknown" if one.offer.speed is None else "too far from the clients, or too slow even when idle")
        for one in rated
        if not one.usable or not one.offer.open
    }
    return f" ({'; '.join(sorted(reasons))}); what runs is kept" if reasons else "; what runs is kept"
