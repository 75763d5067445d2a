"""The daemon as a process: a silent hub, restarts, standbys, broken histories, reloads of policies."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import sqlalchemy as sql
import yaml
from sqlalchemy.ext.asyncio import create_async_engine

from clusters.clock import SystemClock
from clusters.kubernetes.connection import Limits
from clusters.sandbox.emulation.billing import total
from clusters.sandbox.scenario import FaultPlan
from scheduler.daemon.config.live_policies import LivePolicies
from scheduler.daemon.history.store import History
from scheduler.daemon.leading.leader import LeaseSettings
from scheduler.daemon.telemetry import Telemetry
from scheduler.model.contract import LEASES, NODES
from scheduler.model.errors import FencedError, InvalidObjectError
from scheduler.model.money import Usd, cost_usd
from tests.loop.harness import POLICIES, World, a_job, a_world, counting, until

HOUR = 3600.0
QUICK = Limits(connect_seconds=0.3, read_seconds=0.3, call_seconds=0.3)
SHORT_LEASE = LeaseSettings(duration_seconds=4.0, renew_deadline_seconds=2.5, retry_seconds=0.1)
HANDED_OVER = LeaseSettings(duration_seconds=20.0, renew_deadline_seconds=10.0, retry_seconds=0.1)
"""Only one that is released can change hands within a test."""


def on_a10g(seconds: float) -> dict[str, Any]:
    template: dict[str, Any] = a_job("any", seconds=seconds)["spec"]["template"]
    template["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "A10G"}
    return template


async def test_while_the_hub_is_silent_nothing_is_decided_and_afterwards_it_goes_on(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path) as world,
        counting(world) as counter,
        world.daemon(limits=QUICK) as (daemon, task),
    ):
        uid = (await world.submit("before", seconds=HOUR / 4))["metadata"]["uid"]
        await until(lambda: counter.ran.get(uid), "it runs")
        world.sandbox.servers["hub"].fall_silent()
        await until(lambda: not daemon.mirror.hub_synced, "the silence is noticed")
        cycles = daemon.planner.cycles
        during = (await world.submit("during"))["metadata"]["uid"]
        await until(lambda: counter.succeeded.get(uid), "what runs goes on running")
        assert daemon.planner.cycles == cycles
        assert daemon.report.not_healthy() is None
        world.sandbox.servers["hub"].speak()
        await until(lambda: world.all_done("before", "during"), "all end afterwards")
        assert not task.done()
        assert len(counter.ran[uid]) == len(counter.ran[during]) == 1


async def test_a_daemon_that_loses_its_lease_stops_and_the_next_one_goes_on(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, counting(world) as counter:
        async with world.daemon(limits=QUICK, lease=SHORT_LEASE) as (_, task):
            uid = (await world.submit("one", seconds=HOUR / 2))["metadata"]["uid"]
            await until(lambda: counter.ran.get(uid), "it runs")
            world.sandbox.servers["hub"].fall_silent()
            await until(task.done, "the Lease is lost, so the process stops")
            escaped = task.exception()
            assert isinstance(escaped, BaseExceptionGroup)
            assert escaped.split(FencedError)[1] is None
        world.sandbox.servers["hub"].speak()
        async with world.daemon(identity="next", lease=SHORT_LEASE):
            await until(lambda: world.is_done("one"), "complete")
        assert len(counter.ran[uid]) == len(counter.succeeded[uid]) == 1


async def test_a_standby_takes_over_and_nothing_is_doubled(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, counting(world) as counter:
        async with world.daemon(identity="standby", lease=HANDED_OVER) as (second, _):
            await until(lambda: second.leader.is_leader, "the first to come leads")
            async with world.daemon(identity="other", lease=HANDED_OVER) as (other, _):
                await until(lambda: other.mirror.ever_synced, "the standby keeps its mirror warm")
                uids = [(await world.submit(f"job-{number}"))["metadata"]["uid"] for number in range(4)]
                await until(lambda: world.all_done("job-0", "job-1"), "the leader works")
                assert not other.leader.is_leader
                assert other.decisions.counters["decisions"] == 0
                assert other.reconciler.keys.later == 0
        async with world.daemon(identity="first", lease=HANDED_OVER) as (first, first_task):
            await until(lambda: first.leader.is_leader, "a released Lease is taken at once", 10)
            async with world.daemon(identity="second", lease=HANDED_OVER) as (second, _):
                uids.append((await world.submit("handed-over", seconds=HOUR / 2))["metadata"]["uid"])
                await until(lambda: counter.ran.get(uids[-1]), "it runs")
                first_task.cancel()
                await until(lambda: second.leader.is_leader, "the standby takes over", 10)
                await until(lambda: world.all_done("handed-over", "job-2", "job-3"), "complete")
        assert all(len(counter.ran[uid]) == len(counter.copies[uid]) == 1 for uid in uids)


async def test_spend_and_decisions_outlive_the_daemon(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=1800.0) as world:
        async with world.daemon() as (daemon, _):
            await world.submit("long", template=on_a10g(HOUR))
            await until(lambda: world.sandbox.charges(), "a node is bought")
            await until(lambda: daemon.ledger.by_queue(), "and metered")
        async with world.daemon() as (daemon, _):
            await until(lambda: world.is_done("long"), "complete")
            await until(lambda: daemon.ledger.nodes_ended == 1, "given back")
            assert daemon.ledger.total_usd == total(world.sandbox.charges())
        async with world.daemon() as (daemon, _):
            await until(lambda: daemon.planner.cycles, "it plans")
            assert daemon.ledger.total_usd == total(world.sandbox.charges())
            told = await daemon.report.explain("long")
            assert told is not None
            assert {one["reason"]["code"] for one in told["decisions"]} >= {"Bursting", "Started"}


async def test_a_node_that_ended_unseen_is_charged_at_most_until_the_daemon_is_back(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=1800.0) as world:
        async with world.daemon() as (daemon, _):
            await world.submit("lost", template=on_a10g(20 * HOUR))

            async def is_up() -> Any:
                return (await world.member("eks").list(NODES)).items

            [node] = await until(is_up, "a node is bought")
            await until(lambda: daemon.ledger.by_queue(), "and metered")
        world.sandbox.strike(FaultPlan(0.0, "eks", "node-lost", node=node["metadata"]["name"]))
        await until(lambda: world.sandbox.charges()[0].deleted_at, "it is gone")
        charge = world.sandbox.charges()[0]
        async with world.daemon() as (daemon, _):
            await until(lambda: daemon.ledger.nodes_ended, "the loss is noticed")
            # First: what comes after it is later, and time goes on between two lines.
            metered = daemon.ledger.total_usd
            latest = cost_usd(charge.usd_per_hour, world.sandbox.clock.now() - charge.created_at)
            others = tuple(one for one in world.sandbox.charges() if one.uid != charge.uid)
            # The bill counts whole seconds, also of machines that still run.
            most = latest + total(others) + sum((cost_usd(one.usd_per_hour, 1.0) for one in others), Usd(0))
            assert charge.usd <= metered <= most


@pytest.mark.parametrize("what", ["garbage", "read-only", "a folder"])
async def test_a_history_that_cannot_be_used_is_one_line_at_start(tmp_path: Path, what: str) -> None:
    path = tmp_path / "history.db"
    url = f"sqlite+aiosqlite:///{path}"
    if what == "garbage":
        path.write_bytes(b"not a database " * 100)
    elif what == "a folder":
        path.mkdir()
    else:
        await (await History.open(url, Telemetry())).close()
        url = f"sqlite+aiosqlite:///file:{path}?mode=ro&uri=true"
    with pytest.raises(InvalidObjectError, match=r"history\.url.*sqlite") as raised:
        await History.open(url, Telemetry())
    assert "\n" not in str(raised.value)


async def test_a_history_that_breaks_later_does_not_stop_anything(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon() as (daemon, _):
        await world.submit("one")
        await until(lambda: world.is_done("one"), "complete")
        await _drop_tables(world)
        await world.submit("two", template=on_a10g(60))
        await until(lambda: world.is_done("two"), "scheduling goes on")
        dropped = daemon.outside.telemetry.history_dropped._value
        await until(lambda: dropped.get() > 0, "what is lost is counted")
        assert (await daemon.report.explain("two") or {})["decisions"], "what is in memory is told"


async def _drop_tables(world: World) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{world.folder / 'history.db'}")
    async with engine.begin() as connection:
        await connection.execute(sql.text("DROP TABLE decisions"))
        await connection.execute(sql.text("DROP TABLE node_lifetimes"))
    await engine.dispose()


async def test_bad_policies_keep_the_last_good_set_and_good_ones_take_effect(tmp_path: Path) -> None:
    file = "policies.yaml"
    async with a_world(tmp_path) as world, world.daemon() as (daemon, _):
        policies, telemetry = daemon.outside.policies, daemon.outside.telemetry
        await until(lambda: daemon.planner.cycles, "it plans")
        good = policies.current.digest
        (world.policies / file).write_text(POLICIES.replace("afterWait", "afterWeight"))
        await until(lambda: policies.error, "refused")
        assert policies.current.digest == good
        told = daemon.report.status()["policies"]
        assert file in told["error"]
        assert "afterWait" in told["error"]
        assert "\n" not in told["error"]
        assert telemetry.policy_reload._value.get() == 0
        await world.submit("meanwhile")
        await until(lambda: world.is_done("meanwhile"), "the last good set stays in force")
        (world.policies / file).write_text(POLICIES.replace("afterWait: 1m", "afterWait: 2m"))
        await until(lambda: policies.error is None, "the good set takes effect")
        assert policies.current.digest != good
        assert telemetry.policy_reload._value.get() == 1


async def test_policies_of_several_folders_add_up_and_each_is_followed(tmp_path: Path) -> None:
    queue = "apiVersion: overspill.dev/v1alpha1\nkind: Queue\nmetadata: {{name: {}}}\nspec: {{quotas: []}}\n"
    folders = tmp_path / "own", tmp_path / "extra"
    for folder in folders:
        folder.mkdir()
        (folder / "queue.yaml").write_text(queue.format(folder.name))
    policies = LivePolicies(folders, SystemClock(), Telemetry())
    following = asyncio.ensure_future(policies.run())

    def is_followed(folder: Path) -> bool:
        # Again and again: what changes before the watch has begun is not seen.
        (folder / "more.yaml").write_text(queue.format(f"{folder.name}-more"))
        return f"{folder.name}-more" in {each.id for each in policies.current.queues}

    assert {each.id for each in policies.current.queues} == {"own", "extra"}
    for folder in folders:
        await until(lambda folder=folder: is_followed(folder), f"{folder.name} is followed")  # type: ignore[misc]
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_the_process_reloads_on_sighup_answers_and_ends_on_sigterm(tmp_path: Path) -> None:
    """The one test that runs the daemon as a process of its own."""
    async with a_world(tmp_path) as world:
        config = world.sandbox.federation_file
        await asyncio.to_thread(_listen_on_any_port, config)
        policies = tmp_path / "linked"
        policies.symlink_to(world.policies)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "from scheduler.cli.main import main; main()",
            "run", "--config", str(config), "--policies", str(policies),
            stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert process.stderr is not None
        lines = _Lines(process.stderr)
        try:
            url = (await lines.until("started"))["url"]
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
                await world.submit("one")
                await until(lambda: world.is_done("one"), "complete")
                for path in ("readyz", "healthz"):
                    async with session.get(f"{url}/{path}") as answer:
                        assert (answer.status, await answer.text()) == (200, "ok")
            other = tmp_path / "other"
            other.mkdir()
            (other / "policies.yaml").write_text(POLICIES.replace("afterWait: 1m", "afterWait: 3m"))
            policies.unlink()
            policies.symlink_to(other)
            process.send_signal(signal.SIGHUP)
            await lines.until("policies_changed")
            process.terminate()
            await lines.until("stopped")
            assert await process.wait() == 0
            [lease] = (await world.hub.list(LEASES, namespace="kube-system")).items
            assert not lease["spec"].get("holderIdentity"), "the Lease is released, for a standby to take"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


class _Lines:
    """The daemon's log, one JSON object a line."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream

    async def until(self, event: str) -> dict[str, Any]:
        seen = []
        async with asyncio.timeout(20):
            while line := await self._stream.readline():
                seen.append(line.decode())
                found: dict[str, Any] = yaml.safe_load(line)
                if isinstance(found, dict) and found.get("event") == event:
                    return found
        raise AssertionError(f"no {event} in the log: {''.join(seen)[-2000:]}")


def _listen_on_any_port(config: Path) -> None:
    document = yaml.safe_load(config.read_text())
    document["spec"]["listen"]["port"] = 0
    config.write_text(yaml.safe_dump(document))
