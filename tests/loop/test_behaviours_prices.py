"""Gathered prices: what is fresh is planned with and charged, what is stale is unknown, and nothing becomes free."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from clusters.clock import SharedClock
from clusters.prices.book import BookedSource, PriceBook
from scheduler.daemon.gathering.prices import OpenBook
from scheduler.daemon.history.tables import PRICES
from scheduler.daemon.parts import Daemon
from scheduler.model.errors import TransientError
from scheduler.model.ids import ClusterId, PoolId
from scheduler.model.money import Usd, cost_usd
from scheduler.model.prices import PriceQuery, PriceQuote
from tests.loop.harness import World, a_world, until
from tests.loop.test_behaviours_money import billed, policy, submit_cloud_job

HOUR = 3600.0
G5 = "g5.xlarge"


class Market:
    """A price source whose prices a test sets; a reading a minute, good for ten."""

    name = "market"
    max_age_seconds = 600.0

    def __init__(self, clock: SharedClock, **usd: str) -> None:
        self.clock = clock
        self.usd = {G5: Usd(usd["g5"])}
        self.silent = False
        self.set_at: float | None = None

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        if self.silent:
            raise TransientError("market: closed")
        as_of = self.set_at if self.set_at is not None else self.clock.now()
        return tuple(
            PriceQuote(one, self.usd[one.instance_type], "market", as_of)
            for one in wanted
            if one.instance_type in self.usd
        )

    async def close(self) -> None:
        return None

    def book(self) -> OpenBook:
        booked = BookedSource(self, self.max_age_seconds, refresh_seconds=60.0, limit_seconds=10.0)
        return OpenBook(PriceBook([booked], clock=self.clock), (self.max_age_seconds,))


async def without_file_prices(world: World) -> None:
    def strip() -> None:
        path = world.sandbox.federation_file
        document: dict[str, Any] = yaml.safe_load(path.read_text())
        for member in document["spec"]["members"]:
            for pool in member["pools"]:
                del pool["price"]
        path.write_text(yaml.safe_dump(document))

    await asyncio.to_thread(strip)


def known(daemon: Daemon) -> Usd | None:
    """What the next snapshot says of a node of eks/g5."""
    eks = daemon.mirror.members[ClusterId("eks")]
    return next(pool.price.usd_per_hour if pool.price else None for pool in eks.pools() if pool.ref.pool == "g5")


async def test_a_pool_whose_price_went_stale_is_not_bought_under_a_price_cap(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=600.0, policies=policy(cap="2.00")) as world:
        await without_file_prices(world)
        market = Market(world.sandbox.clock, g5="1.006")
        async with world.daemon(prices=market.book()) as (daemon, _):
            first = await submit_cloud_job(world, "first", seconds=60.0)
            await until(lambda: daemon.decisions.of(first), "decided on")
            await until(lambda: world.is_done("first"), "it runs at the known price")
            market.silent = True
            await until(lambda: known(daemon) is None, "what was read has gone stale")
            second = await submit_cloud_job(world, "second", seconds=60.0)
            await until(lambda: daemon.decisions.of(second), "decided on")
            assert "1 of unknown price" in daemon.decisions.of(second)[-1]["sentence"]
            assert len(world.sandbox.charges()) == 1
            market.silent = False
            await until(lambda: world.is_done("second"), "the price is known again")


async def test_no_snapshot_holds_a_stale_price_however_late_the_next_look_is(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=1.0, policies=policy(cap="2.00")) as world:
        await without_file_prices(world)
        market = Market(world.sandbox.clock, g5="1.006")
        async with world.daemon(prices=market.book()) as (daemon, _):
            await until(lambda: known(daemon) == Usd("1.006"), "the price is known")
            market.silent = True
            now = world.sandbox.clock.now()
            world.sandbox.clock.leap(now + market.max_age_seconds + 1)
            snapshot = daemon.mirror.snapshot(())
            pools = [pool for cluster in snapshot.clusters for pool in cluster.pools if pool.ref.pool == "g5"]
            assert [(pool.price, pool.last_price is not None) for pool in pools] == [(None, True)]


async def test_a_price_that_falls_below_the_cap_lets_the_waiting_go(tmp_path: Path) -> None:
    async with a_world(tmp_path, policies=policy(cap="1.00")) as world:
        await without_file_prices(world)
        market = Market(world.sandbox.clock, g5="1.50")
        async with world.daemon(prices=market.book()) as (daemon, _):
            uid = await submit_cloud_job(world, "thrifty", seconds=60.0)

            def held() -> bool:
                return any("1 over the price cap" in one["sentence"] for one in daemon.decisions.of(uid))

            await until(held, "held")
            market.usd[G5] = Usd("0.90")
            await until(lambda: world.is_done("thrifty"), "it goes at the lower price")


def g5_lifetimes(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["pool"] == "g5"]


async def test_each_part_of_a_nodes_life_is_charged_at_the_price_in_force(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=1800.0, policies=policy()) as world:
        await without_file_prices(world)
        market = Market(world.sandbox.clock, g5="1.00")
        # Ten minutes are a third of a second here: on a busy machine the price, dated by its change, would be stale.
        market.max_age_seconds = 86400.0
        async with world.daemon(prices=market.book()) as (daemon, _):
            await submit_cloud_job(world, "long", seconds=HOUR)
            await until(lambda: world.sandbox.charges(), "a node is bought")
            market.usd[G5], market.set_at = Usd("3.00"), world.sandbox.clock.now()
            await until(lambda: known(daemon) == Usd("3.00"), "the change is known")
            await until(lambda: world.is_done("long"), "done")
            await until(lambda: daemon.ledger.nodes_ended == len(world.sandbox.charges()) > 0, "given back and metered")
            parts = Decimal(0)

            async def recorded() -> list[dict[str, Any]]:
                rows = g5_lifetimes(await daemon.outside.history.node_lifetimes())
                return [row for row in rows if row["ended_at"] is not None]

            rows = await until(recorded, "recorded")
            for row in rows:
                changes = [(row["created_at"], row["usd_per_hour"]), *row["price_changes"]]
                ends = [at for at, _ in changes[1:]] + [row["ended_at"]]
                parts += sum(cost_usd(Usd(usd), end - at) for (at, usd), end in zip(changes, ends, strict=True))
            assert [usd for row in rows for _, usd in row["price_changes"]] == ["3.00"]
            assert daemon.ledger.total_usd == parts
            charges = world.sandbox.charges()
            assert all(charge.deleted_at is not None for charge in charges)
            hours = sum((Decimal(repr((c.deleted_at or 0) - c.created_at)) for c in charges), Decimal(0)) / 3600
            assert hours < daemon.ledger.total_usd < 3 * hours


async def test_a_source_that_falls_silent_makes_no_node_free(tmp_path: Path) -> None:
    """The cloud goes on charging: what runs is metered at the last price, to the cent of its bill."""
    async with a_world(tmp_path, speed=1800.0, policies=policy()) as world:
        await without_file_prices(world)
        market = Market(world.sandbox.clock, g5="1.006")
        async with world.daemon(prices=market.book()) as (daemon, _):
            await submit_cloud_job(world, "long", seconds=HOUR)
            await until(lambda: world.sandbox.charges(), "a node is bought")
            market.silent = True
            await until(lambda: known(daemon) is None, "stale")
            await until(lambda: world.is_done("long"), "done")
            await until(lambda: daemon.ledger.nodes_ended == len(world.sandbox.charges()) > 0, "given back and metered")
            assert daemon.ledger.unpriced_seconds == 0
            assert daemon.ledger.total_usd == billed(world)


async def test_a_budget_counts_what_runs_at_a_price_that_is_not_known_any_more(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=600.0, policies=policy(limit="1000")) as world:
        await without_file_prices(world)
        market = Market(world.sandbox.clock, g5="1.006")
        async with world.daemon(prices=market.book()) as (daemon, _):
            await submit_cloud_job(world, "long", seconds=4 * HOUR)
            await until(lambda: world.sandbox.charges(), "a node is bought")
            market.silent = True
            await until(lambda: known(daemon) is None, "stale")
            cycles = daemon.planner.cycles
            daemon.planner.trigger()
            await until(lambda: daemon.planner.cycles > cycles, "planned anew")
            plan = daemon.planner.last_plan
            assert plan is not None
            assert plan.budgets[0].committed_usd > Usd("1.50")


async def test_changes_are_recorded_and_outlive_a_restart(tmp_path: Path) -> None:
    async with a_world(tmp_path, speed=600.0, policies=policy()) as world:
        await without_file_prices(world)
        market = Market(world.sandbox.clock, g5="1.00")
        async with world.daemon(prices=market.book()) as (daemon, _):
            await until(lambda: known(daemon) == Usd("1.00"), "the first price")
            market.usd[G5] = Usd("2.50")
            await until(lambda: known(daemon) == Usd("2.50"), "the second")
            changes = daemon.outside.telemetry.price_changes.labels("eks")._value.get()
            assert changes == 2
        market.silent = True
        async with world.daemon(prices=market.book(), shadow=True) as (daemon, _):
            rows = await daemon.outside.history._read(PRICES.select().order_by(PRICES.c.learned_at))
            assert [(row.pool, row.usd_per_hour) for row in rows] == [("g5", "1.00"), ("g5", "2.50")]
            eks = daemon.mirror.members[ClusterId("eks")]

            def remembered() -> bool:
                g5 = next(pool for pool in eks.pools() if pool.ref.pool == PoolId("g5"))
                return g5.price is None and g5.last_price is not None and g5.last_price.usd_per_hour == Usd("2.50")

            await until(remembered, "the last price is known, for what runs, and nothing is bought at it")
            failures = daemon.outside.telemetry.price_source_failures.labels("market")
            await until(lambda: failures._value.get() > 0, "failures are counted")


async def test_the_file_wins_and_the_catalogue_fills_in(tmp_path: Path) -> None:
    async with a_world(tmp_path, policies=policy()) as world:

        def strip() -> None:
            path = world.sandbox.federation_file
            document: dict[str, Any] = yaml.safe_load(path.read_text())
            pools = {pool["name"]: pool for member in document["spec"]["members"] for pool in member["pools"]}
            del pools["p4d"]["price"]
            pools["g5"]["price"] = {"usdPerHour": "0.11"}
            path.write_text(yaml.safe_dump(document))

        await asyncio.to_thread(strip)
        async with world.daemon(shadow=True) as (daemon, _):
            await until(lambda: known(daemon) == Usd("0.11"), "the file's own")
            eks = daemon.mirror.members[ClusterId("eks")]

            def p4d() -> Any:
                return next(pool.price for pool in eks.pools() if pool.ref.pool == PoolId("p4d"))

            price = await until(p4d, "the catalogue's")
            assert price.source.startswith("catalogue")
            shown = daemon.report.gathered.prices()
            rows = {(row["cluster"], row["pool"]): row for row in shown["prices"]}
            assert rows["eks", "g5"]["winner"] == "federation file"
            assert rows["eks", "p4d"]["winner"] == "catalogue"
            assert (rows["eks", "g5"]["usd_per_hour"], rows["eks", "g5"]["usd_per_gpu_hour"]) == ("0.11", "0.110000000")
            assert [source["name"] for source in shown["sources"]] == ["catalogue"]
