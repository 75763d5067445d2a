"""What the daemon remembers of placements that were made to learn, over restarts and beyond."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from scheduler.daemon.money.exploration import NAME, ExplorationBook
from scheduler.model.errors import OverspillError
from scheduler.model.ids import Uid
from scheduler.model.snapshot import Explored
from tests.unit.engine_world import NOW

DAY = 86400.0


class Memory:
    """A history that keeps one thing."""

    def __init__(self, body: Any = None) -> None:
        self.body = body
        self.writes = 0

    def record(self, table: Any, row: dict[str, Any]) -> None:
        assert (table.name, row["name"]) == ("memories", NAME)
        self.body, self.writes = json.loads(row["body"]), self.writes + 1

    async def memory(self, name: str) -> Any:
        if isinstance(self.body, Exception):
            raise self.body
        return self.body


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.at = now

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        self.at += seconds


def book(memory: Any = None, clock: Clock | None = None, *, saves: bool = True) -> ExplorationBook:
    history: Any = Memory() if memory is None else memory
    return ExplorationBook(history, Clock() if clock is None else clock, saves=saves)


def told(name: str, usd: str = "3", at: float = NOW, policy: str = "p") -> Explored:
    return Explored(Uid(name), 1, policy, at, Decimal(usd))


async def test_it_survives_a_restart_exactly() -> None:
    memory = Memory()
    before = book(memory)
    before.placed([told("a", "0.1"), told("b", "12.345678901")])
    before.placed([])
    assert memory.writes == 1
    after = book(memory)
    await after.load()
    assert after.explored() == before.explored() == (told("a", "0.1"), told("b", "12.345678901"))


@pytest.mark.parametrize(
    "body",
    [
        OverspillError("gone"),
        {},
        {"version": 2, "explored": []},
        {"version": 1, "explored": [["a", 1, "p", NOW]]},
        {"version": 1, "explored": [["a", 1, "p", NOW, "-3"]]},
        {"version": 1, "explored": [["a", 1, "p", NOW, "NaN"]]},
        {"version": 1, "explored": [["a", 1, "p", NOW, "many"]]},
    ],
)
async def test_what_cannot_be_read_is_left(body: Any) -> None:
    one = book(Memory(body))
    one.placed([told("now")])
    await one.load()
    assert one.explored() == (told("now"),)


def test_what_never_ran_counts_for_nothing_and_what_cost_more_for_that() -> None:
    one = book()
    one.placed([told("a"), told("b"), told("c")])
    one.undelivered(Uid("a"), 1)
    one.undelivered(Uid("b"), 2)
    one.ended(Uid("b"), lambda: Decimal(5))
    one.ended(Uid("c"), lambda: Decimal(2))
    one.ended(Uid("c"), lambda: None)
    assert one.explored() == (told("b", "5"), told("c"))


def test_shadow_mode_writes_nothing() -> None:
    memory = Memory()
    one = book(memory, saves=False)
    one.placed([told("a")])
    assert (one.explored(), memory.writes) == ((told("a"),), 0)


def test_old_ones_are_added_up_and_no_dollar_is_lost() -> None:
    clock = Clock()
    one = book(clock=clock)
    for month in range(12):
        clock.at = NOW + month * 31 * DAY
        one.placed(told(f"w{month}-{each}", "0.01", clock.at, "pq"[each % 2]) for each in range(500))
    kept = one.explored()
    assert len(kept) <= 1_002
    assert sum(each.usd for each in kept) == 60
    assert sum(each.usd for each in kept if each.policy == "q") == 30
    assert sum(each.usd for each in kept if each.at == clock.at) == 5


def test_too_many_of_one_day_are_added_up_as_well() -> None:
    one = book()
    one.placed(told(f"w{each}", "0.01") for each in range(6_000))
    assert len(one.explored()) == 2_501
    assert sum(each.usd for each in one.explored()) == 60
    assert all(each.at == NOW for each in one.explored())
