"""The history's schema, step by step, by alembic; one step a file in `versions/`.

A database that was made before there were steps is taken up as it is: the first step makes what is missing. Steps only
add (tables, indexes, columns that may be NULL): while a new version rolls out the old leader goes on writing, and after
a rollback the old version does again. There is no way back down.

Two daemons that start at once take turns: on PostgreSQL by an advisory lock, on SQLite by the file's write lock, both
held to the end of the transaction in which all steps are made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import structlog
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

log = structlog.get_logger(__name__)
_LOCK: Final = 0x6F7665727370696C
"""Of the advisory lock: "overspil". One for the whole database, which need not be ours alone."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a database's schema is."""

    at: tuple[str, ...]
    """The steps that it says it has come to; none: it has not been made, or before there were steps."""
    to_make: tuple[str, ...]
    """Steps that are still to be made, the first first."""
    is_newer: bool
    """It has come to a step that this version does not know."""


def standing(connection: Connection) -> Standing:
    """Only reads. Raises: SQLAlchemyError."""
    script = ScriptDirectory(str(Path(__file__).parent))
    at = MigrationContext.configure(connection).get_current_heads()
    if any(revision not in {each.revision for each in script.walk_revisions()} for revision in at):
        return Standing(at, (), is_newer=True)
    steps = script.iterate_revisions("heads", at or "base")
    return Standing(at, tuple(each.revision for each in steps)[::-1], is_newer=False)


def upgrade(connection: Connection) -> None:
    """Take the schema to the newest step. `connection`: with no statement sent yet; its transaction is the caller's to
    commit. A database of a newer version is left as it is, and that is logged.

    Raises: SQLAlchemyError.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    else:
        connection.execute(text("BEGIN IMMEDIATE"))
    before = standing(connection)
    if before.is_newer:
        log.warning("history_is_newer", revisions=list(before.at))
        return
    if not before.to_make:
        return
    script = ScriptDirectory(str(Path(__file__).parent))

    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
    log.info("history_migrated", before=list(before.at), after=list(script.get_heads()))
