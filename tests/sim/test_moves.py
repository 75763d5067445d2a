"""Runs leave bought nodes when that pays, in a replay, and what it saves and costs is counted."""

from __future__ import annotations

from decimal import Decimal

from scheduler.model.policy import DisruptionRule, PolicySet, ReturnRule, ValueOfTime
from scheduler.simulate.measures import measure
from scheduler.simulate.record import RunRecord
from scheduler.simulate.trace import Trace
from tests.sim.worlds import A_DOLLAR, CLOUD, ONPREM, burst_at_once, job, run, site, told, trace
from tests.unit.engine_world import bought_pool

HOUR = 3600.0
BURST_AND_BACK = trace(
    job("first", run=HOUR),
    job("second", run=6 * HOUR, checkpoint_seconds=600.0),
)
"""The second bursts (16 USD an hour), and on-prem is free after an hour."""


def policies(moves: bool = True, at_once: int = 4, **changes: object) -> PolicySet:
    rule = ReturnRule(moves=moves)
    return burst_at_once(give_back=rule, disruption=DisruptionRule(moves_at_once=at_once), **changes)


def moves_of(record: RunRecord) -> dict[str, int]:
    return {each.job.name: each.moves for each in record.jobs}


def spent(record: RunRecord) -> float:
    return measure(record, A_DOLLAR).cloud_spend_usd


def test_a_run_comes_back_when_its_own_cluster_is_free_again() -> None:
    found, stayed = run(BURST_AND_BACK, site(1), policies()), run(BURST_AND_BACK, site(1), policies(moves=False))
    assert moves_of(found) == {"first": 0, "second": 1}
    second = next(each for each in found.jobs if each.job.name == "second")
    assert second.last_pool == ONPREM
    # It started when its node was there, after 240 s, and had done 3360 s of work, 360 of them since its checkpoint.
    assert (second.lost_seconds, second.preemptions) == (360.0, 0)
    assert told(found)["second"] == (240.0, HOUR + 60.0 + 6 * HOUR - 3000.0)
    assert told(stayed)["second"] == (240.0, 240.0 + 6 * HOUR)
    # An hour of the node and five idle minutes, instead of six hours.
    assert spent(found) < spent(stayed) / 4
    assert measure(found, A_DOLLAR).moves == 1


def test_nothing_is_moved_that_makes_no_checkpoints() -> None:
    log = trace(job("first", run=HOUR), job("second", run=6 * HOUR))
    assert moves_of(run(log, site(1), policies())) == {"first": 0, "second": 0}


def test_nothing_is_moved_shortly_before_its_end() -> None:
    log = trace(job("first", run=HOUR), job("second", run=HOUR + 120.0, checkpoint_seconds=1800.0))
    assert moves_of(run(log, site(1), policies())) == {"first": 0, "second": 0}


def test_who_waits_comes_before_who_returns() -> None:
    log = trace(
        job("first", run=HOUR),
        job("second", run=6 * HOUR, checkpoint_seconds=600.0),
        job("waiting", arrival=600.0, run=6 * HOUR),
    )
    found = run(log, site(1, bought_pool("cloud", "od", max_nodes=1)), policies())
    assert told(found)["waiting"][0] == HOUR
    assert moves_of(found)["second"] == 0


def test_time_that_is_worth_more_than_the_node_keeps_it_where_it_is() -> None:
    worth = ValueOfTime(usd_per_gpu_hour=Decimal(100))
    log = trace(job("first", run=HOUR), job("second", run=2 * HOUR, checkpoint_seconds=1800.0))
    assert moves_of(run(log, site(1), policies(value_of_time=worth))) == {"first": 0, "second": 0}


def halves(count: int) -> Trace:
    """Pairs of half a node, of which one ends early: half-empty nodes are left."""
    short = [job(f"{i}-short", run=HOUR, gpus=4) for i in range(count)]
    long = [job(f"{i}-long", run=10 * HOUR, gpus=4, checkpoint_seconds=600.0) for i in range(count)]
    return trace(*short, *long)


def test_half_empty_nodes_are_joined() -> None:
    found, stayed = run(halves(4), site(0), policies()), run(halves(4), site(0), policies(moves=False))
    moved = sum(moves_of(found).values())
    assert moved >= 1
    assert all(each.last_pool == CLOUD for each in found.jobs)
    # Two full nodes do what four half-empty ones did.
    assert spent(found) < 0.75 * spent(stayed)
    assert all(each.finished_at is not None for each in found.jobs)


def test_the_limit_on_moves_holds_and_zero_stops_them() -> None:
    assert sum(moves_of(run(halves(4), site(0), policies(at_once=0))).values()) == 0


def test_the_same_seed_gives_the_same_replay() -> None:
    assert repr(run(halves(4), site(1), policies()).jobs) == repr(run(halves(4), site(1), policies()).jobs)
