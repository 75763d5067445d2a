"""What is seen of a running demo: a live screen on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from scheduler.cli import tables
from scheduler.cli.api import StatusReply
from scheduler.cli.demo.observer import Saying
from scheduler.cli.output import duration, usd

_LIVE_SECONDS: Final = 0.25
_PLAIN_SECONDS: Final = 5.0
_SAYINGS: Final = 6
_QUEUES: Final = 6


@dataclass(frozen=True, slots=True)
class Frame:
    """One moment of a demo."""

    phase: str
    virtual_seconds: float
    wall_seconds: float
    speed: float
    total: int
    submitted: int
    running: int
    finished: int
    bursts: int
    returns: int
    bought_nodes: int
    status: StatusReply | None
    sayings: Sequence[Saying]


class Screen(Protocol):
    """Where frames are shown."""

    def say(self, text: str) -> None:
        """A line of its own."""
        ...

    def due(self) -> bool:
        """Whether it is time for the next frame."""
        ...

    def show(self, frame: Frame) -> None: ...

    def close(self) -> None:
        """Leave the screen for the summary."""
        ...


class LiveScreen:
    """On a terminal: the same place, four times a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._shown_at = 0.0

    def say(self, text: str) -> None:
        self._console.print(text, style="dim")

    def due(self) -> bool:
        return time.monotonic() - self._shown_at >= _LIVE_SECONDS

    def show(self, frame: Frame) -> None:
        self._shown_at = time.monotonic()
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="ellipsis")
            self._live.start()
        self._live.update(render(frame), refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


class PlainScreen:
    """Elsewhere: a line every few seconds, and one for each new decision to buy."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown_at = float("-inf")
        self._phase = ""

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def due(self) -> bool:
        return time.monotonic() - self._shown_at >= _PLAIN_SECONDS

    def show(self, frame: Frame) -> None:
        self._shown_at = time.monotonic()
        if frame.phase != self._phase:
            self._phase = frame.phase
            self.say(frame.phase)
        self.say(line(frame))

    def close(self) -> None:
        return


def line(frame: Frame) -> str:
    """A frame in one line."""
    waiting = frame.submitted - frame.running - frame.finished
    used, there = gpu_use(frame.status)
    spend = usd(frame.status.spend_usd) if frame.status else usd(None)
    return (
        f"{frame.wall_seconds:5.0f}s  t+{duration(frame.virtual_seconds):<7}"
        f" jobs {frame.finished}/{frame.total} done, {frame.running} run, {max(0, waiting)} wait;"
        f" GPUs {used}/{there}; bought {frame.bought_nodes}; {spend}"
    )


def gpu_use(status: StatusReply | None) -> tuple[int, int]:
    """(in use, there) over all clusters."""
    pools = [pool for cluster in status.clusters for pool in cluster.pools] if status else []
    return sum(pool.gpus_used for pool in pools), sum(pool.gpus for pool in pools)


def render(frame: Frame) -> RenderableType:
    """A frame as a screen of at most 80 columns, what matters most first (a low terminal cuts off the rest)."""
    parts: list[RenderableType] = [_head(frame), _progress(frame)]
    if frame.status is not None:
        parts += [Text(), tables.pools_table(frame.status)]
    if frame.sayings:
        parts += [Text(), _decisions(frame.sayings)]
    if frame.status is not None:
        if frame.status.queues:
            parts += [Text(), tables.queues_table(frame.status, limit=_QUEUES)]
        if frame.status.budgets:
            parts += [Text(), tables.budgets_table(frame.status)]
    return Group(*parts)


def _head(frame: Frame) -> Text:
    text = Text()
    text.append("overspill demo", style="bold")
    text.append(f"  {frame.phase}  ", style="cyan")
    text.append(
        f"t+{duration(frame.virtual_seconds)} at {frame.speed:g}x, {duration(frame.wall_seconds)} here", style="dim"
    )
    return text


def _progress(frame: Frame) -> RenderableType:
    waiting = max(0, frame.submitted - frame.running - frame.finished)
    spend = usd(frame.status.spend_usd) if frame.status else usd(None)
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        ProgressBar(total=max(1, frame.total), completed=frame.finished, width=24),
        Text(f"{frame.finished}/{frame.total} jobs", style="green"),
        Text(f"{frame.running} run, {waiting} wait"),
    )
    told = Text(f"{frame.bursts} bursts, {frame.returns} returns, {frame.bought_nodes} machines bought now, ")
    told.append(spend, style="yellow")
    return Group(grid, told)


def _decisions(sayings: Sequence[Saying]) -> Table:
    table = Table(title="Latest decisions", title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(no_wrap=True, max_width=16, overflow="ellipsis")
    table.add_column(no_wrap=True, max_width=50, overflow="ellipsis")
    for saying in list(sayings)[-_SAYINGS:]:
        when = datetime.fromtimestamp(saying.at, UTC).strftime("%H:%M:%S")
        table.add_row(when, Text(saying.name), Text(saying.message))
    return table
