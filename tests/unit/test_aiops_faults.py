"""Planted faults: the scenario file, the study at a smaller size, the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from policies.errors import PolicyErrors
from scheduler.aiops.findings import Subject, Table
from scheduler.aiops.monitor import View, look, new_monitor, rearranged
from scheduler.aiops.topology import Topology
from scheduler.cli.injection import run as inject
from scheduler.cli.main import app
from scheduler.cli.output import CommandError
from scheduler.model.errors import InvalidObjectError
from scheduler.simulate.faults.fault import RULE, STATISTICAL
from scheduler.simulate.faults.kinds import KINDS, NAMED
from scheduler.simulate.faults.scenario import PlantedFault, Scenario, load
from scheduler.simulate.faults.scoring import described, score, together
from scheduler.simulate.faults.study import read_recorded, run

HEAD = "apiVersion: overspill.dev/v1alpha1\nkind: FaultScenario\n"
EXAMPLE = Path(__file__).parents[2] / "examples" / "fault-scenario.yaml"
TRACE = Path(__file__).parents[3] / "shared" / "data" / "traces" / "genai_pod_gpu.csv.gz"
SMALL = 40
"""Nodes."""


def planted(kind: str, at: int, minutes: int = 30, strength: int | None = None) -> PlantedFault:
    return PlantedFault.model_validate(
        {"kind": kind, "atMinute": at, "minutes": minutes, "strengthPercent": strength}
        if strength
        else {"kind": kind, "atMinute": at, "minutes": minutes}
    )


QUICK = tuple(
    planted(kind, 120 + 7 * number, 60)
    for number, kind in enumerate(NAMED)
    if KINDS[kind].shape == RULE and kind not in ("job-crash", "zone-outage")
)


def test_a_small_study_finds_nearly_every_rule_shaped_fault_and_little_else() -> None:
    """Seed 41: not one that was looked at while building. The whole one is `python -m tests.bench.faults`."""
    scenario = Scenario(
        nodes=SMALL, hours=7, quiet_days=0, seed=41, planted=(*QUICK, planted("straggler", 300, 60, 15))
    )
    study = run(scenario, detectors=False)
    result = score(study)
    assert len(study.faults) >= 14
    recall, precision, delay = result.recall(RULE), result.precision, result.delay()
    assert recall is not None
    assert recall >= 0.9
    assert result.recall(STATISTICAL) in (None, 1.0)
    assert precision is not None
    assert precision >= 0.9
    assert len(result.false) <= 1
    assert delay is not None
    assert delay <= 3.0
    assert study.findings > 2 * result.incidents
    assert together([result, result]).incidents == 2 * result.incidents
    assert sum(one["found"] for one in described(result)["by_kind"].values()) >= 0.9 * len(study.faults)


def test_a_study_is_the_same_again() -> None:
    scenario = Scenario(
        nodes=12, hours=2, quiet_days=0, seed=5, planted=(planted("not-ready", 100), planted("pcie", 99))
    )
    one, other = run(scenario, detectors=False), run(scenario, detectors=False)
    assert one.incidents == other.incidents
    assert [fault.starts for fault in one.faults] == [fault.starts for fault in other.faults]


def test_clean_series_make_next_to_no_incidents() -> None:
    """5,400 series for four hours; a week of 27,000 with the detectors is `python -m tests.bench.faults --clean`."""
    study = run(Scenario(nodes=SMALL, hours=4, seed=42), detectors=False)
    assert study.series > 5000
    assert len([one for one in study.incidents.values() if not one.merged_into]) <= 1


def test_detectors_speak_after_they_have_learnt_and_join_incidents() -> None:
    rng = np.random.default_rng(3)
    monitor, told = new_monitor({"gpu": 40}, alarms_per_day=1.0, learn_seconds=300 * 60.0), 0
    for number in range(420):
        values = rng.normal(50.0, 5.0, 40)
        if number > 390:
            values[7] = 400.0
        at = 60.0 * number
        tables = {"gpu": Table(at, 40, {"gpu_temperature_celsius": values}, {})}
        monitor, found = look(monitor, View(at, tables, {"gpu": _subjects(40)}), Topology())
        told += len(found)
        assert not (found and number < 300)
    assert told >= 1
    assert {one.subject.gpu for one in monitor.incidents.open} >= {"7"}


def test_a_fleet_that_changes_keeps_what_is_known_of_what_stays() -> None:
    def view(at: float, codes: list[float]) -> View:
        rows = len(codes)
        columns = {"gpu_xid_code": np.array(codes), "gpu_power_watts": np.arange(rows, dtype=float)}
        return View(at, {"gpu": Table(at, rows, columns, {})}, {"gpu": _subjects(rows)})

    monitor, _ = look(new_monitor({"gpu": 2}), view(0.0, [0, 13]), Topology())
    monitor = rearranged(monitor, {"gpu": [1, -1, 0]})
    assert monitor.bank.scopes["gpu"].bank.parts["robust_range"]["high"].tolist() == [1.0, -np.inf, 0.0]
    _, found = look(monitor, view(60.0, [13, 79, 79]), Topology())
    assert [(one.kind, one.subject.gpu) for one in found] == [("gpu.xid.79", "2")]


def _subjects(count: int) -> list[Subject]:
    return [Subject("c", "p", f"n{number // 8}", str(number)) for number in range(count)]


def test_the_example_loads() -> None:
    scenario = load(EXAMPLE)
    assert (scenario.nodes, scenario.hours, scenario.per_kind) == (40, 48, 1)
    faults = scenario.faults(np.random.default_rng(1))
    assert len(faults) == len(NAMED) + 1
    assert [one.strength for one in faults if one.starts == 1600] == [0.15]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("nodez: 3\n", '3:1: unknown key "nodez"'),
        ("nodes: 3\n", '3:8: nodes: "3" is not allowed; write 12 or more'),
        ("kinds: [xid-78]\n", "no kind of fault"),
        ("faults:\n- {kind: stragler, atMinute: 5}\n", "4:10: faults[0].kind: no kind of fault"),
        ("faults:\n- {kind: hang}\n", 'missing key "atMinute"'),
        ("days: 1\nquietDays: 0\nfaults:\n- {kind: hang, atMinute: 5000}\n", "after the end at minute 1440"),
        ("days: 2\nquietDays: 2\nperKind: 1\n", "leaves no day for faults"),
        ("perKind: many\n", "is not a whole number"),
        ("nodes: [\n", "4:1: not YAML"),
    ],
)
def test_a_wrong_scenario_is_told_with_its_place(tmp_path: Path, text: str, want: str) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(HEAD + text, encoding="utf-8")
    with pytest.raises(PolicyErrors) as caught:
        load(file)
    assert any(want in str(one) for one in caught.value.errors), caught.value
    with pytest.raises(CommandError):
        inject(file, out=None, as_json=True)


def test_the_command_writes_what_it_planted_and_found(tmp_path: Path) -> None:
    file = tmp_path / "scenario.yaml"
    file.write_text(HEAD + "nodes: 12\nhours: 3\nquietDays: 0\nfaults:\n- {kind: not-ready, atMinute: 100}\n", "utf-8")
    done = CliRunner().invoke(app, ["aiops", "inject", "--scenario", str(file), "--out", str(tmp_path / "o"), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert (told["faults"], told["recall_rule"]) == (1, 1.0)
    (fault,) = [json.loads(line) for line in (tmp_path / "o" / "faults.jsonl").read_text().splitlines()]
    assert fault["found_after_minutes"] == 1.0
    incidents = [json.loads(line) for line in (tmp_path / "o" / "incidents.jsonl").read_text().splitlines()]
    assert "node.not-ready" in {one["kind"] for one in incidents}
    assert all(one["causes"] and one["signals"] for one in incidents)


def test_a_recording_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.csv.gz"
    file.write_bytes(b"no gzip")
    with pytest.raises(InvalidObjectError, match=r"x\.csv\.gz: not a recording"):
        read_recorded(file)


@pytest.mark.skipif(not TRACE.exists(), reason="../shared/data/traces is not there")
def test_serving_can_follow_a_recording() -> None:
    duty = read_recorded(TRACE)
    assert duty.shape[0] > 400
    assert 0.0 <= float(duty.min()) <= float(duty.max()) <= 1.0
    study = run(Scenario(nodes=12, hours=2, quiet_days=0, seed=6, recorded=TRACE), detectors=False)
    assert len([one for one in study.incidents.values() if not one.merged_into]) <= 2
