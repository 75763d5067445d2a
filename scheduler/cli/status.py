"""`overspill status`: clusters, pools, queues, spend and budgets of a running daemon."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from scheduler.cli import tables
from scheduler.cli.api import StatusReply, fetch, parse_status
from scheduler.cli.division_view import services_table
from scheduler.cli.output import console, print_json

_REFRESH_SECONDS = 1.0


def run(url: str, *, as_json: bool, watch: bool) -> int:
    """Show the status once, or again and again until Ctrl-C.

    Raises: CommandError when there is no daemon at `url`.
    """
    if as_json:
        print_json(fetch(url, "/api/v1/status"))
        while watch:
            time.sleep(_REFRESH_SECONDS)
            print_json(fetch(url, "/api/v1/status"))
        return 0
    screen = console()
    status = parse_status(fetch(url, "/api/v1/status"))
    if not watch:
        screen.print(view(status))
        return 0
    with Live(view(status), console=screen, auto_refresh=False) as live:
        while True:
            time.sleep(_REFRESH_SECONDS)
            live.update(view(parse_status(fetch(url, "/api/v1/status"))), refresh=True)


def view(status: StatusReply) -> RenderableType:
    """Everything, one table under the other."""
    parts: list[RenderableType] = [headline(status), Text(), tables.pools_table(status)]
    parts += tables.shortages(status)
    parts += tables.reclaims(status)
    if status.queues:
        parts += [Text(), tables.queues_table(status)]
    if status.budgets:
        parts += [Text(), tables.budgets_table(status)]
    if status.services:
        parts += [Text(), services_table(status)]
    parts += [Text(), tables.spend_table(status)]
    return Group(*parts)


def headline(status: StatusReply) -> Text:
    """Who and how: federation, mode, time, leader, workloads, and what is wrong."""
    when = datetime.fromtimestamp(status.now, UTC).strftime("%Y-%m-%d %H:%M:%S")
    counts = status.workloads
    text = Text()
    text.append(f"{status.federation} ", style="bold")
    text.append(f"{status.mode}, {'leader' if status.leader else 'standby'}, {when} UTC\n")
    waiting = counts.pending + counts.reserved
    text.append(f"workloads: {waiting} waiting, {counts.started} running, {counts.finished} finished")
    if counts.invalid:
        text.append(f", {counts.invalid} invalid", style="red")
    if not status.synced:
        text.append("\nnot synced yet: no decision is taken before every list has been read", style="yellow")
    if status.policies.error:
        text.append(f"\npolicies: {status.policies.error} (the last good set is in force)", style="red")
    if status.shadow:
        told = ", ".join(f"{key} {value}" for key, value in status.shadow.items() if not isinstance(value, list | dict))
        text.append(f"\nshadow: {told}", style="cyan")
    return text
