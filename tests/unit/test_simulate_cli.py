"""`overspill simulate`: its options, its output, its exit statuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import policies
from scheduler.cli.main import invoke

ROOT = Path(policies.__file__).parent.parent
EXAMPLE = ROOT / "examples" / "simulate"
POLICIES = EXAMPLE / "policies"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def federation(tmp_path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((EXAMPLE / "federation.yaml").read_text())
    return found


def simulate(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = invoke(["simulate", *map(str, arguments)])
    told = capsys.readouterr()
    return status, told.out, told.err


def usual(
    tmp_path: Path, *, federation: Any = None, trace: str = "arrival_s,run_s,gpus\n0,600,1\n60,600,8\n"
) -> list[object]:
    """Arguments for a small trace over the example's federation, or another one, and the example's policies."""
    file = EXAMPLE / "federation.yaml"
    if federation is not None:
        file = write(tmp_path / "federation.yaml", yaml.safe_dump(federation))
    log = write(tmp_path / "jobs.csv", trace)
    return ["--federation", file, "--policies", POLICIES, "--trace", log]


def test_the_json_is_one_object_and_the_same_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        *usual(tmp_path), "--baseline", "threshold", "--baseline", "cheapest", "--bound", "--seed", 3, "--seed", 4,
        "--json",
    ]  # fmt: skip
    status, out, err = simulate(capsys, *arguments)
    assert status == 0
    assert out.count("\n") == 1
    found = json.loads(out)
    assert [run["kind"] for run in found["runs"]] == ["policy"] * 2 + ["baseline"] * 16 + ["bound"] * 2
    needed = {
        "name", "kind", "total_cost_usd", "cloud_spend_usd", "wait_mean_seconds", "wait_p95_seconds", "seed",
        "completion_mean_seconds", "completion_p95_seconds", "deadline_misses", "preemptions",
    }  # fmt: skip
    assert all(needed <= run.keys() for run in found["runs"])
    assert {run["seed"] for run in found["runs"]} == {3, 4}
    bound = found["runs"][-1]
    assert 0 < bound["total_cost_usd"] <= min(run["total_cost_usd"] for run in found["runs"])
    assert bound["wait_mean_seconds"] is None
    (policy,) = found["comparison"]["policies"]
    assert [each["baseline"].split()[0] for each in policy["against"]] == ["threshold", "cheapest"]
    assert all(each["saving_percent_mean"] is not None for each in policy["against"])
    assert policy["gap_to_bound_percent"] >= 0
    assert found["trace"]["jobs"] == 2
    assert found["federation"]["owned_nodes"] == {"onprem/a100": 2}
    assert found["value_of_time_from"] == "valueOfTime of policy value-of-time in policies"
    assert "run 19 of 19: bound" in err
    again = simulate(capsys, *arguments)
    assert again[1] == out


def test_another_process_gives_the_same_bytes(tmp_path: Path) -> None:
    """Nothing hangs on the order of a set: strings hash otherwise in each process."""
    command = [
        sys.executable, "-m", "scheduler.cli.main", "simulate", *map(str, usual(tmp_path)), "--baseline", "threshold",
        "--shortage-chance", "0.3", "--hint-spread", "0.5", "--json",
    ]  # fmt: skip
    told = [
        subprocess.run(
            command, capture_output=True, check=True, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert json.loads(told[0])["runs"]


def test_the_tables_name_every_run_and_mark_the_best(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = simulate(capsys, *usual(tmp_path), "--baseline", "all", "--bound")
    assert status == 0
    assert max(map(len, out.splitlines())) <= 80
    for name in (
        "policies",
        "burst-everything",
        "first-admitting",
        "onprem-only",
        "threshold 12h",
        "clairvoyant-bound",
    ):
        assert name in out
    assert any(line.startswith("* threshold") for line in out.splitlines())
    assert "What policies saves" in out
    assert "time is worth 1 USD per GPU-hour" in err


def test_the_report_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = simulate(capsys, *usual(tmp_path), "--report", tmp_path / "out.html")
    assert status == 0
    assert (tmp_path / "out.html").read_text().startswith("<!DOCTYPE html>")
    assert f"the report is in {tmp_path / 'out.html'}" in err


def test_several_policy_folders_are_compared_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "proposed" / "p.yaml", (POLICIES / "value-of-time.yaml").read_text().replace("1.00", "9.00"))
    _, out, _ = simulate(capsys, *usual(tmp_path), "--policies", tmp_path / "proposed", "--json")
    found = json.loads(out)
    assert [run["name"] for run in found["runs"]] == ["policies", "proposed"]
    assert found["comparison"]["value_of_time"] == {"usd_per_hour": 0.0, "usd_per_gpu_hour": 1.0}
    assert len(set(found["policies"].values())) == 2


def test_nodes_window_and_assumptions_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = "arrival_s,run_s,gpus\n0,600,1\n90000,600,1\n180000,600,1\n"
    _, out, _ = simulate(
        capsys, *usual(tmp_path, trace=log), "--nodes", "onprem/a100=5", "--from", 1, "--days", 1,
        "--value-usd-per-hour", 2, "--pool-reclaims", "eks/p4d-spot=0.2", "--start-seconds", 30, "--json",
    )  # fmt: skip
    found = json.loads(out)
    assert found["federation"]["owned_gpus"] == 40
    assert (found["trace"]["jobs"], found["trace"]["last_arrival_seconds"]) == (1, 3600.0)
    assert found["assumptions"]["pool_reclaims_per_hour"] == {"eks/p4d-spot": 0.2}
    assert found["value_of_time_from"] == "the command line"
    (run,) = found["runs"]
    assert run["completion_mean_seconds"] == 630.0
    assert run["total_cost_usd"] == pytest.approx(2 * 630 / 3600)


WRONG: list[tuple[list[str], str]] = [
    (["--nodes", "onprem/h100=2"], "--nodes onprem/h100: the federation has no such pool; did you mean onprem/a100?"),
    (["--nodes", "onprem"], "--nodes 'onprem': write it as CLUSTER/POOL=NUMBER, such as onprem/a100=12"),
    (["--nodes", "onprem/a100=-1"], "'-1' is no number of nodes from 0 to 100000"),
    (["--nodes", "eks/p4d=4"], "--nodes eks/p4d: is bought when it is needed; its maxNodes in the federation file"),
    (["--pool-reclaims", "eks/p4d-spot=x"], "'x' is no rate from 0 to 3600"),
    (["--pool-reclaims", "eks/p5=1"], "--pool-reclaims eks/p5: the federation has no such pool; there are eks/p4d, "),
    (["--baseline", "chepest"], "no baseline 'chepest'; there are burst-everything, cheapest"),
    (["--trace", "missing.csv"], "missing.csv: no such file"),
    (["--policies", "missing"], "missing: no such folder of policy files"),
    (["--policies", str(POLICIES)], "--policies names the same folder twice"),
    (["--federation", "missing.yaml"], "missing.yaml: no such federation file"),
    (["--history"], "give either --trace FILE or --history"),
    (["--from", "400"], "no job arrives in that window; the last one arrives on day 0.00"),
    (["--queue", "defalt"], "--queue defalt: jobs.csv has no job of such a queue; did you mean default?"),
    (["--slice", "nan"], "Invalid value for '--slice'"),
    (["--slice", "0"], "Invalid value for '--slice'"),
    (["--from", "inf"], "first_day: inf is no number that can be used"),
    (["--hint-spread", "nan"], "Invalid value for '--hint-spread'"),
    (["--shortage-chance", "1.5"], "Invalid value for '--shortage-chance'"),
    (["--report", "no/such/folder/out.html"], "--report no/such/folder/out.html: there is no such folder"),
    (["--since", "yesterday"], "not a duration; write for example 10m, 1h30m or 24h"),
    (["--nodes", "onprem/a100=0", "--federation", "ZERO"], "the federation has no capacity: give it some"),
    (["--federation", "UNPRICED"], "no pool that can be bought has a price, so that nothing can be compared: add"),
    (["--trace", "EMPTY"], "holds no job"),
    (["--trace", "OTHER"], "no known job log has these columns; known are gavel: model,batch_size"),
    (["--trace", "ABSURD"], "run_s: '1e99' is not a number from 0.001 to"),
    (["--trace", "HUGE"], "1 of 2 jobs can never run in this federation (big: one of its pods asks for 64 GPUs"),
    (["--trace", "ALLHUGE"], "1 of 1 jobs can never run in this federation"),
]  # fmt: skip
LOGS = {
    "EMPTY": "arrival_s,run_s\n",
    "OTHER": "when,what\n1,2\n",
    "ABSURD": "arrival_s,run_s\n0,1e99\n",
    "HUGE": "name,arrival_s,run_s,gpus\nbig,0,60,64\nsmall,0,60,1\n",
    "ALLHUGE": "name,arrival_s,run_s,gpus\nbig,0,60,64\n",
}


@pytest.mark.parametrize(("more", "want"), WRONG, ids=[" ".join(more) for more, _ in WRONG])
def test_input_that_cannot_be_used_is_one_clear_line_and_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], federation: dict[str, Any], more: list[str], want: str
) -> None:
    members = federation["spec"]["members"]
    zero = {**federation, "spec": {"members": members[:1]}}
    bare = [{key: value for key, value in pool.items() if key != "price"} for pool in members[1]["pools"]]
    unpriced = {**federation, "spec": {"members": [members[0], {**members[1], "pools": bare}]}}
    files = {
        "ZERO": write(tmp_path / "zero.yaml", yaml.safe_dump(zero)),
        "UNPRICED": write(tmp_path / "unpriced.yaml", yaml.safe_dump(unpriced)),
        **{name: write(tmp_path / f"{name}.csv", text) for name, text in LOGS.items()},
    }
    status, out, err = simulate(capsys, *usual(tmp_path), *[files.get(each, each) for each in more])
    assert (status, out) == (2, "")
    assert want in err
    assert err.splitlines()[-1].startswith("overspill: ")


def test_a_policy_folder_with_mistakes_tells_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = write(tmp_path / "bad" / "p.yaml", (POLICIES / "value-of-time.yaml").read_text().replace("burst:", "brust:"))
    status, _, err = simulate(capsys, *usual(tmp_path), "--policies", bad.parent)
    assert status == 2
    assert 'unknown key "brust" in spec; did you mean "burst"?' in err
    assert f"overspill: {bad.parent} holds no usable policies" in err
    queues = write(
        tmp_path / "q" / "q.yaml", "apiVersion: overspill.dev/v1alpha1\nkind: Queue\nmetadata: {name: q}\nspec: {}\n"
    )
    status, _, err = simulate(capsys, *usual(tmp_path), "--policies", queues.parent)
    assert status == 2
    assert "no PlacementPolicy in it, so that nothing would ever be placed" in err


def test_jobs_that_fit_nowhere_can_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = simulate(capsys, *usual(tmp_path, trace=LOGS["HUGE"]), "--leave-out-impossible", "--json")
    assert status == 0
    assert [each["job"] for each in json.loads(out)["trace"]["left_out"]] == ["big"]
    assert "they are left out" in err


def test_policies_under_which_nothing_may_run_are_told_and_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (POLICIES / "value-of-time.yaml").read_text() + "  match:\n    queues: [nobody]\n"
    folder = write(tmp_path / "nobody" / "p.yaml", text).parent
    arguments = usual(tmp_path)
    arguments[3] = folder
    status, out, err = simulate(capsys, *arguments, "--json")
    assert status == 1
    (run,) = json.loads(out)["runs"]
    assert (run["finished"], run["comparable"]) == (0, False)
    assert run["unfinished"][0]["jobs"] == 2
    assert "nobody, seed 0: 2 jobs never ended (job-000000, job-000001): no placement policy matches it" in err


def test_an_unpriced_pool_among_others_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], federation: dict[str, Any]
) -> None:
    del federation["spec"]["members"][1]["pools"][0]["price"]
    status, _, err = simulate(capsys, *usual(tmp_path, federation=federation))
    assert status == 0
    assert "warning: eks/p4d: no price (add price.usdPerHour); runs that buy there are not compared" in err


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = simulate(
        capsys,
        "--federation",
        EXAMPLE / "federation.yaml",
        "--policies",
        POLICIES,
        "--trace",
        EXAMPLE / "jobs.csv",
        "--json",
    )
    (run,) = json.loads(out)["runs"]
    assert (status, run["finished"]) == (0, 60)


def test_a_second_policy_set_is_compared_with_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    later = write(tmp_path / "later" / "a.yaml", (POLICIES / "value-of-time.yaml").read_text().replace(
        '"1.00"', '"100.00"')).parent  # fmt: skip
    log = "arrival_s,run_s,gpus\n" + "0,36000,8\n" * 3
    arguments = [*usual(tmp_path, trace=log), "--policies", later]
    status, out, _ = simulate(capsys, *arguments, "--json")
    found = json.loads(out)
    assert status == 0
    runs = {run["name"]: run for run in found["runs"]}
    (change,) = found["comparison"]["changes"]
    assert (change["first"], change["name"]) == ("policies", "later")
    for measure in ("total_cost_usd", "cloud_spend_usd", "wait_mean_seconds", "wait_p95_seconds"):
        assert change[measure] == pytest.approx(runs["later"][measure] - runs["policies"][measure])
    assert change["wait_p95_seconds"] < 0 < change["cloud_spend_usd"], "the third does not wait any more"
    status, out, _ = simulate(capsys, *arguments)
    assert "What changes from policies" in out
    assert "no baseline" not in out
    _, out, _ = simulate(capsys, *usual(tmp_path, trace=log), "--json")
    assert json.loads(out)["comparison"]["changes"] == []


def test_what_cannot_be_compared_is_no_change(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    none = write(tmp_path / "none" / "a.yaml", (POLICIES / "value-of-time.yaml").read_text().replace(
        "burst: {}", "constraints: {capacityTypes: [spot]}")).parent  # fmt: skip
    _, out, _ = simulate(capsys, *usual(tmp_path), "--policies", none, "--json")
    found = json.loads(out)
    assert found["runs"][1]["unfinished"]
    (change,) = found["comparison"]["changes"]
    assert {change[key] for key in change.keys() - {"name", "first"}} == {None}
