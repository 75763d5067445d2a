"""Prices: pools that could be bought and whose price nobody knows."""

from __future__ import annotations

from scheduler.daemon.doctor.finding import Report
from scheduler.daemon.federation import Federation


async def check_prices(federation: Federation, report: Report) -> None:
    """A pool without a price is never bought where a price cap or a budget speaks."""
    pools = [pool for member in federation.members for pool in member.pools]
    for pool in pools:
        if pool.price is None:
            remedy = (
                "give the pool a price, or a price source that knows it; caps and budgets keep it from being bought"
            )
            report.warn(f"{pool.ref}: its price is not known", remedy)
    known = sum(pool.price is not None for pool in pools)
    if known == len(pools):
        report.ok(f"of all {known} pools are known")
