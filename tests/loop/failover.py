"""Two daemons over one sandbox, and what can happen to the one that leads: killed, cut off, its clock set, stopped.

    python -m tests.loop.failover --times 100 --seed 1

The Lease has a time of its own, which moves on only when every leader has had its turn: so its fifteen seconds pass in
a moment, and as many on a slow machine as on a fast one. At which write of the leader it happens, and whether just
before it or just after, is drawn from the seed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import math
import random
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog

from clusters.metrics.collector import Collector
from clusters.sandbox.emulation.billing import Charge, total
from scheduler.daemon.gathering.metrics import OpenCollector
from scheduler.daemon.leading.leader import LeaseSettings
from scheduler.daemon.parts import Daemon
from scheduler.model.errors import FencedError, OutcomeUnknownError, TransientError
from scheduler.model.ports import Clock, KubeApi, NodePoolProvider
from tests.loop.harness import PodCounter, World, a_world, counting, is_complete, until
from tests.loop.test_crash_safety import only_in_the_cloud

LEASE = LeaseSettings()
STEP_SECONDS = 1.0
WRITES = frozenset({"create", "update", "patch", "delete", "create_subresource", "set_size", "remove_node"})
TAKEN_WITHIN_SECONDS = LEASE.duration_seconds + 2 * LEASE.retry_seconds + STEP_SECONDS
"""From what happened: the Lease's duration, and a look of the standby before and after it."""


class LeaseTime:
    """The time by which all Leases are held. Moved by `run`, never by the machine."""

    def __init__(self) -> None:
        self.at = 0.0
        self.until = math.inf
        """It stands still from here."""
        self.clocks: list[LeaseClock] = []

    def clock(self) -> LeaseClock:
        made = LeaseClock(self)
        self.clocks.append(made)
        return made

    async def run(self) -> None:
        """A step at a time, each once every process that is not stopped sleeps again."""
        while True:
            await asyncio.sleep(0.002)
            if self.at < self.until and all(clock.sleeps or clock.is_stopped() for clock in self.clocks):
                self.at += STEP_SECONDS
                for clock in self.clocks:
                    clock.look()


class LeaseClock:
    """One process's view of it."""

    def __init__(self, time: LeaseTime) -> None:
        self._time = time
        self._sleepers: list[tuple[float, asyncio.Future[None]]] = []
        self.loops = 1
        """That sleep by it."""
        self.is_stopped: Callable[[], bool] = lambda: True

    @property
    def sleeps(self) -> bool:
        self._sleepers = [sleeper for sleeper in self._sleepers if not sleeper[1].done()]
        return len(self._sleepers) >= self.loops

    def now(self) -> float:
        return self._time.at

    async def sleep(self, seconds: float) -> None:
        waking = asyncio.get_running_loop().create_future()
        self._sleepers.append((self._time.at + seconds, waking))
        await waking

    def look(self) -> None:
        for due, waking in self._sleepers:
            if self._time.at >= due and not waking.done() and not self.is_stopped():
                waking.set_result(None)


class OffClock:
    """A clock that somebody has set wrong."""

    def __init__(self, clock: Clock, off_seconds: float) -> None:
        self._clock = clock
        self.off_seconds = off_seconds

    def now(self) -> float:
        return self._clock.now() + self.off_seconds

    async def sleep(self, seconds: float) -> None:
        await self._clock.sleep(seconds)


class Dead(BaseException):
    """Of a process that was killed: nothing may catch it."""


@dataclass
class Fate:
    """What befalls a daemon, and the wires on which it does."""

    kind: str = "none"
    at_write: int = 0
    after: bool = False
    """The fatal write still reaches the server; its answer comes late, or never."""
    writes: int = 0
    struck: asyncio.Event = field(default_factory=asyncio.Event)
    awake: asyncio.Event = field(default_factory=asyncio.Event)
    late: list[str] = field(default_factory=list)
    """Writes that were begun after the fate had struck and reached a server."""
    where: str = ""
    on_strike: Callable[[], None] = lambda: None

    @property
    def stands_still(self) -> bool:
        return self.kind == "pause" and self.struck.is_set() and not self.awake.is_set()

    def wrap(self, name: str, api: KubeApi) -> KubeApi:
        return Wire(self, name, api)

    def wrap_provider(self, name: str, provider: NodePoolProvider) -> NodePoolProvider:
        return Wire(self, f"cloud {name}", provider)

    async def write(self, name: str, what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.struck.is_set():
            return await self._afterwards(name, what, call)
        self.writes += 1
        if self.writes != self.at_write or self.kind == "none":
            return await call()
        self.where = f"{'after' if self.after else 'before'} write {self.at_write}, {what}"
        if self.kind == "clock":
            self.struck.set()
            self.on_strike()
            return await call()
        result = await call() if self.after else None
        self.struck.set()
        self.on_strike()
        if self.kind == "kill":
            raise Dead
        if self.kind == "partition":
            if name == "hub" or name.startswith("hub "):
                raise OutcomeUnknownError("cut off")
            return result if self.after else await call()
        await self.awake.wait()
        if self.after:
            return result
        # A write that had not gone out has had its time: the event loop's timers are due first when it wakes up.
        raise OutcomeUnknownError("the write did not end while the Lease was ours")

    async def _afterwards(self, name: str, what: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if self.kind == "kill":
            raise Dead
        if self.kind == "partition" and name == "hub":
            raise TransientError("cut off")
        if self.kind == "pause":
            if not self.awake.is_set():
                await self.awake.wait()
                raise OutcomeUnknownError("the write did not end while the Lease was ours")
            self.late.append(what)
        return await call()

    async def read(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        self._cut(name)
        result = await call()
        self._cut(name)
        if self.stands_still:
            await self.awake.wait()
        return result

    def _cut(self, name: str) -> None:
        if self.struck.is_set() and self.kind == "kill":
            raise Dead
        if self.struck.is_set() and self.kind == "partition" and name == "hub":
            raise TransientError("cut off")

    async def events(self, name: str, stream: AsyncGenerator[Any, None]) -> AsyncIterator[Any]:
        """A watch, cut off when its time has come."""
        cut = asyncio.ensure_future(self.struck.wait())
        following: asyncio.Future[Any] = cut
        try:
            while True:
                following = asyncio.ensure_future(_next(stream))
                await asyncio.wait({following} if cut.done() else {following, cut}, return_when="FIRST_COMPLETED")
                self._cut(name)
                if self.stands_still:
                    await self.awake.wait()
                event = await following
                if event is None:
                    return
                yield event
        finally:
            following.cancel()
            cut.cancel()
            await asyncio.gather(following, cut, return_exceptions=True)
            await stream.aclose()


async def _next(stream: AsyncGenerator[Any, None]) -> Any:
    return await anext(stream, None)


class Wire:
    """A cluster's or a cloud's API, with a daemon's fate on it. Its Lease goes over the same wire, uncounted."""

    def __init__(self, fate: Fate, name: str, api: Any) -> None:
        self._fate = fate
        self._name = name
        self._api = api

    def __getattr__(self, verb: str) -> Any:
        method = getattr(self._api, verb)
        if verb == "close":
            return method
        if verb == "watch":
            return lambda *args, **named: self._fate.events(self._name, method(*args, **named))

        async def call(*args: Any, **named: Any) -> Any:
            plural = getattr(args[0], "plural", "") if args else ""
            if verb not in WRITES or plural in ("leases", "events"):
                return await self._fate.read(self._name, lambda: method(*args, **named))
            return await self._fate.write(
                self._name, f"{verb} {plural} on {self._name}", lambda: method(*args, **named)
            )

        return call


@dataclass
class Process:
    """One of the two."""

    name: str
    daemon: Daemon
    task: asyncio.Task[None]
    fate: Fate
    clock: OffClock

    def kill(self) -> None:
        """What it had not sent or written is lost."""
        history = self.daemon.outside.history
        history._waiting = asyncio.Queue(20_000)
        history.may_write = lambda: False
        self.task.cancel()


@dataclass
class Outcome:
    """Of one story."""

    kind: str
    where: str
    taken_seconds: float | None
    """Of Lease time, until the other leads; None: the Lease did not change hands."""


class Story:
    """One world, told as often as one likes: each time two new daemons, some jobs, and a fate."""

    def __init__(self, world: World, counter: PodCounter, draw: random.Random) -> None:
        self._world = world
        self._counter = counter
        self._draw = draw
        self._told = 0

    async def tell(self, kind: str) -> Outcome:
        """Raises: AssertionError where anything was lost or doubled, or taken over late."""
        self._told += 1
        draw = self._draw
        fate = Fate(kind, at_write=draw.randint(1, 24), after=draw.random() < 0.5)
        names = [f"{what}-{self._told}" for what in ("plain", "gang", "burst")]
        async with AsyncExitStack() as stack:
            time = LeaseTime()
            first = await self._process(stack, time, "first", fate)
            moving = asyncio.ensure_future(time.run())
            stack.push_async_callback(_ended, moving)
            await until(lambda: first.daemon.leader.is_leader, "the first leads")
            second = await self._process(stack, time, "second", Fate())
            await until(lambda: second.daemon.mirror.ever_synced, "the standby is warm")
            uids = await self._submit(names)
            outcome = await self._run(time, first, second, names)
            where = f"{kind} {outcome.where}"
            leader = second if outcome.taken_seconds is not None else first
            await until(lambda: self._over(names, leader), f"{where}: all complete", 90)
            await self._check(where, names, uids)
            if kind != "clock":
                await self._check_bill(where, leader)
            if outcome.taken_seconds is not None:
                assert not fate.late, f"{where}: wrote after it had woken up: {fate.late}"
        return outcome

    async def _process(self, stack: AsyncExitStack, time: LeaseTime, name: str, fate: Fate) -> Process:
        own = time.clock()
        off = OffClock(self._world.sandbox.clock, 0.0)
        outside = await stack.enter_async_context(self._world.outside(identity=name))
        outside = replace(
            outside,
            clock=off,
            lease=LEASE,
            lease_clock=own,
            hub_api=fate.wrap("hub", self._world.hub),
            member_apis={cluster: fate.wrap(cluster, self._world.member(cluster)) for cluster in outside.member_apis},
            metrics=OpenCollector(Collector({}, (), clock=off), ()),
            providers={cluster: fate.wrap_provider(cluster, one) for cluster, one in outside.providers.items()},
        )
        daemon = Daemon(outside, shadow=False)
        process = Process(name, daemon, asyncio.ensure_future(daemon.run()), fate, off)
        own.is_stopped = lambda: fate.stands_still or process.task.done()
        stack.push_async_callback(_ended, process.task)
        return process

    async def _submit(self, names: list[str]) -> list[str]:
        plain, gang, burst = names
        long = self._draw.choice([60.0, 600.0, 1800.0])
        made = [
            await self._world.submit(plain, seconds=long),
            await self._world.submit(gang, gpus=8, pods=2, seconds=120.0),
            await self._world.submit(burst, **only_in_the_cloud()),
        ]
        return [one["metadata"]["uid"] for one in made]

    async def _run(self, time: LeaseTime, first: Process, second: Process, names: list[str]) -> Outcome:
        fate, kind = first.fate, first.fate.kind
        stays = kind == "pause" and self._draw.random() < 0.3
        lasts = self._draw.uniform(1.0, 5.0) if stays else self._draw.uniform(16.0, 120.0)
        struck_at: list[float] = []

        def strike() -> None:
            struck_at.append(time.at)
            if kind == "clock":
                first.clock.off_seconds = self._draw.choice([-300.0, -10.0, 10.0, 3600.0, 86400.0])
            elif stays:
                time.until = time.at + lasts

        fate.on_strike = strike
        if kind == "clock":
            second.clock.off_seconds = self._draw.choice([-300.0, -30.0, 30.0, 7200.0])
        taking = asyncio.ensure_future(_when_acquired(second, time))
        await until(lambda: fate.struck.is_set() or self._over(names, first), f"{kind}: struck, or over")
        if kind == "clock" or not fate.struck.is_set():
            taking.cancel()
            fate.kind = "none"
            return Outcome(kind, fate.where or "never struck", None)
        if kind == "kill":
            first.kill()
        if kind == "pause":
            await until(lambda: time.at - struck_at[0] >= lasts, f"{kind}: time passes")
            assert not (stays and taking.done()), "nobody takes over from one that slept for a moment"
            fate.awake.set()
            time.until = math.inf
        if stays:
            taking.cancel()
            return Outcome(kind, f"{fate.where}, for {lasts:.0f} s", None)
        await until(taking.done, f"{kind} {fate.where}: taken over")
        taken = taking.result() - struck_at[0]
        assert taken <= TAKEN_WITHIN_SECONDS, f"{kind} {fate.where}: taken over after {taken} s"
        with suppress(Dead, asyncio.CancelledError):
            await until(first.task.done, f"{kind} {fate.where}: the first ends")
            if kind != "kill":
                escaped = first.task.exception()
                assert isinstance(escaped, BaseExceptionGroup), f"{kind}: {escaped!r}"
                assert escaped.split(FencedError)[1] is None, f"{kind}: {escaped!r}"
        return Outcome(kind, fate.where, taken)

    async def _over(self, names: list[str], leader: Process) -> bool:
        if leader.task.done() and not leader.task.cancelled():
            leader.task.result()
        jobs = [await self._world.job(name) for name in names]
        return all(is_complete(job) and not (job or {})["metadata"].get("finalizers") for job in jobs)

    async def _check(self, where: str, names: list[str], uids: list[str]) -> None:
        for name, uid, pods in zip(names, uids, (1, 2, 1), strict=True):
            counter = self._counter
            assert len(counter.succeeded.get(uid, ())) == pods, f"{where}: {name} finished exactly once"
            assert len(counter.ran.get(uid, ())) == pods, f"{where}: no pod of {name} was started in vain"
            assert len(counter.copies.get(uid, ())) == 1, f"{where}: one copy of {name} in all"
            assert not await self._world.copies(uid), f"{where}: no copy of {name} is left"

    async def _check_bill(self, where: str, leader: Process) -> None:
        """What was metered is what the clouds charge, to the last nano-dollar."""
        charges = self._world.sandbox.charges
        ledger = leader.daemon.ledger

        def settled() -> bool:
            return all(charge.deleted_at is not None for charge in charges()) and ledger.nodes_ended == len(charges())

        await until(settled, f"{where}: bought nodes are given back", 90)
        told, charged = ledger.total_usd, total(charges())
        assert told == charged, f"{where}: {told} USD metered, {charged} charged, {_lifetimes(leader, charges())}"


async def _when_acquired(process: Process, time: LeaseTime) -> float:
    await process.daemon.leader.acquired.wait()
    return time.at


def _lifetimes(process: Process, charges: tuple[Charge, ...]) -> str:
    """Where the two differ."""
    known = process.daemon.ledger._open
    return "; ".join(
        f"{charge.uid[:8]}: {charge.created_at}-{charge.deleted_at} for {charge.usd}, known as {known.get(charge.uid)}"
        for charge in charges
    )


KINDS = ("kill", "partition", "pause", "clock")
"""The last one leaves its mark on the bill: a node whose end is only seen ends by our own clock."""


async def _ended(task: asyncio.Future[Any]) -> None:
    task.cancel()
    with suppress(Dead, Exception, asyncio.CancelledError):
        await task


@asynccontextmanager
async def a_story(folder: Path, seed: int) -> AsyncIterator[Story]:
    """A world of its own for it."""
    async with a_world(folder, speed=3000.0) as world, counting(world) as counter:
        yield Story(world, counter, random.Random(seed))


async def tell_all(times: int, seed: int) -> None:
    """Every kind so many times, in a new world each time. Raises: AssertionError at the first that fails."""
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(times):
        began = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            async with a_story(Path(folder), seed + number) as story:
                for kind in KINDS:
                    try:
                        outcome = await story.tell(kind)
                    except BaseException:
                        print(f"round {number}, seed {seed + number}, {kind}: FAILED", flush=True)
                        raise
                    if outcome.taken_seconds is not None:
                        taken[kind].append(outcome.taken_seconds)
        print(f"round {number}, seed {seed + number}: passed in {time.process_time() - began:.1f} s of CPU", flush=True)
    for kind, seconds in taken.items():
        if seconds:
            span = f"{min(seconds):.0f} to {max(seconds):.0f} s"
            print(f"{kind}: taken over {len(seconds)} times, after {span} of Lease time")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    asyncio.run(tell_all(chosen.times, chosen.seed))


if __name__ == "__main__":
    main()
