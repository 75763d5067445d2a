"""How the engine grows: 100 clusters of 200 nodes, 500 pools, 100,000 pending workloads of 300 classes.

Run: python -m tests.bench.engine [--json] [--without-month]. Prints a table and ends with one JSON object. Times are of
this process's CPU, so that neighbours on the machine count as little as they can. The baseline of the same run weighs
every workload by itself (`cycle(one_by_one=True)`), on a problem of one fiftieth. "Guided" is with a policy that
values time, so that the programme weighs the whole backlog first. "Limited" is with a budget and a limit on bought
nodes that end what may be bought before the whole backlog is placed; it is timed in turn with the same without.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import resource
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from scheduler.daemon.garbage import collect_seldom
from scheduler.engine.cycle import cycle
from scheduler.engine.memory import Memory
from scheduler.model.cluster import Cluster, Node, NodePool
from scheduler.model.ids import ClusterId, PoolRef, QueueId
from scheduler.model.money import Price
from scheduler.model.plan import Plan
from scheduler.model.policy import Budget, BurstRule, PolicySet, QueueSpec, ValueOfTime
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Copy, Hints, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.driver import PolicyDecider, Site, TracePredictor, replay
from scheduler.simulate.readers import read_trace
from tests.unit.engine_world import NOW, bought_pool, cluster, copy_of, node, pods, policy, pool, snapshot, workload

CLUSTERS, NODES, POOLS, QUEUES = 100, 200, 5, 10
PENDING, CLASSES = 100_000, 300
ROUNDS, INCREMENTS, SMALL = 3, 100, 50
GANGS = ((1, 1), (1, 1), (1, 2), (1, 1), (2, 1), (1, 4), (1, 1), (4, 1), (1, 8), (2, 4))
"""Pods and GPUs of each: small jobs are the most, as in the logs of shared GPU clusters."""
TRACE = Path("../shared/data/traces/philly_jobs.csv.gz")
MONTH_FROM_DAY, MONTH_DAYS, OWNED_NODES = 40, 30, 78
DAY = 86400.0
VALUE = ValueOfTime(usd_per_gpu_hour=Decimal(2))
RULES = PolicySet(
    (policy("any", burst=BurstRule()),), tuple(QueueSpec(QueueId(f"q{n}")) for n in range(QUEUES)), digest="bench"
)
GUIDED = replace(RULES, policies=(policy("any", burst=BurstRule(), value_of_time=VALUE),))
"""The same, but the whole backlog is weighed at once, by the programme."""
BUDGET_USD, MOST_NODES = 170_000, 25_000


def limited(rules: PolicySet) -> PolicySet:
    """The same, but what may be bought ends at a budget and at so many nodes."""
    budget, rule = Budget("month", Decimal(BUDGET_USD), "month"), BurstRule(max_nodes=MOST_NODES)
    return replace(rules, policies=tuple(replace(each, burst=rule, budgets=(budget,)) for each in rules.policies))


def federation(clusters: int) -> tuple[Cluster, ...]:
    """Of each cluster three owned pools and two that are bought, at prices that differ by cluster and pool."""
    return tuple(_cluster(number) for number in range(clusters))


def _cluster(number: int) -> Cluster:
    name = f"c{number:03d}"
    pools, nodes = [], []
    for index in range(POOLS):
        if index % 2:
            price = Price(Decimal(10 + index + number % 7), "bench", NOW)
            pools.append(bought_pool(name, f"p{index}", max_nodes=200, desired_nodes=NODES // POOLS, price=price))
        else:
            pools.append(pool(name, f"p{index}"))
        nodes += [node(f"p{index}", f"n{number}-{index}-{n}") for n in range(NODES // POOLS)]
    return cluster(name, tuple(pools), tuple(nodes))


def backlog(count: int, classes: int = CLASSES) -> tuple[Workload, ...]:
    """Workloads of so many classes; those of a class share their parts."""
    sets = {gang: (pods(*gang, cpu=6 * gang[1], memory=32 * gang[1]),) for gang in GANGS}
    parts = [
        (
            sets[GANGS[number % len(GANGS)]],
            Hints(expected_seconds=600.0 + 60.0 * (number // len(GANGS))),
            QueueId(f"q{number // len(GANGS) % QUEUES}"),
        )
        for number in range(classes)
    ]
    found = []
    for index in range(count):
        pod_sets, hints, queue = parts[index % classes]
        since = NOW - index * 7919 % 3600
        found.append(workload(f"w{index:06d}", *pod_sets, queue=queue, hints=hints, queued_at=since))
        found[-1] = replace(found[-1], pod_sets=pod_sets)
    return tuple(found)


def timed(snap: Snapshot, *, one_by_one: bool = False, rules: PolicySet = RULES) -> tuple[float, Plan]:
    gc.collect()
    before = time.process_time()
    plan = cycle(snap, rules, FirstPredictor(), one_by_one=one_by_one)
    return time.process_time() - before, plan


def in_turn(snap: Snapshot, *rules: PolicySet) -> list[tuple[float, Plan]]:
    """Median seconds, and a plan, for each of these rules; timed one after the other in every round."""
    rounds = [[timed(snap, rules=each)[0] for each in rules] for _ in range(ROUNDS - 1)]
    last = [timed(snap, rules=each) for each in rules]
    times = zip(*rounds, [each[0] for each in last], strict=True)
    return [(statistics.median(each), plan) for each, (_, plan) in zip(times, last, strict=True)]


def obeyed(snap: Snapshot, plan: Plan) -> Snapshot:
    """The federation once all nodes that were asked for are there and all that was placed runs."""
    where = {each.workload.uid: each.placement for each in plan.placements}
    workloads = tuple(replace(each, placement=where.get(each.ref.uid)) for each in snap.workloads)
    workloads = tuple(_running(each) for each in workloads)
    started = [each for each in workloads if each.placement is not None]
    more: dict[str, list[Node]] = defaultdict(list)
    for scale in plan.scales:
        where_to = scale.pool
        fresh = (f"{where_to}-{n}" for n in range(scale.desired_nodes - scale.current_nodes))
        more[where_to.cluster] += [node(where_to.pool, name) for name in fresh]
    snap = replace(snap, clusters=tuple(replace(one, nodes=(*one.nodes, *more[one.id])) for one in snap.clusters))
    free: dict[PoolRef, list[Node]] = defaultdict(list)
    full: list[Node] = []
    for one in snap.clusters:
        for there in one.nodes:
            if there.pool is not None:
                free[PoolRef(one.id, there.pool)].append(there)
    for each in sorted(started, key=lambda w: -max(s.requests.gpus for s in w.pod_sets)):
        assert each.placement is not None
        nodes = free[each.placement.pool_ref]
        _bind(each, nodes)
        while nodes and nodes[0].used.gpus == nodes[0].allocatable.gpus:
            full.append(nodes.pop(0))
    by_name = {each.name: each for nodes in (full, *free.values()) for each in nodes}
    clusters = tuple(replace(one, nodes=tuple(by_name[n.name] for n in one.nodes)) for one in snap.clusters)
    sized = {each.pool: each.desired_nodes for each in plan.scales}
    clusters = tuple(replace(one, pools=tuple(_sized(p, sized.get(p.ref)) for p in one.pools)) for one in clusters)
    copies = tuple(copy_of(each) for each in started)
    return replace(snap, clusters=clusters, workloads=workloads, copies=copies)


def _running(one: Workload) -> Workload:
    if one.placement is None:
        return one
    return replace(one, placement=replace(one.placement, state=PlacementState.STARTED))


def _sized(of: NodePool, nodes: int | None) -> NodePool:
    return of if nodes is None else replace(of, desired_nodes=nodes)


def _bind(one: Workload, nodes: list[Node]) -> None:
    """Its pods, each on the first node that has room; largest pods first, so that all find some."""
    for pod_set in one.pod_sets:
        for _ in range(pod_set.count):
            for index, there in enumerate(nodes):
                if pod_set.requests.gpus <= there.allocatable.gpus - there.used.gpus:
                    used, busy = there.used + pod_set.requests, there.workload_pods + 1
                    nodes[index] = replace(there, used=used, workload_pods=busy)
                    break


def incremental(snap: Snapshot, rules: PolicySet = RULES) -> list[float]:
    """Seconds of each cycle after one more arrival and one more completion."""
    memory, times = Memory(), []
    cycle(snap, rules, FirstPredictor(), memory=memory)
    more = backlog(PENDING + INCREMENTS)[PENDING:]
    workloads, copies, clusters = list(snap.workloads), list(snap.copies), list(snap.clusters)
    running = [w for w in workloads if w.placement and w.placement.state is PlacementState.STARTED]
    gc.collect()
    gc.freeze()
    for step in range(INCREMENTS):
        done = running[step * 101 % len(running)]
        workloads.remove(done)
        copies = [each for each in copies if each.origin != done.ref.uid]
        _vacate(clusters, done)
        workloads.append(more[step])
        now = NOW + 1.0 + step
        seen = replace(snap, now=now, clusters=tuple(clusters), workloads=tuple(workloads), copies=tuple(copies))
        before = time.process_time()
        plan = cycle(seen, rules, FirstPredictor(), memory=memory)
        times.append(time.process_time() - before)
        for change in plan.placements:
            at = next(i for i in range(len(workloads) - 1, -1, -1) if workloads[i].ref == change.workload)
            workloads[at] = replace(workloads[at], placement=change.placement)
            if change.placement.state is PlacementState.STARTED:
                copies.append(_copy(clusters, workloads[at]))
    gc.unfreeze()
    return times


def _vacate(clusters: list[Cluster], done: Workload) -> None:
    """One of its pool's nodes shows the room again."""
    assert done.placement is not None
    at = next(i for i, one in enumerate(clusters) if one.id == done.placement.cluster)
    pod = done.pod_sets[0].requests
    nodes = list(clusters[at].nodes)
    here = [i for i, n in enumerate(nodes) if n.pool == done.placement.pool and pod.fits_in(n.used)]
    left = replace(nodes[here[0]], used=nodes[here[0]].used - pod, workload_pods=nodes[here[0]].workload_pods - 1)
    nodes[here[0]] = left
    clusters[at] = replace(clusters[at], nodes=tuple(nodes))


def _copy(clusters: list[Cluster], one: Workload) -> Copy:
    """Its copy, bound to the first nodes of its pool with room."""
    assert one.placement is not None
    at = next(i for i, each in enumerate(clusters) if each.id == one.placement.cluster)
    mine = [n for n in clusters[at].nodes if n.pool == one.placement.pool]
    rest = [n for n in clusters[at].nodes if n.pool != one.placement.pool]
    _bind(one, mine)
    clusters[at] = replace(clusters[at], nodes=(*mine, *rest))
    return copy_of(one)


def month() -> float | None:
    """Seconds of replaying a month of the Philly log with the whole backlog weighed; None: the log is not there."""
    if not TRACE.exists():
        return None
    one = policy("p", objective="onprem-first", burst=BurstRule(), value_of_time=VALUE)
    window = read_trace(TRACE).window(MONTH_FROM_DAY * DAY, MONTH_DAYS * DAY)
    decider = PolicyDecider("overspill", PolicySet((one,), (), "bench"), TracePredictor({}))
    before = time.process_time()
    replay(window, _site(), decider, Assumptions(), gather_seconds=60)
    return time.process_time() - before


def _site() -> Site:
    def offer(where: str, name: str, kind: str, usd: str) -> NodePool:
        price = Price(Decimal(usd), "bench", 0.0)
        return bought_pool(where, name, capacity_type=kind, price=price, max_nodes=64, desired_nodes=None)

    owned = pool("onprem", "a", price=Price(Decimal(0), "bench", 0.0), max_nodes=OWNED_NODES)
    clusters = (
        cluster("onprem", (owned,)),
        cluster("eks", (offer("eks", "od", "on-demand", "21.96"), offer("eks", "spot", "spot", "9.5"))),
        cluster("gke", (offer("gke", "od", "on-demand", "29.38"), offer("gke", "spot", "spot", "11.8"))),
        cluster("aks", (offer("aks", "od", "on-demand", "27.2"),)),
    )
    return Site(clusters, {PoolRef(ClusterId("onprem"), owned.ref.pool): OWNED_NODES})


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, math.ceil(part * len(values)) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    parser.add_argument("--without-month", action="store_true", help="leave the replay of a month out")
    options = parser.parse_args()

    collect_seldom()  # As the daemon and `overspill simulate` do.

    def tell(line: str) -> None:
        if not options.json:
            print(line, flush=True)

    small = snapshot(*federation(CLUSTERS // SMALL), workloads=backlog(PENDING // SMALL))
    slow, slow_plan = timed(small, one_by_one=True)
    fast, fast_plan = timed(small)
    tell(f"1/{SMALL} of it, one by one      {slow:8.3f} s  {len(slow_plan.placements)} placed (the baseline)")
    tell(f"1/{SMALL} of it                  {fast:8.3f} s  {len(fast_plan.placements)} placed")
    clusters = federation(CLUSTERS)
    tenth, _ = min(
        (timed(snapshot(*clusters, workloads=backlog(PENDING // 10))) for _ in range(ROUNDS)), key=lambda each: each[0]
    )
    whole = snapshot(*clusters, workloads=backlog(PENDING))
    (replan, plan), (short, short_plan) = in_turn(whole, RULES, limited(RULES))
    tell(f"{PENDING // 10} pending               {tenth:8.3f} s")
    tell(f"{PENDING} pending              {replan:8.3f} s  {len(plan.placements)} placed")
    tell(
        f"{PENDING} pending, limited     {short:8.3f} s  {len(short_plan.placements)} placed "
        f"({short / replan:.2f} times the replan)"
    )
    del short_plan
    timed(small, rules=GUIDED)  # The first programme of a process loads scipy.
    (guided, guided_plan), (guided_short, short_plan) = in_turn(whole, GUIDED, limited(GUIDED))
    tell(
        f"{PENDING} pending, guided      {guided:8.3f} s  {len(guided_plan.placements)} placed "
        f"({guided / replan:.2f} times the replan)"
    )
    tell(
        f"{PENDING} guided, limited      {guided_short:8.3f} s  {len(short_plan.placements)} placed "
        f"({guided_short / guided:.2f} times the guided)"
    )
    del guided_plan, short_plan
    running = obeyed(whole, plan)
    times = incremental(running)
    tell(f"1 arrival, 1 completion: p50    {1000 * percentile(times, 0.5):8.2f} ms")
    tell(f"1 arrival, 1 completion: p99    {1000 * percentile(times, 0.99):8.2f} ms")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    tell(f"peak memory                     {peak / 2**20:8.0f} MiB")
    seconds = None if options.without_month else month()
    tell(f"a month of the log              {'not run' if seconds is None else f'{seconds:8.1f} s'}")
    result = {
        "replan_seconds": round(replan, 3),
        "placements_per_second": round(len(plan.placements) / replan),
        "incremental_p99_seconds": round(percentile(times, 0.99), 4),
        "peak_rss_bytes": peak,
        "growth_ratio": round(replan / tenth, 2),
        "month_seconds": None if seconds is None else round(seconds, 1),
        "guided_replan_seconds": round(guided, 3),
        "limited_replan_seconds": round(short, 3),
        "limited_ratio": round(short / replan, 2),
        "guided_limited_replan_seconds": round(guided_short, 3),
        "guided_limited_ratio": round(guided_short / guided, 2),
        "one_by_one_placements_per_second": round(len(slow_plan.placements) / slow),
        "same_scale_placements_per_second": round(len(fast_plan.placements) / fast),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
