"""What was decided, as data and in words: conditions, a sentence, every offer with its cost or why it was refused."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from scheduler.engine.serving import rollout
from scheduler.engine.serving.capacity import Rated, carried
from scheduler.engine.serving.question import STAY_SECONDS, Question
from scheduler.engine.serving.slots import Slot, by_pool
from scheduler.model import division as model
from scheduler.model.division import Division, OfferChoice, ReplicaTarget, ServingCondition
from scheduler.model.ids import ClusterId, PoolRef
from scheduler.model.money import NANO, Usd
from scheduler.model.plan import CostPart
from scheduler.model.serving import ReplicaOwner

if TYPE_CHECKING:
    from scheduler.engine.serving.cycle import Course


def division(course: Course) -> Division:
    """What is to be done, and why."""
    view, service = course.view, course.view.service
    asked, answer, question = course.handover.asked, course.answer, course.question
    counts = by_pool(asked) if answer is None else answer.counts
    found = dict.fromkeys(asleep(course), 0) | asked
    targets = tuple(_target(course, slot, count) for slot, count in sorted(found.items()))
    told = conditions(course)
    have = {(group.pool, group.revision): group.wanted for group in service.groups if group.wanted > 0}
    changed = {(one.pool, one.revision): one.replicas for one in targets if one.replicas > 0} != have
    weights = course.weights
    ready = {group.pool: 0 for group in service.groups}
    for group in service.groups:
        ready[group.pool] += group.ready
    return Division(
        service=service.ref,
        decided_at=view.now,
        targets=targets,
        weights=weights,
        conditions=told,
        changed=changed or (bool(weights) and weights != tuple(sorted(service.weights))),
        sentence=_sentence(course, counts, told),
        solver="kept" if answer is None else answer.solver,
        demand_per_second=course.demand.per_second,
        planned_per_second=None if course.need is None else max(course.need.near, course.need.far),
        capacity_per_second=carried(course.rated, counts),
        ready_per_second=carried(course.rated, _open(course.rated, ready)),
        usd_per_hour=_usd_per_hour(course.rated, by_pool(asked)),
        cost_parts=() if question is None else _cost_parts(question, counts),
        choices=tuple(_choice(one, counts.get(one.offer.pool, 0), question) for one in course.rated),
        leaving=course.handover.waiting,
        wake_at=None,
    )


def _target(course: Course, slot: Slot, count: int) -> ReplicaTarget:
    service = course.view.service
    if service.owner is ReplicaOwner.OVERSPILL:
        return ReplicaTarget(slot.pool, slot.revision, count)
    most = service.owner_bounds[1]
    room = next((one.offer.most_replicas for one in course.rated if one.offer.pool == slot.pool), count)
    others = sum(course.handover.asked.values()) - count
    # Its own autoscaler moves between these: not below what is expected to be needed, up to what there is room for.
    high = max(count, room if most is None else min(room, most - others))
    return ReplicaTarget(slot.pool, slot.revision, count, (count, high))


def asleep(course: Course) -> tuple[Slot, ...]:
    """Where it stays though nothing of it is to run there: a request wakes what is there, not what is deleted.

    All places that it has, for requests may be sent to any of them, while nothing is asked for, and then until
    something is ready; the cheapest one where it has none.
    """
    service, asked = course.view.service, course.handover.asked
    if not service.scales_to_zero or (asked and any(group.ready > 0 for group in service.groups)):
        return ()
    stable = course.memory.stable
    usable = {one.offer.pool: one for one in course.rated if one.offer.open}
    there = {
        Slot(group.pool, stable)
        for group in service.groups
        if group.revision == stable and group.pool in usable and (not asked or group.wanted == 0)
    }
    if there or asked:
        return tuple(sorted(there - asked.keys()))
    prices = {pool: one.offer.usd_per_replica_hour for pool, one in usable.items() if one.usable}
    cheapest = min(prices, key=lambda pool: (prices[pool] is None, prices[pool] or Decimal(0), pool), default=None)
    return () if cheapest is None else (Slot(cheapest, stable),)


def _open(rated: tuple[Rated, ...], ready: dict[PoolRef, int]) -> dict[PoolRef, int]:
    closed = {one.offer.pool for one in rated if not one.offer.open}
    return {pool: count for pool, count in ready.items() if pool not in closed}


def _usd_per_hour(rated: tuple[Rated, ...], counts: dict[PoolRef, int]) -> Usd | None:
    """None: a price is unknown of something that is asked for."""
    total = Decimal(0)
    prices = {one.offer.pool: one.offer.usd_per_replica_hour for one in rated}
    for pool, count in counts.items():
        price = prices.get(pool)
        if price is None:
            return None
        total += price * count
    return total.quantize(NANO)


def _cost_parts(question: Question, counts: dict[PoolRef, int]) -> tuple[CostPart, ...]:
    capacity = change = reclaims = 0.0
    for one in question.rated:
        count = counts.get(one.offer.pool, 0)
        price = one.offer.usd_per_replica_hour
        plain = 0.0 if price is None else float(price)
        capacity += plain * count
        reclaims += (question.usd_per_hour(one) - plain) * count
        change += question.start_usd(one) * max(0, count - question.have.get(one.offer.pool, 0))
    parts = (("capacity", capacity), ("change", change * 3600.0 / STAY_SECONDS), ("reclaims", reclaims))
    return tuple(CostPart(name, round(usd, 9)) for name, usd in parts)


def _choice(one: Rated, count: int, question: Question | None) -> OfferChoice:
    offer, each = one.offer, one.within_slo or None
    if one.pooled and count > 0:
        each = carried((one,), {offer.pool: count}) / count
    price = offer.usd_per_replica_hour
    per_million = None if price is None or not each else float(price) / 3600.0 / each * 1e6
    return OfferChoice(
        pool=offer.pool,
        gpu_model=offer.gpu_model,
        capacity_type=offer.capacity_type,
        replicas=count,
        requests_per_second_each=each,
        usd_per_million_requests=per_million,
        latency_seconds=one.latency_seconds,
        refused=_refused(one),
    )


def _refused(one: Rated) -> str:
    offer = one.offer
    if not offer.open:
        return offer.why_closed or "closed"
    if offer.speed is None:
        return "what a replica does there is unknown"
    if offer.usd_per_replica_hour is None:
        return "its price is unknown"
    if not one.usable:
        return "too far from the clients, or too slow even without load"
    return "" if offer.most_replicas > 0 else "no room"


def conditions(course: Course) -> tuple[ServingCondition, ...]:
    """All that is to be said, the gravest first."""
    found: list[ServingCondition] = []
    if course.trouble is not None:
        found.append(ServingCondition(*course.trouble))
    elif course.demand.per_second is None:
        found.append(ServingCondition(course.demand.reason, course.demand.text))
    found += _lost(course)
    found += _short(course)
    found += _rolling(course)
    found += _leaving(course)
    if course.answer is not None and not course.answer.counts and not found:
        found.append(ServingCondition(model.SCALED_TO_ZERO, "nobody has asked for long enough"))
    if course.view.service.owner is not ReplicaOwner.OVERSPILL:
        text = f"{course.view.service.owner.value} owns the replicas; only bounds and places are set"
        found.append(ServingCondition(model.NOT_OWNER, text))
    if not found:
        found.append(ServingCondition(model.SERVING, "the SLO is expected to hold"))
    return tuple(found)


def _lost(course: Course) -> list[ServingCondition]:
    held: dict[ClusterId, int] = {}
    why: dict[ClusterId, str] = {}
    for group in course.view.service.groups:
        for one in course.rated:
            if one.offer.pool == group.pool and not one.offer.open and group.wanted > 0:
                held[group.pool.cluster] = held.get(group.pool.cluster, 0) + group.wanted
                why[group.pool.cluster] = one.offer.why_closed or "closed"
    return [
        ServingCondition(model.CLUSTER_LOST, f"{cluster} ({why[cluster]}): {count} replicas are replaced elsewhere")
        for cluster, count in sorted(held.items())
    ]


def _short(course: Course) -> list[ServingCondition]:
    question, answer = course.question, course.answer
    if question is None or answer is None:
        return []
    found = []
    near, far = question.lacks(answer.counts)
    if far > 0:
        text = f"{far:.3g} requests/s more are expected than all that may be used carries"
        found.append(ServingCondition(model.SHORT_OF_CAPACITY, text))
    elif near > 0:
        text = f"{near:.3g} requests/s more are asked than is carried before slower replicas are ready"
        found.append(ServingCondition(model.SHORT_OF_CAPACITY, text))
    if missing := question.domains_short(answer.counts):
        text = f"{missing} failure domains ({question.slo.domains.key}) with enough replicas are missing"
        found.append(ServingCondition(model.SHORT_OF_CAPACITY, text))
    return found


def _leaving(course: Course) -> list[ServingCondition]:
    return [
        ServingCondition(
            model.RECLAIMED,
            f"nodes of {group.pool} are taken back: {group.leaving} replicas of {group.revision} end soon",
        )
        for group in sorted(course.view.service.groups, key=lambda one: (one.pool, one.revision))
        if group.leaving > 0
    ]


def _rolling(course: Course) -> list[ServingCondition]:
    memory, wanted = course.memory, course.view.service.revision
    found = []
    if wanted in memory.rejected:
        told = memory.rejected_why if wanted == memory.rejected[-1] else ""
        why = f": {told}" if told else ""
        found.append(ServingCondition(model.ROLLED_BACK, f"{wanted} was taken back{why}; {memory.stable} serves"))
    elif (now := memory.rollout) is not None:
        place = "everywhere" if len(course.view.slo.rollout.steps) == 1 else "on " + now.clusters[now.cluster]
        share = course.view.slo.rollout.steps[min(now.step, len(course.view.slo.rollout.steps) - 1)]
        text = {
            rollout.STARTING: f"replicas of {now.new} start {place} for {100 * share:g} % of the requests",
            rollout.JUDGING: f"{now.new} gets {100 * share:g} % of the requests {place} and is judged",
            rollout.KEEPING: f"{now.new} serves; {now.old} is kept beside",
            rollout.BACK: f"{now.new} is being replaced by {now.old}",
        }[now.phase]
        found.append(ServingCondition(model.ROLLING_OUT, text))
    return found


def _sentence(course: Course, counts: dict[PoolRef, int], told: tuple[ServingCondition, ...]) -> str:
    places = ", ".join(f"{count} on {pool}" for pool, count in sorted(counts.items()) if count > 0) or "none"
    if course.need is None or course.answer is None:
        return f"kept {places}: {told[0].message}"
    carries = carried(course.rated, counts)
    planned = max(course.need.near, course.need.far)
    return f"{places}: carries {carries:.3g} of {planned:.3g} requests/s expected; {told[0].message}"
