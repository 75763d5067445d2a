"""What arrays and runs decide is what weighing one workload after another decides."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.assignment import Assignment
from scheduler.engine.bulk import Bulk
from scheduler.engine.candidates import Weigher
from scheduler.engine.cycle import cycle
from scheduler.engine.settlement import settle
from scheduler.engine.world import World
from scheduler.model.cluster import SPOT, Cluster, Node, Taint
from scheduler.model.ids import ClusterId, NodeName, PoolId, PoolRef, QueueId
from scheduler.model.money import Price
from scheduler.model.plan import Decision, SetPlacement
from scheduler.model.policy import BurstRule, Constraints, PolicySet, QueueSpec, Quota
from scheduler.model.snapshot import Backoff, Snapshot
from scheduler.model.workload import Hints, PodSet, Toleration, Workload
from scheduler.predict.first import FirstPredictor
from tests.property.test_engine_properties import CAREFUL, policies, snapshots
from tests.unit.engine_world import (
    NOW,
    amount,
    bought_pool,
    cluster,
    node,
    pods,
    policy,
    policy_set,
    pool,
    snapshot,
    workload,
)

KEEP_OFF = Taint("team", "ml", "NoSchedule")
MINE = Toleration("team", "Exists", "", "NoSchedule")


@st.composite
def nodes(draw: st.DrawFn, pool_name: str) -> tuple[Node, ...]:
    found = []
    for index in range(draw(st.integers(0, 4))):
        used = draw(st.integers(0, 8))
        labels: tuple[tuple[str, str], ...] = (("pool", pool_name),)
        if draw(st.booleans()):
            labels = (*labels, ("zone", draw(st.sampled_from("ab"))))
        found.append(
            node(
                pool_name,
                f"n{index}",
                used=amount(used, draw(st.integers(0, 80)), 32 * used, used),
                workload_pods=used,
                labels=labels,
                taints=(KEEP_OFF,) if draw(st.integers(0, 4)) == 0 else (),
                ready=draw(st.integers(0, 5)) > 0,
                created_at=NOW - draw(st.sampled_from((60, 3600))),
            )
        )
    return tuple(found)


@st.composite
def federations(draw: st.DrawFn) -> tuple[Cluster, ...]:
    clusters = []
    for number in range(draw(st.integers(1, 3))):
        name = f"c{number}"
        bought: dict[str, Any] = {
            "max_nodes": draw(st.integers(0, 5)),
            "desired_nodes": draw(st.sampled_from((None, 0, 2))),
            "price": draw(st.sampled_from((None, Price(Decimal(9), "t", NOW), Price(Decimal(16), "t", NOW)))),
            "provisioning_seconds": draw(st.sampled_from((None, 60.0, 240.0))),
        }
        pools = (
            pool(name, "a", price=draw(st.sampled_from((None, Price(Decimal(8), "t", NOW))))),
            pool(name, "b"),
            bought_pool(name, "od", **bought),
            bought_pool(name, "spot", capacity_type=SPOT, price=Price(Decimal(7), "t", NOW)),
        )
        there = tuple(
            replace(each, name=NodeName(f"{of}-{each.name}"), uid=f"{of}-{each.uid}")
            for of in ("a", "b", "od")
            for each in draw(nodes(of))
        )
        clusters.append(cluster(name, pools, there))
    return tuple(clusters)


@st.composite
def gangs(draw: st.DrawFn) -> PodSet:
    return pods(
        draw(st.integers(1, 6)),
        draw(st.integers(0, 8)),
        cpu=draw(st.integers(0, 40)),
        memory=draw(st.sampled_from((0, 32, 400))),
        node_selector=draw(st.sampled_from(((), (), (("zone", "a"),), (("pool", "od"),)))),
        tolerations=draw(st.sampled_from(((), (MINE,)))),
    )


@st.composite
def rules(draw: st.DrawFn) -> PolicySet:
    limits = Constraints(max_usd_per_run=draw(st.sampled_from((None, None, Decimal(4), Decimal(20)))))
    burst = draw(st.sampled_from((None, BurstRule(), BurstRule(600.0))))
    quotas = draw(st.sampled_from(((), (Quota("gpu", 24), Quota("cpu", 300_000)))))
    queues = tuple(QueueSpec(QueueId(name), "all", quotas=quotas) for name in ("blue", "red"))
    objective = draw(st.sampled_from(("cost", "completion_time", "onprem_first")))
    return policy_set(policy(objective=objective, constraints=limits, burst=burst), queues=queues)


@st.composite
def backlogs(draw: st.DrawFn) -> tuple[Workload, ...]:
    shapes = draw(st.lists(gangs(), min_size=1, max_size=3))
    hints = st.sampled_from((Hints(), Hints(expected_seconds=900.0), Hints(expected_seconds=7200.0)))
    return tuple(
        workload(
            f"w{index:02d}",
            draw(st.sampled_from(shapes)),
            queue=draw(st.sampled_from(("blue", "red"))),
            queued_at=NOW - draw(st.sampled_from((0, 900))),
            hints=draw(hints),
        )
        for index in range(draw(st.integers(1, 12)))
    )


@given(where=federations(), what=backlogs(), how=rules(), paused=st.booleans(), short=st.booleans())
@CAREFUL
def test_the_plan_is_that_of_weighing_one_by_one(
    where: tuple[Cluster, ...], what: tuple[Workload, ...], how: PolicySet, paused: bool, short: bool
) -> None:
    away = Backoff(PoolRef(ClusterId("c0"), PoolId("od")), NOW + 60, 1, "none left")
    snap = snapshot(*where, workloads=what, bursting_paused=paused, backoffs=(away,) if short else ())
    want = cycle(snap, how, FirstPredictor(), one_by_one=True)
    assert cycle(snap, how, FirstPredictor()) == want


@given(snap=snapshots(), how=policies())
@CAREFUL
def test_so_it_is_where_arrays_cannot_speak_for_all(snap: Snapshot, how: PolicySet) -> None:
    assert cycle(snap, how, FirstPredictor()) == cycle(snap, how, FirstPredictor(), one_by_one=True)


@given(where=federations(), gang=gangs(), count=st.integers(1, 60), how=rules())
@CAREFUL
def test_a_run_of_equal_workloads_goes_where_each_would_go(
    where: tuple[Cluster, ...], gang: PodSet, count: int, how: PolicySet
) -> None:
    what = tuple(workload(f"w{index:02d}", gang, queue="blue") for index in range(count))
    snap = snapshot(*where, workloads=what)
    slow = World(snap, how, FirstPredictor())
    settle(slow, Weigher(slow))
    single = Assignment(slow, Weigher(slow), one_by_one=True)
    single.run()
    fast = World(snap, how, FirstPredictor())
    placements: list[SetPlacement] = []
    decisions: list[Decision] = []
    weigher = Weigher(fast)
    settle(fast, weigher)
    rule = fast.policy_of(what[0])
    assert rule is not None
    placed = Bulk(fast, weigher, placements, decisions).place(fast.ask_of(what[0], rule), what)
    assert [(each.workload, each.placement) for each in placements] == [
        (each.workload, each.placement) for each in single.placements
    ]
    assert [each.chosen for each in decisions] == [each.chosen for each in single.decisions[:placed]]
    for ref, room in fast.rooms.items():
        other = slow.rooms[ref]
        for mine, theirs in zip(
            (*room.ready, *room.coming, *room.opened), (*other.ready, *other.coming, *other.opened), strict=True
        ):
            assert (mine.key, mine.gpus, mine.cpu_milli, mine.memory_bytes, mine.pods, mine.taken) == (
                theirs.key, theirs.gpus, theirs.cpu_milli, theirs.memory_bytes, theirs.pods, theirs.taken,
            )  # fmt: skip
    assert fast.quotas.used == slow.quotas.used
