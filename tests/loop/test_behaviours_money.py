"""Budgets and price caps: what would break one is held and says so, and the bill never exceeds what was allowed."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from clusters.sandbox.emulation.billing import total
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import ANNOTATION_EXPECTED, NODES
from scheduler.model.ids import Uid
from scheduler.model.money import Usd
from tests.loop.harness import World, a_job, a_world, until

HOUR = 3600.0
MORNING = datetime(2026, 3, 2, 8, tzinfo=UTC).timestamp()


def policy(*, limit: str = "", window: str = "total", cap: str = "") -> str:
    """Bursts to the cloud at once, within one budget and one price cap."""
    budget = f"\n  budgets:\n    - name: pocket\n      limitUsd: '{limit}'\n      window: {window}" if limit else ""
    price = f"\n    maxUsdPerGpuHour: '{cap}'" if cap else ""
    return f"""
apiVersion: overspill.dev/v1alpha1
kind: PlacementPolicy
metadata:
  name: cloud
spec:
  objective: cost
  constraints:
    clusters: [eks]{price}
  burst:
    afterWait: 0s
  return:
    idle: 1m{budget}
"""


async def submit_cloud_job(world: World, name: str, seconds: float = HOUR / 2) -> Uid:
    """A Job for one node of 1.006 USD an hour that says how long it takes."""
    template = a_job("any", seconds=seconds)["spec"]["template"]
    template["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "A10G"}
    expected = {ANNOTATION_EXPECTED: f"{int(seconds)}s"}
    job = await world.submit(name, annotations=expected, template=template)
    return Uid(job["metadata"]["uid"])


def reasons(daemon: Daemon, *uids: Uid) -> list[str]:
    """Those of the first decision about each, sorted."""
    return sorted(daemon.decisions.of(uid)[-1]["reason"]["code"] for uid in uids)


def billed(world: World) -> Usd:
    return total(world.sandbox.charges())


async def all_given_back(world: World, daemon: Daemon) -> None:
    def even() -> bool:
        charges = world.sandbox.charges()
        return all(one.deleted_at is not None for one in charges) and daemon.ledger.nodes_ended == len(charges)

    await until(even, "all is given back and metered")
    assert daemon.ledger.total_usd == billed(world)


async def test_a_budget_holds_what_would_break_it_until_its_limit_is_raised(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, speed=1800.0, policies=policy(limit="1.00")) as world,
        world.daemon() as (daemon, _),
    ):
        names = ["one", "two"]
        uids = [await submit_cloud_job(world, name) for name in names]
        await until(lambda: all(daemon.decisions.of(uid) for uid in uids), "both are decided on")
        assert reasons(daemon, *uids) == ["Bursting", "OverBudget"]
        held = max(uids, key=lambda uid: daemon.decisions.of(uid)[0]["outcome"] == "held")

        async def one_done() -> bool:
            return [await world.is_done(name) for name in names].count(True) == 1

        await until(one_done, "one of them runs")
        await all_given_back(world, daemon)
        assert daemon.decisions.of(held)[0]["reason"]["code"] == "OverBudget", "what is spent stays spent"
        assert billed(world) <= Usd("1.00")
        (world.policies / "policies.yaml").write_text(policy(limit="5.00"))
        await until(lambda: world.all_done(*names), "the other runs once the limit is raised")
        await all_given_back(world, daemon)
        assert billed(world) <= Usd("5.00")


async def test_a_daily_budget_lets_the_next_one_go_the_next_day(tmp_path: Path) -> None:
    async with (
        a_world(tmp_path, speed=1800.0, policies=policy(limit="1.00", window="day"), start_at=MORNING) as world,
        world.daemon() as (daemon, _),
    ):
        names = ["one", "two", "three"]
        uids = [await submit_cloud_job(world, name) for name in names]
        await until(lambda: all(daemon.decisions.of(uid) for uid in uids), "all are decided on")
        assert reasons(daemon, *uids) == ["Bursting", "OverBudget", "OverBudget"]

        async def done_in_time() -> bool:
            # Not over the head of one that runs: its machine would be paid for all that time.
            workloads = [daemon.mirror.workload(uid) for uid in uids]
            placed = any(each is None or (each.placement and not each.finished) for each in workloads)
            at_rest = not placed and daemon.is_idle() and not (await world.member("eks").list(NODES)).items
            if at_rest and daemon.planner.wake_at is not None:
                world.sandbox.leap(daemon.planner.wake_at)
            return await world.all_done(*names)

        await until(done_in_time, "each gets its day")
        await all_given_back(world, daemon)
        days: dict[int, Usd] = {}
        for charge in world.sandbox.charges():
            day = int((charge.created_at - MORNING + 8 * HOUR) // (24 * HOUR))
            days[day] = days.get(day, Usd(0)) + charge.usd
        assert len(days) == 3
        assert all(usd <= Usd("1.00") for usd in days.values())


async def test_a_price_cap_holds_what_costs_more(tmp_path: Path) -> None:
    async with a_world(tmp_path, policies=policy(cap="0.50")) as world, world.daemon() as (daemon, _):
        uid = Uid((await world.submit("dear"))["metadata"]["uid"])
        await until(lambda: daemon.decisions.of(uid), "decided on")
        assert reasons(daemon, uid) == ["OverPriceCap"]
        (world.policies / "policies.yaml").write_text(policy(cap="3.00"))
        await until(lambda: world.is_done("dear"), "it runs once the cap allows it")


async def test_an_unknown_price_is_never_taken_for_a_low_one(tmp_path: Path) -> None:
    async with a_world(tmp_path, policies=policy(cap="100", limit="1000")) as world:
        await asyncio.to_thread(_without_prices, world.sandbox.federation_file)
        async with world.daemon() as (daemon, _):
            uid = Uid((await world.submit("blind"))["metadata"]["uid"])
            await until(lambda: daemon.decisions.of(uid), "decided on")
            assert reasons(daemon, uid) == ["PriceUnknown"]
            await until(daemon.is_idle, "at rest")
            assert not world.sandbox.charges()


def _without_prices(path: Path) -> None:
    """None in the file, and no source that would know one."""
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    document["spec"]["prices"] = [{"type": "onprem"}]
    for member in document["spec"]["members"]:
        for pool in member["pools"]:
            del pool["price"]
    path.write_text(yaml.safe_dump(document))
