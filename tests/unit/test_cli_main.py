"""The command's edge: help, version, and every failure as one line with the right exit status."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.cli import main as cli
from scheduler.cli import status
from scheduler.cli.output import CommandError
from scheduler.model.errors import InvalidObjectError, OverspillError, TransientError


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (["bogus"], "No such command 'bogus'"),
        (["status", "--bogus"], "No such option"),
        (["explain"], "Missing argument"),
        (["run", "--policies", "."], "Missing option '--config'"),
        (["run", "--config", "nowhere.yaml", "--policies", "."], "nowhere.yaml: no such file"),
        (["run", "--config", __file__, "--policies", "nowhere"], "nowhere: no such folder"),
        (["run", "--config", __file__, "--policies", ".", "--mode", "loud"], "--mode"),
        (["sandbox", "--speed", "0"], "--speed"),
        (["sandbox", "--dir", f"{__file__}/x"], "--dir"),
        (["demo", "--jobs", "0"], "--jobs"),
        (["demo", "--from", "3"], "--from leaves out rows of a trace"),
        (["demo", "--policies", "nowhere"], "nowhere"),
        (["demo", "--trace", "nowhere.csv"], "nowhere.csv: no such trace file"),
    ],
)
def test_wrong_input_is_one_line_and_2(capsys: pytest.CaptureFixture[str], arguments: list[str], want: str) -> None:
    assert cli.invoke(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("overspill: ")
    assert want in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "want_status", "want_text"),
    [
        (CommandError("it failed"), 1, "it failed"),
        (CommandError("wrong", exit_code=2), 2, "wrong"),
        (InvalidObjectError("a.yaml:3: bad"), 2, "a.yaml:3: bad"),
        (InvalidObjectError("a.yaml:3: bad\nb.yaml:4: worse\nc"), 2, "a.yaml:3: bad (and 2 more)\n"),
        (TransientError("connection refused"), 1, "connection refused"),
        (ExceptionGroup("group", [ExceptionGroup("inner", [OverspillError("first")])]), 1, "first"),
        (PermissionError(13, "Permission denied", "x"), 1, "Permission denied"),
        (ZeroDivisionError("oh"), 1, "internal error: ZeroDivisionError: oh"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_failures(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    want_status: int,
    want_text: str,
) -> None:
    def fail(url: str, *, as_json: bool, watch: bool) -> int:
        raise error

    monkeypatch.setattr(status, "run", fail)
    monkeypatch.delenv("OVERSPILL_DEBUG", raising=False)
    assert cli.invoke(["status"]) == want_status
    told = capsys.readouterr().err
    assert want_text in told
    assert "Traceback" not in told


def test_debugging_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OVERSPILL_DEBUG", "1")
    assert cli.invoke(["status", "--url", "nonsense"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.invoke(["--version"]) == 0
    assert capsys.readouterr().out.startswith("overspill ")
    assert cli.invoke([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("run", "sandbox", "demo", "status", "explain", "policy"))
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_the_command_loads_no_heavy_part_before_it_is_needed() -> None:
    heavy = "aiohttp", "kubernetes", "pydantic", "rich.live", "sklearn", "boto3", "sqlalchemy", "scheduler.daemon"
    code = f"import sys, scheduler.cli.main; print([name for name in {heavy!r} if name in sys.modules])"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
