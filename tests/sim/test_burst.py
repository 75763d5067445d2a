"""Bursting under shortages: each demand is bought once, the exhausted offering is let alone, the next one is taken."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest

from scheduler.engine.cycle import cycle
from scheduler.model.ids import PoolRef
from scheduler.model.money import Price
from scheduler.model.plan import Plan
from scheduler.model.policy import BurstRule, PlacementPolicy, ValueOfTime
from scheduler.model.snapshot import Backoff, Snapshot
from scheduler.model.workload import PlacementState
from scheduler.predict.first import FirstPredictor
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.driver import PolicyDecider, Site, replay
from scheduler.simulate.readers._pods import gpu_pods
from scheduler.simulate.trace import Trace, TraceJob
from tests.unit.engine_world import NOW, amount, bought_pool, cluster, policy, policy_set, pool, snapshot, workload

NODE = amount(8, 200, 960, 110)
CLOUDS = (PoolRef("eks", "b"), PoolRef("gke", "t"))  # type: ignore[arg-type]


@dataclass
class Watched:
    """The engine, with what it does looked at after every decision."""

    inner: PolicyDecider
    bursts: Counter[str] = field(default_factory=Counter)
    homes: dict[str, list[PoolRef]] = field(default_factory=dict)
    shortages: int = 0
    name: str = "watched"
    kind: str = "policy"

    def decide(self, seen: Snapshot) -> Plan:
        plan = self.inner.decide(seen)
        self._check_what_is_bought(seen, plan)
        for change in plan.placements:
            if change.placement.state is PlacementState.RESERVED:
                self.bursts[change.workload.name] += 1
                self.homes.setdefault(change.workload.name, []).append(change.placement.pool_ref)
            self.shortages += change.placement.reason == "Shortage"
        return plan

    @staticmethod
    def _check_what_is_bought(seen: Snapshot, plan: Plan) -> None:
        """Every job fills one node, so there are never more nodes than jobs placed on them, and idle ones."""
        after = {each.ref.uid: each.placement for each in seen.workloads}
        after |= {change.workload.uid: change.placement for change in plan.placements}
        desired = {each.ref: each.desired_nodes or 0 for one in seen.clusters for each in one.pools if each.bought}
        desired |= {scale.pool: scale.desired_nodes for scale in plan.scales}
        for ref, nodes in desired.items():
            placed = sum(
                each is not None and each.pool_ref == ref and each.state is not PlacementState.RELEASING
                for each in after.values()
            )
            one = next(each for each in seen.clusters if each.id == ref.cluster)
            idle = sum(each.workload_pods == 0 for each in one.nodes if each.pool == ref.pool)
            leaving = sum(each is not None and each.state is PlacementState.RELEASING for each in after.values())
            assert nodes <= placed + idle + leaving, f"{ref}: {nodes} nodes for {placed} jobs"
        backed_off = {each.pool for each in seen.backoffs if each.until > seen.now}
        for scale in plan.scales:
            assert scale.pool not in backed_off or scale.desired_nodes <= scale.current_nodes


def site() -> Site:
    dear = Price(Decimal("20"), "test", NOW)
    return Site(
        (
            cluster("onprem", (pool("onprem", "a", node_resources=NODE),)),
            cluster("eks", (bought_pool("eks", "b", node_resources=NODE, max_nodes=6),)),
            cluster("gke", (bought_pool("gke", "t", node_resources=NODE, max_nodes=6, price=dear),)),
        ),
        {PoolRef("onprem", "a"): 1},  # type: ignore[arg-type]
    )


RULES = {
    "threshold": policy(burst=BurstRule(300.0)),
    "value of time": policy(burst=BurstRule(), value_of_time=ValueOfTime(Decimal(0), Decimal(6))),
}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
@pytest.mark.parametrize("chance", [0.0, 0.5])
def test_each_demand_is_bought_once(rule: PlacementPolicy, seed: int, chance: float) -> None:
    jobs = tuple(
        TraceJob(f"j{index:02d}", 400.0 * index, 1500.0 + 700.0 * (index % 4), "team", gpu_pods(8))
        for index in range(24)
    )
    watched = Watched(PolicyDecider("engine", policy_set(rule), FirstPredictor()))
    assumptions = Assumptions(seed=seed, shortage_chance=chance, shortage_seconds=900.0)
    record = replay(Trace("jobs", jobs), site(), watched, assumptions)
    assert all(each.finished_at is not None for each in record.jobs)
    assert watched.bursts, "nothing was bought at all"
    assert sum(watched.bursts.values()) <= len(watched.bursts) + watched.shortages, "to and fro without a shortage"
    assert chance or watched.shortages == 0


@pytest.mark.parametrize("backed_off", [(), CLOUDS[:1], CLOUDS])
def test_the_next_offering_is_taken_while_one_is_backed_off(backed_off: tuple[PoolRef, ...]) -> None:

    clusters = tuple(replace(one, nodes=()) for one in site().clusters if one.id != "onprem")
    seen = snapshot(*clusters, workloads=(workload("w"),))
    seen = replace(seen, backoffs=tuple(Backoff(ref, NOW + 300, 1, "none") for ref in backed_off))
    plan = cycle(seen, policy_set(), FirstPredictor())
    want = [ref for ref in CLOUDS if ref not in backed_off][:1]
    assert [change.placement.pool_ref for change in plan.placements] == want
    assert [scale.pool for scale in plan.scales] == want
    assert plan.wake_at == (NOW + 300 if not want else plan.wake_at)
