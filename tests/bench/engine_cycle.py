"""How long one engine cycle takes. Run: python -m tests.bench.engine_cycle. Prints a table and one JSON line."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from scheduler.engine.cycle import cycle
from scheduler.model.ids import QueueId
from scheduler.model.plan import Plan
from scheduler.model.policy import Budget, BurstRule, PolicySet, QueueSpec, Quota
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Hints, Workload
from scheduler.predict.first import FirstPredictor
from tests.unit.engine_world import (
    NOW,
    amount,
    bought_pool,
    cluster,
    copy_of,
    node,
    placement,
    pods,
    policy,
    pool,
    snapshot,
    workload,
)  # fmt: skip

POOLS, NODES_PER_POOL = 20, 10
ROUNDS = 15


def world(running: int, pending: int, classes: int, *, free: bool) -> Snapshot:
    """20 pools in 4 clusters, 200 nodes (full unless `free`), workloads of 10 queues; half the pools are bought."""
    clusters = []
    names = [f"c{number}" for number in range(4)]
    homes = []
    for index, name in enumerate(names):
        pools, nodes = [], []
        for number in range(POOLS // 4):
            pool_name = f"p{number}"
            make = bought_pool if number % 2 else pool
            changes = {"desired_nodes": NODES_PER_POOL, "max_nodes": NODES_PER_POOL} if number % 2 else {}
            pools.append(make(name, pool_name, **changes))
            homes.append((name, pool_name, bool(number % 2)))
            used = amount(0) if free else amount(8, 80, 640, 8)
            busy = 0 if free else 8
            prefix = f"n-{index}-{number}"
            nodes += [node(pool_name, f"{prefix}-{n}", used=used, workload_pods=busy) for n in range(NODES_PER_POOL)]
        clusters.append(cluster(name, tuple(pools), tuple(nodes)))
    placed = []
    for number in range(running):
        home = homes[number % len(homes)]
        place = placement(home[0], home[1], bought=home[2])
        placed.append(workload(f"run-{number}", queue=f"q{number % 10}", placement=place))
    waiting = [
        workload(
            f"wait-{n}",
            pods(gpus=1 + n % classes % 8, cpu=2 + n % classes % 10),
            queue=f"q{n % 10}",
            hints=Hints(expected_seconds=600.0 + n % classes),
        )
        for n in range(pending)
    ]
    return snapshot(*clusters, workloads=(*placed, *waiting), copies=tuple(copy_of(each) for each in placed))


def settled(snap: Snapshot, policies: PolicySet) -> Snapshot:
    """The same, with the conditions written that a first cycle asks for."""
    plan = cycle(snap, policies, FirstPredictor())
    said = {d.workload: (d.reason.code, d.sentence) for d in plan.decisions if d.outcome == "held"}
    write: Callable[[Workload], Workload] = lambda w: replace(w, condition=said.get(w.ref))  # noqa: E731
    return replace(snap, workloads=tuple(write(each) for each in snap.workloads))


def main() -> None:
    queues = tuple(QueueSpec(QueueId(f"q{n}"), "all", quotas=(Quota("gpu", 400),)) for n in range(10))
    budget = Budget("month", Decimal(10_000_000), "month")
    policies = PolicySet((policy("p", burst=BurstRule(600.0, 200), budgets=(budget,)),), queues, digest="bench")
    cases = {
        "1000 pending of 10 classes, 1000 running, full": settled(world(1000, 1000, 10, free=False), policies),
        "the same, first seen (1000 conditions to write)": world(1000, 1000, 10, free=False),
        "10000 identical pending, 1000 running, full": settled(world(1000, 10_000, 1, free=False), policies),
        "100 new placements": world(0, 100, 10, free=True),
        "1000 new placements": world(0, 1000, 10, free=True),
        "1000 pending of 1000 classes, 1000 running, full": settled(world(1000, 1000, 1000, free=False), policies),
    }
    results = {}
    for name, snap in cases.items():
        times = []
        plan = Plan(NOW)
        for _ in range(ROUNDS):
            before = time.process_time()
            plan = cycle(snap, policies, FirstPredictor())
            times.append(1000 * (time.process_time() - before))
        results[name] = round(statistics.median(times), 2)
        print(f"{name:52} {results[name]:8.2f} ms  {len(plan.placements)} placed, {len(plan.decisions)} decisions")
    print(json.dumps({"bench": "engine_cycle", "median_ms": results}))


if __name__ == "__main__":
    main()
