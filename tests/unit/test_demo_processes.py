from __future__ import annotations

import os
from pathlib import Path

import pytest

from scheduler.cli.demo.processes import Child
from scheduler.cli.output import CommandError


async def test_a_child_that_ends_is_told_with_its_last_line(tmp_path: Path) -> None:
    child = await Child.start("daemon", ["run", "--config", "nowhere.yaml", "--policies", "x"], tmp_path / "log")
    await child.ended()
    with pytest.raises(CommandError, match=r"the daemon ended with status 2: overspill: nowhere\.yaml: no such file"):
        child.check()
    await child.stop()
    assert child.resident_mib() is None


async def test_a_childs_output_is_in_its_log_and_stopping_it_again_is_no_error(tmp_path: Path) -> None:
    child = await Child.start("sandbox", ["--help"], tmp_path / "log")
    await child.ended()
    assert "Usage" in (tmp_path / "log").read_text(encoding="utf-8")
    await child.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
