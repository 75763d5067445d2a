"""Two real processes of `overspill run` over one sandbox and one PostgreSQL, and what can happen to the one that leads:
stopped with a write in its hand until another leads, and woken up late; killed; asked to end.

`tests/loop/failover.py` tells more stories, more often and in one process; here signals, sockets and clocks are real.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from clusters.sandbox.apiserver.authorization import ADMIN, Attributes, User
from clusters.sandbox.apiserver.server import kubeconfig
from clusters.sandbox.emulation.billing import total
from scheduler.daemon.leading.leader import LeaseSettings
from scheduler.model.contract import LEASES
from scheduler.model.money import to_cents
from tests.builders.postgres_process import PASSWORD, USER, RunningPostgres, running_postgres
from tests.loop.harness import PodCounter, World, a_world, counting, until
from tests.loop.test_crash_safety import only_in_the_cloud

LEASE = LeaseSettings()
SLACK_SECONDS = 5.0
"""For a machine that is busy."""
RUNS_OUT_SECONDS = LEASE.duration_seconds + 2 * LEASE.retry_seconds + SLACK_SECONDS
"""Until another leads where the Lease has to run out."""
RELEASED_SECONDS = LEASE.retry_seconds + SLACK_SECONDS
"""Until another leads where it is given up."""
STRIKES_AT = 5
"""Its so manieth write after the jobs came, with their copies half made."""
READS = frozenset({"get", "list", "watch"})


@dataclass
class Audit:
    """What the APIs of all clusters are asked to write, by whom; and a signal at a chosen write."""

    writes: list[tuple[float, str, str]] = field(default_factory=list)
    at_write: int = 0
    strike: Callable[[], None] = lambda: None
    struck_at: float | None = None

    def follow(self, world: World) -> None:
        for name, server in world.sandbox.servers.items():

            def told(user: User, asked: Attributes, name: str = name) -> None:
                if asked.verb not in READS and not asked.path:
                    self._write(user.name, f"{asked.verb} {asked.resource} on {name}")

            server.audit = told

    def strike_first(self, strike: Callable[[], None]) -> None:
        self.strike = strike
        self.at_write = self._of("first") + STRIKES_AT

    def after(self, at: float, who: str) -> list[str]:
        return [what for when, by, what in self.writes if by == who and when >= at]

    def _of(self, who: str) -> int:
        return sum(1 for _, by, what in self.writes if by == who and "leases" not in what)

    def _write(self, who: str, what: str) -> None:
        """It has arrived, is not carried out yet, and not answered."""
        self.writes.append((time.monotonic(), who, what))
        if who == "first" and self.at_write and self.struck_at is None and self._of("first") >= self.at_write:
            self.struck_at = time.monotonic()
            self.strike()


@dataclass
class Replica:
    """A process, known to all clusters by a token of its own."""

    name: str
    process: asyncio.subprocess.Process
    log: Path

    def said(self, event: str) -> list[dict[str, Any]]:
        lines = [line for line in self.log.read_text().splitlines() if f'"{event}"' in line]
        return [one for one in map(json.loads, lines) if one["event"] == event]

    @property
    def url(self) -> str:
        return str(self.said("started")[0]["url"])

    async def get(self, path: str) -> tuple[int, str]:
        timeout = aiohttp.ClientTimeout(total=10)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(f"{self.url}{path}") as answer:
            return answer.status, await answer.text()

    async def is_warm(self) -> bool:
        return (await self.get("/readyz"))[0] == 200

    async def leads(self, world: World) -> bool:
        held = (await world.hub.list(LEASES, namespace=LEASE.namespace)).items
        holders = [(one.get("spec") or {}).get("holderIdentity") or "" for one in held]
        return any(holder.endswith(f"-{self.process.pid}") for holder in holders)


@asynccontextmanager
async def replica(world: World, name: str, history_url: str) -> AsyncIterator[Replica]:
    """Up for the block, killed after it."""
    folder = world.folder / name
    config, log = folder / "federation.yaml", folder / "log"
    folder.mkdir()
    await asyncio.to_thread(_configure, world, config, name, history_url)
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "scheduler.cli.main", "run", "--config", str(config),
            "--policies", str(world.policies), stdout=file, stderr=file, cwd=Path(__file__).parents[2],
        )  # fmt: skip
    made = Replica(name, process, log)
    try:
        await until(lambda: made.said("started") or process.returncode is not None, f"{name} is up")
        assert process.returncode is None, log.read_text()
        yield made
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _configure(world: World, config: Path, name: str, history_url: str) -> None:
    """The sandbox's federation file, with another history, any port, and tokens of its own."""
    sandbox = world.sandbox
    document = yaml.safe_load(sandbox.federation_file.read_text())
    spec = document["spec"]
    spec["listen"]["port"] = 0
    (config.parent / "password").write_text(PASSWORD)
    spec["history"] = {"url": history_url, "passwordFile": "password"}
    for cluster in (spec["hub"], *spec["members"]):
        server, token = sandbox.servers[cluster["name"]], secrets.token_urlsafe(24)
        server.enroll(token, replace(ADMIN, name=name))
        own = kubeconfig(server)
        own["users"][0]["user"]["token"] = token
        cluster["kubeconfig"] = f"{cluster['name']}.yaml"
        (config.parent / cluster["kubeconfig"]).write_text(json.dumps(own))
    text = yaml.safe_dump(document).replace("clockFile: clock", f"clockFile: {sandbox.state_dir / 'clock'}")
    for path in sandbox.state_dir.rglob("*"):
        relative = str(path.relative_to(sandbox.state_dir))
        if path.is_file() and f": {relative}\n" in text:
            text = text.replace(f": {relative}\n", f": {path}\n")
    config.write_text(text)


@pytest.fixture(scope="module")
def postgres() -> Any:
    with running_postgres() as server:
        yield server


@dataclass
class Jobs:
    """Some to run on-prem, some together, some on bought nodes."""

    world: World
    counter: PodCounter
    uids: dict[str, tuple[str, int]] = field(default_factory=dict)

    async def submit(self, name: str, pods: int = 1, **how: Any) -> None:
        made = await self.world.submit(name, pods=pods, **how)
        self.uids[name] = made["metadata"]["uid"], pods

    async def have_run_once(self) -> None:
        await until(lambda: self.world.all_done(*self.uids), "all complete", 90)
        for name, (uid, pods) in self.uids.items():
            await until(lambda uid=uid: self._left(uid), f"no copy of {name} is left")  # type: ignore[misc]
            assert len(self.counter.succeeded[uid]) == len(self.counter.ran[uid]) == pods, name
            assert len(self.counter.copies[uid]) == 1, name

    async def _left(self, uid: str) -> bool:
        return not await self.world.copies(uid)


@pytest.mark.timeout(180)
@pytest.mark.parametrize("fate", ["stopped", "killed", "asked"])
async def test_whatever_befalls_the_process_that_leads_each_job_runs_once(
    tmp_path: Path, postgres: RunningPostgres, fate: str
) -> None:
    url = postgres.create(fate).replace(f"{USER}:{PASSWORD}@", f"{USER}@")
    async with a_world(tmp_path) as world, counting(world) as counter, replica(world, "first", url) as first:
        audit, jobs = Audit(), Jobs(world, counter)
        audit.follow(world)
        await until(lambda: first.leads(world), "the first leads")
        async with replica(world, "second", url) as second:
            await until(second.is_warm, "the standby is warm")
            number = {"stopped": signal.SIGSTOP, "killed": signal.SIGKILL, "asked": signal.SIGTERM}[fate]
            audit.strike_first(lambda: os.kill(first.process.pid, number))
            await jobs.submit("plain", seconds=600.0)
            await jobs.submit("gang", pods=2, gpus=8)
            await jobs.submit("burst", **only_in_the_cloud())
            await until(lambda: audit.struck_at, "a write to strike at")
            await jobs.submit("later")
            await until(lambda: second.leads(world), "the standby takes over")
            assert audit.struck_at is not None
            taken = time.monotonic() - audit.struck_at
            assert taken < (RELEASED_SECONDS if fate == "asked" else RUNS_OUT_SECONDS)
            await jobs.have_run_once()
            if fate == "stopped":
                woken_at = time.monotonic()
                first.process.send_signal(signal.SIGCONT)
            want = {"stopped": 1, "killed": -signal.SIGKILL, "asked": 0}[fate]
            async with asyncio.timeout(20):
                assert await first.process.wait() == want, first.log.read_text()[-2000:]
            if fate == "stopped":
                assert first.said("fenced")
                assert not audit.after(woken_at, "first"), "nothing is written by one that wakes up late"
            await _is_billed(world, second)
            await jobs.have_run_once()
            second.process.terminate()
            async with asyncio.timeout(20):
                assert await second.process.wait() == 0


async def _is_billed(world: World, leader: Replica) -> None:
    """What was bought is given back, and what was metered is what the cloud charges, whoever bought it."""
    told: dict[str, Any] = {}

    async def settled() -> bool:
        told.update(json.loads((await leader.get("/api/v1/status"))[1]))
        charges = world.sandbox.charges()
        ended = all(charge.deleted_at is not None for charge in charges)
        return bool(charges) and ended and told["counters"]["returns"] == len(charges)

    await until(settled, "bought nodes are given back", 90)
    assert told["spend_usd"] == str(to_cents(total(world.sandbox.charges())))
