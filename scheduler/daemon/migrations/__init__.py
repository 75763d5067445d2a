"""The history's schema, step by step, by alembic; one step a file in `versions/`.

A database that was made before there were steps is taken up as it is: the first step makes what is missing. Steps only
add (tables, indexes, columns that may be NULL): while a new version rolls out the old leader goes on writing, and after
a rollback the old version does again. There is no way back down.

Two daemons that start at once take turns: on PostgreSQL by an advisory lock, on SQLite by the file's write lock, both
held to the end of the transaction in which all steps are made.
"""

from __future__ import annotations

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


def upgrade(connection: Connection) -> None:
    """Take the schema to the newest step. `connection`: with no statement sent yet; its transaction is the caller's to
    commit. A database of a newer version is left as it is, and that is logged.

    Raises: SQLAlchemyError.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    else:
        connection.execute(text("BEGIN IMMEDIATE"))
    script = ScriptDirectory(str(Path(__file__).parent))
    before = MigrationContext.configure(connection).get_current_heads()
    known = {each.revision for each in script.walk_revisions()}
    if any(revision not in known for revision in before):
        log.warning("history_is_newer", revisions=list(before))
        return
    if set(before) == set(script.get_heads()):
        return

    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs("head", revision)

    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(connection=connection)
        environment.run_migrations()
    log.info("history_migrated", before=list(before), after=list(script.get_heads()))
