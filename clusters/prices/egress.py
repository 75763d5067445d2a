"""What traffic costs that leaves a machine's zone: list prices out of `egress.csv`, as tiers of a month.

Each row of the file is one tier, with the day and the source of its price; what could not be confirmed is not in it,
and so unknown. AWS and Google count GiB; so is taken what Azure calls GB. AWS gives each account 100 GB a month to the
internet for nothing, over all regions: that is of the account and not of a region, so it is not among the tiers.
A row for other-region that holds within a continent only says so in its source.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from decimal import Decimal, localcontext
from functools import cache
from importlib import resources

from clusters.prices._clouds import cloud_of
from clusters.prices._plausible import instant
from scheduler.model.money import Usd
from scheduler.model.prices import EgressPrice, EgressTier


@cache
def egress_prices() -> tuple[EgressPrice, ...]:
    """The embedded list prices, sorted by provider (the cloud's name), region and destination."""
    text = resources.files("clusters.prices").joinpath("egress.csv").read_text(encoding="utf-8")
    tiers: dict[tuple[str, str, str], list[EgressTier]] = {}
    dated: dict[tuple[str, str, str], tuple[str, float]] = {}
    for row in csv.DictReader(text.splitlines()):
        key = row["provider"], row["region"], row["destination"]
        as_of = instant(row["as_of"])
        assert as_of is not None, row
        up_to = int(row["up_to_gib"]) if row["up_to_gib"] else None
        tiers.setdefault(key, []).append(EgressTier(up_to, Decimal(row["usd_per_gib"])))
        dated[key] = row["source"], as_of
    return tuple(EgressPrice(*key, tuple(tiers[key]), *dated[key]) for key in sorted(tiers))


def egress_price(prices: Iterable[EgressPrice], provider: str, region: str, destination: str) -> EgressPrice | None:
    """The price of that traffic: the region's own, else the provider's for every region; None: unknown."""
    fitting = [
        price
        for price in prices
        if price.provider in (provider, cloud_of(provider))
        and price.region in (region, "*")
        and price.destination == destination
    ]
    return max(fitting, key=lambda price: (price.region != "*", price.provider == provider), default=None)


def egress_cost(
    prices: Iterable[EgressPrice],
    provider: str,
    region: str,
    destination: str,
    gib_so_far: Decimal | int,
    gib: Decimal | int,
) -> Usd | None:
    """What `gib` more cost after `gib_so_far` of the same month, exact; None: unknown. `provider`: ours or the cloud's.

    Additive: the cost of two parts, one after the other, is the cost of the whole.
    Raises: ValueError for an amount that is negative or not finite.
    """
    start, more = Decimal(gib_so_far), Decimal(gib)
    if not (start.is_finite() and more.is_finite()) or start < 0 or more < 0:
        raise ValueError(f"traffic must be a finite amount of GiB, 0 or more: {gib_so_far} and {gib}")
    price = egress_price(prices, provider, region, destination)
    if price is None:
        return None
    with localcontext(prec=200):
        return _over_tiers(price.tiers, start, start + more)


def _over_tiers(tiers: Iterable[EgressTier], start: Decimal, end: Decimal) -> Usd | None:
    """Cost of the part from `start` to `end` of a month's traffic; None when no tier reaches that far."""
    cost, below = Decimal(0), Decimal(0)
    for tier in tiers:
        top = end if tier.up_to_gib is None else min(end, Decimal(tier.up_to_gib))
        part = top - max(start, below)
        if part > 0:
            cost += part * tier.usd_per_gib
        below = top
        if top >= end:
            return cost
    return None
