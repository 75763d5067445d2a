"""What bringing data from one member to another takes, by the federation file and the clouds' list prices of egress."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from clusters.prices._clouds import cloud_of
from clusters.prices.egress import egress_price, egress_prices
from scheduler.daemon.config.federation import Member
from scheduler.model.cluster import Route
from scheduler.model.ids import ClusterId
from scheduler.model.money import Usd
from scheduler.model.prices import INTERNET, OTHER_REGION, SAME_REGION


def routes_between(members: Iterable[Member]) -> Mapping[ClusterId, tuple[Route, ...]]:
    """By member, the routes that lead to it, in order of their sources. As fast as the slower of the two."""
    everybody = sorted(members, key=lambda member: member.id)
    return {
        to.id: tuple(
            Route(each.id, _usd_per_gib(each, to), _slower(each.bytes_per_second, to.bytes_per_second))
            for each in everybody
            if each.id != to.id
        )
        for to in everybody
    }


def _usd_per_gib(source: Member, to: Member) -> Usd | None:
    """What the file says, else the first (dearest) tier of the list price; None: unknown."""
    if source.egress_usd_per_gib is not None:
        return source.egress_usd_per_gib
    destination = INTERNET
    if cloud_of(source.provider_type) == cloud_of(to.provider_type):
        destination = SAME_REGION if cloud_region(source) == cloud_region(to) else OTHER_REGION
    price = egress_price(egress_prices(), source.provider_type, cloud_region(source), destination)
    return None if price is None or not price.tiers else price.tiers[0].usd_per_gib


def cloud_region(member: Member) -> str:
    """The cloud's own name of the member's region: from its provider's settings, else as the file names it."""
    region = member.provider_settings.get("region")
    return region if isinstance(region, str) else member.region


def _slower(one: float | None, other: float | None) -> float | None:
    return min((each for each in (one, other) if each is not None), default=None)
