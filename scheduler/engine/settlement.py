"""What is placed already: its capacity assumed, reserved workloads started or released, those of lost members released.

Runs before anything new is placed, so that nothing new takes what these are owed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from scheduler.engine import explain
from scheduler.engine.candidates import Weigher
from scheduler.engine.rooms import DEFAULT_PROVISIONING_SECONDS, OVERDUE_FACTOR, PoolRoom
from scheduler.engine.world import World
from scheduler.model.ids import Instant, Uid
from scheduler.model.plan import Decision, SetPlacement
from scheduler.model.policy import PlacementPolicy
from scheduler.model.verdict import Reason
from scheduler.model.workload import Placement, PlacementState, PodSet, Workload

SHORTAGE: Final = "Shortage"
RESERVED_TOO_LONG: Final = "ReservedTooLong"
UNDELIVERED: Final = frozenset({SHORTAGE, RESERVED_TOO_LONG})
"""Why a reservation ends when its nodes do not come."""
MIN_RESERVED_SECONDS: Final = 60.0

Move = tuple[SetPlacement, Decision]


def queued_again_at(ended: Placement, queued_at: Instant, now: Instant) -> Instant:
    """Since when a workload has been waiting once its placement has ended: all along, if its nodes never came. It keeps
    its place in the queue, and goes on to the next offering while the one that failed it is backed off; a
    `burst.afterWait` that began anew could outlast that, and it would try the same one for ever."""
    return queued_at if ended.reason in UNDELIVERED else now


def settle(world: World, weigher: Weigher) -> list[Move]:
    """Assume all placed workloads onto their pools and return the moves that are due, in the order of placing."""
    world.quotas.used.update(world.roll.used)
    placed = sorted(world.roll.restless.values(), key=_placed_order)
    moves: list[Move] = []
    for workload in placed:
        placement = workload.placement
        assert placement is not None
        if placement.state is PlacementState.STARTED:
            moves += _settle_started(world, workload, placement)
    for workload in placed:
        placement = workload.placement
        assert placement is not None
        if placement.state is PlacementState.PAUSED:
            moves += _settle_paused(world, workload, placement)
        elif placement.state is PlacementState.RESERVED:
            moves += _settle_reserved(world, weigher, workload, placement)
    released = {move[0].workload.uid for move in moves if move[0].placement.state is PlacementState.RELEASING}
    _count_commitments(world, released)
    return moves


def _placed_order(workload: Workload) -> tuple[Instant, int, str]:
    """As they were placed: attempts number the placements of one cycle (see `assignment.attempt_number`)."""
    placement = workload.placement
    assert placement is not None
    return placement.decided_at, placement.attempt, workload.ref.uid


def _count_commitments(world: World, released: set[Uid]) -> None:
    """Of all that are placed, those at rest, too, and not just released; in the order of placing."""
    if not world.tracks_money:
        return
    for workload in sorted((each for each in world.placed if not each.deleting), key=_placed_order):
        placement = workload.placement
        if placement is None or placement.state is PlacementState.RELEASING or workload.suspended:
            continue
        room = world.room_of(placement)
        copy = world.copies.get((workload.ref.uid, placement.cluster))
        if workload.ref.uid in released or room is None or not (room.pool.bought or workload.hints.data):
            continue
        if copy is not None and copy.finished:
            continue
        policy = world.policy_of(workload)
        new_nodes = 1 if placement.state is PlacementState.RESERVED else 0
        prediction = world.predict(workload, room, new_nodes)
        world.commit(workload, "" if policy is None else policy.name, room, prediction)
    for room in world.rooms.values():
        world.commit_idle(room)


def _settle_paused(world: World, workload: Workload, placement: Placement) -> list[Move]:
    """Resumed, it starts again once the whole gang fits: others may have taken its room meanwhile."""
    room = world.room_of(placement)
    given_up = _if_given_up(world, workload, placement)
    if given_up is not None or workload.suspended or room is None or not room.cluster.available:
        return given_up or []
    sets = _held_to(placement, world.shape_of(workload).pod_sets)
    if not room.assume(sets):
        room.assume(sets, coming=True, buy=_may_buy(world, room))
        return []
    return [_start(world, workload, placement, room, Reason("Resumed", "it fits again"))]


def _held_to(placement: Placement, sets: tuple[PodSet, ...]) -> tuple[PodSet, ...]:
    """Its copy's pods go nowhere but to the domain that it was placed in, and not where they are kept off."""
    domain, off = placement.domain, tuple((placement.cluster, name) for name in placement.kept_off)
    if domain is not None:
        sets = tuple(replace(each, node_selector=tuple(sorted({*each.node_selector, domain}))) for each in sets)
    return tuple(replace(each, excluded_nodes=(*each.excluded_nodes, *off)) for each in sets) if off else sets


def _if_given_up(world: World, workload: Workload, placement: Placement) -> list[Move] | None:
    """What follows from the cluster's absence or silence; None when it answers."""
    cluster = world.cluster_of.get(placement.cluster)
    if cluster is None:
        return _if_removed(world, workload, placement)
    if cluster.unreachable_since is not None:
        return _if_lost(world, workload, placement, cluster.unreachable_since)
    return None


def _settle_started(world: World, workload: Workload, placement: Placement) -> list[Move]:
    room = world.room_of(placement)
    given_up = None if workload.part else _if_given_up(world, workload, placement)
    if given_up is not None:
        return given_up
    if workload.suspended:
        return [_move(world, workload, placement, PlacementState.PAUSED, Reason("Suspended", "its user suspended it"))]
    if room is None and not workload.part and (workload.ref.uid, placement.cluster) not in world.copies:
        reason = Reason("PoolVanished", "the pool is no longer there")
        return [release(world, workload, placement, reason, world.policy_of(workload))]
    if room is None or not room.cluster.available:
        return []
    unbound = _unbound(world, workload, placement)
    if unbound:
        sets, guarded = _held_to(placement, unbound), world.has_waited(workload, world.policy_of(workload))
        stranded = room.assume_what_fits(sets, buy=_may_buy(world, room), guarded=guarded)
        world.fitted[workload.ref.uid] = sum(each.count for each in unbound) - sum(each.count for each in stranded)
        if stranded and not workload.part:
            world.stranded[workload.ref.uid] = stranded
    return []


def _if_removed(world: World, workload: Workload, placement: Placement) -> list[Move]:
    """Whoever takes a member out of the federation gives it up at once, unless the policy says never to."""
    policy = world.policy_of(workload)
    if policy is None or policy.disruption.member_lost_seconds is None:
        return []
    reason = Reason("MemberRemoved", f"cluster {placement.cluster} is no longer in the federation")
    return [release(world, workload, placement, reason, policy)]


def _if_lost(world: World, workload: Workload, placement: Placement, since: Instant) -> list[Move]:
    policy = world.policy_of(workload)
    patience = None if policy is None else policy.disruption.member_lost_seconds
    copy = world.copies.get((workload.ref.uid, placement.cluster))
    if patience is None or (copy is not None and copy.finished):
        return []
    if world.now < since + patience:
        world.wake_at(since + patience)
        return []
    reason = Reason("MemberLost", f"cluster {placement.cluster} cannot be reached any more")
    return [release(world, workload, placement, reason, policy)]


def _unbound(world: World, workload: Workload, placement: Placement) -> tuple[PodSet, ...]:
    """The pods of a started workload that are not on a node yet; of several pod sets, the largest pods."""
    copy = world.copies.get((workload.ref.uid, placement.cluster))
    if copy is None or copy.attempt != placement.attempt:
        return world.shape_of(workload).pod_sets
    if copy.finished:
        return ()
    if copy.suspended:
        return world.shape_of(workload).pod_sets
    left = copy.pods_wanted - copy.pods_bound
    if left <= 0:
        return ()
    sets = world.shape_of(workload).pod_sets
    unbound: list[PodSet] = []
    for pod_set in sets:
        count = min(left, pod_set.count)
        if count:
            unbound.append(replace(pod_set, count=count))
            left -= count
    return tuple(unbound)


def _settle_reserved(world: World, weigher: Weigher, workload: Workload, placement: Placement) -> list[Move]:
    policy = world.policy_of(workload)
    room = world.room_of(placement)
    reason = _must_leave(world, weigher, workload, policy, room)
    if reason is not None:
        return [release(world, workload, placement, reason, policy)]
    assert room is not None
    sets = _held_to(placement, world.shape_of(workload).pod_sets)
    if room.cluster.available and room.assume(sets):
        return [_start(world, workload, placement, room, Reason("Started", "its nodes are there"))]
    reason = _overdue(world, room, placement) or _shortage(world, room, placement, sets)
    return [] if reason is None else [release(world, workload, placement, reason, policy)]


def _must_leave(
    world: World, weigher: Weigher, workload: Workload, policy: PlacementPolicy | None, room: PoolRoom | None
) -> Reason | None:
    """Why a reservation cannot stand, whatever the nodes."""
    if workload.suspended:
        return Reason("Suspended", "its user suspended it")
    if room is None:
        return Reason("PoolVanished", "the pool is no longer there")
    if policy is None:
        return Reason("PolicyForbids", "no policy matches it any more")
    ask = world.ask_of(workload, policy)
    forbidding = [r for r in weigher.static_reasons(ask, room) if r.code != "ClusterUnavailable"]
    if forbidding:
        return Reason("PolicyForbids", f"its offering is now {forbidding[0].text}")
    return None


def _shortage(world: World, room: PoolRoom, placement: Placement, sets: tuple[PodSet, ...]) -> Reason | None:
    """Hold what is coming for it, and say so when it cannot come; nothing is bought while backed off or paused."""
    if not room.cluster.available:
        return None
    short = room.pool.shortage
    if short is not None and short.since >= placement.decided_at:
        return Reason(SHORTAGE, f"the provider cannot deliver ({short.kind})")
    if room.assume(sets, coming=True, buy=_may_buy(world, room)):
        return None
    if room.backoff is not None:
        return Reason(SHORTAGE, "the provider could not deliver")
    return None


def _overdue(world: World, room: PoolRoom, placement: Placement) -> Reason | None:
    known = room.pool.provisioning_seconds
    patience = OVERDUE_FACTOR * (DEFAULT_PROVISIONING_SECONDS if known is None else known)
    due = placement.decided_at + max(MIN_RESERVED_SECONDS, patience)
    if world.now >= due:
        return Reason(RESERVED_TOO_LONG, "its nodes did not come in time")
    world.wake_at(due)
    return None


def _may_buy(world: World, room: PoolRoom) -> bool:
    paused = world.snapshot.bursting_paused and room.pool.bought
    return room.growable and room.backoff is None and not paused


def _start(world: World, workload: Workload, placement: Placement, room: PoolRoom, reason: Reason) -> Move:
    """In the room that was just assumed for it."""
    return _move(world, workload, replace(placement, domain=room.domain), PlacementState.STARTED, reason, placement)


def _move(
    world: World, workload: Workload, placement: Placement, state: PlacementState, reason: Reason,
    replaces: Placement | None = None,
) -> Move:  # fmt: skip
    """From one state of a placement to another, in the same pool; `replaces` where more than the state changes."""
    policy, digest = world.policy_of(workload), world.policies.digest
    decision = explain.moved(workload, placement, state.value, reason, policy, digest, world.now)
    after = replace(placement, state=state, decided_at=world.now, decision=decision.id)
    return SetPlacement(workload.ref, after, replaces or placement, decision.id), decision


def release(
    world: World, workload: Workload, placement: Placement, reason: Reason, policy: PlacementPolicy | None
) -> Move:
    """Off its pool and, once its copy is gone for certain, back into its queue."""
    world.released.add(workload.ref.uid)
    decision = explain.moved(workload, placement, "released", reason, policy, world.policies.digest, world.now)
    after = replace(
        placement,
        state=PlacementState.RELEASING,
        decided_at=world.now,
        decision=decision.id,
        reason=reason.code,
    )
    return SetPlacement(workload.ref, after, placement, decision.id), decision
