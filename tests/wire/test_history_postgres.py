"""The history on a real PostgreSQL, and its migrations on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.ext.asyncio import create_async_engine

from scheduler.daemon.doctor.finding import Report
from scheduler.daemon.doctor.history import check_history
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import DECISIONS, LEARNED, METADATA, PRICES, STATES, TRANSFERS
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.errors import InvalidObjectError, OverspillError
from tests.builders.postgres_process import RunningPostgres, running_postgres

pytestmark = pytest.mark.xdist_group("postgres")


@pytest.fixture(scope="module")
def postgres() -> Iterator[RunningPostgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a new, empty database."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'history.db'}"
    server: RunningPostgres = request.getfixturevalue("postgres")
    return server.create(f"test_{abs(hash(request.node.name)) % 10**9}")


def a_decision(name: str, at: float = 1.0) -> dict[str, Any]:
    texts = ("workload_uid", "kind", "namespace", "name", "queue", "outcome", "reason")
    return {"id": name, "at": at, "body": '{"why": "ü"}', **dict.fromkeys(texts, name)}


def a_price(usd: str | None) -> dict[str, Any]:
    return {"cluster": "c", "pool": "p", "learned_at": 1.0, "usd_per_hour": usd, "source": "s", "as_of": None}


async def rows_of(url: str, query: Any) -> list[tuple[Any, ...]]:
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            return [tuple(row) for row in (await connection.execute(query)).all()]
    finally:
        await engine.dispose()


async def test_every_kind_of_row_goes_in_and_out_and_is_replaced_by_its_key(url: str) -> None:
    history = await History.open(url, Telemetry())
    history.record(DECISIONS, a_decision("one"))
    history.record(DECISIONS, a_decision("one", at=2.0))
    history.record(STATES, {"name": "s", "at": 1.0, "body": b"\x00\xff"})
    history.record(PRICES, a_price("1.000000001"))
    await history.flush()
    history.record(PRICES, a_price("2"))
    where = {"cluster": "c", "capacity_type": "spot", "queue": "q"}
    history.record(TRANSFERS, {"workload_uid": "u", "attempt": 2**40, "at": 1.0, "usd": None, **where})
    await history.flush()
    assert await history.decisions_of("one") == [{"why": "ü"}]
    assert await history.state("s") == b"\x00\xff"
    assert [row["usd_per_hour"] for row in await history.last_prices()] == ["2"]
    assert [(row["attempt"], row["usd"]) for row in await history.transfers()] == [(2**40, None)]
    assert (await history.find_workload("", "", "one") or {})["at"] == 2.0
    await history.close()


async def test_two_that_write_the_same_keys_at_once_lose_nothing(url: str) -> None:
    telemetry = Telemetry()
    both = [await History.open(url, telemetry) for _ in range(2)]
    names = [f"d{number:03}" for number in range(200)]
    for round_ in range(5):
        for history, order in zip(both, (names, names[::-1]), strict=True):
            for name in order:
                history.record(DECISIONS, a_decision(name, at=float(round_)))
        await asyncio.gather(*(history.flush() for history in both))
    for history in both:
        await history.close()
    assert telemetry.history_dropped._value.get() == 0
    assert await rows_of(url, sql.select(sql.func.count(), sql.func.min(DECISIONS.c.at))) == [(200, 4.0)]


async def test_the_steps_lead_to_the_tables_that_the_code_knows(url: str) -> None:
    await (await History.open(url, Telemetry())).close()
    engine = create_async_engine(url)
    async with engine.connect() as connection:

        def differences(sync: sql.Connection) -> Any:
            return compare_metadata(MigrationContext.configure(sync), METADATA)

        assert await connection.run_sync(differences) == []
    await engine.dispose()
    assert await rows_of(url, sql.text("SELECT version_num FROM alembic_version")) == [("0001",)]


async def test_a_database_from_before_the_migrations_is_taken_up_without_loss(url: str) -> None:
    """One of an old version: later tables are missing."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(METADATA.create_all, tables=[DECISIONS, PRICES])
        await connection.execute(DECISIONS.insert(), [a_decision("old")])
        await connection.execute(PRICES.insert(), [a_price("3")])
    await engine.dispose()
    for _ in range(2):
        history = await History.open(url, Telemetry())
        assert await history.decisions_of("old") == [{"why": "ü"}]
        assert [row["usd_per_hour"] for row in await history.last_prices()] == ["3"]
        history.record(LEARNED, {"name": "n", "saved_at": 1.0, "body": "{}"})
        await history.close()
    assert await rows_of(url, sql.select(LEARNED.c.name)) == [("n",)]


async def test_daemons_that_start_at_once_take_turns(url: str) -> None:
    opened = await asyncio.gather(*(History.open(url, Telemetry()) for _ in range(6)))
    for history in opened:
        history.record(DECISIONS, a_decision("one"))
        await history.close()
    assert await rows_of(url, sql.text("SELECT version_num FROM alembic_version")) == [("0001",)]
    assert await rows_of(url, sql.select(DECISIONS.c.id)) == [("one",)]


async def test_a_database_of_a_newer_version_is_used_as_it_is(url: str) -> None:
    await (await History.open(url, Telemetry())).close()
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(sql.text("UPDATE alembic_version SET version_num = '9999'"))
        await connection.execute(sql.text("ALTER TABLE decisions ADD COLUMN later TEXT"))
    await engine.dispose()
    history = await History.open(url, Telemetry())
    history.record(DECISIONS, a_decision("one"))
    await history.close()
    assert await rows_of(url, sql.text("SELECT id, later FROM decisions")) == [("one", None)]
    assert await rows_of(url, sql.text("SELECT version_num FROM alembic_version")) == [("9999",)]


@pytest.mark.parametrize("wrong", ["password", "database", "port"])
async def test_a_server_that_cannot_be_used_is_one_line_without_the_password(
    postgres: RunningPostgres, wrong: str
) -> None:
    url = {
        "password": postgres.url("postgres", password="nobody-knows"),
        "database": postgres.url("not_there"),
        "port": postgres.url("postgres").replace(f":{postgres.port}/", ":1/"),
    }[wrong]
    with pytest.raises(InvalidObjectError, match=r"history\.url postgresql\+asyncpg://overspill:\(hidden\)@") as raised:
        await History.open(url, Telemetry())
    assert "\n" not in str(raised.value)
    assert "of-this-test" not in str(raised.value)


async def test_the_doctor_looks_at_a_database_and_leaves_it_as_it_is(postgres: RunningPostgres) -> None:
    url, report = postgres.create("looked_at"), Report("history")
    await check_history(url, report)
    assert await rows_of(url, sql.text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")) == []
    await (await History.open(url, Telemetry())).close()
    await check_history(url, report)
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        for line in (
            "CREATE ROLE reader LOGIN PASSWORD 'of-this-test'",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader",
        ):
            await connection.execute(sql.text(line))
    await engine.dispose()
    await check_history(url.replace("//overspill:", "//reader:"), report)
    assert [one.state for one in report.findings] == ["ok", "ok", "fail"]
    told = [one.what for one in report.findings]
    assert "tables are made or changed when the daemon starts (0001" in told[0]
    assert told[1].endswith("can be written")
    assert "its user may not write the table decisions" in told[2]


async def test_rows_wait_while_the_server_is_away(postgres: RunningPostgres) -> None:
    telemetry = Telemetry()
    url = postgres.create("away")
    history = await History.open(url, telemetry)
    writing = asyncio.ensure_future(history.run())
    await asyncio.to_thread(postgres.stop)
    try:
        history.record(DECISIONS, a_decision("meanwhile"))
        with pytest.raises(OverspillError, match="the history cannot be read"):
            await history.decisions_of("meanwhile")
    finally:
        await asyncio.to_thread(postgres.start)
    async with asyncio.timeout(30):
        while not await history.decisions_of("meanwhile"):
            await asyncio.sleep(0.05)
    assert telemetry.history_dropped._value.get() == 0
    writing.cancel()
    await history.close()
