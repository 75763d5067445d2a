"""The list and watch loop against a cluster that follows a script: resumes, relists, backs off, never gives up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from clusters.kubernetes.reflector import Reflector
from scheduler.model.contract import PODS
from scheduler.model.errors import (
    GoneError,
    NotFoundError,
    OverspillError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.ports import ObjectList, RawObject, Resource, WatchEvent


def pod(name: str, version: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version)}}


def event(kind: str, name: str, version: int) -> WatchEvent:
    return WatchEvent(kind, pod(name, version))


def bookmark(version: int) -> WatchEvent:
    return WatchEvent("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


class Wall:
    """Virtual wall time: pauses pass at once and are written down."""

    def __init__(self) -> None:
        self.time = 0.0
        self.pauses: list[float] = []

    def now(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


class Cluster:
    """Answers lists and watches in turn; then the watch stays silent. A float in a watch lets that much time pass."""

    def __init__(
        self,
        wall: Wall,
        lists: list[ObjectList | OverspillError],
        watches: list[list[WatchEvent | OverspillError | float]],
    ) -> None:
        self.wall = wall
        self.lists = lists
        self.watches = watches
        self.calls: list[str] = []
        self.done = asyncio.Event()
        self.closed = 0

    async def list(self, resource: Resource, **selection: str) -> ObjectList:
        self.calls.append("list")
        answer = self.lists.pop(0) if self.lists else RefusedError("the script has no more lists")
        if isinstance(answer, OverspillError):
            raise answer
        return answer

    async def watch(self, resource: Resource, *, resource_version: str, **selection: str) -> AsyncIterator[WatchEvent]:
        self.calls.append(f"watch {resource_version}")
        if not self.watches:
            self.done.set()
            await asyncio.Event().wait()
        try:
            for step in self.watches.pop(0):
                if isinstance(step, OverspillError):
                    raise step
                if isinstance(step, float):
                    self.wall.time += step
                else:
                    yield step
        finally:
            self.closed += 1


class Receiver:
    def __init__(self) -> None:
        self.objects: dict[str, RawObject] = {}
        self.replaced = 0
        self.states: list[tuple[bool, str | None]] = []
        self.absences: list[str] = []
        self.rewound = 0

    def on_replace(self, objects: tuple[RawObject, ...]) -> None:
        self.replaced += 1
        self.objects = {obj["metadata"]["name"]: obj for obj in objects}

    def on_rewind(self) -> None:
        self.rewound += 1

    def on_event(self, event: WatchEvent) -> None:
        name = event.object["metadata"]["name"]
        if event.type == "DELETED":
            self.objects.pop(name, None)
        else:
            self.objects[name] = event.object

    def on_absent(self, error: str) -> None:
        self.absences.append(error)

    def on_state(self, reachable: bool, error: str | None) -> None:
        self.states.append((reachable, error))


@asynccontextmanager
async def following(
    lists: list[ObjectList | OverspillError],
    watches: list[list[WatchEvent | OverspillError | float]],
    jitter: Callable[[], float] = lambda: 1.0,
) -> AsyncIterator[tuple[Reflector, Cluster, Receiver, Wall]]:
    """A reflector that has followed the script to its end, and then watches a silent cluster."""
    wall = Wall()
    cluster, receiver = Cluster(wall, lists, watches), Receiver()
    reflector = Reflector(cluster, PODS, receiver, wall=wall, jitter=jitter)  # type: ignore[arg-type]
    task = asyncio.create_task(reflector.run())
    try:
        async with asyncio.timeout(5):
            await cluster.done.wait()
        assert not task.done()
        yield reflector, cluster, receiver, wall
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def listing(version: int, *names: str) -> ObjectList:
    return ObjectList(tuple(pod(name, version) for name in names), str(version))


async def test_it_lists_then_follows() -> None:
    watches: list[list[WatchEvent | OverspillError | float]] = [
        [event("ADDED", "b", 11), event("MODIFIED", "a", 12), event("DELETED", "b", 13)]
    ]
    async with following([listing(10, "a")], watches) as (reflector, cluster, receiver, wall):
        assert cluster.calls == ["list", "watch 10", "watch 13"]
        assert receiver.objects == {"a": pod("a", 12)}
        assert receiver.states == [(True, None)]
        assert reflector.synced
        counters = reflector.counters
        assert (counters.lists, counters.watches, counters.events, counters.errors) == (1, 2, 3, 0)
        assert wall.pauses == []


async def test_a_bookmark_moves_the_place_to_resume_from_and_is_not_passed_on() -> None:
    async with following([listing(10)], [[bookmark(500)]]) as (reflector, cluster, receiver, _):
        assert cluster.calls[-1] == "watch 500"
        assert reflector.counters.events == 0
        assert receiver.objects == {}


async def test_an_expired_version_lists_anew_at_once() -> None:
    gone = GoneError("too old")
    async with following([listing(10, "a"), listing(90, "z")], [[gone]]) as (reflector, cluster, receiver, wall):
        assert cluster.calls == ["list", "watch 10", "list", "watch 90"]
        assert list(receiver.objects) == ["z"]
        assert receiver.replaced == 2
        assert wall.pauses == []
        assert reflector.counters.errors == 1


async def test_a_server_whose_watches_always_expire_is_not_hammered() -> None:
    lists: list[ObjectList | OverspillError] = [listing(version) for version in (1, 2, 3, 4)]
    async with following(lists, [[GoneError("too old")] for _ in range(3)]) as (_, cluster, _, wall):
        assert cluster.calls.count("list") == 4
        assert len(wall.pauses) == 2
        assert wall.pauses == sorted(wall.pauses)
        assert wall.pauses[0] > 0


async def test_a_broken_stream_is_resumed_without_a_list_or_an_alarm() -> None:
    watches: list[list[WatchEvent | OverspillError | float]] = [
        [event("ADDED", "a", 11), TransientError("connection lost")],
        [event("ADDED", "b", 12), TransientError("connection lost")],
    ]
    async with following([listing(10)], watches) as (reflector, cluster, receiver, _):
        assert cluster.calls == ["list", "watch 10", "watch 11", "watch 12"]
        assert receiver.states == [(True, None)]
        assert reflector.counters.errors == 2
        assert cluster.closed == 2


async def test_a_cluster_that_vanishes_is_told_and_listed_anew_when_it_is_back() -> None:
    down = TransientError("connection refused")
    lists: list[ObjectList | OverspillError] = [listing(10, "a"), down, down, listing(70, "b")]
    async with following(lists, [[20.0, down], [down]]) as (_, cluster, receiver, wall):
        assert cluster.calls == ["list", "watch 10", "watch 10", "list", "list", "list", "watch 70"]
        assert receiver.states == [(True, None), (False, "connection refused"), (True, None)]
        assert list(receiver.objects) == ["b"]
        assert wall.pauses == [0.5, 1.0, 2.0, 4.0]


async def test_pauses_grow_to_a_limit_with_full_jitter() -> None:
    lists: list[ObjectList | OverspillError] = [TransientError("down") for _ in range(12)]
    async with following([*lists, listing(1)], [], jitter=lambda: 0.5) as (_, _, receiver, wall):
        assert wall.pauses[:4] == [0.25, 0.5, 1.0, 2.0]
        assert max(wall.pauses) == 15.0
        assert receiver.states == [(False, "down"), (True, None)]


async def test_a_resource_that_the_cluster_does_not_serve_yet_is_told_and_awaited() -> None:
    lists: list[ObjectList | OverspillError] = [NotFoundError("no such path"), NotFoundError("no such path")]
    async with following([*lists, listing(5, "a")], []) as (reflector, _, receiver, wall):
        assert receiver.absences == ["no such path", "no such path"]
        assert receiver.states == [(True, "no such path"), (True, None)]
        assert list(receiver.objects) == ["a"]
        assert reflector.synced
        assert wall.pauses == [0.5, 1.0]


async def test_a_404_of_what_was_there_is_a_failure() -> None:
    lost = NotFoundError("no such path")
    async with following([listing(5), listing(6)], [[20.0, lost], [lost]]) as (_, _, receiver, _):
        assert receiver.absences == []
        assert (False, "no such path") in receiver.states


async def test_a_throttling_server_gets_the_pause_that_it_asks_for() -> None:
    throttled = ThrottledError("slow down", retry_after_seconds=7.0)
    async with following([throttled, listing(1)], []) as (_, _, _, wall):
        assert wall.pauses == [7.5]


async def test_a_version_that_the_server_refuses_is_forgotten() -> None:
    async with following([listing(10), listing(3)], [[RefusedError("bad version")]]) as (_, cluster, receiver, _):
        assert cluster.calls == ["list", "watch 10", "list", "watch 3"]
        assert receiver.rewound == 1, "what is known from before must not outrank the list"


async def test_a_watch_that_goes_back_in_time_is_not_believed() -> None:
    watches: list[list[WatchEvent | OverspillError | float]] = [
        [event("ADDED", "b", 11), event("MODIFIED", "a", 10**18), event("MODIFIED", "a", 12)]
    ]
    async with following([listing(10, "a"), listing(13, "a")], watches) as (reflector, cluster, receiver, wall):
        assert cluster.calls == ["list", "watch 10", "list", "watch 13"]
        assert (receiver.rewound, wall.pauses, reflector.counters.errors) == (1, [], 1)
        assert receiver.objects == {"a": pod("a", 13)}


async def test_a_watch_that_ends_at_once_with_nothing_is_not_hammered() -> None:
    async with following([listing(10)], [[], [], []]) as (_, cluster, _, wall):
        assert cluster.calls.count("list") == 1
        assert wall.pauses == [0.5, 1.0, 2.0]


async def test_a_quiet_watch_that_lived_its_time_is_followed_by_the_next_at_once() -> None:
    async with following([listing(10)], [[300.0], [300.0]]) as (_, cluster, _, wall):
        assert cluster.calls == ["list", "watch 10", "watch 10", "watch 10"]
        assert wall.pauses == []


@pytest.mark.parametrize(
    "junk", [{}, {"metadata": 5}, {"metadata": {"name": "x"}}, {"metadata": {"name": 1, "uid": "u"}}]
)
async def test_malformed_objects_are_counted_told_and_skipped(junk: dict[str, Any]) -> None:
    watches: list[list[WatchEvent | OverspillError | float]] = [[WatchEvent("ADDED", junk), event("ADDED", "b", 12)]]
    async with following([listing(10, "a")], watches) as (reflector, cluster, receiver, _):
        assert sorted(receiver.objects) == ["a", "b"]
        assert reflector.counters.errors == 1
        assert cluster.calls[-1] == "watch 12"
        assert any("no name or uid; ignored" in (error or "") for _, error in receiver.states)
        assert receiver.states[-1] == (True, None)


@pytest.mark.parametrize("junk", [{}, {"metadata": 5}, {"metadata": {"name": "x"}}])
async def test_a_list_with_a_malformed_object_is_refused_whole(junk: dict[str, Any]) -> None:
    lists = [listing(10, "a", "b"), ObjectList((junk, pod("a", 11)), "11"), listing(12, "b")]
    async with following(list(lists), [[GoneError("compacted")]]) as (_, cluster, receiver, _):
        assert cluster.calls == ["list", "watch 10", "list", "list", "watch 12"]
        assert receiver.replaced == 2, "b was never thought to be gone"
        assert any("the list is refused" in (error or "") for _, error in receiver.states)


GARBAGE = TransientError("not JSON", code="Malformed")


@pytest.mark.parametrize(
    ("watches", "want"),
    [
        ([[event("MODIFIED", "a", 11), GARBAGE], [event("MODIFIED", "b", 12), 9.0]], ["list", "10", "11", "12"]),
        ([[event("MODIFIED", "a", 11), GARBAGE], [11.0, bookmark(12)]], ["list", "10", "11", "list", "20"]),
        ([[event("MODIFIED", "a", 11), GARBAGE], [300.0]], ["list", "10", "11", "list", "20"]),
        ([[WatchEvent("MODIFIED", {}), 12.0, bookmark(11)]], ["list", "10", "list", "20"]),
        ([[TransientError("no answer", code="Lost")], [300.0]], ["list", "10", "10", "10"]),
    ],
    ids=["too early", "a bookmark is in time", "silent", "an object that is none", "nothing was said"],
)
async def test_what_was_said_beside_garbage_is_listed_again_once(
    watches: list[list[WatchEvent | OverspillError | float]], want: list[str]
) -> None:
    lists: list[ObjectList | OverspillError] = [listing(10, "a"), listing(20, "as it is")]
    async with following(lists, watches) as (_, cluster, receiver, _):
        assert [call.removeprefix("watch ") for call in cluster.calls] == want
        assert ("as it is" in receiver.objects) == (want.count("list") == 2)


async def test_the_time_of_the_last_word_is_known() -> None:
    async with following([listing(10)], [[40.0, bookmark(11), 2.0]]) as (reflector, _, _, wall):
        assert reflector.last_event_at == 40.0
        assert wall.time >= 42.0


@pytest.mark.parametrize(
    ("first", "silent", "want"),
    [
        ([bookmark(11)], [150.0], ["list", "watch 10", "watch 11", "list", "watch 20"]),
        ([bookmark(11)], [60.0], ["list", "watch 10", "watch 11", "watch 11"]),  # it ended, as watches do
        ([event("ADDED", "a", 11)], [150.0], ["list", "watch 10", "watch 11", "watch 11"]),  # who sends no bookmarks
    ],
)
async def test_a_watch_that_hangs_is_followed_by_a_list_where_bookmarks_are_usual(
    first: list[WatchEvent | OverspillError | float], silent: list[WatchEvent | OverspillError | float], want: list[str]
) -> None:
    async with following([listing(10), listing(20, "new")], [first, silent]) as (reflector, cluster, receiver, _):
        assert cluster.calls == want
        assert reflector.counters.errors == want.count("list") - 1, "it is counted"
        assert ("new" in receiver.objects) is (want.count("list") == 2)
        assert receiver.states[-1] == (True, None)
