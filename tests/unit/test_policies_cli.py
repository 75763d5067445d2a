"""`overspill policy check` and `schema`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

import policies
from scheduler.cli.main import invoke

ROOT = Path(policies.__file__).parent.parent
EXAMPLES = sorted((ROOT / "policies" / "examples").iterdir())
GOOD = "apiVersion: overspill.dev/v1alpha1\nkind: Queue\nmetadata: {name: q}\nspec: {weight: 2}\n"


def test_good_files_give_one_line_and_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "q.yaml").write_text(GOOD)
    assert invoke(["policy", "check", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("OK: 0 policies, 1 queue (digest ")
    assert out.count("\n") == 1


def test_each_mistake_is_one_line_and_the_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "q.yaml"
    file.write_text(GOOD.replace("{weight: 2}", "{wieght: 2, strictFifo: 1}"))
    assert invoke(["policy", "check", str(file)]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f'{file}:4:8: unknown key "wieght" in spec; did you mean "weight"?',
        f'{file}:4:31: strictFifo: "1" is not true or false; write one of these without quotes',
    ]


def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "q.yaml"
    file.write_text(GOOD.replace("weight: 2", "weight: -2"))
    assert invoke(["policy", "check", "--json", str(file)]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["policies"], report["queues"], report["digest"]) == (False, 0, 0, None)
    (mistake,) = report["errors"]
    assert (mistake["file"], mistake["line"], mistake["column"]) == (str(file), 4, 16)
    file.write_text(GOOD)
    assert invoke(["policy", "check", "--json", str(file)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["queues"], len(report["digest"])) == (True, 1, 64)


def test_a_path_that_is_not_there_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["policy", "check", "no/such/path"]) == 2
    assert capsys.readouterr().err == "overspill: no such file or folder: no/such/path\n"


def test_the_federation_file_gives_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "p.yaml"
    file.write_text(
        "apiVersion: overspill.dev/v1alpha1\nkind: PlacementPolicy\nmetadata: {name: p}\n"
        "spec: {constraints: {clusters: [onpremm]}}\n"
    )
    config = ROOT / "examples" / "federation.yaml"
    assert invoke(["policy", "check", str(file), "--config", str(config)]) == 0
    told = capsys.readouterr()
    assert "1 policy, 0 queues, 1 warning" in told.out
    assert 'nothing in the federation has cluster "onpremm"; did you mean "onprem"?' in told.err
    assert invoke(["policy", "check", str(file), "--config", str(file)]) == 2


def schema_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert invoke(["policy", "schema", *arguments]) == 0
    schema = json.loads(capsys.readouterr().out)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    return schema


def documents(file: Path) -> list[Any]:
    return list(yaml.safe_load_all(file.read_text()))


def test_the_policy_schema_accepts_every_example(capsys: pytest.CaptureFixture[str]) -> None:
    validator = Draft202012Validator(schema_of(capsys))
    for file in [*EXAMPLES, ROOT / "examples" / "policy.yaml"]:
        for document in documents(file):
            validator.validate(document)
            assert not validator.is_valid(document | {"more": 1})
            assert not validator.is_valid(document | {"spec": {"more": 1}})


@pytest.mark.parametrize("kind", ["PlacementPolicy", "Queue", "RemediationPolicy"])
def test_the_schema_of_one_kind_accepts_that_kind_only(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    validator = Draft202012Validator(schema_of(capsys, "--kind", kind))
    for file in EXAMPLES:
        for document in documents(file):
            assert validator.is_valid(document) == (document["kind"] == kind)


def test_the_federation_schema_accepts_the_example(capsys: pytest.CaptureFixture[str]) -> None:
    validator = Draft202012Validator(schema_of(capsys, "--kind", "Federation"))
    (document,) = documents(ROOT / "examples" / "federation.yaml")
    validator.validate(document)
    document["spec"]["members"][0]["pools"][0]["maxNode"] = 3
    assert not validator.is_valid(document)


@pytest.mark.parametrize("kind", ["PlacementPolicy", "Queue", "RemediationPolicy", "Federation"])
def test_fields_are_described_from_their_docstrings(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    schema = schema_of(capsys, "--kind", kind)
    assert schema["title"] == kind
    assert schema["description"]
    text = json.dumps(schema)
    assert '"null"' not in text
    if kind == "PlacementPolicy":
        burst = schema["$defs"]["BurstSpec"]["properties"]["afterWait"]
        assert burst["description"].startswith("How long a workload waits")
        assert "give_back" not in text


def test_an_unknown_kind_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["policy", "schema", "--kind", "Nothing"]) == 2
    assert "Nothing" in capsys.readouterr().err
