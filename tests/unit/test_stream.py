"""The ring of decisions behind the server-sent events."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.daemon.http.stream import HELD, KEPT, DecisionStream
from scheduler.model.ids import DecisionId, QueueId, Uid, WorkloadRef
from scheduler.model.plan import Decision
from scheduler.model.verdict import Reason


def decision(number: int, outcome: str = "placed") -> Decision:
    ref = WorkloadRef("job", "default", f"j{number}", Uid(f"u{number}"))
    return Decision(
        DecisionId(str(number)), float(number), ref, QueueId("q"), outcome, Reason("Placed", "p"), "s", "", ""
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 700), max_size=6))
def test_every_listener_is_told_of_each_once_or_that_it_missed_it(batches: list[int]) -> None:
    stream, place, told, missed, count = DecisionStream("e"), 0, [], 0, 0
    for batch in batches:
        for _ in range(batch):
            stream.add(decision(count))
            count += 1
        fresh, place, gone = stream.since(place)
        assert len(fresh) <= KEPT
        told += [int(each["id"]) for each in fresh]
        missed += gone
    assert told == sorted(set(told))
    assert len(told) + missed == count
    assert told[-1:] == ([count - 1] if count else [])


def test_a_backlog_that_is_held_is_not_told() -> None:
    stream = DecisionStream("e")
    stream.add(decision(1, HELD))
    assert stream.since(0) == ([], 0, 0)


@pytest.mark.parametrize(
    ("last", "want"),
    [("e-7", 7), ("e-60", 60), ("e-99", 60), ("other-7", 10), ("", 10), ("e-", 10), ("e--3", 10), ("e-7x", 10),
     (f"e-{'9' * 40}", 10), ("e-²", 10)],
)  # fmt: skip
def test_a_listener_goes_on_where_it_was_or_begins_a_little_back(last: str, want: int) -> None:
    stream = DecisionStream("e")
    for number in range(60):
        stream.add(decision(number))
    assert stream.place(last) == want


async def test_who_waits_is_woken_and_by_the_end_too() -> None:
    stream = DecisionStream("e")
    stream.listeners = 1
    first = stream.news
    stream.add(decision(1))
    assert first.is_set()
    second = stream.news
    assert not second.is_set()
    stream.close()
    assert second.is_set()
