"""What lies on our own side: the history and the policies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sqlalchemy.engine import make_url

from policies.errors import PolicyErrors
from policies.loader import FederationNames
from policies.reload import PolicyFolder
from scheduler.daemon.doctor.finding import Report
from scheduler.daemon.history import History
from scheduler.daemon.telemetry import Telemetry

_HISTORY_SECONDS: Final = 20.0
_TOLD: Final = 20
"""Most mistakes of policy files that are told."""


async def check_history(url: str, report: Report) -> None:
    """A database that is there is opened as the daemon opens it. One that is not is left for the daemon to make: its
    file is to be the daemon's own, not ours."""
    place = make_url(url)
    shown = place.render_as_string(hide_password=True)
    file = Path(place.database) if place.drivername.startswith("sqlite") and place.database else None
    if file is not None and str(file) != ":memory:" and not file.exists():
        if os.access(file.parent, os.W_OK | os.X_OK):
            report.ok(f"{shown} is made when the daemon starts")
        else:
            report.fail(
                f"{shown}: its folder is not there or cannot be written", "make it, or correct spec.history.url"
            )
        return
    remedy = "let this user write it, or correct spec.history.url; without it the daemon does not start"
    if await report.attempt("cannot be used", _open_and_read(url), _HISTORY_SECONDS, remedy):
        report.ok(f"{shown} can be written")


async def _open_and_read(url: str) -> bool:
    history = await History.open(url, Telemetry())
    try:
        await history.node_lifetimes()
    finally:
        await history.close()
    return True


def check_policies(folder: Path, names: FederationNames, report: Report) -> None:
    """Every mistake with its place, up to twenty."""
    try:
        found = PolicyFolder([folder], names)
    except PolicyErrors as errors:
        for error in errors.errors[:_TOLD]:
            report.fail(str(error), f"overspill policy check {folder}")
        return
    for warning in found.warnings:
        report.warn(str(warning), f"overspill policy check {folder}")
    current = found.current
    report.ok(f"{len(current.policies)} policies and {len(current.queues)} queues are valid")
