"""Buying ahead: nodes for demand that is forecast, so that they are there when it comes. Off unless a policy says so.

The snapshot carries what is expected (`Snapshot.expected`: a forecaster's word, not this module's). A policy whose
`burst.ahead` is not shorter than the time until then has room for it looked after: free owned nodes count first, then
bought ones that are there or ordered, and what is still missing is bought on the offering that the policy's objective
puts first, within every limit that binds a workload that waits. Whoever really waits has had his turn before. Nothing
is remembered: while the demand stands in the snapshot its nodes are needed; once it is gone they are idle like others.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from scheduler.engine.candidates import Weighed, Weigher
from scheduler.engine.filters import Ask
from scheduler.engine.world import World
from scheduler.model.ids import Uid, WorkloadRef
from scheduler.model.snapshot import ExpectedDemand
from scheduler.model.workload import Workload

MOST_GANGS: Final = 1000
"""So many are looked after in one cycle; the soonest first."""


def buy_ahead(world: World, weigher: Weigher) -> None:
    """Assume what is expected onto the pools, so that they grow to it and keep their nodes for it."""
    left = MOST_GANGS
    for demand in sorted(world.snapshot.expected, key=lambda each: (each.at, each.queue, repr(each))):
        ask = _ask(world, demand)
        if ask is None:
            continue
        for _ in range(min(left, demand.count)):
            left -= 1
            if not _keep_room(world, weigher, ask):
                break


def _ask(world: World, demand: ExpectedDemand) -> Ask | None:
    """As if it waited already; None: no policy buys ahead for it, or not yet."""
    stands_for = Workload(
        ref=WorkloadRef(demand.kind, demand.namespace, "expected", Uid("expected")), queue=demand.queue, priority=0,
        created_at=world.now, queued_at=world.now, pod_sets=demand.pod_sets, labels=demand.labels,
        hints=demand.hints,
    )  # fmt: skip
    policy = world.policy_of(stands_for)
    if policy is None or policy.burst is None or not policy.burst.ahead_seconds:
        return None
    starts = demand.at - policy.burst.ahead_seconds
    if world.now < starts:
        world.wake_at(starts)
        return None
    return world.ask_of(replace(stands_for, queued_at=world.now - policy.burst.after_wait_seconds), policy)


def _keep_room(world: World, weigher: Weigher, ask: Ask) -> bool:
    """For one more such gang; False: nothing more can be done for any."""
    if world.quotas.refusal(ask.queue, ask.shape.requests) is not None:
        return False
    fitting = [each for each in weigher.weigh(ask) if each.fit is not None]
    chosen = min(fitting, key=_least_bought, default=None)
    if chosen is None or chosen.fit is None:
        return False
    assumed = chosen.room.assume(ask.shape.pod_sets, coming=True, buy=not chosen.fit.now)
    if assumed:
        world.quotas.add(ask.queue, ask.shape.requests)
        world.commit(ask.workload, ask.policy.name, chosen.room, chosen.prediction)
    return assumed


def _least_bought(each: Weighed) -> tuple[bool, int, object]:
    assert each.fit is not None
    return each.room.pool.bought, each.fit.new_nodes, each.order
