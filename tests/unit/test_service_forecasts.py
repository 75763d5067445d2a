"""Forecasts of demand and judges of canaries as the daemon feeds them: each minute and each interval once; what is
saved is bounded, and what cannot be read is one line and a fresh start."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from structlog.testing import capture_logs

from scheduler.daemon.history.store import History
from scheduler.daemon.history.tables import MEMORIES
from scheduler.daemon.services.canaries import Canaries
from scheduler.daemon.services.forecasts import NAME, DemandForecasts
from scheduler.daemon.telemetry import Telemetry
from scheduler.engine.serving import Memory, serve
from scheduler.model.ids import ClusterId, PoolId, Uid
from scheduler.model.serving import ClientDemand, RevisionMetrics
from tests.builders.measured import REF, Hand
from tests.builders.serving import NOW, a_group, a_service, a_view

LEADS = (100.0, 300.0)


def demand(rate: float | None, at: float) -> tuple[ClientDemand, ...]:
    half = None if rate is None else rate / 2
    return ClientDemand("eu", half, at), ClientDemand("us", half, at)


class World:
    def __init__(self, history: History) -> None:
        self.clock = Hand()
        self.history = history
        self.book = DemandForecasts(history, self.clock)

    def tell(self, *rates: float | None, every: float = 30.0) -> None:
        for rate in rates:
            self.clock.at += every
            self.book.observe(REF, self.clock.at, demand(rate, self.clock.at))

    def expected(self, confidence: float = 0.95) -> list[float]:
        return [one.per_second for one in self.book.forecast(REF, LEADS, confidence)]

    async def again(self) -> None:
        """After a restart."""
        self.book.save()
        await self.history.flush()
        self.book = DemandForecasts(self.history, self.clock)
        await self.book.load()


def over(folder: Path, work: Callable[[World], Any]) -> None:
    async def run() -> None:
        history = await History.open(f"sqlite+aiosqlite:///{folder / 'history.db'}", Telemetry())
        try:
            await work(World(history))
        finally:
            await history.close()

    asyncio.run(run())


def test_of_what_nobody_measured_nothing_is_foretold(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.tell(None, math.nan, -1.0, math.inf)
        assert world.expected() == []

    over(tmp_path, work)


def test_an_interval_is_a_minute_however_often_it_is_told(tmp_path: Path) -> None:
    """A rise within minutes is foretold the same whether it is told twice a minute or once."""

    async def work(world: World) -> None:
        rates = [10.0 + 0.5 * minute for minute in range(60)]
        world.tell(*(rate for rate in rates for _ in range(2)), every=30.0)
        twice = world.expected()
        once = World(world.history)
        once.tell(*rates, every=60.0)
        assert twice == pytest.approx(once.expected(), rel=0.1)
        for _ in range(5):  # The same measurement again is none.
            world.book.observe(REF, world.clock.at, demand(500.0, world.clock.at))
        assert world.expected() == twice

    over(tmp_path, work)


def test_leads_count_from_now_and_not_from_the_last_measurement(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        for minute in range(90):
            world.tell(10.0 + 0.5 * minute, every=60.0)
            soon, later = world.expected()
        world.clock.at += 120.0
        aged = world.book.forecast(REF, (LEADS[1] - 120.0,), 0.95)
        assert [one.per_second for one in aged] == [later]
        assert later > soon
        assert [one.ahead_seconds for one in aged] == [LEADS[1] - 120.0]

    over(tmp_path, work)


def test_one_absurd_value_is_no_lesson(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        world.tell(*[10.0] * 60)
        calm = world.expected()
        world.tell(1e9, *[10.0] * 3)
        assert world.expected() == pytest.approx(calm, rel=0.05)

    over(tmp_path, work)


def test_what_was_learned_is_known_after_a_restart(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        random = np.random.default_rng(1)
        for _ in range(200):
            world.tell(float(random.poisson(600)) / 60, every=60.0)
            world.expected()
        before = world.expected()
        await world.again()
        assert world.expected() == pytest.approx(before, rel=0.03)
        world.tell(*[10.0] * 20, every=60.0)
        assert len(world.expected()) == 2

    over(tmp_path, work)


def test_what_is_saved_is_bounded(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        random = np.random.default_rng(2)
        for minute in range(7000):
            world.tell(float(random.poisson(600)) / 60, every=60.0)
            if minute % 10 == 0:
                world.book.forecast(REF, [60.0 * (1 + minute // 700 + step) for step in range(8)], 0.95)
        world.book.save()
        await world.history.flush()
        saved = await world.history.memory(NAME)
        assert len(orjson.dumps(saved)) < 120_000
        for number in range(400):
            ref = replace(REF, uid=Uid(f"u-{number}"))
            world.book.observe(ref, world.clock.at, demand(1.0, world.clock.at))
        world.book.save()
        await world.history.flush()
        assert len((await world.history.memory(NAME))["services"]) == 256

    over(tmp_path, work)


def _without_version(saved: dict[str, Any]) -> None:
    del saved["version"]


def _later(saved: dict[str, Any]) -> None:
    saved["version"] = 2


def _of_no_number(saved: dict[str, Any]) -> None:
    saved["services"][REF.uid]["forecaster"]["roots"][0] = "many"


def _too_large(saved: dict[str, Any]) -> None:
    saved["services"][REF.uid]["forecaster"]["leads"]["2"]["errors"][0] = 1e300


def _too_short(saved: dict[str, Any]) -> None:
    saved["services"][REF.uid]["forecaster"]["leads"]["2"]["errors"].pop()


def _no_lead(saved: dict[str, Any]) -> None:
    saved["services"][REF.uid]["forecaster"]["leads"]["0"] = {}


@pytest.mark.parametrize("spoil", [_without_version, _later, _of_no_number, _too_large, _too_short, _no_lead])
def test_a_bad_state_is_one_line_and_a_fresh_start(tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> None:
    async def work(world: World) -> None:
        for _ in range(60):
            world.tell(10.0, every=60.0)
            world.expected()
        world.book.save()
        await world.history.flush()
        saved = await world.history.memory(NAME)
        spoil(saved)
        world.history.record(MEMORIES, {"name": NAME, "at": 1.0, "body": orjson.dumps(saved).decode()})
        await world.history.flush()
        world.book = DemandForecasts(world.history, world.clock)
        with capture_logs() as lines:
            await world.book.load()
        assert [line["event"] for line in lines] == ["demand_not_restored"]
        assert world.expected() == []
        world.tell(10.0, every=60.0)
        assert len(world.expected()) == 2

    over(tmp_path, work)


# -- canaries ------------------------------------------------------------------------------------------------------

STEP = ("r1", "r2", 0, 0)


def interval(revision: str, at: float, seconds: float = 1.0, requests: int = 200) -> RevisionMetrics:
    return RevisionMetrics(
        ClusterId("onprem"), revision, at, 30.0, PoolId("a10"), requests, seconds, errors=0, replicas=2
    )


class Rollout:
    def __init__(self) -> None:
        self.canaries = Canaries()
        self.now = NOW

    def look(self, *metrics: RevisionMetrics, step: tuple[str, str, int, int] | None = STEP) -> None:
        view = replace(a_view(a_service(a_group("onprem/a10", 2), metrics=metrics, revision="r2")), now=self.now)
        division, _ = serve(view, Memory(stable="r1"), use_milp=False)
        self.canaries.looked(view, division, step)

    def outcome(self) -> tuple[str, int] | None:
        told = self.canaries.verdict(a_service().ref, "r2")
        return None if told is None else (told.outcome, told.requests)

    def pass_time(self, seconds: float, slower: float = 1.0, step: tuple[str, str, int, int] = STEP) -> None:
        self.now += seconds
        self.look(interval("r1", self.now), interval("r2", self.now, slower), step=step)


def test_a_slower_revision_is_found_out_and_the_same_interval_counts_once() -> None:
    world = Rollout()
    world.look()
    for _ in range(4):
        world.pass_time(30.0, slower=1.5)
    first = world.outcome()
    assert first == ("bad", 800)
    world.look(interval("r1", world.now), interval("r2", world.now, 1.5))
    assert world.outcome() == first


def test_each_step_is_judged_by_what_was_measured_after_it_began() -> None:
    world = Rollout()
    world.look()
    for _ in range(4):
        world.pass_time(30.0, slower=1.5)
    later = ("r1", "r2", 0, 1)
    world.now += 10.0
    world.look(step=later)
    world.now += 10.0
    world.look(interval("r1", world.now), interval("r2", world.now, 1.5), step=later)  # Began before the step did.
    assert world.outcome() == ("undecided", 0)
    for _ in range(6):
        world.pass_time(30.0, step=later)
    assert world.outcome() == ("good", 1200)


def test_nobody_judges_what_is_not_being_rolled_out() -> None:
    world = Rollout()
    assert world.outcome() is None
    world.look()
    assert world.canaries.verdict(a_service().ref, "r3") is None
    world.look(step=None)
    assert world.outcome() is None


def test_another_rollout_has_another_judge() -> None:
    world = Rollout()
    world.look()
    for _ in range(4):
        world.pass_time(30.0, slower=1.5)
    world.look(step=("r1", "r3", 0, 0))
    assert world.outcome() is None
    assert world.canaries.verdict(a_service().ref, "r3") is not None
