"""Time slices: what runs may be moved whenever one begins, its work kept."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from scheduler.cli.simulate import SimulateOptions, prepare
from scheduler.model.ids import PoolRef
from scheduler.model.plan import Plan
from scheduler.model.policy import PlacementPolicy, PolicySet, ReservationRule, TimeSliceRule, ValueOfTime
from scheduler.model.snapshot import Snapshot
from scheduler.simulate.driver import PolicyDecider, Site, TracePredictor, replay
from scheduler.simulate.readers._pods import gpu_pods
from scheduler.simulate.record import RunRecord
from scheduler.simulate.trace import Trace, TraceJob
from tests.bench.gavel import HERE
from tests.sim.worlds import EXACT, job, price, told, trace
from tests.unit.engine_world import cluster, pool

SLICE = 360.0
FREE = replace(EXACT, restart_seconds=0.0)
FAST, SLOW = "V100", "K80"
SPEEDS = {"even": {FAST: 1.0, SLOW: 0.9}, "uneven": {FAST: 1.0, SLOW: 0.1}, "only-fast": {FAST: 1.0}}
PHYSICAL = Path("../shared/data/traces/gavel_physical_traces.csv")


def two_pools() -> Site:
    """One node of 8 fast GPUs at 8 USD an hour, and one of 8 slow ones at 1."""
    pools = (
        pool("cluster", "fast", gpu_model=FAST, price=price("8")),
        pool("cluster", "slow", gpu_model=SLOW, price=price("1")),
    )
    return Site((cluster("cluster", pools),), {each.ref: 1 for each in pools})


def policy(usd_per_hour: str = "10", to_last_end: str = "0") -> PolicySet:
    one = PlacementPolicy(
        "sliced",
        value_of_time=ValueOfTime(Decimal(usd_per_hour)),
        time_slice=TimeSliceRule(SLICE, Decimal(to_last_end)),
        reservation=ReservationRule(None),
    )
    return PolicySet((one,), digest="digest")


def fast_only(name: str, arrival: float, run_seconds: float) -> TraceJob:
    return job(name, arrival, run_seconds, profile="only-fast", pod_sets=gpu_pods(8, (FAST,)))


class _Watched(PolicyDecider):
    """Keeps every plan, and checks that all that is unfinished was up for decision with the capacity whole."""

    def __init__(self, policies: PolicySet, what: Trace) -> None:
        super().__init__("watched", policies, TracePredictor(what.speeds))
        self.plans: list[tuple[float, Plan]] = []

    def decide(self, snapshot: Snapshot) -> Plan:
        assert all(each.placement is None for each in snapshot.workloads)
        assert all(node.used.gpus == 0 for one in snapshot.clusters for node in one.nodes)
        plan = super().decide(snapshot)
        self.plans.append((snapshot.now, plan))
        return plan


def run(what: Trace, policies: PolicySet | None = None, where: Site | None = None) -> tuple[RunRecord, _Watched]:
    decider = _Watched(policy() if policies is None else policies, what)
    return replay(what, where or two_pools(), decider, FREE, slice_seconds=SLICE), decider


def test_decided_is_when_a_slice_begins_and_only_then() -> None:
    record, decider = run(trace(fast_only("a", 10.0, 500.0), fast_only("b", 400.0, 100.0), speeds=SPEEDS))
    assert {(at - record.started_at) % SLICE for at, _ in decider.plans} == {0.0}
    # The slice from 720 s goes to the one that uses more of it; nobody has the GPUs from its end to the next slice.
    assert told(record) == {"a": (360.0, 860.0), "b": (1080.0, 1180.0)}


def test_a_shorter_one_that_comes_takes_the_place_and_no_work_is_lost() -> None:
    record, _ = run(trace(fast_only("long", 0.0, 3600.0), fast_only("short", 100.0, 700.0), speeds=SPEEDS))
    assert told(record) == {"long": (0.0, 4320.0), "short": (360.0, 1060.0)}
    by_name = {each.job.name: each for each in record.jobs}
    assert (by_name["long"].preemptions, by_name["long"].lost_seconds) == (1, 0.0)
    assert by_name["short"].preemptions == 0


def test_who_loses_least_on_the_slow_gpus_has_them() -> None:
    what = trace(job("tolerant", profile="even"), job("needy", profile="uneven"), speeds=SPEEDS)
    record, _ = run(what)
    assert told(record)["needy"] == (0.0, 3600.0)
    # For its last 400 s moving would save 40 s, which are worth less than the fast GPUs' price.
    assert told(record)["tolerant"] == (0.0, 4000.0)


def test_work_is_done_at_the_speed_of_the_table_and_priced_by_busy_time() -> None:
    what = trace(job("one", run=1800.0, gpus=4, profile="even"), speeds=SPEEDS)
    record, _ = run(what, policy("0.01"))
    assert told(record)["one"][1] == pytest.approx(2000.0)
    # Four of eight GPUs of a node at 1 USD an hour, for 2000 s.
    assert record.owned_busy_usd is not None
    assert float(record.owned_busy_usd) == pytest.approx(0.5 * 2000 / 3600, abs=1e-6)


def test_the_price_of_owned_gpus_is_unknown_where_a_busy_one_has_none() -> None:
    site = Site((cluster("cluster", (pool("cluster", "p", price=None),)),), {pool("cluster", "p").ref: 1})
    record, _ = run(trace(job("one")), where=site)
    assert record.owned_busy_usd is None


@pytest.mark.skipif(not PHYSICAL.exists(), reason="the shared traces are not there")
def test_gavels_jobs_keep_within_the_cluster_and_all_their_work_is_done() -> None:
    options = SimulateOptions(
        HERE / "federation.yaml", (HERE / "balanced",), PHYSICAL, queues=("max_min_fairness",), slice_seconds=SLICE
    )
    study, _ = prepare(options)
    few = replace(study.trace, jobs=study.trace.jobs[:24])
    decider = _Watched(study.policies[0].policies, few)
    record = replay(few, study.site, decider, FREE, slice_seconds=SLICE)
    gpus = {each.name: each.gpus for each in few.jobs}
    done: dict[str, float] = defaultdict(float)
    speed = {each.name: few.speeds[each.profile] for each in few.jobs}
    model = {one.ref: one.gpu_model or "" for each in study.site.clusters for one in each.pools}
    for _, plan in decider.plans:
        used: dict[PoolRef, int] = defaultdict(int)
        for change in plan.placements:
            ref, name = change.placement.pool_ref, change.workload.name
            used[ref] += gpus[name]
            done[name] += SLICE * speed[name][model[ref]]
        assert all(count <= 8 * study.site.owned_nodes[ref] for ref, count in used.items())
    for each in record.jobs:
        assert each.finished_at is not None
        # Its last slice is not used up; all before it are.
        assert each.job.run_seconds - 1e-6 <= done[each.job.name]
        assert done[each.job.name] - each.job.run_seconds <= SLICE * max(speed[each.job.name].values())
