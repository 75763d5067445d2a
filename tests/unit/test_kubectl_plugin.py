"""Names as kubectl writes them, and the command as kubectl's plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scheduler.daemon.http.status import _split


@pytest.mark.parametrize(
    ("written", "want"),
    [
        ("train", ("", "", "train")),
        ("team/train", ("", "team", "train")),
        ("job/train", ("job", "", "train")),
        ("jobs.batch/train", ("job", "", "train")),
        ("fw/chat", ("federatedworkload", "", "chat")),
        ("job/team/train", ("job", "team", "train")),
        ("Jobs/team/train", ("job", "team", "train")),
        ("job/job/train", ("job", "job", "train")),
    ],
)
def test_a_workload_may_be_named_as_kubectl_does(written: str, want: tuple[str, str, str]) -> None:
    assert _split(written) == want


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed; put one on PATH to run this")
def test_kubectl_finds_its_plugin_beside_the_command() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["kubectl", "overspill", "explain", "--help"],
        capture_output=True, text=True, check=True, env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert "Why a workload is where it is" in done.stdout
