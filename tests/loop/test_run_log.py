"""What the daemon keeps of the runs of workloads, and a replay of it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
import yaml
from sqlalchemy.ext.asyncio import create_async_engine

from scheduler.cli.main import invoke
from scheduler.daemon.learning.runs import recorded_runs
from scheduler.model.contract import JOBS
from scheduler.model.errors import InvalidObjectError
from tests.loop.harness import World, a_world, until


def url_of(world: World) -> str:
    return f"sqlite+aiosqlite:///{world.folder / 'history.db'}"


async def recorded(world: World) -> dict[str, dict[str, Any]]:
    """By name."""
    return {row["name"]: row for row in await recorded_runs(url_of(world), 0.0)}


async def test_a_run_is_kept_from_its_arrival_to_its_end(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon():
        job = await world.submit("train", gpus=2, seconds=600.0, annotations={"overspill.dev/expected-duration": "8m"})
        await until(lambda: world.is_done("train"), "the job to end")

        async def kept() -> bool:
            return (await recorded(world)).get("train", {}).get("finished_at") is not None

        await until(kept, "its run to be kept")
        row = (await recorded(world))["train"]
    assert (row["uid"], row["queue"], row["outcome"], row["attempts"]) == (
        job["metadata"]["uid"],
        "research",
        "succeeded",
        1,
    )
    assert row["arrived_at"] <= row["first_started_at"] <= row["last_started_at"] < row["finished_at"]
    # Kubernetes tells whole seconds.
    assert row["finished_at"] - row["last_started_at"] == pytest.approx(600.0, abs=60.0)
    assert (row["pool"], row["gpu_model"]) == ("onprem/a100", "A100-80GB")
    assert row["pod_sets"][0]["requests"]["gpus"] == 2
    assert row["hints"]["expected_seconds"] == 480.0


async def test_a_daemon_that_starts_anew_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        async with world.daemon():
            await world.submit("long", seconds=3600.0)
            await world.submit("gone", seconds=7200.0)

            async def started() -> bool:
                rows = await recorded(world)
                return all(rows.get(name, {}).get("first_started_at") is not None for name in ("long", "gone"))

            await until(started, "both to start")
            before = await recorded(world)
        await world.hub.delete(JOBS, "default", "gone")
        async with world.daemon():

            async def ended() -> bool:
                return all(row["finished_at"] is not None for row in (await recorded(world)).values())

            await until(ended, "both to end", seconds=60.0)
            rows = await recorded(world)
    assert (rows["long"]["outcome"], rows["gone"]["outcome"]) == ("succeeded", "deleted")
    for name in ("long", "gone"):
        assert rows[name]["first_started_at"] == before[name]["first_started_at"]
        assert rows[name]["attempts"] == 1


async def test_what_had_ended_before_is_not_recorded_anew(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world:
        async with world.daemon():
            await world.submit("short", seconds=60.0)

            async def ended() -> bool:
                return (await recorded(world)).get("short", {}).get("finished_at") is not None

            await until(ended, "it to end")
            before = await recorded(world)
        async with world.daemon() as (daemon, _):
            await until(lambda: daemon.mirror.ever_synced and daemon.is_idle(), "the second daemon to be at rest")
        assert await recorded(world) == before


async def test_the_history_of_a_daemon_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with a_world(tmp_path) as world:
        async with world.daemon():
            for name in ("one", "two", "three"):
                await world.submit(name, gpus=4, seconds=300.0)
            await until(lambda: world.all_done("one", "two", "three"), "all to end")

            async def kept() -> bool:
                rows = await recorded(world)
                return len(rows) == 3 and all(row["finished_at"] is not None for row in rows.values())

            await until(kept, "their runs to be kept")
        text = world.sandbox.federation_file.read_text()
        file = world.sandbox.federation_file.with_name("with-history.yaml")
        file.write_text(_with_history(text, url_of(world)))
        arguments = [
            "simulate",
            "--history",
            "--since",
            "30d",
            "--config",
            str(file),
            "--policies",
            str(world.policies),
        ]
        status = await asyncio.to_thread(invoke, [*arguments, "--json"])
    told = capsys.readouterr()
    assert status == 0, told.err
    found = json.loads(told.out.splitlines()[-1])  # before it the daemon's own log
    assert (found["trace"]["name"], found["trace"]["jobs"]) == ("history", 3)
    assert found["runs"][0]["finished"] == 3
    assert any("hardware that each job ran on" in note for note in found["trace"]["notes"])
    assert "note: run times are those of the hardware" in told.err


def _with_history(text: str, url: str) -> str:
    data = yaml.safe_load(text)
    data["spec"]["history"] = {"url": url}
    return yaml.safe_dump(data)


async def test_a_history_without_runs_says_so(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'old.db'}"
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(sql.text("CREATE TABLE decisions (id TEXT)"))
    await engine.dispose()
    with pytest.raises(InvalidObjectError, match="holds no runs yet; a daemon of this version records them"):
        await recorded_runs(url, 0.0)
