"""Return by moving: what runs on bought nodes leaves them for room that is paid for already, when that pays.

A node is worth emptying when all that runs on it makes checkpoints, is known to have work left, and can go where nobody
waits: to free owned nodes, or to bought ones that stay anyway. What that saves is the node's price until the last of
them would have ended; what it costs is the work since each one's last checkpoint, done again at the price of where it
is now, bringing its data there, the later end (at the policy's value of time), and the longer life of the bought nodes
that they go to. It is done when it costs less than `WORTH` of what it saves, for not more workloads of a policy at once
than its `disruption.movesAtOnce`, and for none that has run there for less than `return.moveAfter`.

A move is one write: the new placement replaces the old one and names the cluster that it leaves, so that the copy there
is gone for certain before the next is made (`lifecycle`). Nothing is remembered: a workload on the move is known by its
placement's reason, and how long one has run where it is by its copy.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from scheduler.engine import explain
from scheduler.engine.bulk import attempt_number
from scheduler.engine.candidates import Weigher
from scheduler.engine.deadlines import deadline_of, late_factor
from scheduler.engine.filters import Ask, Offer, duration_text
from scheduler.engine.forecast import Holding
from scheduler.engine.front import Front
from scheduler.engine.packing import Take, pack, undo
from scheduler.engine.rooms import Fit, PoolRoom, domain_taken, dominant_part
from scheduler.engine.settlement import Move
from scheduler.engine.world import World
from scheduler.model.cluster import Node
from scheduler.model.ids import NodeName, PoolRef, Uid
from scheduler.model.plan import CloseNode, SetPlacement
from scheduler.model.policy import PlacementPolicy
from scheduler.model.workload import MOVED, Placement, PlacementState, Workload

WORTH: Final = 0.9
"""A move must cost less than this part of what it saves, so that small changes of price move nobody."""
MOST_TRIALS: Final = 64
"""So many nodes are looked at in one cycle, those first whose emptying could save most."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tenant:
    """A running workload that may be moved. Times in seconds from now, money in USD."""

    workload: Workload
    placement: Placement
    policy: PlacementPolicy
    ask: Ask
    room: PoolRoom
    nodes: frozenset[NodeName]
    run_seconds: float
    left_seconds: float
    """Of its work."""
    stays_seconds: float
    """Until it ends where it is, reclaims reckoned in."""
    lost_seconds: float
    """Of work since its last checkpoint."""
    usd_per_second: float
    """The part of the price of its nodes that it takes up."""
    value_per_second: float


@dataclass(frozen=True, slots=True)
class _Going:
    """One tenant's place elsewhere; its room is taken while this lives."""

    tenant: _Tenant
    room: PoolRoom
    takes: tuple[Take, ...]
    usd: float
    ends_in: float


class Rebalance:
    """Made once a cycle, after everybody who waits has had his turn."""

    def __init__(self, world: World, weigher: Weigher, front: Front) -> None:
        self._world = world
        self._weigher = weigher
        self._front = front
        self.moves: list[Move] = []
        self.closures: list[CloseNode] = []
        self._tenants: dict[Uid, _Tenant | None] = {}
        self._on: dict[tuple[PoolRef, NodeName], list[Holding]] = defaultdict(list)
        self._ends: dict[tuple[PoolRef, str], float] = {}
        """By node, in how many seconds the last of its workloads ends; of one that is empty, nothing."""
        self._moving: Counter[str] = Counter()
        self._gone: set[Uid] = set()
        self._left: set[tuple[PoolRef, NodeName]] = set()
        """Nodes that are being emptied: nothing goes there."""
        self._wanted: dict[PoolRef, bool] = {}
        self._waiting: tuple[Ask, ...] = ()

    def run(self, placed: Sequence[SetPlacement]) -> None:
        """`placed`: what has been placed in this cycle."""
        if not any(policy.give_back.moves for policy in self._world.policies.policies):
            return
        self._count_moving()
        sources = [room for room in self._world.rooms.values() if self._is_source(room)]
        if not sources:
            return
        self._load()
        proposals = self._proposals(sources)
        if not proposals:
            return
        self._waiting = self._who_waits({change.workload.uid for change in placed})
        for room, group in proposals:
            if not any(each.workload.ref.uid in self._gone for each in group):
                self._try(room, group, len(placed))

    @property
    def emptied(self) -> Collection[tuple[PoolRef, NodeName]]:
        """The nodes that this cycle's moves empty."""
        return self._left

    def _who_waits(self, placed: Collection[Uid]) -> tuple[Ask, ...]:
        """One of each class that could start if it had room."""
        found: dict[int, Ask] = {}
        for workload in self._world.roll.pending.values():
            ask = None if workload.ref.uid in placed else self._world.ask_for(workload)
            if ask is not None:
                found.setdefault(ask.number, ask)
        quotas = self._world.quotas
        return tuple(ask for ask in found.values() if quotas.refusal(ask.queue, ask.shape.requests) is None)

    def _count_moving(self) -> None:
        """Those whose move has not come to its end."""
        for workload in self._world.roll.restless.values():
            placement = workload.placement
            if placement is not None and placement.reason == MOVED and placement.state is PlacementState.STARTED:
                policy = self._world.policy_of(workload)
                if policy is not None:
                    self._moving[policy.name] += 1

    # -- who might go ------------------------------------------------------------------------------------------

    def _is_source(self, room: PoolRoom) -> bool:
        pool = room.pool
        if not pool.bought or pool.price is None or not room.cluster.available or pool.desired_nodes is None:
            return False
        return pool.desired_nodes > pool.min_nodes

    def _load(self) -> None:
        for room in self._world.rooms.values():
            for holding in self._front.forecast.holdings(room):
                ends_in = max(0.0, holding.ends_at - self._world.now)
                for name, _ in holding.on:
                    key = room.pool.ref, name
                    self._on[key].append(holding)
                    self._ends[key] = max(self._ends.get(key, 0.0), ends_in)

    def _proposals(self, sources: Iterable[PoolRoom]) -> list[tuple[PoolRoom, tuple[_Tenant, ...]]]:
        """Nodes that could be emptied with all who would have to go, those first whose emptying could save most."""
        found: dict[frozenset[Uid], tuple[float, PoolRoom, Node, tuple[_Tenant, ...]]] = {}
        for room in sources:
            for node in room.nodes:
                group = self._group(room, node)
                if group:
                    key = frozenset(each.workload.ref.uid for each in group)
                    found.setdefault(key, (self._worth(group), room, node, group))
        best = sorted(found.values(), key=lambda one: (-one[0], one[1].pool.ref, one[2].name))
        return [(room, group) for _, room, _, group in best[:MOST_TRIALS]]

    def _group(self, room: PoolRoom, node: Node) -> tuple[_Tenant, ...]:
        """All who are on the node; empty: it is empty, or somebody on it may not be moved, or nobody knows who is."""
        there = self._on.get((room.pool.ref, node.name), [])
        if not there or node.do_not_disrupt or node.deleting or node.reclaim is not None:
            return ()
        told = sum(held.pods for each in there for name, held in each.on if name == node.name)
        if told < node.workload_pods:
            return ()
        tenants = [self._tenant(each, room) for each in there]
        if any(each is None for each in tenants):
            return ()
        return tuple(sorted((each for each in tenants if each is not None), key=_largest_first))

    def _tenant(self, holding: Holding, room: PoolRoom) -> _Tenant | None:
        uid = holding.workload.ref.uid
        if uid not in self._tenants:
            self._tenants[uid] = self._look(holding, room)
        return self._tenants[uid]

    def _look(self, holding: Holding, room: PoolRoom) -> _Tenant | None:
        world, workload, placement = self._world, holding.workload, holding.workload.placement
        policy, every = world.policy_of(workload), workload.hints.checkpoint_every_seconds
        if placement is None or placement.state is not PlacementState.STARTED or holding.releasing:
            return None
        if workload.suspended or workload.runs_forever or workload.ref.uid in world.released or every is None:
            return None
        if policy is None or not policy.give_back.moves or policy.time_slice is not None or room.pool.price is None:
            return None
        copy, prediction = world.copies.get((workload.ref.uid, placement.cluster)), world.predict(workload, room, 0)
        if copy is None or copy.started_at is None or copy.attempt != placement.attempt or copy.finished:
            return None
        ran, run, start = world.now - copy.started_at, prediction.run_seconds, prediction.start_seconds
        if ran < policy.give_back.move_after_seconds:
            world.wake_at(copy.started_at + policy.give_back.move_after_seconds)
            return None
        if run is None or start is None or run <= 0:
            return None
        left = world.left_seconds(workload, room, copy.started_at)
        if left is None or left <= 0 or every <= 0:
            return None  # Longer than predicted already: nobody knows how much is left.
        ask, worth = world.ask_of(workload, policy), policy.value_of_time
        return _Tenant(
            workload, placement, policy, ask, room, frozenset(name for name, _ in holding.on),
            run, left, left * (1.0 + prediction.lost_seconds / run), ran % every,
            float(room.pool.price.usd_per_hour * _share(ask, room).numerator / _share(ask, room).denominator) / 3600.0,
            0.0 if worth is None else worth.usd_per_second(ask.shape.gpus),
        )  # fmt: skip

    def _emptied(self, group: Iterable[_Tenant]) -> list[tuple[PoolRef, NodeName]]:
        """The nodes on which nobody is left when they go."""
        going = {each.workload.ref.uid: each for each in group}
        keys = {(each.room.pool.ref, name) for each in going.values() for name in each.nodes}
        return sorted(key for key in keys if all(one.workload.ref.uid in going for one in self._on[key]))

    def _worth(self, group: tuple[_Tenant, ...]) -> float:
        """USD that the nodes cost until the last of the group would have ended there."""
        total = 0.0
        for ref, name in self._emptied(group):
            price = self._world.rooms[ref].pool.price
            last = max(each.stays_seconds for each in group if name in each.nodes)
            total += 0.0 if price is None else float(price.usd_per_hour) * last / 3600.0
        return total

    # -- where to ----------------------------------------------------------------------------------------------

    def _try(self, source: PoolRoom, group: tuple[_Tenant, ...], placed: int) -> None:
        """Find a place for each; keep them if it pays, else leave everything as it was."""
        emptied, saved = self._emptied(group), self._worth(group)
        if not self._within_limits(group) or not self._may_shrink(emptied):
            return
        self._left.update(emptied)
        going: list[_Going] = []
        for tenant in group:
            found = self._best_place(tenant, saved * WORTH - sum(each.usd for each in going))
            if found is None:
                break
            going.append(found)
        if len(going) < len(group):
            for each in going:
                undo(each.takes)
            self._left.difference_update(emptied)
            return
        cost = sum(each.usd for each in going)
        for each in going:
            self._move(each, saved, cost, placed)
        if any(each.room is source for each in going):
            self._close(source, emptied)

    def _within_limits(self, group: tuple[_Tenant, ...]) -> bool:
        asked = Counter(each.policy.name for each in group)
        limits = {each.policy.name: each.policy.disruption.moves_at_once for each in group}
        return all(self._moving[name] + count <= limits[name] for name, count in asked.items())

    def _may_shrink(self, emptied: Iterable[tuple[PoolRef, NodeName]]) -> bool:
        """Whether the pools may have so many nodes fewer."""
        fewer = Counter(ref for ref, _ in (*self._left, *emptied))
        pools = {ref: self._world.rooms[ref].pool for ref, _ in emptied}
        return all(
            pool.desired_nodes is not None and pool.desired_nodes - fewer[ref] >= pool.min_nodes
            for ref, pool in pools.items()
        )

    def _best_place(self, tenant: _Tenant, at_most_usd: float) -> _Going | None:
        """The cheapest, with its room taken; None: there is none for less than that."""
        best: tuple[float, PoolRef] | None = None
        for room in self._world.rooms.values():
            if not self._may_go(tenant, room):
                continue
            found = self._place(tenant, room)
            if found is None:
                continue
            undo(found.takes)
            if found.usd < at_most_usd and (best is None or (found.usd, room.pool.ref) < best):
                best = found.usd, room.pool.ref
        return None if best is None else self._place(tenant, self._world.rooms[best[1]])

    def _may_go(self, tenant: _Tenant, room: PoolRoom) -> bool:
        """Whether the pool is for such workloads, and nobody who waits might have its room."""
        if not room.cluster.available or self._front.reservations.on(room):
            return False
        if room.pool.bought and room is not tenant.room and self._world.tracks_money:
            return False  # Of other bought pools a budget or a limit on nodes may have something to say.
        if self._weigher.static_reasons(tenant.ask, room) or self._is_wanted(room):
            return False
        fit = Fit(True, 0, _share(tenant.ask, room))
        return room is tenant.room or self._weigher.priced(tenant.ask, Offer(room, False, fit)).fit is not None

    def _is_wanted(self, room: PoolRoom) -> bool:
        """Whether somebody who waits might have the room: those come first, however much a move would save."""
        ref = room.pool.ref
        if ref not in self._wanted:
            self._wanted[ref] = any(not self._weigher.static_reasons(ask, room) for ask in self._waiting)
        return self._wanted[ref]

    def _place(self, tenant: _Tenant, room: PoolRoom) -> _Going | None:
        """The tenant on nodes that are there and stay, its room taken; None: it does not fit, or nobody knows for how
        long it would run there, or it would miss its deadline."""
        prediction = self._world.predict(tenant.workload, room, 0)
        if prediction.run_seconds is None or prediction.start_seconds is None or prediction.transfer_usd is None:
            return None
        slower = (prediction.run_seconds + prediction.lost_seconds) / tenant.run_seconds
        ends_in = prediction.start_seconds + (tenant.left_seconds + tenant.lost_seconds) * slower
        deadline = deadline_of(tenant.workload, tenant.ask)
        if deadline is not None and self._world.now + ends_in * late_factor(prediction, tenant.ask) > deadline:
            return None
        bins = [each for each in room.ready if (room.pool.ref, each.key) not in self._left]
        takes = pack(tenant.ask.shape.pod_sets, (bins,))
        if takes is None:
            return None
        usd = tenant.lost_seconds * tenant.usd_per_second + float(prediction.transfer_usd)
        usd += tenant.value_per_second * (ends_in - tenant.stays_seconds)
        usd += self._longer(room, {take.bin.key for take in takes}, ends_in)
        return _Going(tenant, room, tuple(takes), usd, ends_in)

    def _longer(self, room: PoolRoom, nodes: Iterable[str], ends_in: float) -> float:
        """USD for keeping bought nodes beyond the end of what is on them."""
        pool = room.pool
        if not pool.bought:
            return 0.0
        if pool.price is None:
            return math.inf
        more = sum(max(0.0, ends_in - self._ends.get((pool.ref, name), 0.0)) for name in nodes)
        return float(pool.price.usd_per_hour) * more / 3600.0

    # -- carrying it out ---------------------------------------------------------------------------------------

    def _move(self, going: _Going, saved: float, cost: float, placed: int) -> None:
        world, tenant, pool = self._world, going.tenant, going.room.pool
        for take in going.takes:
            key = pool.ref, take.bin.key
            self._ends[key] = max(self._ends.get(key, 0.0), going.ends_in)
        going.room.version += 1
        self._gone.add(tenant.workload.ref.uid)
        self._moving[tenant.policy.name] += 1
        again = f"{duration_text(tenant.lost_seconds)} of work is done again"
        text = f"its nodes can go, which saves about {saved - cost:.2f} USD; {again}"
        decision = explain.relocated(
            tenant.workload, tenant.placement, pool.ref, text, tenant.policy, world.policies.digest, world.now
        )
        placement = Placement(
            pool.ref.cluster, pool.ref.pool, pool.capacity_type, pool.bought, PlacementState.STARTED,
            attempt_number(world.now, placed + len(self.moves)), world.now, decision.id, MOVED,
            moved_from=tenant.placement.cluster, domain=domain_taken(tenant.ask.shape.pod_sets, going.takes),
        )  # fmt: skip
        change = SetPlacement(tenant.workload.ref, placement, tenant.placement, decision.id)
        self.moves.append((change, decision))

    def _close(self, source: PoolRoom, emptied: Iterable[tuple[PoolRef, NodeName]]) -> None:
        """The member's scheduler would put the pods back on the emptied nodes where those are of the same pool."""
        names = {name for ref, name in emptied if ref == source.pool.ref}
        for node in source.nodes:
            if node.name in names and not node.unschedulable:
                self.closures.append(CloseNode(source.pool.ref, node.name, node.uid, "what is on it is moved off"))


def _share(ask: Ask, room: PoolRoom) -> Fraction:
    """Of the pool's nodes, by the dominant resource, in nodes."""
    return sum((dominant_part(each.requests, room.node_size) * each.count for each in ask.shape.pod_sets), Fraction(0))


def _largest_first(tenant: _Tenant) -> tuple[int, int, str]:
    requests = tenant.ask.shape.requests
    return -requests.gpus, -requests.cpu_milli, tenant.workload.ref.uid
