"""The Lease: one holder, expiry by observation, release, and the fence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.daemon.leading.leader import Leader, LeaseSettings
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.errors import (
    AlreadyExistsError,
    ConflictError,
    FencedError,
    NotFoundError,
    TransientError,
)
from scheduler.model.ports import RawObject

SETTINGS = LeaseSettings(retry_seconds=0.0)


class OneLease:
    """The part of a Kubernetes API that a Lease needs, stale writes refused."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.down = False

    async def get(self, _resource: object, _namespace: str, _name: str) -> RawObject:
        self._answer()
        if self.lease is None:
            raise NotFoundError("no lease")
        return self.lease

    async def create(self, _resource: object, _namespace: str, body: dict[str, Any]) -> RawObject:
        self._answer()
        if self.lease is not None:
            raise AlreadyExistsError("there is one")
        return self._store(body)

    async def update(self, _resource: object, _namespace: str, _name: str, body: dict[str, Any]) -> RawObject:
        self._answer()
        assert self.lease is not None
        if body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ConflictError("stale")
        return self._store(body)

    async def patch(self, resource: object, namespace: str, name: str, body: dict[str, Any]) -> RawObject:
        assert self.lease is not None
        spec = {**self.lease["spec"], **body["spec"]}
        return await self.update(resource, namespace, name, {**self.lease, **body, "spec": spec})

    def _answer(self) -> None:
        if self.down:
            raise TransientError("connection refused")

    def _store(self, body: dict[str, Any]) -> RawObject:
        self.version += 1
        self.lease = {**body, "metadata": {**body["metadata"], "resourceVersion": str(self.version)}}
        return self.lease


class FixedClock:
    def now(self) -> float:
        return 1000.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError("leadership is timed by the process's own monotonic clock")


class Hand:
    """The clock of a Lease, moved by a test."""

    def __init__(self) -> None:
        self.at = 0.0

    def now(self) -> float:
        return self.at

    async def sleep(self, _seconds: float) -> None:
        await asyncio.sleep(0)


def a_leader(api: OneLease, name: str, hand: Hand) -> Leader:
    return Leader(api, name, FixedClock(), Telemetry().leader.set, SETTINGS, hand)  # type: ignore[arg-type]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0)


async def test_the_first_acquires_and_the_second_waits_until_the_lease_has_not_changed_for_its_duration() -> None:
    api, hand = OneLease(), Hand()
    first, second = a_leader(api, "first", hand), a_leader(api, "second", hand)
    running = asyncio.ensure_future(first.run())
    await until(lambda: first.is_leader)
    waiting = asyncio.ensure_future(second.run())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not second.is_leader
    running.cancel()
    hand.at += 14.0
    for _ in range(20):
        await asyncio.sleep(0)
    assert not second.is_leader
    hand.at += 2.0
    await until(lambda: second.is_leader)
    assert not first.is_leader
    assert api.lease is not None
    assert api.lease["spec"]["holderIdentity"] == "second"
    assert api.lease["spec"]["leaseTransitions"] == 1
    waiting.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)


async def test_a_leader_that_cannot_renew_is_fenced_before_another_can_take_over() -> None:
    api, hand = OneLease(), Hand()
    leader = a_leader(api, "first", hand)
    running = asyncio.ensure_future(leader.run())
    await until(lambda: leader.is_leader)
    leader.check()
    api.down = True
    hand.at += SETTINGS.renew_deadline_seconds + 0.1
    with pytest.raises(FencedError):
        leader.check()
    with pytest.raises(FencedError):
        await asyncio.wait_for(running, 5)


async def test_a_conflict_costs_nobody_the_lease_and_what_others_wrote_on_it_stays() -> None:
    api, hand = OneLease(), Hand()
    leader = a_leader(api, "first", hand)
    await leader._try_once()
    honest = api.get

    async def outrun(_resource: object, _namespace: str, _name: str) -> RawObject:
        read = await honest(_resource, _namespace, _name)
        api._store({**read, "metadata": {**read["metadata"], "annotations": {"team": "platform"}}})
        return read

    api.get = outrun  # type: ignore[method-assign]
    hand.at += 2.0
    await leader._try_once()
    leader.check()
    api.get = honest  # type: ignore[method-assign]
    hand.at += 2.0
    await leader._try_once()
    assert api.lease is not None
    assert api.lease["spec"]["holderIdentity"] == "first"
    assert api.lease["metadata"]["annotations"] == {"team": "platform"}
    hand.at += SETTINGS.renew_deadline_seconds - 0.1
    leader.check()


async def test_who_is_outrun_by_another_holder_never_holds_it() -> None:
    api, hand = OneLease(), Hand()
    first, second = a_leader(api, "first", hand), a_leader(api, "second", hand)
    honest = api.get

    async def outrun(_resource: object, _namespace: str, _name: str) -> RawObject:
        api.get = honest  # type: ignore[method-assign]
        await second._try_once()
        raise NotFoundError("no lease as of before the other's")

    api.get = outrun  # type: ignore[method-assign]
    await first._try_once()
    assert second.is_leader
    assert not first.is_leader
    await first._try_once()
    assert not first.is_leader


async def test_a_paused_leader_that_wakes_up_late_may_not_write() -> None:
    api, hand = OneLease(), Hand()
    leader = a_leader(api, "first", hand)
    running = asyncio.ensure_future(leader.run())
    await until(lambda: leader.is_leader)
    running.cancel()
    hand.at += 60.0
    with pytest.raises(FencedError):
        leader.check()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_leader_that_stood_still_while_it_looked_at_its_lease_does_not_renew_it() -> None:
    """What it was told is as old as it stood still; that its renewal would be refused is not relied on."""
    api, hand = OneLease(), Hand()
    leader = a_leader(api, "first", hand)
    await leader._try_once()
    get, version = api.get, api.version

    async def slow(*which: Any) -> RawObject:
        lease = await get(*which)
        hand.at += 60.0
        return lease

    api.get = slow  # type: ignore[assignment,method-assign]
    with pytest.raises(FencedError):
        await leader.run()
    assert api.version == version


async def test_one_whose_lease_has_lapsed_does_not_take_it_again() -> None:
    """Another may have led and gone meanwhile: what this process remembers is old."""
    api, hand = OneLease(), Hand()
    first, second = a_leader(api, "first", hand), a_leader(api, "second", hand)
    await first._try_once()
    hand.at += 8.0
    assert first.seconds_left == 7.0
    await second._try_once()
    hand.at += 16.0
    assert first.seconds_left == 0.0
    await second._try_once()
    assert second.is_leader
    await second.release()
    with pytest.raises(FencedError):
        await first.run()
    assert (api.lease or {})["spec"]["holderIdentity"] is None


async def test_a_released_lease_is_taken_at_once() -> None:
    api, hand = OneLease(), Hand()
    first, second = a_leader(api, "first", hand), a_leader(api, "second", hand)
    running = asyncio.ensure_future(first.run())
    await until(lambda: first.is_leader)
    running.cancel()
    await first.release()
    taking = asyncio.ensure_future(second.run())
    await until(lambda: second.is_leader)
    assert hand.at == 0.0
    taking.cancel()
    await asyncio.gather(running, taking, return_exceptions=True)


@pytest.mark.parametrize(
    "lie",
    [
        {"spec": 7},
        {"spec": {"holderIdentity": 7}},
        {"spec": {"holderIdentity": "b", "leaseDurationSeconds": "soon"}},
        {"spec": {"leaseTransitions": []}},
        {"metadata": 7},
        {"metadata": {}},
    ],
)
async def test_an_answer_that_is_no_lease_is_one_that_failed(lie: dict[str, Any]) -> None:
    api, hand = OneLease(), Hand()
    leader = a_leader(api, "a", hand)
    await leader._try_once()
    honest = api.lease
    assert honest is not None
    api.lease = {**honest, **lie}
    with pytest.raises(TransientError, match="the answer is no Lease"):
        await leader._try_once()
    await leader.release()
    api.lease = honest
    await leader._try_once()
    assert leader.is_leader
