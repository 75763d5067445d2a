"""The decision: a snapshot and policies in, a plan out. Pure: no clock, no randomness, no I/O, no logging."""

from __future__ import annotations

from scheduler.engine.ahead import buy_ahead
from scheduler.engine.assignment import Assignment, Rank
from scheduler.engine.burst import scales
from scheduler.engine.candidates import Weigher
from scheduler.engine.fairshare import dominant_share, weighted_share
from scheduler.engine.give_back import removals
from scheduler.engine.memory import Memory
from scheduler.engine.rebalance import Rebalance
from scheduler.engine.reopen import openings
from scheduler.engine.settlement import settle
from scheduler.engine.world import World
from scheduler.model.plan import Plan, QueueUsage
from scheduler.model.policy import PolicySet
from scheduler.model.ports import Predictor
from scheduler.model.resources import Resources
from scheduler.model.snapshot import Snapshot


def cycle(
    snapshot: Snapshot,
    policies: PolicySet,
    predictor: Predictor,
    rank: Rank | None = None,
    memory: Memory | None = None,
    *,
    one_by_one: bool = False,
) -> Plan:
    """What should be done now, and why; the same for every order of the snapshot's tuples.

    First what is placed already gets its capacity (settlement), then pending workloads are placed in turn
    (assignment), then what runs on bought nodes may leave them for room that nobody wants (rebalance), then room is
    kept for demand that is forecast (ahead), then pools grow to what is assumed on them (burst) and idle bought nodes
    go back (give_back).
    Until the hub has synced nothing is decided. `rank` puts offerings in another order than the policy's objective:
    the simulator's baselines differ in that. `memory` is what an earlier cycle of the same caller has left: it makes
    this one cheaper, and never another. `one_by_one` weighs every workload by itself: slow, and the measure for
    the rest (see `tests/bench/engine.py`).
    """
    if not snapshot.hub_synced:
        return Plan(at=snapshot.now)
    world = World(snapshot, policies, predictor, memory)
    weigher = Weigher(world)
    moves = settle(world, weigher)
    assignment = Assignment(world, weigher, rank, one_by_one=one_by_one)
    assignment.run()
    moves += assignment.front.moves
    rebalance = Rebalance(world, weigher, assignment.front)
    rebalance.run(assignment.placements)
    usage = _usage(world)
    buy_ahead(world, weigher)
    grown = scales(world)
    given_back = removals(world)
    plan = Plan(
        at=snapshot.now,
        placements=(
            *(placement for placement, _ in moves),
            *assignment.placements,
            *(placement for placement, _ in rebalance.moves),
        ),
        scales=grown,
        closures=tuple(rebalance.closures),
        removals=given_back,
        decisions=(
            *(decision for _, decision in moves),
            *assignment.decisions,
            *(decision for _, decision in rebalance.moves),
        ),
        queues=usage,
        budgets=(*world.budgets.states(), *(() if assignment.explorer is None else assignment.explorer.states())),
        solver="" if assignment.guide is None else assignment.guide.solver,
        shadow_prices=() if assignment.guide is None else assignment.guide.prices,
        openings=openings(world, rebalance.emptied),
        wake_at=min(world.wakes, default=None),
    )
    world.close()
    return plan


def _usage(world: World) -> tuple[QueueUsage, ...]:
    """Of every queue that is defined or named by a workload, with what this plan places counted in."""
    placed, pending = +world.roll.placed, +world.roll.waiting
    queues = sorted({*placed, *pending, *(spec.id for spec in world.policies.queues)})
    usage: list[QueueUsage] = []
    for queue in queues:
        used = world.quotas.used.get(queue, Resources())
        share = weighted_share(dominant_share(used, world.capacity), world.quotas.spec(queue).weight)
        usage.append(QueueUsage(queue, pending[queue], placed[queue], used.gpus, share))
    return tuple(usage)
