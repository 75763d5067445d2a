from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console

from scheduler.cli.api import parse_status
from scheduler.cli.demo.observer import Saying
from scheduler.cli.demo.view import Frame, LiveScreen, PlainScreen, gpu_use, line, render
from tests.unit.test_cli_status import STATUS

FRAME = Frame(
    phase="running",
    virtual_seconds=7260.0,
    wall_seconds=42.0,
    speed=120.0,
    total=60,
    submitted=40,
    running=12,
    finished=20,
    bursts=3,
    returns=1,
    bought_nodes=2,
    status=parse_status(STATUS),
    sayings=[Saying(1_700_000_000.0, "vision-0" + "1" * 30, "Burst", "bought on eks/p4d-spot: " + "because " * 20)],
)


def test_a_frame_fits_80_columns() -> None:
    console = Console(width=80, highlight=False)
    with console.capture() as capture:
        console.print(render(FRAME))
    lines = capture.get().splitlines()
    assert max(len(text.rstrip()) for text in lines) <= 80
    shown = "\n".join(lines)
    for want in ("20/60 jobs", "12 run, 8 wait", "3 bursts, 1 returns", "t+2h01m at 120x", "onprem/a100", "$12.34"):
        assert want in shown


def test_a_frame_in_one_line() -> None:
    told = line(FRAME)
    assert told == "   42s  t+2h01m   jobs 20/60 done, 12 run, 8 wait; GPUs 24/40; bought 2; $12.34"
    assert len(told) <= 100
    assert "GPUs 0/0" in line(replace(FRAME, status=None))


def test_gpu_use() -> None:
    assert gpu_use(FRAME.status) == (24, 40)
    assert gpu_use(None) == (0, 0)


def test_plain_lines_name_each_phase_once() -> None:
    told = io.StringIO()
    screen = PlainScreen(Console(file=told, width=80))
    assert screen.due()
    screen.show(FRAME)
    assert not screen.due()
    screen.show(FRAME)
    screen.show(replace(FRAME, phase="giving back"))
    screen.close()
    assert [text for text in told.getvalue().splitlines() if "jobs" not in text] == ["running", "giving back"]


def test_the_live_screen_leaves_its_last_frame() -> None:
    told = io.StringIO()
    screen = LiveScreen(Console(file=told, width=80, force_terminal=True))
    screen.say("starting ...")
    screen.show(FRAME)
    screen.close()
    screen.close()
    assert "20/60 jobs" in told.getvalue()
