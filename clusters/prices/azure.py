"""Prices of Azure virtual machines, from the Azure Retail Prices API: list prices for everyone, without credentials.

Spot machines have meters of their own, told by their names; "Low Priority" is Batch's older kind, which no node pool
uses. What is reserved is paid for by contract and unknown here.
Source: learn.microsoft.com, "Azure Retail Prices overview".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal

from yarl import URL

from clusters.prices._order import in_order
from clusters.prices._plausible import instant, plausible
from clusters.prices._reading import Problems, read_each
from clusters.prices._rest import JsonApi, base_url, objects, parse_object
from clusters.prices._settings import NearbyPath, PriceSettings
from scheduler.model.cluster import ON_DEMAND, SPOT
from scheduler.model.errors import TransientError
from scheduler.model.ids import Instant
from scheduler.model.money import Usd
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery, PriceQuote

_PATH: Final = "api/retail/prices"
_MOST_PAGES: Final = 20
_MOST_BYTES: Final = 8 << 20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_OTHER_PRODUCTS: Final = re.compile(r"\b(Windows|Cloud ?Services|Dedicated Host)\b", re.IGNORECASE)
_SPOT: Final = re.compile(r"\bSpot$", re.IGNORECASE)
_LOW_PRIORITY: Final = re.compile(r"\bLow Priority\b", re.IGNORECASE)
_CAPACITY_TYPES: Final = (ON_DEMAND, SPOT)


class Settings(PriceSettings):
    type: Literal["azure"]
    endpoint: str = "https://prices.azure.com"
    ca_file: NearbyPath | None = None


class AzurePrices:
    """Answers for the machines of `aks` pools."""

    name: str = "azure"

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        self._clock = clock
        self._url = base_url(self.name, settings.endpoint) / _PATH
        self._api = JsonApi(
            self.name,
            clock=clock,
            connect_seconds=settings.connect_timeout_seconds,
            read_seconds=settings.read_timeout_seconds,
            most_bytes=_MOST_BYTES,
            ca_file=settings.ca_file,
        )
        self._problems = Problems()

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        """What fails for one machine is left out; raises only when everything failed."""
        by_machine: dict[tuple[str, str], list[PriceQuery]] = defaultdict(list)
        for one in in_order(wanted):
            named = _NAME.fullmatch(one.region) and _NAME.fullmatch(one.instance_type)
            if one.provider == "aks" and one.capacity_type in _CAPACITY_TYPES and named:
                by_machine[(one.region, one.instance_type)].append(one)
        reads = (
            lambda r=region, m=machine, q=queries: self._read(r, m, q)
            for (region, machine), queries in sorted(by_machine.items())
        )
        self._problems = Problems()
        return await read_each(reads, self._problems)

    def problems(self) -> tuple[str, ...]:
        return self._problems.lines()

    def incomplete(self) -> bool:
        return self._problems.incomplete

    async def close(self) -> None:
        await self._api.close()

    async def _read(self, region: str, machine: str, queries: Iterable[PriceQuery]) -> list[PriceQuote]:
        items = await self._items(region, machine)
        now = self._clock.now()
        prices: dict[str, Usd] = {}
        for kind in _CAPACITY_TYPES:
            told = _prices_in_force(items, region, machine, kind, now)
            if len(told) == 1 and (price := plausible(told[0])) is not None:
                prices[kind] = price
            elif told:
                some = ", ".join(str(one)[:20] for one in told[:3])
                self._problems.add(
                    f"azure: {machine} in {region}, {kind}: no price, or several ({some}); none is taken"
                )
        return [
            PriceQuote(one, prices[one.capacity_type], f"azure-{one.capacity_type} {region}", now)
            for one in queries
            if one.capacity_type in prices
        ]

    async def _items(self, region: str, machine: str) -> list[dict[str, Any]]:
        """All pages. Raises: ExternalError; TransientError for pages without end or that lead elsewhere."""
        wanted = (
            f"serviceName eq 'Virtual Machines' and priceType eq 'Consumption' "
            f"and armRegionName eq '{region}' and armSkuName eq '{machine}'"
        )
        place = f"{self.name}: {machine} in {region}"
        url = self._url.with_query({"currencyCode": "'USD'", "$filter": wanted})
        items: list[dict[str, Any]] = []
        for _ in range(_MOST_PAGES):
            answer = parse_object(await self._api.get(f"{machine} in {region}", url), place)
            items += objects(answer.get("Items"), place)
            link = answer.get("NextPageLink")
            if not link:
                return items
            url = self._next(link, place)
        raise TransientError(f"{place}: no end after {_MOST_PAGES} pages", code="TooManyPages")

    def _next(self, link: object, place: str) -> URL:
        """The next page's URL. Raises: TransientError when it leads to another host or path."""
        try:
            url = URL(str(link)[:8192])
        except ValueError as error:
            raise TransientError(f"{place}: the link to the next page is no URL", code="ForeignLink") from error
        same = url.scheme == self._url.scheme and url.host == self._url.host and url.port == self._url.port
        if not same or url.path.rstrip("/") != self._url.path or url.user or url.password:
            raise TransientError(f"{place}: the link to the next page leads to another place", code="ForeignLink")
        return url


def create(settings: Settings, *, clock: Clock) -> AzurePrices:
    """The source. Raises: InvalidObjectError for an unusable endpoint or `caFile`."""
    return AzurePrices(settings, clock=clock)


def _prices_in_force(
    items: Iterable[Mapping[str, Any]], region: str, machine: str, capacity_type: str, now: Instant
) -> list[object]:
    """What the newest meters that are in force ask per hour, each once; of meters of one day, the primary ones."""
    told: dict[tuple[Instant, bool], list[object]] = defaultdict(list)
    for item in items:
        if not _is_machine(item, region, machine) or _capacity_type(item) != capacity_type:
            continue
        since, until = instant(item.get("effectiveStartDate")), instant(item.get("effectiveEndDate"))
        if since is None or since > now or (until is not None and until <= now):
            continue
        prices = told[(since, item.get("isPrimaryMeterRegion") is True)]
        if item.get("retailPrice") not in prices:
            prices.append(item.get("retailPrice"))
    return told[max(told)] if told else []


def _is_machine(item: Mapping[str, Any], region: str, machine: str) -> bool:
    """Whether it is a plain (Linux) machine's price per hour in USD, of that very machine and region."""
    return (
        item.get("type") == "Consumption"
        and item.get("currencyCode") == "USD"
        and item.get("unitOfMeasure") == "1 Hour"
        and not item.get("tierMinimumUnits")
        and not item.get("reservationTerm")
        and str(item.get("armRegionName", "")).lower() == region.lower()
        and str(item.get("armSkuName", "")).lower() == machine.lower()
        and not _OTHER_PRODUCTS.search(str(item.get("productName", "")))
    )


def _capacity_type(item: Mapping[str, Any]) -> str | None:
    names = (str(item.get("meterName", "")).strip(), str(item.get("skuName", "")).strip())
    if any(_LOW_PRIORITY.search(one) for one in names):
        return None
    return SPOT if any(_SPOT.search(one) for one in names) else ON_DEMAND
