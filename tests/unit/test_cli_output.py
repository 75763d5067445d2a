from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.cli.output import bar, duration, print_error, usd

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("seconds", "want"),
    [
        (None, "-"),
        (-3.0, "0s"),
        (0.4, "0s"),
        (59.4, "59s"),
        (60.0, "1m"),
        (95.0, "1m35s"),
        (600.0, "10m"),
        (659.0, "10m"),
        (3600.0, "1h00m"),
        (11100.0, "3h05m"),
        (187200.0, "2d04h"),
    ],
)
def test_duration(seconds: float | None, want: str) -> None:
    assert duration(seconds) == want


@pytest.mark.parametrize(
    ("used", "total", "want"),
    [(0, 0, "    "), (0, 8, "░░░░"), (1, 80, "█░░░"), (4, 8, "██░░"), (8, 8, "████"), (12, 8, "████")],
)
def test_bar(used: int, total: int, want: str) -> None:
    assert bar(used, total, 4) == want


@pytest.mark.parametrize(("amount", "want"), [(None, "-"), ("1234.5", "$1,234.50"), (0, "$0.00"), (-2.345, "$-2.34")])
def test_usd(amount: str | float | None, want: str) -> None:
    assert usd(amount) == want


def test_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("it broke\n  here\n")
    assert capsys.readouterr().err == "overspill: it broke here\n"


def test_what_a_library_prints_by_itself_is_not_among_the_json() -> None:
    """C code writes to the descriptor, not to `sys.stdout`."""
    script = (
        "import os\nfrom scheduler.cli.output import keep_stdout, print_json\n"
        "keep_stdout()\nos.write(1, b'noise\\n')\nprint_json({'a': 1})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == '{"a":1}\n'
    assert "noise" in done.stderr
