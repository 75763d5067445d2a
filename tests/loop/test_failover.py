"""Two daemons, and what can happen to the one that leads: nothing is lost or doubled, the other takes over in time.

`python -m tests.loop.failover --times 100 --seed 1` tells the same stories as often as one likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import LEARNED, PRICES
from scheduler.daemon.leading.fence import FencedApi, FencedProvider
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.contract import JOBS
from scheduler.model.errors import FencedError, OutcomeUnknownError
from scheduler.model.ids import NodeName, PoolId
from tests.loop import failover


async def test_whatever_befalls_the_leader_each_job_runs_exactly_once(tmp_path: Path) -> None:
    async with failover.a_story(tmp_path, 1) as story:
        for kind in failover.KINDS:
            assert (await story.tell(kind)).kind == kind


class Lead:
    """Leads for so many seconds more."""

    def __init__(self, seconds: float) -> None:
        self.seconds_left = seconds

    def check(self) -> None:
        if self.seconds_left <= 0:
            raise FencedError("not the leader")


class Counted:
    """Any API: counts the calls that reach it; hangs if it is told to."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.hangs = False

    def __getattr__(self, verb: str) -> Any:
        async def call(*_args: Any, **_named: Any) -> str:
            self.calls.append(verb)
            if self.hangs:
                await asyncio.Event().wait()
            return verb

        return call


WRITES: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "create": lambda api: api.create(JOBS, "default", {}),
    "update": lambda api: api.update(JOBS, "default", "x", {}),
    "patch": lambda api: api.patch(JOBS, "default", "x", {}),
    "create_subresource": lambda api: api.create_subresource(JOBS, "default", "x", "eviction", {}),
    "delete": lambda api: api.delete(JOBS, "default", "x"),
    "set_size": lambda cloud: cloud.set_size(PoolId("p"), 1),
    "remove_node": lambda cloud: cloud.remove_node(PoolId("p"), NodeName("n"), "id"),
}
CLOUD_WRITES = {"set_size", "remove_node"}


@pytest.mark.parametrize("verb", WRITES)
async def test_no_write_leaves_a_process_that_does_not_lead_and_none_outlasts_its_lease(verb: str) -> None:
    wire, lead = Counted(), Lead(0.0)
    api: Any = FencedProvider(wire, lead) if verb in CLOUD_WRITES else FencedApi(wire, lead)
    with pytest.raises(FencedError):
        await WRITES[verb](api)
    assert wire.calls == []
    lead.seconds_left = 0.01
    wire.hangs = True
    with pytest.raises(OutcomeUnknownError):
        await WRITES[verb](api)
    assert wire.calls == [verb]
    wire.hangs = False
    await WRITES[verb](api)
    assert wire.calls == [verb, verb]


async def test_a_standby_writes_no_history_and_one_that_takes_over_writes_what_it_saw_lately(tmp_path: Path) -> None:
    history = await History.open(f"sqlite+aiosqlite:///{tmp_path / 'h.db'}", Telemetry())
    row = {"cluster": "c", "pool": "p", "learned_at": 1.0, "usd_per_hour": "1", "source": "s", "as_of": 1.0}
    history.stand_by()
    history.record(PRICES, row)
    history.record(LEARNED, {"name": "n", "saved_at": 1.0, "body": "a standby's own"})
    await history.flush()
    assert await history._read(sql.select(PRICES)) == []
    history.lead()
    history.record(PRICES, row | {"usd_per_hour": "2"})
    await history.flush()
    assert [tuple(one) for one in await history._read(sql.select(PRICES))] == [("c", "p", 1.0, "2", "s", 1.0)]
    assert await history.learned("n") is None
    history.may_write = lambda: False
    history.record(PRICES, row | {"usd_per_hour": "3"})
    await history.close()
