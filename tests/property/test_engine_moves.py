"""Whatever runs where, moving never breaks a limit, never loses a run, comes to rest, and asks the order of nothing."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from decimal import Decimal

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scheduler.engine.cycle import cycle
from scheduler.model.cluster import SPOT
from scheduler.model.ids import Instant, Uid
from scheduler.model.money import Price
from scheduler.model.plan import Plan
from scheduler.model.policy import BurstRule, Constraints, DisruptionRule, PolicySet, ReturnRule, ValueOfTime
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import MOVED, Hints, PlacementState, Workload
from scheduler.predict.first import FirstPredictor
from tests.property.engine_federation import Federation
from tests.unit.engine_world import NOW, bought_pool, cluster, node, pods, policy, policy_set, pool, workload

MOVE_AFTER = 600.0
CAREFUL = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def rules(draw: st.DrawFn) -> PolicySet:
    return policy_set(
        policy(
            burst=draw(st.sampled_from((BurstRule(), BurstRule(300.0), BurstRule(0.0, 3)))),
            constraints=Constraints(excluded_clusters=draw(st.sampled_from(((), ("gke",))))),
            give_back=ReturnRule(moves=True, move_after_seconds=MOVE_AFTER),
            disruption=DisruptionRule(moves_at_once=draw(st.integers(0, 3))),
            value_of_time=draw(st.sampled_from((None, ValueOfTime(usd_per_gpu_hour=Decimal("0.5"))))),
        )
    )


@st.composite
def arriving(draw: st.DrawFn, index: int) -> Workload:
    checkpoint = draw(st.sampled_from((None, 300.0, 300.0, 1800.0)))
    seconds = float(draw(st.integers(600, 20_000)))
    at = NOW + draw(st.integers(1, 4000))
    sizes = pods(draw(st.integers(1, 3)), draw(st.sampled_from((1, 2, 4, 8))), cpu=draw(st.integers(1, 12)))
    hints = Hints(expected_seconds=seconds, checkpoint_every_seconds=checkpoint)
    return workload(f"w{index:02d}", sizes, created_at=at, queued_at=at, hints=hints)


@st.composite
def federations(draw: st.DrawFn) -> Federation:
    spot = Price(draw(st.sampled_from((Decimal("5"), Decimal("14")))), "test", NOW)
    homes = [
        cluster("onprem", (pool("onprem", "a"),), tuple(node("a", f"n{i}") for i in range(draw(st.integers(0, 2))))),
        cluster("eks", (bought_pool("eks", "b"), bought_pool("eks", "s", capacity_type=SPOT, price=spot))),
        cluster("gke", (bought_pool("gke", "t", max_nodes=2, provisioning_seconds=60.0),)),
    ]
    jobs = [draw(arriving(index)) for index in range(draw(st.integers(1, 6)))]
    return Federation(NOW, homes, draw(rules()), {}, arrivals=jobs)


class _Watched(Federation):
    """Looks at every snapshot and what is decided on it."""

    seen: list[tuple[Snapshot, Plan]]

    def settle(self) -> Plan:
        before = self.snapshot()
        self.seen.append((before, cycle(before, self.policies, FirstPredictor())))
        return super().settle()


def watched(federation: Federation) -> _Watched:
    made = _Watched(federation.now, federation.clusters, federation.policies, {}, arrivals=federation.arrivals)
    made.seen = []
    made.run(until=NOW + 2 * 86400)
    return made


@given(federations())
@CAREFUL
def test_every_run_ends_every_node_goes_back_and_limits_hold(federation: Federation) -> None:
    jobs = len(federation.arrivals)
    limit = federation.policies.policies[0].disruption.moves_at_once
    excluded = federation.policies.policies[0].constraints.excluded_clusters
    checkpoints = {each.ref.uid: each.hints.checkpoint_every_seconds for each in federation.arrivals}
    done = watched(federation)
    assert len(done.finished) + len(done.workloads) == jobs, "a workload was lost"
    assert all(each.placement is None for each in done.workloads.values()), "a placed workload never ended"
    assert done.bought_nodes == 0
    assert max(Counter(at for at, _ in done.moves).values(), default=0) <= limit
    last: dict[Uid, Instant] = {}
    for at, uid in done.moves:
        assert checkpoints[uid] is not None
        assert at - last.get(uid, -1e12) >= MOVE_AFTER
        last[uid] = at
    for _, plan in done.seen:
        for change in plan.placements:
            assert change.placement.cluster not in excluded


@given(federations(), st.integers(0, 2**32))
@CAREFUL
def test_moves_do_not_depend_on_the_order_of_the_input(federation: Federation, seed: int) -> None:
    mixed = random.Random(seed)
    for snapshot, plan in watched(federation).seen:
        if not any(change.placement.reason == MOVED for change in plan.placements):
            continue
        clusters = tuple(
            replace(each, nodes=tuple(mixed.sample(each.nodes, len(each.nodes))), pools=each.pools[::-1])
            for each in snapshot.clusters[::-1]
        )
        other = replace(
            snapshot,
            clusters=clusters,
            workloads=tuple(mixed.sample(snapshot.workloads, len(snapshot.workloads))),
            copies=tuple(mixed.sample(snapshot.copies, len(snapshot.copies))),
        )
        assert cycle(other, federation.policies, FirstPredictor()) == plan


@given(federations())
@CAREFUL
def test_a_move_takes_nothing_from_those_who_wait_and_leaves_nobody_half_moved(federation: Federation) -> None:
    for snapshot, plan in watched(federation).seen:
        moved = {c.workload.uid: c for c in plan.placements if c.placement.reason == MOVED}
        if not moved:
            continue
        still = {each.ref.uid: each for each in snapshot.workloads if each.ref.uid not in moved}
        without = replace(
            federation.policies,
            policies=tuple(
                replace(each, give_back=replace(each.give_back, moves=False)) for each in federation.policies.policies
            ),
        )
        calm = cycle(snapshot, without, FirstPredictor())
        others = {c.workload.uid: c.placement for c in plan.placements if c.workload.uid in still}
        assert others == {c.workload.uid: c.placement for c in calm.placements}, "nobody else is placed otherwise"
        for change in moved.values():
            assert change.replaces is not None
            assert change.replaces.state is PlacementState.STARTED
            assert change.placement.moved_from == change.replaces.cluster
            assert change.placement.attempt > change.replaces.attempt
