"""Replays of requests: the world's own rules, what comes of it, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from scheduler.cli.main import invoke
from scheduler.engine.serving.slots import Slot
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId
from scheduler.model.serving import TrafficWeight
from scheduler.model.serving_policy import RolloutRule, ScalingRule, ServingSLO
from scheduler.simulate.requests import read_requests, request_reader_names
from scheduler.simulate.serving.deciders import Engine, Hpa, HpaRule, Static, ThresholdBurst
from scheduler.simulate.serving.log import RequestLog, located, peak_load, request_log, scaled
from scheduler.simulate.serving.measures import late, measure
from scheduler.simulate.serving.replay import Happening, Rollout, ServingRun, replay
from scheduler.simulate.serving.site import ServingPool, ServingSite
from scheduler.simulate.serving.study import ServingFindings, ServingStudy, savings
from scheduler.simulate.serving.world import ServingWorld
from tests.builders.serving import a_pool

ONPREM, AWS = ClusterId("onprem"), ClusterId("aws")
SLO = ServingSLO(
    "s", p95_first_token_seconds=2.0, scaling=ScalingRule(confidence=0.8, down_after_seconds=120.0, down_step=0.3)
)


def a_site(owned: int = 6, **changes: float) -> ServingSite:
    pools = (
        ServingPool(a_pool("aws/g5"), "aws", "us-1", "A10G", "on-demand", Decimal("1.0"), 40, 60.0, 1.0),
        ServingPool(a_pool("onprem/a10"), "onprem", "eu-1", "A10G", "owned", Decimal("0.5"), owned, 0.0, 1.0),
    )
    return replace(ServingSite(pools, load_seconds=20.0, spread=0.0), **changes)  # type: ignore[arg-type]


def a_log(*phases: tuple[float, float], seed: int = 1, service: float = 1.0) -> RequestLog:
    """(seconds, requests per second) one after the other; service times with a mean of `service`."""
    rng = np.random.default_rng(seed)
    at: list[float] = []
    begin = 0.0
    for seconds, rate in phases:
        at.extend(begin + rng.uniform(0.0, seconds, rng.poisson(seconds * rate)))
        begin += seconds
    times = rng.gamma(4.0, service / 4.0, len(at)) + 0.01
    return request_log("drawn", [(when, took, "eu", 1.0) for when, took in zip(sorted(at), times, strict=True)],
                       located=True)  # fmt: skip


def test_one_replica_serves_one_request_after_the_other() -> None:
    log = request_log("l", [(0.0, 10.0, "eu", 1.0), (1.0, 10.0, "eu", 1.0)], located=True)
    world = ServingWorld(log, a_site(), seed=0)
    slot = Slot(a_pool("onprem/a10"), "r1")
    world.obey({slot: 1}, (TrafficWeight(ONPREM, "r1", 1000),))
    world.run_until(100.0)
    assert world.began.tolist() == [20.0, 30.0]  # it takes 20 s to load
    assert world.ended.tolist() == [30.0, 40.0]
    world.obey({}, ())
    world.close()
    assert world.accounts[slot.pool].seconds == 100.0


def test_what_is_given_up_ends_its_request_and_what_is_lost_does_not() -> None:
    log = request_log("l", [(30.0, 50.0, "eu", 1.0), (31.0, 50.0, "eu", 1.0)], located=True)
    world = ServingWorld(log, a_site(), seed=0)
    here, there = Slot(a_pool("onprem/a10"), "r1"), Slot(a_pool("aws/g5"), "r1")
    world.obey({here: 1, there: 1}, (TrafficWeight(ONPREM, "r1", 1000),))
    world.run_until(40.0)
    world.obey({there: 1}, (TrafficWeight(AWS, "r1", 1000),))
    assert world.counts() == {there: (1, 0)}
    world.run_until(85.0)
    assert world.ended[0] == 80.0  # on the one that was given up
    assert world.began[1] == 80.0  # moved on: where it waited nobody was left
    world.lose(AWS)
    world.obey({here: 1}, (TrafficWeight(ONPREM, "r1", 1000),))
    world.run_until(300.0)
    assert world.ended[1] == 85.0 + 20.0 + 50.0  # done again from its beginning


@pytest.fixture(scope="module")
def ramp() -> RequestLog:
    """Calm, then three times what is owned, then calm."""
    return a_log((600.0, 2.0), (1200.0, 14.0), (1200.0, 2.0))


@pytest.fixture(scope="module")
def engine_run(ramp: RequestLog) -> ServingRun:
    return replay(ramp, a_site(), SLO, Engine("engine", use_milp=False), cycle_seconds=15.0)


@pytest.fixture(scope="module")
def baseline_runs(ramp: RequestLog) -> tuple[ServingRun, ServingRun]:
    hpa = replay(ramp, a_site(), SLO, Hpa(HpaRule(0.7)), cycle_seconds=15.0)
    return hpa, replay(ramp, a_site(20), SLO, Static(40), cycle_seconds=15.0)


def test_it_bursts_when_owned_capacity_is_full_and_returns(engine_run: ServingRun) -> None:
    def cloud(first: float, last: float) -> list[int]:
        return [m.replicas.get("aws/g5", 0) for m in engine_run.moments if first <= m.at < last]

    assert max(cloud(0.0, 600.0)) <= 2
    assert max(cloud(900.0, 1800.0)) >= 8
    assert max(cloud(2700.0, 3000.0)) == 0
    assert np.isfinite(engine_run.world.ended).all()


def test_it_misses_less_than_owned_capacity_alone_and_costs_less_than_the_peak(
    engine_run: ServingRun, baseline_runs: tuple[ServingRun, ServingRun]
) -> None:
    ours = measure(engine_run)
    hpa, even = map(measure, baseline_runs)
    assert ours.minutes_out < hpa.minutes_out / 3
    assert ours.cost_usd < even.cost_usd / 2
    assert even.minutes_out <= 2  # until its replicas are ready
    assert even.changes_per_hour < ours.changes_per_hour


def test_the_same_seed_gives_the_same_bytes(ramp: RequestLog) -> None:
    site = a_site(spread=0.3)
    runs = [
        replay(ramp.window(0.0, 900.0), site, SLO, Engine("e"), seed=seed, cycle_seconds=30.0) for seed in (1, 1, 2)
    ]
    shown = [repr((run.moments, measure(run).as_json(), run.world.ended.tobytes())) for run in runs]
    assert shown[0] == shown[1]
    assert shown[0] != shown[2]


def test_a_lost_cluster_is_made_up_for_within_two_cycles_and_the_load_time() -> None:
    log, cycle = a_log((1500.0, 4.0)), 15.0
    site = a_site(owned=20)
    pools = (replace(site.pools[0], usd_per_replica_hour=Decimal("0.1"), provisioning_seconds=0.0), site.pools[1])
    run = replay(
        log, replace(site, pools=pools), SLO, Engine("e", use_milp=False), cycle_seconds=cycle,
        happening=Happening(lose=((900.0, AWS),)),
    )  # fmt: skip
    before = next(m for m in reversed(run.moments) if m.at < 900.0)
    assert before.replicas["aws/g5"] >= 5
    back = next(m.at for m in run.moments if m.at > 900.0 and (m.capacity_per_second or 0.0) >= m.demand_per_second)
    assert back - 900.0 <= 2 * cycle + site.load_seconds
    assert run.moments[-1].replicas.get("aws/g5", 0) == 0


@pytest.mark.parametrize(("slower", "want"), [(1.3, ("r2",)), (1.0, ())])
def test_a_slower_canary_is_taken_back_and_a_healthy_one_is_not(slower: float, want: tuple[str, ...]) -> None:
    engine = Engine("e", use_milp=False)
    slo = replace(SLO, rollout=RolloutRule(steps=(0.3, 1.0)))
    log = a_log((1200.0, 12.0), seed=3)
    run = replay(
        log, a_site(30), slo, engine, cycle_seconds=15.0, happening=Happening(rollout=Rollout(400.0, "r2", slower))
    )
    assert engine.memory.rejected == want
    begun = next(m.at for m in run.moments if m.shares.get("r2", 0.0) > 0)
    if want:
        gone = next(m.at for m in run.moments if m.at > begun and not m.shares.get("r2", 0.0))
        assert gone - begun <= 300.0


def test_threshold_bursting_uses_owned_capacity_first(ramp: RequestLog) -> None:
    run = replay(ramp, a_site(), SLO, ThresholdBurst(HpaRule(0.7)), cycle_seconds=30.0)
    rented = [m for m in run.moments if m.replicas.get("aws/g5", 0) and m.at < 1800.0]
    assert all(m.replicas["onprem/a10"] == 6 for m in rented)
    assert max(m.replicas.get("aws/g5", 0) for m in run.moments) >= 10


def test_late_counts_the_way_from_the_client() -> None:
    log = request_log("l", [(50.0, 1.0, "asia", 1.0)], located=True)
    ways = MappingProxyType({("asia", ONPREM): 3.0})
    site = a_site(latency=ways)  # type: ignore[arg-type]
    world = ServingWorld(log, site, seed=0)
    world.obey({Slot(a_pool("onprem/a10"), "r1"): 1}, (TrafficWeight(ONPREM, "r1", 1000),))
    world.run_until(100.0)
    run = ServingRun("d", "policy", 0, world, SLO, (), 0, {})
    assert late(run).tolist() == [True]
    assert late(replace(run, slo=replace(SLO, p95_first_token_seconds=3.1))).tolist() == [False]


def test_scaling_keeps_the_shape() -> None:
    log = a_log((3600.0, 0.2), (600.0, 2.0), (3600.0, 0.2))
    larger = scaled(log, 10.0, seed=1)
    assert len(larger) == pytest.approx(10 * len(log), rel=0.05)
    assert peak_load(larger) == pytest.approx(10 * peak_load(log), rel=0.25)
    assert (np.diff(larger.at) >= 0).all()
    with pytest.raises(InvalidObjectError, match="too many"):
        scaled(log, 1e7, seed=1)


def test_the_same_client_is_always_in_the_same_place() -> None:
    log = request_log("l", [(float(n), 1.0, f"user{n % 50}", 1.0) for n in range(200)])
    spread = located(log, (("eu", 0.5), ("us", 0.5)))
    assert spread.clients == ("eu", "us")
    assert (spread.client[:50] == spread.client[50:100]).all()
    assert 40 < int((spread.client == 0).sum()) < 160


READ = {
    "genai_requests": "t_s,exec_time_seconds,groupId\n5,30,G1\n3,20,G2\n9,,G1\n",
    "genai_qps": "t_s,pod,kind,qps\n57,1,gen,0.5\n57,1,api,9\n114,1,gen,0\n",
    "genai_latency_events": "metric,t_s,pod,ms\ne2e,50,1,20000\nbase,50,1,3000\n",
    "requests": "t_s,service_s,region\n5,1.5,eu\n2,,us\n",
}


@pytest.mark.parametrize("name", sorted(READ))
def test_each_reader(name: str, tmp_path: Path) -> None:
    assert set(READ) == set(request_reader_names())
    path = tmp_path / f"{name}.csv"
    path.write_text(READ[name])
    log = read_requests(path)
    want = {
        "genai_requests": ([3.0, 5.0], [20.0, 30.0], [1.0, 1.0]),
        "genai_qps": ([57.0], None, [28.5]),
        "genai_latency_events": ([30.0], [20.0], [1.0]),
        "requests": ([2.0, 5.0], None, [1.0, 1.0]),
    }[name]
    assert log.at.tolist() == want[0]
    assert want[1] is None or log.service_seconds.tolist() == want[1]
    assert log.weight.tolist() == want[2]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a,b\n1,2\n", "no known request log has these columns"),
        ("t_s,service_s,region\n", "holds no request"),
        ("t_s,service_s,region\nx,1,eu\n", ":2: t_s: 'x' is not a number"),
        ("t_s,service_s,region\n1,-1,eu\n", ":2: service_s: '-1' is not a number"),
    ],
)
def test_a_log_that_cannot_be_used_is_told_with_its_place(text: str, want: str, tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(text)
    with pytest.raises(InvalidObjectError, match=want):
        read_requests(path)


def test_savings_compare_at_no_more_misses(
    ramp: RequestLog, engine_run: ServingRun, baseline_runs: tuple[ServingRun, ServingRun]
) -> None:
    study = ServingStudy(ramp, a_site(), (("engine", SLO),))
    runs = (engine_run, *baseline_runs)
    findings = ServingFindings(study, runs, tuple(map(measure, runs)))
    found = {one["baseline"]: one for one in savings(findings)}
    assert found["onprem-hpa"]["setting"] is None  # misses more
    assert found["static-even"]["saved_percent"] is None or found["static-even"]["saved_percent"] > 50


SITE = Path("tests/bench/serving_site")


def test_the_command_ends_in_one_json_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "l.csv"
    rows = [f"{at * 3},4,eu" for at in range(40)]
    log.write_text("t_s,service_s,region\n" + "\n".join(rows) + "\n")
    command = ["simulate", "--requests", str(log), "--federation", str(SITE / "federation.yaml"),
               "--policies", str(SITE / "slo"), "--baseline", "onprem-hpa", "--peak-replicas", "6",
               "--client-latency", "eu:gke=0.1", "--report", str(tmp_path / "r.html"), "--json"]  # fmt: skip
    assert invoke(command) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [run["kind"] for run in found["runs"]] == ["policy", "baseline", "baseline"]
    assert found["requests"]["scaled_by"] > 1
    page = (tmp_path / "r.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert page.count("<svg ") == 3
    assert "http://" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("more", "want"),
    [
        (["--baseline", "nope"], "--baseline nope: no such baseline of serving"),
        (["--gpu-speed", "L4"], "--gpu-speed L4: write MODEL=FACTOR"),
        (["--client-latency", "eu:mars=1"], "--client-latency mars: there are eks, gke, onprem"),
        (["--lose", "mars=3"], "--lose mars: there are"),
        (["--history"], "give either --requests FILE, --trace FILE or --history"),
        (["--from", "99"], "no request from second"),
    ],
)
def test_mistakes_on_the_command_line(
    more: list[str], want: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "l.csv"
    log.write_text("t_s,service_s,region\n1,1,eu\n")
    command = ["simulate", "--requests", str(log), "--federation", str(SITE / "federation.yaml"),
               "--policies", str(SITE / "slo"), *more]  # fmt: skip
    assert invoke(command) == 2
    assert want in " ".join(capsys.readouterr().err.split())
