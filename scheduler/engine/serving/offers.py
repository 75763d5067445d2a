"""Where replicas of a service could be: every pool as the cycle sees it, against what policy, pods and quota allow.

The room is what is left when everything that is placed has got its own: made once a look, for all services.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Final

from policies.objectives import load_objective
from scheduler.engine.candidates import Weigher
from scheduler.engine.filters import Ask
from scheduler.engine.memory import Memory
from scheduler.engine.rooms import PoolRoom, dominant_part
from scheduler.engine.serving.parts import pod_sets
from scheduler.engine.settlement import settle
from scheduler.engine.world import World
from scheduler.model.cluster import ON_DEMAND, OWNED, NodePool
from scheduler.model.ids import ClusterId, PoolId, PoolRef, Uid
from scheduler.model.money import NANO, Usd
from scheduler.model.plan import Candidate
from scheduler.model.policy import PlacementPolicy, PolicySet
from scheduler.model.ports import Predictor
from scheduler.model.serving import ReplicaSpeed, ServingOffer
from scheduler.model.snapshot import Snapshot
from scheduler.model.verdict import Reason
from scheduler.model.workload import PodSet, Workload

_PASSING: Final = frozenset({"PriceUnknown", "OverPriceCap", "RoundTripTooHigh"})
"""What a policy has against a pool that may be over soon: nothing is added there, and what runs there stays."""
_MOST: Final = 100_000
_PAID_FOR: Final = 1000
"""The cheapest of one's own pools still comes first."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What is foretold of replicas."""

    speed: Callable[[Workload, NodePool], ReplicaSpeed | None]
    """Of one of the service on a pool; None: unknown."""
    reclaims_per_hour: Callable[[NodePool], float]
    """Of one node of a spot pool."""


@dataclass(frozen=True, slots=True)
class Offered:
    offers: tuple[ServingOffer, ...]
    more: int
    """Replicas that the queue's quota leaves room for, beyond those that are asked for."""


class Offers:
    """One look's. `memory`: what the look before has left, as for a cycle."""

    def __init__(
        self,
        snapshot: Snapshot,
        policies: PolicySet,
        predictor: Predictor,
        expected: Expected,
        memory: Memory | None = None,
    ) -> None:
        self._world = World(snapshot, policies, predictor, memory)
        self._weigher = Weigher(self._world)
        settle(self._world, self._weigher)
        self._expected = expected
        self._fitted: dict[tuple[Uid, PoolRef], int] = {}
        for part in snapshot.workloads:
            if part.part and part.placement is not None:
                key = Uid(part.ref.uid.partition("/")[0]), part.placement.pool_ref
                self._fitted[key] = self._fitted.get(key, 0) + self._world.fitted.get(part.ref.uid, 0)

    def of(self, whole: Workload, bound: Mapping[PoolRef, int], about: int) -> Offered:
        """By pool; `bound`: pods of its replicas that are on a node there, `about`: how many replicas it has in all."""
        one = replace(whole, pod_sets=pod_sets(whole, 1), placement=None, intent=None)
        policy = self._world.policy_of(one)
        ask = None if policy is None else self._world.ask_of(one, policy)
        found = []
        for room in self._world.rooms.values():
            here = bound.get(room.pool.ref, 0) + self._fitted.get((whole.ref.uid, room.pool.ref), 0)
            found.append(self._offer(one, room, here, max(here, about), policy, ask))
        more = self._world.quotas.most(whole.queue, one.pod_sets[0].requests, _MOST) if one.pod_sets else 0
        return Offered(tuple(found), more)

    def close(self) -> None:
        """After the last service: what may be of use again goes back into the memory."""
        self._world.close()

    def _offer(
        self, one: Workload, room: PoolRoom, here: int, about: int, policy: PlacementPolicy | None, ask: Ask | None
    ) -> ServingOffer:
        pool, cluster, pod = room.pool, room.cluster, one.pod_sets[0]
        against = self._against(room, ask)
        closing = [reason for reason in against if reason.code not in _PASSING]
        now, later = (0, 0) if against or policy is None else self._room(one, room, policy)
        plain = self._world.predict(one, room, 0)
        start = 0.0 if plain.start_seconds is None else plain.start_seconds
        # Whether there is a node already decides for one replica, not for all: an offer is as slow as its slowest. Else
        # one node that comes would make the whole pool look quick, and what is still on order be dropped as early.
        with_node = self._world.predict(one, room, 1).start_seconds if later else start
        return ServingOffer(
            pool=pool.ref,
            provider=cluster.provider,
            region=cluster.region,
            gpu_model=pool.gpu_model,
            capacity_type=pool.capacity_type,
            usd_per_replica_hour=_usd(room, pod, about, policy),
            most_replicas=here + now + later,
            load_seconds=start,
            provisioning_seconds=None if with_node is None else max(0.0, with_node - start),
            speed=self._expected.speed(one, pool),
            reclaims_per_hour=self._expected.reclaims_per_hour(pool),
            open=not closing,
            reachable=cluster.unreachable_since is None,
            why_closed=closing[0].text if closing else "",
        )

    def _against(self, room: PoolRoom, ask: Ask | None) -> tuple[Reason, ...]:
        if ask is None:
            return (Reason("NoPolicy", "not for it: no PlacementPolicy matches it"),)
        return self._weigher.static_reasons(ask, room)

    def _room(self, one: Workload, room: PoolRoom, policy: PlacementPolicy) -> tuple[int, int]:
        """How many more replicas fit: on nodes that are there or on their way, and on such as could be bought."""
        pod = one.pod_sets[0]
        there = (*room.ready, *room.coming, *room.opened)
        now = sum(bin_.room_for(pod.requests, _MOST) for bin_ in there if bin_.admits(pod))
        nodes = self._buyable(one, room, policy)
        fresh = room.fresh_bin()
        each = fresh.room_for(pod.requests, _MOST) if nodes and fresh.admits(pod) else 0
        return min(now, _MOST), min(nodes * each, _MOST)

    def _buyable(self, one: Workload, room: PoolRoom, policy: PlacementPolicy) -> int:
        """Nodes. What is bought already is not taken away here when a limit is reached: it is given back when idle."""
        world, pool = self._world, room.pool
        if room.backoff is not None or not room.can_open:
            return 0
        if not pool.bought:
            return room.can_open
        if world.snapshot.bursting_paused or policy.burst is None or pool.price is None:
            return 0
        hour = pool.price.usd_per_hour
        if world.budgets.refusal(one.queue, pool, hour) is not None:
            return 0
        limit = policy.burst.max_nodes
        if limit is None:
            return room.can_open
        return min(room.can_open, max(0, limit - world.commitments.nodes_in_use(policy.name)))


def _usd(room: PoolRoom, pod: PodSet, about: int, policy: PlacementPolicy | None) -> Usd | None:
    """Of a replica, on average: its part of the node; where nodes are bought, of as many whole ones as so many replicas
    would need there. Nodes that are not bought by the hour cost nothing more when they are used: not where their owner
    has not said what they are worth, and next to nothing where the policy's objective puts them first."""
    price = room.pool.price
    if price is None:
        return None if room.pool.bought else Decimal(0)
    part = dominant_part(pod.requests, room.node_size)
    if not room.pool.bought and policy is not None and own_first(policy.objective):
        part /= _PAID_FOR
    each = room.fresh_bin().room_for(pod.requests, _MOST) if room.pool.bought else 0
    if each and about:
        part = Fraction(math.ceil(about / each), about)
    return (price.usd_per_hour * part.numerator / part.denominator).quantize(NANO)


@lru_cache(maxsize=64)
def own_first(objective: str) -> bool:
    """Whether an objective puts what is owned before what is bought, though that be much cheaper."""
    score = load_objective(objective)
    nowhere = PoolRef(ClusterId(""), PoolId(""))
    own = score(Candidate(nowhere, OWNED, False, None, Decimal(1000), Decimal(1000), None, None, 0))
    bought = score(Candidate(nowhere, ON_DEMAND, True, None, Decimal(1), Decimal(1), None, None, 1))
    return own is not None and bought is not None and own < bought
