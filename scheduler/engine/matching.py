"""Which policy speaks for a workload, and which policies can buy in a pool."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from scheduler.engine.filters import same_model
from scheduler.engine.rooms import PoolRoom
from scheduler.model.contract import LABEL_RESIDENCY
from scheduler.model.ids import QueueId
from scheduler.model.policy import PlacementPolicy, PolicySet
from scheduler.model.workload import Workload

DEFAULT_IDLE_SECONDS: Final = 300.0
"""For a pool that no policy buys in."""


class Rule(NamedTuple):
    policy: PlacementPolicy | None
    certain: bool
    """Whether it is the same for every workload of that queue, kind and labels."""


class Matcher:
    """The policies in the order in which they are tried: highest precedence first, then by name."""

    def __init__(self, policies: PolicySet) -> None:
        self._ordered = tuple(sorted(policies.policies, key=lambda policy: (-policy.precedence, policy.name)))
        self._for_queue: dict[tuple[QueueId, str], tuple[PlacementPolicy, ...]] = {}

    def policy_of(self, workload: Workload) -> PlacementPolicy | None:
        """The first policy that matches; None: no policy speaks for it."""
        for policy in self._possible(workload):
            match = policy.match
            if match.labels and not set(match.labels) <= set(workload.labels):
                continue
            if match.expression is None or match.expression.matches(workload):
                return policy
        return None

    def rule_of(self, workload: Workload) -> Rule:
        """The policy that speaks for all workloads of its queue, kind and labels, or that no policy does; unless an
        expression would have to be asked for each of them."""
        for policy in self._possible(workload):
            match = policy.match
            if match.labels and not set(match.labels) <= set(workload.labels):
                continue
            return Rule(policy, True) if match.expression is None else Rule(None, False)
        return Rule(None, True)

    def _possible(self, workload: Workload) -> tuple[PlacementPolicy, ...]:
        key = (workload.queue, workload.ref.kind)
        possible = self._for_queue.get(key)
        if possible is None:
            possible = tuple(policy for policy in self._ordered if _may_match(policy, *key))
            self._for_queue[key] = possible
        return possible


def _may_match(policy: PlacementPolicy, queue: QueueId, kind: str) -> bool:
    match = policy.match
    return (not match.queues or queue in match.queues) and (not match.kinds or kind in match.kinds)


def idle_seconds_of(room: PoolRoom, policies: Iterable[PlacementPolicy]) -> float:
    """The smallest idle time among the policies that can buy in the pool."""
    return min((p.give_back.idle_seconds for p in policies if _can_buy(p, room)), default=DEFAULT_IDLE_SECONDS)


def _can_buy(policy: PlacementPolicy, room: PoolRoom) -> bool:
    limits, cluster, pool = policy.constraints, room.cluster, room.pool
    return (
        policy.burst is not None
        and (not limits.clusters or cluster.id in limits.clusters)
        and cluster.id not in limits.excluded_clusters
        and (not limits.providers or cluster.provider in limits.providers)
        and (not limits.regions or cluster.region in limits.regions)
        and (not limits.residency or dict(cluster.labels).get(LABEL_RESIDENCY) in limits.residency)
        and (not limits.capacity_types or pool.capacity_type in limits.capacity_types)
        and (not limits.gpu_models or any(same_model(pool.gpu_model, want) for want in limits.gpu_models))
    )
