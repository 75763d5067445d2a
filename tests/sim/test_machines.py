"""Machines of a replay: orders, shortages, reclaims, and what a job loses by them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from scheduler.model.money import cost_usd
from scheduler.model.resources import Resources
from scheduler.simulate.assumptions import Assumptions, draw, exponential
from scheduler.simulate.machines import MachinePool
from tests.sim.worlds import EXACT, burst_at_once, job, run, site, spot_pool, told, trace
from tests.unit.engine_world import bought_pool, pool

RECLAIMED_OFTEN = replace(EXACT, spot_reclaims_per_hour=0.5)


def test_ordered_machines_come_after_the_pools_own_time() -> None:
    machines = MachinePool(bought_pool("cloud", "od", provisioning_seconds=240.0), EXACT)
    assert machines.resize(2, now=100.0)
    assert machines.arriving == {1: 340.0, 2: 340.0}
    first = machines.arrive(1)
    assert first is not None
    assert (first.created_at, first.reclaimed_at, machines.desired) == (340.0, None, 2)
    assert machines.resize(1, now=200.0)
    assert (machines.arriving, machines.desired, machines.arrive(2)) == ({}, 1, None)


def test_a_machine_that_is_there_is_never_taken_by_size() -> None:
    machines = MachinePool(pool("onprem", "a100"), EXACT)
    machines.own(2, now=0.0)
    machines.resize(0, now=0.0)
    assert (len(machines.machines), machines.desired) == (2, 2)


@pytest.mark.parametrize(
    ("spread", "want_least", "want_most"), [(0.0, 240.0, 240.0), (0.25, 240 * 0.47, 240 * 2.12), (1.0, 11.0, 4900.0)]
)
def test_provisioning_times_lie_about_the_pools_own(spread: float, want_least: float, want_most: float) -> None:
    machines = MachinePool(bought_pool("cloud", "od", max_nodes=200), replace(EXACT, provisioning_spread=spread))
    machines.resize(200, now=0.0)
    times = list(machines.arriving.values())
    assert want_least <= min(times) <= 240.0 <= max(times) <= want_most


def test_a_pool_that_cannot_deliver_says_so_for_a_while() -> None:
    machines = MachinePool(bought_pool("cloud", "od"), replace(EXACT, shortage_chance=1.0, shortage_seconds=600.0))
    assert not machines.resize(1, now=50.0)
    shown = machines.shown(50.0)
    assert (machines.desired, machines.arriving) == (0, {})
    assert shown.shortage is not None
    assert (shown.shortage.kind, shown.shortage.since) == ("capacity", 50.0)
    assert machines.shown(650.0).shortage is None


@pytest.mark.parametrize(
    ("free", "pod", "want"),
    [
        (Resources(8000, 100, 8, 10), Resources(1000, 10, 1, 1), 8),
        (Resources(8000, 100, 8, 10), Resources(3000, 10, 1, 1), 2),
        (Resources(8000, 25, 8, 10), Resources(1000, 10, 1, 1), 2),
        (Resources(8000, 100, 0, 10), Resources(1000, 10, 1, 1), 0),
        (Resources(8000, 100, 8, 1), Resources(1000, 10, 1, 1), 1),
        (Resources(8000, 100, 8, 10, (("rdma", 1),)), Resources(1, 1, 1, 1, (("rdma", 1),)), 1),
        (Resources(8000, 100, 8, 10), Resources(1, 1, 1, 1, (("rdma", 1),)), 0),
    ],
)
def test_room_is_what_the_scarcest_resource_leaves(free: Resources, pod: Resources, want: int) -> None:
    machines = MachinePool(pool("onprem", "a100", node_resources=free), EXACT)
    machines.own(1, now=0.0)
    (machine,) = machines.machines.values()
    assert machine.room_for(pod, 99) == want


def test_the_same_machine_meets_the_same_fate_whatever_else_is_drawn() -> None:
    spot = spot_pool(max_nodes=50)
    one = MachinePool(spot, RECLAIMED_OFTEN)
    other = MachinePool(spot, RECLAIMED_OFTEN)
    one.resize(3, now=0.0)
    for size in (1, 2, 3):
        other.resize(size, now=0.0)
    assert one.arriving == other.arriving
    ends = [machine.reclaimed_at for number in (1, 2, 3) if (machine := one.arrive(number)) is not None]
    again = [machine.reclaimed_at for number in (3, 2, 1) if (machine := other.arrive(number)) is not None]
    assert ends == again[::-1]
    assert len(set(ends)) == 3


def test_draws_are_even_and_reclaims_come_at_the_rate_that_is_assumed() -> None:
    numbers = [draw(7, "x", index) for index in range(4000)]
    assert 0.48 < sum(numbers) / len(numbers) < 0.52
    times = [exponential(7200.0, uniform=number) for number in numbers]
    assert 6900 < sum(times) / len(times) < 7500


def _one_reclaim(checkpoint: float | None) -> tuple[float, float, float, int]:
    """(seconds that its first machine gave it, work lost, seconds to the end, interruptions) of a 2 h job on spot. Its
    first machine is reclaimed after 71 minutes with this seed, its second lasts."""
    found = run(
        trace(job("a", run=7200.0, checkpoint_seconds=checkpoint)),
        site(0, spot_pool()),
        assumptions=replace(RECLAIMED_OFTEN, seed=18),
    )
    first = min(found.machines, key=lambda each: each.created_at)
    (one,) = found.jobs
    assert one.first_started_at is not None
    return first.ended_at - one.first_started_at, one.lost_seconds, (told(found)["a"][1] or 0.0), one.interruptions


def test_without_checkpoints_a_reclaim_loses_all_work() -> None:
    ran, lost, end, interruptions = _one_reclaim(None)
    assert interruptions == 1
    assert ran < 7200
    assert lost == pytest.approx(ran)
    # Two provisionings of 240 s, the time lost, the restart, the whole run.
    assert end == pytest.approx(240 + ran + 240 + 60 + 7200)


def test_with_checkpoints_a_reclaim_loses_what_came_after_the_last_one() -> None:
    ran, lost, end, interruptions = _one_reclaim(600.0)
    assert interruptions == 1
    assert lost == pytest.approx(ran % 600)
    assert end == pytest.approx(240 + ran + 240 + 60 + 7200 - (ran - ran % 600))


def test_a_reclaim_while_it_starts_up_loses_nothing() -> None:
    slow = replace(EXACT, start_seconds=1e6, pool_reclaims_per_hour={"cloud/spot": 0.5})
    found = run(trace(job("a", run=100.0)), site(0, spot_pool(max_nodes=1)), assumptions=slow)
    (one,) = found.jobs
    assert one.interruptions > 1
    assert one.lost_seconds == 0.0


def test_spend_is_the_sum_over_machines_to_the_nano_dollar() -> None:
    jobs = [job(f"j{index}", arrival=index * 700.0, run=1000.0 + 371.3 * index, gpus=5) for index in range(12)]
    found = run(
        trace(*jobs), site(1, spot_pool(), bought_pool("cloud", "od")), assumptions=RECLAIMED_OFTEN,
        meters_budgets=True,
    )  # fmt: skip
    rates = {"spot": Decimal(8), "on-demand": Decimal(16)}
    want = [cost_usd(rates[each.capacity_type], each.ended_at - each.created_at) for each in found.machines]
    assert [each.usd for each in found.machines] == want
    assert sum(bucket.usd for bucket in found.spend) == sum(want)


def test_machines_that_never_come_are_not_waited_for_for_ever() -> None:
    found = run(trace(job("a")), site(0), assumptions=replace(EXACT, shortage_chance=1.0))
    (one,) = found.jobs
    assert (one.finished_at, found.machines) == (None, [])
    assert one.why


def test_a_pool_with_a_minimum_does_not_keep_a_replay_going() -> None:
    found = run(
        trace(job("a", run=600.0)), site(0, spot_pool(min_nodes=1, max_nodes=2)), burst_at_once(), RECLAIMED_OFTEN
    )
    assert told(found)["a"] == (240.0, 840.0)
    assert all(machine.ended_at - found.started_at < 2 * 86400 for machine in found.machines)


def test_assumed_reclaims_by_pool_win_over_the_general_rate() -> None:
    assumed = Assumptions(spot_reclaims_per_hour=0.1, pool_reclaims_per_hour={"cloud/spot": 0.7})
    assert assumed.reclaims_per_hour(spot_pool()) == 0.7
    assert assumed.reclaims_per_hour(spot_pool("other")) == 0.1
    assert assumed.reclaims_per_hour(bought_pool("cloud", "od")) == 0.0
