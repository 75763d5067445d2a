"""What is worth keeping: decisions, nodes' lifetimes, prices, runs. Losing it loses learning, no workload.

One code path for SQLite (embedded) and PostgreSQL (by URL), through SQLAlchemy. Writes are queued and batched, so that
a slow database never delays a cycle; one that is away is waited for; when the queue is full, records are dropped and
counted. What is kept: `tables`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeVar
from urllib.parse import quote

import orjson
import sqlalchemy as sql
import structlog
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from scheduler.daemon.history.tables import (
    DECISIONS,
    INCIDENTS,
    LEARNED,
    MEMORIES,
    METADATA,
    MOST_ROWS,
    NODE_LIFETIMES,
    PRICES,
    RECLAIMS,
    REMEDIES,
    REMEMBERED,
    RUNS,
    STATES,
    TRANSFERS,
)
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.errors import InvalidObjectError, OverspillError

log = structlog.get_logger(__name__)
_WAITING_AT_MOST: Final = 20_000
_BATCH: Final = 500
_AWAY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Pauses before a batch is tried again at a database that is away; the last one for ever."""
_CONNECT_SECONDS: Final = 10.0
_STATEMENT_SECONDS: Final = 30.0
_BUSY_TRIES: Final = 50
_BUSY_SECONDS: Final = 0.1
"""SQLite does not wait by itself for another process that turns on the write-ahead log."""
_FAILED: Final = (SQLAlchemyError, OSError, TimeoutError)
"""What a database raises; that there is no connection comes as OSError."""
_AWAY: Final = frozenset({"08", "57P01", "57P02", "57P03", "53300", "40001", "40P01", "25006"})
"""SQLSTATEs and classes of them: no connection, shut down, starting, too many connections, another was first, read only
(it is no primary any more)."""
_PARTING_SECONDS: Final = 0.1
"""After a failed connect aiosqlite's thread has its end to report; to a closed loop it would do so by a traceback."""

_HELD_SECONDS: Final = 120.0
"""Longer than it takes to notice that a leader is gone, of wall time."""
_PRUNED_EVERY: Final = 1000
"""Rows written."""


_Row = tuple[sql.Table, dict[str, Any]]
T = TypeVar("T")


class History:
    """The database, and the queue before it."""

    def __init__(self, engine: AsyncEngine, telemetry: Telemetry) -> None:
        self._engine = engine
        self._telemetry = telemetry
        self._waiting: asyncio.Queue[_Row] = asyncio.Queue(_WAITING_AT_MOST)
        self._held: deque[tuple[float, sql.Table, dict[str, Any]]] | None = None
        """What a standby saw lately, with when; None: this process writes."""
        self.may_write: Callable[[], bool] = lambda: True
        """Asked before each write: what one who was fenced still has to tell is older than what the next leader has."""
        self._writing: asyncio.Future[None] | None = None
        self._written: Counter[sql.Table] = Counter()
        self._closing = asyncio.Event()

    @classmethod
    async def open(cls, url: str, telemetry: Telemetry) -> History:
        """Connect, and bring the tables up to date. Raises: InvalidObjectError, without the password."""
        engine = open_engine(url)
        try:
            _make_private(engine)
            await _prepare(engine)
        except _FAILED as error:
            raise await _of_no_use(engine, error) from error
        return cls(engine, telemetry)

    def stand_by(self) -> None:
        """Write nothing until `lead`: the leader sees the same, and two would overwrite each other's rows."""
        self._held = deque(maxlen=_WAITING_AT_MOST)

    def lead(self) -> None:
        """Write from now on, first what was seen lately: the last leader may have stopped before it wrote that."""
        held, self._held = self._held or (), None
        since = asyncio.get_running_loop().time() - _HELD_SECONDS
        for at, table, row in held:
            if at >= since:
                self.record(table, row)

    def record(self, table: sql.Table, row: dict[str, Any]) -> None:
        """Queue one row; an existing row of the same key is replaced."""
        if self._held is not None:
            if table not in REMEMBERED:
                self._held.append((asyncio.get_running_loop().time(), table, row))
            return
        try:
            self._waiting.put_nowait((table, row))
        except asyncio.QueueFull:
            self._telemetry.history_dropped.inc()

    async def run(self) -> None:
        """Write what is queued, in batches, for ever."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            # A write that has begun is not cut off: its rows would be lost, and its connection left half used.
            self._writing = asyncio.ensure_future(self._write_in_time(batch))
            await asyncio.shield(self._writing)

    async def flush(self) -> None:
        """Write what is left. Cut off, it goes on by itself, and `close` waits for it."""
        if self._writing is not None:
            await asyncio.shield(self._writing)
        batch = []
        while not self._waiting.empty():
            batch.append(self._waiting.get_nowait())
        if batch:
            self._writing = asyncio.ensure_future(self._write_in_time(batch))
            await asyncio.shield(self._writing)

    async def close(self) -> None:
        """Write what is left, then disconnect."""
        self._closing.set()
        await self.flush()
        await self._engine.dispose()

    async def _write_in_time(self, batch: Sequence[_Row]) -> None:
        """Try again while the database is away, until `close`."""
        for pause in itertools.chain(_AWAY_SECONDS, itertools.repeat(_AWAY_SECONDS[-1])):
            if await self._write(batch, patient=not self._closing.is_set()):
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._closing.wait()

    async def _write(self, batch: Sequence[_Row], *, patient: bool = False) -> bool:
        """Whether that is done with: written, refused, not ours to write, or (unless `patient`) lost as the database is
        away."""
        if not self.may_write():
            log.warning("history_fenced", rows=len(batch))
            return True
        try:
            async with self._engine.begin() as connection:
                for table in METADATA.sorted_tables:
                    rows = _last_by_key(table, [row for owner, row in batch if owner is table])
                    if rows:
                        await self._replace(connection, table, rows)
                        await self._prune(connection, table, len(rows))
        except _FAILED as error:
            away = patient and _is_away(error)
            log.warning("history_not_written", rows=len(batch), error=first_line(error), again=away)
            if not away:
                self._telemetry.history_dropped.inc(len(batch))
            return not away
        return True

    async def _replace(self, connection: Any, table: sql.Table, rows: list[dict[str, Any]]) -> None:
        """In one statement, since another process may write the same key; in the order of the keys, so that two do not
        wait for each other."""
        keys = [column.name for column in table.primary_key.columns]
        insert = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        statement = insert(table)
        others = {name: statement.excluded[name] for name in table.columns.keys() if name not in keys}  # noqa: SIM118  (a ColumnCollection)
        rows.sort(key=lambda row: tuple(row[key] for key in keys))
        await connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=others), rows)

    async def _prune(self, connection: Any, table: sql.Table, written: int) -> None:
        """Delete the oldest rows beyond the table's limit, now and then."""
        if table not in MOST_ROWS:
            return
        self._written[table] += written
        if self._written[table] < _PRUNED_EVERY:
            return
        self._written[table] = 0
        at, most = MOST_ROWS[table]
        oldest = sql.select(at).order_by(at.desc()).limit(1).offset(most).scalar_subquery()
        await connection.execute(table.delete().where(at <= oldest))

    async def decisions_of(self, uid: str, limit: int = 50) -> list[dict[str, Any]]:
        """The decisions about one workload, newest first, as they were recorded."""
        query = (
            sql.select(DECISIONS.c.body)
            .where(DECISIONS.c.workload_uid == uid)
            .order_by(DECISIONS.c.at.desc())
            .limit(limit)
        )
        return [orjson.loads(body) for (body,) in await self._read(query)]

    async def find_workload(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The newest decision's row for a workload by name (empty kind or namespace: any)."""
        query = sql.select(DECISIONS).where(DECISIONS.c.name == name).order_by(DECISIONS.c.at.desc()).limit(1)
        if kind:
            query = query.where(DECISIONS.c.kind == kind)
        if namespace:
            query = query.where(DECISIONS.c.namespace == namespace)
        rows = await self._read(query)
        return dict(rows[0]._mapping) if rows else None

    async def node_lifetimes(self) -> list[dict[str, Any]]:
        """All lifetimes of bought nodes, oldest first."""
        query = sql.select(NODE_LIFETIMES.c.body).order_by(NODE_LIFETIMES.c.created_at, NODE_LIFETIMES.c.node_uid)
        return [orjson.loads(body) for (body,) in await self._read(query)]

    async def transfers(self) -> list[dict[str, Any]]:
        """What was brought to where it was used, oldest first."""
        query = sql.select(TRANSFERS).order_by(TRANSFERS.c.at, TRANSFERS.c.workload_uid, TRANSFERS.c.attempt)
        return [dict(row._mapping) for row in await self._read(query)]

    async def open_reclaims(self) -> list[dict[str, Any]]:
        """Reclaims whose end has not been recorded, oldest first."""
        query = sql.select(RECLAIMS).where(RECLAIMS.c.ended_at.is_(None)).order_by(RECLAIMS.c.noticed_at)
        return [dict(row._mapping) for row in await self._read(query)]

    async def memory(self, name: str) -> Any:
        """What a part of the daemon remembered last; None: nothing, or nothing that can be read."""
        rows = await self._read(sql.select(MEMORIES.c.body).where(MEMORIES.c.name == name))
        try:
            return orjson.loads(rows[0][0]) if rows else None
        except orjson.JSONDecodeError:
            return None

    async def state(self, name: str) -> bytes | None:
        """What was saved last under that name; None: nothing was."""
        rows = await self._read(sql.select(STATES.c.body).where(STATES.c.name == name))
        return bytes(rows[0][0]) if rows else None

    async def past_incidents(self, since: float, limit: int) -> list[dict[str, Any]]:
        """Incidents that opened since then, newest first."""
        query = (
            sql.select(INCIDENTS)
            .where(INCIDENTS.c.opened_at >= since)
            .order_by(INCIDENTS.c.opened_at.desc(), INCIDENTS.c.id)
            .limit(limit)
        )
        return [dict(row._mapping) for row in await self._read(query)]

    async def past_incident(self, name: str) -> dict[str, Any] | None:
        """One incident's row."""
        rows = await self._read(sql.select(INCIDENTS).where(INCIDENTS.c.id == name))
        return dict(rows[0]._mapping) if rows else None

    async def remedies_of(self, incident: str, limit: int = 100) -> list[dict[str, Any]]:
        """What was done about an incident, newest first."""
        query = (
            sql.select(REMEDIES)
            .where(REMEDIES.c.incident == incident)
            .order_by(REMEDIES.c.began_at.desc(), REMEDIES.c.id.desc())
            .limit(limit)
        )
        return [dict(row._mapping) for row in await self._read(query)]

    async def last_prices(self) -> list[dict[str, Any]]:
        """The newest known price of each pool."""
        known = sql.select(PRICES).where(PRICES.c.usd_per_hour.is_not(None)).subquery()
        place = (known.c.cluster, known.c.pool)
        rank = sql.func.row_number().over(partition_by=place, order_by=known.c.learned_at.desc()).label("rank")
        newest = sql.select(known, rank).subquery()
        query = sql.select(newest).where(newest.c.rank == 1).order_by(newest.c.cluster, newest.c.pool)
        return [dict(row._mapping) for row in await self._read(query)]

    async def open_runs(self) -> list[dict[str, Any]]:
        """Of workloads that had not ended when they were last written, oldest first."""
        try:
            async with self._engine.connect() as connection:
                return await read_runs(connection, RUNS.c.finished_at.is_(None))
        except _FAILED as error:
            raise OverspillError(f"the history cannot be read: {first_line(error)}") from error

    async def learned(self, name: str) -> str | None:
        """The JSON text that was saved last; None: nothing was."""
        rows = await self._read(sql.select(LEARNED.c.body).where(LEARNED.c.name == name))
        return str(rows[0][0]) if rows else None

    async def _read(self, query: sql.Select[Any]) -> Sequence[sql.Row[Any]]:
        try:
            async with self._engine.connect() as connection:
                rows: Sequence[sql.Row[Any]] = (await connection.execute(query)).all()
                return rows
        except _FAILED as error:
            raise OverspillError(f"the history cannot be read: {first_line(error)}") from error


def open_engine(url: str | sql.URL) -> AsyncEngine:
    """Nothing is connected yet. Raises: InvalidObjectError, without the password."""
    try:
        return create_async_engine(url, **_options(url))
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        raise InvalidObjectError(f"history.url: {first_line(error)}") from error


async def look(url: str, ask: Callable[[sql.Connection], T]) -> T:
    """What `ask` says of a history that is there, which nothing changes meanwhile or makes anew.

    Raises: InvalidObjectError, without the password.
    """
    engine = open_engine(_only_to_read(sql.make_url(url)))
    try:
        async with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                await connection.execute(sql.text("SET TRANSACTION READ ONLY"))
            found = await connection.run_sync(ask)
    except _FAILED as error:
        raise await _of_no_use(engine, error) from error
    await engine.dispose()
    return found


def _only_to_read(url: sql.URL) -> sql.URL:
    """SQLite makes files beside one with a write-ahead log even for a reader, who may be another user than the daemon.
    Where there is no log, nothing waits in it, and the file can be read as one that does not change."""
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return url
    how = "mode=ro" if os.path.exists(f"{url.database}-wal") else "immutable=1"
    return url.set(database=f"file:{quote(url.database)}", query={**url.query, "uri": "true"}).update_query_string(how)


async def _of_no_use(engine: AsyncEngine, error: BaseException) -> InvalidObjectError:
    await engine.dispose()
    await asyncio.sleep(_PARTING_SECONDS)
    shown = engine.url.render_as_string(hide_password=True)
    return InvalidObjectError(f"history.url {shown}: {first_line(error)}")


async def saved_learning(url: str, name: str) -> tuple[float, str] | None:
    """When it was saved and its JSON text, read from a history without changing it; None: nothing was.

    Raises: InvalidObjectError when there is no such database.
    """

    def ask(connection: sql.Connection) -> tuple[float, str] | None:
        if not sql.inspect(connection).has_table(LEARNED.name):
            return None
        query = sql.select(LEARNED.c.saved_at, LEARNED.c.body).where(LEARNED.c.name == name)
        row = connection.execute(query).first()
        return None if row is None else (float(row[0]), str(row[1]))

    return await look(url, ask)


async def read_runs(connection: AsyncConnection, condition: sql.ColumnElement[bool]) -> list[dict[str, Any]]:
    """The runs that satisfy `condition`, oldest first, as they were recorded. Raises: SQLAlchemyError."""
    query = sql.select(RUNS.c.body).where(condition).order_by(RUNS.c.arrived_at, RUNS.c.uid)
    return [orjson.loads(body) for (body,) in (await connection.execute(query)).all()]


def _options(url: str | sql.URL) -> dict[str, Any]:
    """Of the engine. A server may be restarted or fail over: connections are tried before use, nothing waits long."""
    if sql.make_url(url).get_backend_name() != "postgresql":
        return {}
    limits = {"timeout": _CONNECT_SECONDS, "command_timeout": _STATEMENT_SECONDS}
    return {"pool_pre_ping": True, "pool_recycle": 1800, "connect_args": limits}


async def _prepare(engine: AsyncEngine) -> None:
    from scheduler.daemon.history.migrations import upgrade

    if engine.dialect.name == "sqlite":
        await _log_ahead(engine)
    async with engine.connect() as connection:
        await connection.run_sync(upgrade)
        if engine.dialect.name == "sqlite":
            # A write, so that a file that cannot be written is known at once.
            await connection.execute(sql.text("PRAGMA user_version = 1"))
        await connection.commit()


async def _log_ahead(engine: AsyncEngine) -> None:
    for last in range(_BUSY_TRIES, -1, -1):
        try:
            async with engine.connect() as connection:
                await connection.execute(sql.text("PRAGMA journal_mode=WAL"))
            return
        except OperationalError as error:
            if "locked" not in str(error) or not last:
                raise
        await asyncio.sleep(_BUSY_SECONDS)


def _is_away(error: BaseException) -> bool:
    """The database, rather than that it will not have these rows."""
    if not isinstance(error, DBAPIError):
        return not isinstance(error, SQLAlchemyError)
    state = str(getattr(error.orig, "sqlstate", None) or "")
    return error.connection_invalidated or state in _AWAY or state[:2] in _AWAY


def _last_by_key(table: sql.Table, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    keys = [column.name for column in table.primary_key.columns]
    return list({tuple(row[key] for key in keys): row for row in rows}.values())


def _make_private(engine: AsyncEngine) -> None:
    """A new SQLite file is its owner's alone: it says who ran what, and for how much. Raises: OSError."""
    name = engine.url.database if engine.dialect.name == "sqlite" else None
    if name and name != ":memory:" and not name.startswith("file:"):
        os.close(os.open(name, os.O_RDWR | os.O_CREAT, 0o600))


def first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
