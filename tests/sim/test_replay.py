"""The replay itself: what must hold whatever is replayed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.model.ids import ClusterId, DecisionId, PoolId
from scheduler.model.plan import Plan, SetPlacement
from scheduler.model.policy import Budget, BurstRule, Constraints
from scheduler.model.snapshot import Snapshot
from scheduler.model.workload import Placement, PlacementState
from scheduler.simulate import driver
from scheduler.simulate.adherence import broken_budgets
from scheduler.simulate.assumptions import Assumptions
from scheduler.simulate.driver import EPOCH, SimulationError
from scheduler.simulate.measures import measure
from scheduler.simulate.record import RunRecord
from scheduler.simulate.trace import Trace, TraceJob
from tests.sim.worlds import A_DOLLAR, CLOUD, EXACT, burst_at_once, job, price, run, site, spot_pool, told, trace
from tests.unit.engine_world import bought_pool

WILD = Assumptions(spot_reclaims_per_hour=0.4, shortage_chance=0.2, hint_spread=0.5)


def outcome(record: RunRecord) -> object:
    """Everything of a record but the wall time."""
    return (
        [(j.job.name, j.first_started_at, j.finished_at, j.interruptions, j.lost_seconds) for j in record.jobs],
        record.machines, record.moments, record.cycles, record.ended_at, record.spend,
    )  # fmt: skip


def mixed(count: int = 40) -> Trace:
    drawn = random.Random(5)
    return trace(
        *(
            job(
                f"j{index:02d}", arrival=drawn.randrange(0, 30_000, 10), run=drawn.uniform(100, 9000),
                gpus=drawn.choice([1, 1, 2, 4, 8, 16]), queue=drawn.choice(["a", "b"]),
                checkpoint_seconds=drawn.choice([None, 300.0]),
            )
            for index in range(count)
        )
    )  # fmt: skip


def test_a_job_runs_at_once_where_there_is_room_and_the_next_on_a_bought_node() -> None:
    found = run(trace(job("a"), job("b", arrival=60.0)), site(1), assumptions=replace(EXACT, start_seconds=15.0))
    assert told(found) == {"a": (0.0, 3615.0), "b": (300.0, 3915.0)}
    (machine,) = found.machines
    # Ordered when b came, there 240 s later; given back five minutes after b's end.
    assert (machine.created_at - EPOCH, machine.ended_at - EPOCH) == (300.0, 4215.0)
    assert found.ended_at - EPOCH == 3915.0


def test_the_same_seed_gives_the_same_record_and_another_does_not() -> None:
    where = site(2, spot_pool(), bought_pool("cloud", "od"))
    first = run(mixed(), where, assumptions=WILD)
    assert outcome(first) == outcome(run(mixed(), where, assumptions=WILD))
    assert outcome(first) != outcome(run(mixed(), where, assumptions=replace(WILD, seed=1)))


def test_the_order_of_jobs_that_come_together_does_not_matter() -> None:
    together = [replace(each, arrival_seconds=round(each.arrival_seconds, -4)) for each in mixed().jobs]
    where = site(2, spot_pool(), bought_pool("cloud", "od"))
    want = by_name(run(trace(*together), where, assumptions=WILD))
    together.reverse()
    backwards = tuple(sorted(together, key=lambda each: each.arrival_seconds))
    assert by_name(run(Trace("test", backwards), where, assumptions=WILD)) == want


def by_name(record: RunRecord) -> dict[str, object]:
    return {each.job.name: (each.first_started_at, each.finished_at, each.lost_seconds) for each in record.jobs}


@pytest.mark.parametrize("seed", range(4))
def test_conservation(seed: int) -> None:
    """Every job ends once; GPU-seconds of machines are those of jobs; no moment has more in use than there is."""
    what = mixed()
    found = run(
        what, site(2, spot_pool(), bought_pool("cloud", "od")), assumptions=replace(WILD, seed=seed, hint_spread=0.0)
    )
    assert sorted(each.job.name for each in found.jobs) == sorted(each.name for each in what.jobs)
    assert all(each.finished_at is not None for each in found.jobs)
    for moment in found.moments:
        assert all(0 <= used <= there for used, there in zip(moment.used_gpus, moment.gpus, strict=True))
    assert all(
        before.at <= after.at and before.spend_usd <= after.spend_usd + 1e-6
        for before, after in pairwise(found.moments)
    )
    busy = found.owned_busy_gpu_seconds + sum(machine.busy_gpu_seconds for machine in found.machines)
    starts = WILD.start_seconds
    held = sum(each.job.gpus * (each.job.run_seconds + each.lost_seconds + starts) for each in found.jobs)
    calm = [each for each in found.jobs if not each.interruptions]
    if len(calm) == len(found.jobs):
        assert busy == pytest.approx(held)
    # An interruption costs a restart beyond the work: up to its start and restart once more each time.
    restarts = sum(each.job.gpus * each.interruptions * (starts + WILD.restart_seconds) for each in found.jobs)
    assert held - 1e-3 <= busy <= held + restarts + 1e-3


def test_without_interruptions_gpu_seconds_are_exactly_the_work() -> None:
    what = mixed()
    found = run(what, site(2, bought_pool("cloud", "od")), assumptions=replace(EXACT, start_seconds=0.0))
    busy = found.owned_busy_gpu_seconds + sum(machine.busy_gpu_seconds for machine in found.machines)
    assert busy == pytest.approx(sum(each.run_seconds * each.gpus for each in what.jobs))


@given(
    jobs=st.lists(
        st.tuples(st.integers(0, 5000), st.integers(1, 5000), st.sampled_from([1, 3, 8, 16])), min_size=1, max_size=8
    ),
    seed=st.integers(0, 3),
)
@settings(max_examples=40, deadline=None)
def test_no_job_is_lost_or_ends_before_it_could(jobs: list[tuple[int, int, int]], seed: int) -> None:
    what = trace(*(job(f"j{index}", float(at), float(length), gpus) for index, (at, length, gpus) in enumerate(jobs)))
    found = run(what, site(1, spot_pool(), bought_pool("cloud", "od")), assumptions=replace(WILD, seed=seed))
    assert len(found.jobs) == len(jobs)
    for each in found.jobs:
        assert each.first_started_at is not None
        assert each.finished_at is not None
        assert each.arrived_at <= each.first_started_at
        assert each.finished_at >= each.first_started_at + each.job.run_seconds - 1e-6


def test_what_is_gathered_is_decided_on_together() -> None:
    jobs = [job(f"j{index}", arrival=float(index), gpus=1, run=100.0) for index in range(8)]
    one_by_one, together = run(trace(*jobs), site(1)), run(trace(*jobs), site(1), gather_seconds=10.0)
    assert together.cycles < one_by_one.cycles
    assert all(each.first_started_at == EPOCH + 10.0 for each in together.jobs)


def test_faster_hardware_runs_faster() -> None:
    what = trace(job("a", profile="p", run=1000.0), speeds={"p": {"A100-80GB": 2.0}})
    assert told(run(what, site(1)))["a"] == (0.0, 500.0)


def test_an_empty_trace_ends_at_once() -> None:
    found = run(trace(), site(1))
    assert (found.jobs, found.machines, found.ended_at) == ([], [], EPOCH)
    assert measure(found, A_DOLLAR).total_cost_usd == 0.0


def test_owned_capacity_that_is_not_there_holds_nothing() -> None:
    found = run(trace(job("a")), site(0), burst_at_once(burst=None))
    assert found.jobs[0].finished_at is None
    assert "0/" in found.jobs[0].why or "offering" in found.jobs[0].why


CONTRADICTORY = [
    ("a cluster that is not there", {"constraints": Constraints(clusters=("mars",))}),
    ("a price cap below every price", {"constraints": Constraints(max_usd_per_gpu_hour=Decimal("0.01"))}),
    ("no policy for its queue", {"match": replace(burst_at_once().policies[0].match, queues=("other",))}),
    ("a budget of nothing", {
        "constraints": Constraints(capacity_types=("on-demand",)), "budgets": (Budget("none", Decimal(0), "day"),),
    }),
]  # fmt: skip


@pytest.mark.parametrize(("what", "changes"), CONTRADICTORY, ids=[name for name, _ in CONTRADICTORY])
def test_policies_that_let_nothing_run_end_with_a_reason(what: str, changes: dict[str, object]) -> None:
    found = run(
        trace(job("a"), job("b", arrival=10.0)),
        site(0, spot_pool(), bought_pool("cloud", "od")),
        burst_at_once(**changes),
    )
    assert [each.finished_at for each in found.jobs] == [None, None]
    assert all(each.why and "nothing was decided" not in each.why for each in found.jobs)


def test_a_budget_lets_a_job_in_when_its_next_window_begins() -> None:
    day = burst_at_once(budgets=(Budget("day", Decimal(20), "day"),))
    found = run(trace(job("a"), job("b", arrival=10.0)), site(0, bought_pool("cloud", "od")), day, meters_budgets=True)
    starts = sorted(at for at, _ in told(found).values() if at is not None)
    assert starts[0] < 3600
    assert starts[1] > 3600
    assert broken_budgets(day, found.spend) == ()
    assert sum(bucket.usd for bucket in found.spend) > 20


def test_a_broken_budget_is_counted_once_a_window() -> None:
    found = run(trace(job("a"), job("b", arrival=100_000.0)), site(0, bought_pool("cloud", "od")), meters_budgets=True)
    tight = burst_at_once(
        budgets=(
            Budget("day", Decimal(1), "day"),
            Budget("all", Decimal(1000), "total"),
            Budget("x", Decimal(1), "day", ("x",)),
        )
    )
    assert broken_budgets(tight, found.spend) == ("any/day", "any/day")
    assert broken_budgets(tight, ()) == ()


@dataclass
class Restless:
    """Takes one job back for another, for ever."""

    name: str = "restless"
    kind: str = "policy"

    def decide(self, snapshot: Snapshot) -> Plan:
        return Plan(snapshot.now, tuple(self._flip(snapshot)))

    def _flip(self, snapshot: Snapshot) -> Sequence[SetPlacement]:
        moves = []
        anyone = any(workload.placement is not None for workload in snapshot.workloads)
        for workload in snapshot.workloads[:1] if not anyone else snapshot.workloads:
            old = workload.placement
            state = PlacementState.RELEASING if old is not None else PlacementState.STARTED
            new = Placement(
                ClusterId("onprem"), PoolId("a100"), "owned", False, state, 1, snapshot.now, DecisionId("d")
            )
            moves.append(SetPlacement(workload.ref, new, old, DecisionId("d")))
        return moves


def test_a_decider_that_never_rests_is_an_error_that_names_what_it_moves() -> None:
    with pytest.raises(
        SimulationError, match=r"restless: no rest after \d+ decisions, 5 s into the replay; .* moves a, b"
    ):
        run(trace(job("a"), job("b", arrival=5.0)), site(1), Restless())


def test_many_pools_that_cannot_deliver_are_no_unrest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_LONGEST_WINDOW_SECONDS", 2 * 86400.0)
    pools = [bought_pool("cloud", f"p{index}", price=price(str(8 + index))) for index in range(12)]
    found = run(trace(job("a")), site(0, *pools), assumptions=replace(EXACT, shortage_chance=1.0))
    assert found.jobs[0].finished_at is None


def test_a_run_without_checkpoints_longer_than_spot_lasts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After several times its own length; how long the longest budget's window is must not matter here."""
    monkeypatch.setattr(driver, "_LONGEST_WINDOW_SECONDS", 2 * 86400.0)
    reclaimed_often = replace(EXACT, spot_reclaims_per_hour=3.0)
    found = run(trace(job("a", run=30 * 3600.0)), site(0, spot_pool()), assumptions=reclaimed_often)
    (one,) = found.jobs
    assert one.finished_at is None
    assert one.interruptions > 50
    assert found.ended_at - found.started_at > 4 * 30 * 3600.0
    assert one.why


def test_a_job_keeps_the_labels_and_kind_of_its_log() -> None:
    seen: list[tuple[object, ...]] = []

    @dataclass
    class Spy:
        name: str = "spy"
        kind: str = "policy"

        def decide(self, snapshot: Snapshot) -> Plan:
            seen.extend((w.ref.kind, w.ref.namespace, w.labels, w.hints.expected_seconds) for w in snapshot.workloads)
            return Plan(snapshot.now)

    told_too_much = TraceJob(
        "a", 0.0, 100.0, "team", job("x").pod_sets, kind="federatedworkload", namespace="ml", labels=(("team", "x"),),
        hint_known=True, hint_seconds=150.0,
    )  # fmt: skip
    silent = replace(told_too_much, name="b", hint_seconds=None)
    run(trace(told_too_much, silent), site(1), Spy())
    want = ("federatedworkload", "ml", (("team", "x"),))
    assert seen[:2] == [(*want, 150.0), (*want, None)]


def test_burst_after_a_wait_waits_that_long() -> None:
    waits = burst_at_once(burst=BurstRule(1800.0))
    found = run(trace(job("a"), job("b", arrival=60.0)), site(1), waits)
    assert told(found)["b"][0] == 60.0 + 1800.0 + 240.0
    assert found.jobs[1].burst
    assert found.jobs[1].last_pool == CLOUD
