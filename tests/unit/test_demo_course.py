"""Observer and course against a scripted federation: a hub and a member in memory, on a clock that only leaps."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest

from scheduler.cli.api import ExplainReply, StatusReply, parse_status
from scheduler.cli.demo import DemoOptions
from scheduler.cli.demo.arrivals import Arrival
from scheduler.cli.demo.course import Course
from scheduler.cli.demo.invariants import BoughtPool, Invariants
from scheduler.cli.demo.observer import Observer
from scheduler.cli.demo.remote import StateReply
from scheduler.cli.demo.summary import Summary
from scheduler.cli.demo.view import Frame
from scheduler.model.contract import JOBS, LABEL_ORIGIN_UID, NODES, PODS
from scheduler.model.errors import AlreadyExistsError, GoneError, NotFoundError, OutcomeUnknownError, TransientError
from scheduler.model.ports import ObjectList, RawObject, Resource, WatchEvent
from tests.unit.test_cli_status import STATUS


class Leaping:
    """A clock that stands still but for leaps."""

    def __init__(self) -> None:
        self.at = 1000.0

    def now(self) -> float:
        return self.at

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("nobody here waits on the virtual clock")


class Api:
    """A Kubernetes API in memory: enough for watching, creating and reading."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.log: defaultdict[str, list[WatchEvent]] = defaultdict(list)
        self.changed = asyncio.Condition()
        self.created: list[RawObject] = []
        self.fail_creates: list[Exception] = []
        self.lost_answers = 0
        self.fail_watches: list[Exception] = []

    async def put(self, resource: Resource, obj: dict[str, Any]) -> None:
        key = (resource.plural, obj["metadata"]["name"])
        change = "MODIFIED" if key in self.objects else "ADDED"
        await self._event(resource, change, obj)
        self.objects[key] = obj

    async def drop(self, resource: Resource, name: str) -> None:
        await self._event(resource, "DELETED", self.objects.pop((resource.plural, name)))

    async def _event(self, resource: Resource, change: str, obj: dict[str, Any]) -> None:
        async with self.changed:
            log = self.log[resource.plural]
            obj["metadata"]["resourceVersion"] = str(len(log) + 1)
            log.append(WatchEvent(change, obj))
            self.changed.notify_all()

    async def list(self, resource: Resource, **_selectors: str) -> ObjectList:
        items = tuple(obj for (plural, _), obj in self.objects.items() if plural == resource.plural)
        return ObjectList(items, str(len(self.log[resource.plural])))

    async def watch(self, resource: Resource, *, resource_version: str, **_selectors: str) -> AsyncIterator[WatchEvent]:
        if self.fail_watches:
            raise self.fail_watches.pop()
        seen = int(resource_version)
        while True:
            async with self.changed:
                await self.changed.wait_for(lambda: len(self.log[resource.plural]) > seen)  # noqa: B023
                new = self.log[resource.plural][seen:]
            for event in new:
                seen += 1
                yield event

    async def get(self, resource: Resource, namespace: str, name: str) -> RawObject:
        try:
            return self.objects[resource.plural, name]
        except KeyError as error:
            raise NotFoundError(name) from error

    async def create(self, resource: Resource, namespace: str, body: Mapping[str, Any]) -> RawObject:
        if self.fail_creates:
            raise self.fail_creates.pop()
        name = body["metadata"]["name"]
        if (resource.plural, name) in self.objects:
            raise AlreadyExistsError(name)
        stamp = {"uid": f"uid-{name}", "creationTimestamp": "1970-01-01T00:16:40Z"}
        obj = {**body, "metadata": {**body["metadata"], **stamp}}
        await self.put(resource, obj)
        self.created.append(obj)
        if self.lost_answers:
            self.lost_answers -= 1
            raise OutcomeUnknownError("the connection broke")
        return obj

    async def delete(self, resource: Resource, namespace: str, name: str, **_options: Any) -> None:
        if (resource.plural, name) not in self.objects:
            raise NotFoundError(name)
        await self.drop(resource, name)


@dataclass
class Remote:
    """Sandbox and daemon in one: runs each job for `run_seconds` on one bought node, then gives the node back."""

    hub: Api
    member: Api
    clock: Leaping
    run_seconds: float = 500.0
    spend: Decimal = Decimal("10.001")
    bill: Decimal = Decimal("10.004")
    lose: str = ""
    """Runs for ever."""
    ignore: str = ""
    """Is never started."""
    leaps: list[float] = field(default_factory=list)
    started: dict[str, float] = field(default_factory=dict)

    async def state(self) -> StateReply:
        await self._move()
        running = [at + self.run_seconds for name, at in self.started.items() if name != self.lose]
        later = [at for at in running if at > self.clock.now()]
        return StateReply(next_event_at=min(later, default=None), quiet_wall_seconds=1.0)

    async def leap(self, to: float) -> None:
        self.leaps.append(to)
        self.clock.at = max(self.clock.at, to)

    async def status(self) -> StatusReply | None:
        return parse_status(
            {**STATUS, "spend_usd": str(self.spend), "counters": {"returns": 1}, "clusters": [], "budgets": []}
        )

    async def bill_usd(self) -> Decimal:
        return self.bill

    async def explain(self, workload: str) -> ExplainReply | None:
        return None

    async def _move(self) -> None:
        for obj in self.hub.created:
            name = obj["metadata"]["name"]
            if name == self.ignore:
                continue
            if name not in self.started:
                self.started[name] = self.clock.now()
                await self._start(obj)
            elif name != self.lose and self.clock.now() >= self.started[name] + self.run_seconds:
                await self._finish(obj)

    async def _start(self, obj: RawObject) -> None:
        name, uid = obj["metadata"]["name"], obj["metadata"]["uid"]
        if ("nodes", "b1") not in self.member.objects:
            await self.member.put(NODES, _node())
        await self.member.put(JOBS, _copy(name, uid))
        await self.member.put(PODS, _pod(name, uid, "Running"))

    async def _finish(self, obj: RawObject) -> None:
        name, uid = obj["metadata"]["name"], obj["metadata"]["uid"]
        done = {"conditions": [{"type": "Complete", "status": "True"}]}
        if self.hub.objects["jobs", name].get("status") == done:
            return
        await self.member.put(PODS, _pod(name, uid, "Succeeded"))
        await self.member.put(JOBS, {**_copy(name, uid), "status": done})
        await self.hub.put(JOBS, {**obj, "metadata": dict(obj["metadata"]), "status": done})
        if all(self.hub.objects["jobs", one["metadata"]["name"]].get("status") for one in self.hub.created):
            await self.member.drop(NODES, "b1")


def _node() -> dict[str, Any]:
    return {
        "metadata": {"name": "b1", "uid": "b1", "labels": {"pool": "spot"}},
        "status": {"allocatable": {"cpu": "900", "memory": "9000Gi", "nvidia.com/gpu": "64", "pods": "110"}},
    }


def _copy(name: str, uid: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "uid": f"c-{name}", "labels": {LABEL_ORIGIN_UID: uid}},
        "spec": {"parallelism": 1, "completions": 1},
    }


def _pod(name: str, uid: str, phase: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": name,
            "uid": f"p-{name}",
            "labels": {LABEL_ORIGIN_UID: uid},
            "ownerReferences": [{"uid": f"c-{name}", "controller": True}],
        },
        "spec": {"nodeName": "b1", "containers": []},
        "status": {"phase": phase, "startTime": "1970-01-01T00:17:00Z"},
    }


class Children:
    """Both processes, in good health."""

    def check(self) -> None:
        return

    def resident_mib(self) -> float:
        return 100.0


class Screen:
    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def say(self, text: str) -> None:
        return

    def due(self) -> bool:
        return True

    def show(self, frame: Frame) -> None:
        self.frames.append(frame)

    def close(self) -> None:
        return


@dataclass
class Stage:
    hub: Api
    member: Api
    clock: Leaping
    remote: Remote
    observer: Observer
    screen: Screen


@pytest.fixture
def stage() -> Stage:
    hub, member, clock = Api(), Api(), Leaping()
    remote = Remote(hub, member, clock)
    invariants = Invariants(bought=(BoughtPool("eks", (("pool", "spot"),)),), grace_seconds=1e9)
    return Stage(hub, member, clock, remote, Observer(hub, {"eks": member}, invariants, clock), Screen())  # type: ignore[dict-item,arg-type]


async def play(stage: Stage, arrivals: list[Arrival], **options: Any) -> Summary:
    child = Children()
    watching = asyncio.create_task(stage.observer.run())
    try:
        async with asyncio.timeout(20):
            await stage.observer.ready()
            course = Course(
                DemoOptions(trace=__file__, **options),  # type: ignore[arg-type]
                tuple(arrivals),
                stage.screen,
                hub=stage.hub,  # type: ignore[arg-type]
                remote=stage.remote,  # type: ignore[arg-type]
                observer=stage.observer,
                clock=stage.clock,
                daemon=child,  # type: ignore[arg-type]
                children=(child,),  # type: ignore[arg-type]
            )
            summary, _ = await course.run()
            return summary
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


def arrivals(*at: float) -> list[Arrival]:
    return [Arrival(f"job-{number}", start, 500.0, 1, "q", 500.0) for number, start in enumerate(at)]


async def test_jobs_come_when_they_are_due_and_time_leaps_from_event_to_event(stage: Stage) -> None:
    summary = await play(stage, arrivals(0.0, 100.0, 5000.0))
    assert stage.remote.started == {"job-0": 1000.0, "job-1": 1100.0, "job-2": 6000.0}
    assert stage.remote.leaps == [1100.0, 1500.0, 1600.0, 6000.0, 6500.0]
    assert summary.ok
    assert (summary.submitted, summary.finished, summary.bursts, summary.returns) == (3, 3, 3, 1)
    assert summary.virtual_seconds == 5500.0
    assert summary.daemon_rss_mib == 100.0
    assert len(summary.copy_latencies_seconds) == 3
    assert stage.screen.frames[-1].finished == 3


async def test_the_hub_may_fail_for_a_moment_and_no_job_is_submitted_twice(stage: Stage) -> None:
    stage.hub.fail_creates = [TransientError("503")]
    stage.hub.lost_answers = 1
    summary = await play(stage, arrivals(0.0))
    assert summary.submitted == summary.finished == 1
    assert len(stage.hub.created) == 1


async def test_a_watch_that_is_too_old_is_begun_again(stage: Stage) -> None:
    stage.hub.fail_watches = [GoneError("too old"), TransientError("closed")]
    stage.member.fail_watches = [GoneError("too old")]
    assert (await play(stage, arrivals(0.0, 10.0))).ok


@pytest.mark.parametrize(
    ("changed", "options", "want_lost", "want_violations", "want_aborted"),
    [
        ({"bill": Decimal("10.02")}, {}, 0, ["SpendMismatch"], None),
        ({"lose": "job-1"}, {"timeout_seconds": 0.5}, 1, ["BoughtNodesLeft"], "running: not over after 0.5 s"),
        (
            {"ignore": "job-1"},
            {},
            1,
            ["BoughtNodesLeft"],
            "running: nothing runs and nothing moves any more; job-1 waits",
        ),
    ],
)
async def test_what_goes_wrong_is_told(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, Any],
    options: dict[str, Any],
    want_lost: int,
    want_violations: list[str],
    want_aborted: str | None,
) -> None:
    monkeypatch.setattr("scheduler.cli.demo.course._LEDGER_WALL_SECONDS", 0.1)
    monkeypatch.setattr("scheduler.cli.demo.course._STALLED_WALL_SECONDS", 0.3)
    for name, value in changed.items():
        setattr(stage.remote, name, value)
    summary = await play(stage, arrivals(0.0, 0.0), **options)
    assert not summary.ok
    assert summary.lost == want_lost
    assert [violation.kind for violation in summary.violations] == want_violations
    assert (summary.aborted or "").startswith(want_aborted or "")
    assert (summary.aborted is None) is (want_aborted is None)


async def test_two_copies_at_once_are_confirmed_by_reading_one_again(stage: Stage) -> None:
    watching = asyncio.create_task(stage.observer.run())
    await stage.hub.create(JOBS, "default", {"metadata": {"name": "j", "labels": {"overspill.dev/queue": "q"}}})
    await stage.member.put(JOBS, _copy("j", "uid-j"))
    await stage.member.put(JOBS, _copy("j-again", "uid-j"))
    async with asyncio.timeout(10):
        while not stage.observer.invariants.duplicated:
            await asyncio.sleep(0.02)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    assert stage.observer.invariants.duplicated == {"uid-j"}
