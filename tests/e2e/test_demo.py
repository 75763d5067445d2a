"""The whole of it: `overspill demo` as a user types it, with its two processes, over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEMO = [sys.executable, "-m", "scheduler.cli.main", "demo"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def demo(*arguments: str, seconds: float = 240.0) -> tuple[int, dict[str, Any], str]:
    """Exit status, the last line's JSON, and standard error."""
    done = subprocess.run(
        [*DEMO, "--json", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False
    )
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    return done.returncode, json.loads(lines[-1]), done.stderr


@pytest.mark.timeout(600)
def test_the_whole_demo_loses_nothing_and_keeps_what_its_service_was_promised() -> None:
    """Drawn jobs end exactly once. Under a day's curve with a spike the service bursts, comes back, and its clients
    notice nothing."""
    status, told, progress = demo("--jobs", "40", "--speed", "300", seconds=580.0)
    assert told["jobs"] == {"submitted": 40, "finished": 40, "lost": 0, "duplicated": 0}, progress
    assert told["invariant_violations"] == 0, told["violations"]
    assert told["bought_nodes_left"] == 0
    assert told["spend_usd"] == told["metered_usd"]
    assert told["wait_p50_seconds"] is not None
    assert "Traceback" not in progress
    service = told["service"]
    assert service["minutes"] >= 190, progress
    assert service["minutes_out"] <= 3, service
    assert service["capacity_gap_seconds"] <= 30.0, service
    assert service["most_replicas_in_clouds"] >= 1, service
    assert service["came_back"], service
    assert service["kept"]
    assert told["ok"]
    assert status == 0


def test_a_trace_that_overflows_bursts_and_gives_back(tmp_path: Path) -> None:
    """Twelve runs of eight GPUs at once on 64 GPUs of its own: four must wait or be burst."""
    rows = "".join(f"{number},3600,8,team-{number % 2}\n" for number in range(12))
    trace = tmp_path / "trace.csv"
    trace.write_text("arrival_s,duration_s,num_gpus,vc\n" + rows, encoding="utf-8")
    status, told, progress = demo("--trace", str(trace), "--speed", "300", "--skip")
    assert told["jobs"] == {"submitted": 12, "finished": 12, "lost": 0, "duplicated": 0}, progress
    assert told["bursts"] >= 1
    assert told["returns"] >= 1
    assert told["bought_nodes_left"] == 0
    assert told["invariant_violations"] == 0, told["violations"]
    assert told["spend_usd"] == told["metered_usd"]
    assert float(told["spend_usd"]) > 0
    assert status == 0


def test_ctrl_c_stops_both_children(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        # A shell that starts the tests in the background has them ignore Ctrl-C, and whatever they start.
        [*DEMO, "--jobs", "12"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if "jobs 0/12" in line:
                break
        children = _children_of(process.pid)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        told = process.stderr.read()
        assert process.wait(30) == 130
    assert "Traceback" not in told
    assert len(children) == 2
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert list(tmp_path.iterdir()) == []


def _children_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
