"""The history: whether the daemon will be able to use it. It is only read: its tables are the daemon's to make."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sql

from scheduler.daemon.doctor.finding import Report
from scheduler.daemon.history.migrations import Standing, standing
from scheduler.daemon.history.store import look
from scheduler.daemon.history.tables import METADATA

_SECONDS: Final = 20.0
_REMEDY: Final = "let this user write it, or correct spec.history.url; without it the daemon does not start"


async def check_history(url: str, report: Report) -> None:
    """Where its schema stands, and whether it could be written. A file that is not there is left for the daemon to
    make: it is to be the daemon's own, not ours."""
    place = sql.make_url(url)
    shown = place.render_as_string(hide_password=True)
    if place.get_backend_name() == "sqlite" and not _check_file(place, shown, report):
        return
    seen = await report.attempt("cannot be used", look(url, _look), _SECONDS, _REMEDY)
    if seen is None:
        return
    if seen.refused:
        report.fail(f"{shown}: {seen.refused}", _REMEDY)
    elif seen.standing.is_newer:
        told = f"{shown} was made by a newer version (step {', '.join(seen.standing.at)}), and can be written"
        report.warn(told, "go back to that version soon: what only it knows to keep is not kept")
    elif seen.standing.to_make:
        report.ok(f"{shown}: tables are made or changed when the daemon starts ({', '.join(seen.standing.to_make)})")
    else:
        report.ok(f"{shown} can be written")


def _check_file(place: sql.URL, shown: str, report: Report) -> bool:
    """Whether there is something to look into."""
    if not place.database or place.database == ":memory:":
        report.warn(f"{shown} forgets everything when the daemon ends", "name a file in spec.history.url")
        return False
    file = Path(place.database)
    if not os.access(file.parent, os.W_OK | os.X_OK):
        report.fail(f"{shown}: its folder is not there or cannot be written", "make it, or correct spec.history.url")
    elif not file.exists():
        report.ok(f"{shown} is made when the daemon starts")
    elif not os.access(file, os.R_OK | os.W_OK):
        report.fail(f"{shown}: the file cannot be written", _REMEDY)
    else:
        return True
    return False


@dataclass(frozen=True, slots=True)
class _Seen:
    standing: Standing
    refused: str
    """What the daemon would not be allowed; empty: nothing."""


def _look(connection: sql.Connection) -> _Seen:
    found = standing(connection)
    refused = _refused(connection, found) if connection.dialect.name == "postgresql" else ""
    if not refused and not found.to_make:
        for table in METADATA.sorted_tables:
            connection.execute(sql.select(table).limit(1))
    return _Seen(found, refused)


def _refused(connection: sql.Connection, found: Standing) -> str:
    """What PostgreSQL says that we may not."""

    def may(question: sql.Function[bool]) -> bool:
        return bool(connection.execute(sql.select(question)).scalar_one())

    if may(sql.func.pg_is_in_recovery()):
        return "that server is a standby, which takes no writes"
    if found.to_make and not may(sql.func.has_schema_privilege(sql.func.current_schema(), "CREATE")):
        return "its user may not make tables there"
    there = set(sql.inspect(connection).get_table_names())
    for table in sorted(there & set(METADATA.tables)):
        if not all(may(sql.func.has_table_privilege(table, verb)) for verb in ("INSERT", "UPDATE", "DELETE")):
            return f"its user may not write the table {table}"
    return ""
