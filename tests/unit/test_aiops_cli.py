"""`overspill aiops evaluate`: its files, its output, its exit statuses."""

from __future__ import annotations

import io
import json
import tarfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scheduler.cli.main import invoke

START = datetime(2014, 4, 1)  # noqa: DTZ001 - NAB's stamps have no zone
NAB = Path("../shared/data/nab")


def stamp(row: int) -> str:
    return (START + timedelta(minutes=5 * row)).isoformat(sep=" ")


def rows(count: int = 600, spike: int | None = 400) -> str:
    values = np.random.default_rng(3).normal(50.0, 5.0, count)
    if spike is not None:
        values[spike] = 500.0
    return "timestamp,value\n" + "".join(f"{stamp(row)},{value}\n" for row, value in enumerate(values))


def corpus(path: Path, files: dict[str, str], labels: object) -> list[str]:
    for name, text in files.items():
        (path / "series" / name).parent.mkdir(parents=True, exist_ok=True)
        (path / "series" / name).write_text(text)
    (path / "labels.json").write_text(labels if isinstance(labels, str) else json.dumps(labels))
    return ["--series", str(path / "series"), "--labels", str(path / "labels.json")]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = invoke(["aiops", "evaluate", *arguments])
    told = capsys.readouterr()
    return status, told.out, told.err


def good(path: Path) -> list[str]:
    files = {"g/a.csv": rows(), "g/b.csv": rows(spike=None), "left/out.csv": rows()}
    return corpus(path, files, {"g/a.csv": [[stamp(390), stamp(410)]], "g/b.csv": []})


def test_json_ends_with_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, *good(tmp_path), "--json")
    assert status == 0
    assert "1 files without labels are left out, such as left/out.csv" in err
    found = json.loads(out.splitlines()[-1])
    assert set(found["nab"]) == {"standard", "low_fp", "low_fn"}
    assert (found["recall"], found["precision"], found["points"]) == (1.0, 1.0, 1200)
    assert found["nab"]["standard"] > 90.0
    assert found["us_per_point"] > 0


def test_the_tables_are_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, *good(tmp_path))
    assert status == 0
    assert "g/a.csv" in out
    assert "recall 100.0%" in out


def test_result_files_have_the_shape_of_nab(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, *good(tmp_path), "--out", str(tmp_path / "out"))[0] == 0
    lines = (tmp_path / "out" / "overspill" / "g" / "overspill_a.csv").read_text().splitlines()
    assert lines[0] == "timestamp,value,anomaly_score,label"
    assert len(lines) == 601
    at, value, score, label = lines[401].split(",")
    assert (at, float(value), label) == (stamp(400), 500.0, "1")
    assert 0.8 < float(score) < 1.0
    assert lines[380].endswith(",0.0,0")


def test_an_archive_is_read_as_a_folder_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = good(tmp_path)
    with tarfile.open(tmp_path / "series.tar.xz", "w:xz") as archive:
        archive.add(tmp_path / "series", arcname=".")
    _, want, _ = run(capsys, *arguments, "--json")
    status, got, _ = run(capsys, "--series", str(tmp_path / "series.tar.xz"), *arguments[2:], "--json")
    assert status == 0
    assert json.loads(got)["nab"] == json.loads(want)["nab"]


def test_an_archive_cannot_name_files_outside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = good(tmp_path)
    text = rows().encode()
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        member = tarfile.TarInfo("../../evil.csv")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    status, _, err = run(capsys, "--series", str(tmp_path / "bad.tar"), *arguments[2:])
    assert status == 2
    assert "'../../evil.csv' is no relative file name" in err


def test_a_broken_archive_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = good(tmp_path)
    whole = tmp_path / "series.tar.xz"
    with tarfile.open(whole, "w:xz") as archive:
        archive.add(tmp_path / "series", arcname=".")
    content = whole.read_bytes()
    middle = len(content) // 2
    for broken in (content[:middle], content[:middle] + bytes(20) + content[middle + 20 :]):
        whole.write_bytes(broken)
        status, _, err = run(capsys, "--series", str(whole), *arguments[2:])
        assert status == 2
        assert err.count("\n") == 1
        assert "series.tar.xz" in err


HEAD = "timestamp,value\n"
ONE = f"{HEAD}{stamp(0)},1\n"


@pytest.mark.parametrize(
    ("files", "labels", "want"),
    [
        ({"a.csv": ONE}, {"b.csv": []}, "'b.csv' is labelled but not in"),
        ({"a.csv": ONE}, {}, "labels no file"),
        ({"a.csv": ONE}, "[]", "must be one JSON object"),
        ({"a.csv": ONE}, "{", "not readable as JSON"),
        ({"a.csv": ONE}, {"a.csv": [["x", "y"]]}, "'x' is no timestamp"),
        ({"a.csv": ONE}, {"a.csv": [3]}, "must be a list of [START, END]"),
        ({"a.csv": ONE}, {"a.csv": [[stamp(5), stamp(9)]]}, "no row lies in the window"),
        ({"a.csv": ONE}, {"a.csv": [[stamp(1), stamp(0)]]}, "ends before it starts"),
        ({"a.csv": ONE}, {"a.csv": [[stamp(0), stamp(3)], [stamp(2), stamp(4)]]}, "must not overlap"),
        ({"a.csv": ONE}, {"/etc/a.csv": []}, "is no relative file name"),
        ({"a.csv": HEAD}, {"a.csv": []}, "has no rows"),
        ({"a.csv": "time,x\n"}, {"a.csv": []}, "a.csv:1: the header must be timestamp,value"),
        ({"a.csv": f"{HEAD}{stamp(0)},nan\n"}, {"a.csv": []}, "a.csv:2: value 'nan' is no number up to 1e+30"),
        ({"a.csv": f"{HEAD}{stamp(0)},x\n"}, {"a.csv": []}, "a.csv:2: value 'x' is no number up to 1e+30"),
        ({"a.csv": f"{HEAD}{stamp(0)},1e300\n"}, {"a.csv": []}, "a.csv:2: value '1e300' is no number up to 1e+30"),
        ({"a.csv": f"{HEAD}{stamp(0)}\n"}, {"a.csv": []}, "a.csv:2: 1 cells"),
        (
            {"a.csv": f"{HEAD}{stamp(1)},1\n{stamp(0)},1\n"},
            {"a.csv": []},
            "a.csv:3: timestamp '2014-04-01 00:00:00' is",
        ),
    ],
)
def test_bad_input_is_one_clear_line(
    files: dict[str, str], labels: Any, want: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, *corpus(tmp_path, files, labels))
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert want in err


def test_a_folder_with_an_archive_in_it_is_told_what_to_give_instead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = good(tmp_path)
    folder = tmp_path / "download"
    folder.mkdir()
    for archive, want in ((None, "GROUP/FILE.csv to --series"), ("series.tar.xz", "series.tar.xz to --series")):
        if archive is not None:
            (folder / archive).write_bytes(b"")
        status, _, err = run(capsys, "--series", str(folder), *arguments[2:])
        assert (status, err.count("\n")) == (2, 1)
        assert want in err


def test_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = good(tmp_path)
    for series, labels, want in (
        ("nowhere", arguments[3], "no such folder or archive"),
        (arguments[3], arguments[3], "neither a folder nor a readable tar archive"),
        (arguments[1], "nowhere.json", "nowhere.json: no such file"),
    ):
        status, _, err = run(capsys, "--series", series, "--labels", labels)
        assert status == 2
        assert err.count("\n") == 1
        assert want in err


def test_the_development_part_of_nab(capsys: pytest.CaptureFixture[str]) -> None:
    """A floor, below what docs/aiops.md reports, so that a change for the worse is seen."""
    if not NAB.is_dir():
        pytest.skip(f"{NAB} is not there")
    labels = str(NAB / "combined_windows.json")
    status, out, _ = run(capsys, "--series", str(NAB / "series.tar.xz"), "--labels", labels, "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["files"], found["windows"]) == (35, 50)
    assert found["nab"]["standard"] > 60.0
