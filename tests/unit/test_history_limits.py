"""The history does not grow without end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from scheduler.daemon.history import store as history
from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import INCIDENTS
from scheduler.daemon.telemetry import Telemetry


def test_the_oldest_incidents_go_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MOST_ROWS", {INCIDENTS: (INCIDENTS.c.opened_at, 1500)})

    async def story() -> list[str]:
        log = await History.open(f"sqlite+aiosqlite:///{tmp_path}/h.db", Telemetry())
        for number in range(3000):
            log.record(INCIDENTS, {"id": f"i{number}", "kind": "gpu.xid.79", "severity": "high", "cluster": "c",
                                   "opened_at": float(number), "body": "{}"})  # fmt: skip
        writer = asyncio.create_task(log.run())
        while not log._waiting.empty():
            await asyncio.sleep(0)
        writer.cancel()
        await log.close()
        again = await History.open(f"sqlite+aiosqlite:///{tmp_path}/h.db", Telemetry())
        kept = [row["id"] for row in await again.past_incidents(0.0, 5000)]
        await again.close()
        return kept

    kept = asyncio.run(story())
    assert kept == [f"i{number}" for number in range(2999, 1499, -1)]
