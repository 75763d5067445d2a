"""Prices of EC2 machines: on-demand from the AWS Price List, spot from EC2's own history, both by boto3.

Spot differs between zones, and a pool's next node may come up in any of its zones: the quote is the dearest of them, so
that a price cap or a budget holds wherever the node lands, and its source names that zone. What is reserved is paid
for by contract and unknown here. The SDK's own retries are off: the next refresh is the only retry.
"""

from __future__ import annotations

import datetime
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from botocore.parsers import ResponseParserError
from pydantic import BaseModel, ConfigDict, Field

from clusters.prices._order import in_order
from clusters.prices._plausible import instant, plausible
from clusters.prices._reading import Problems, Read, read_each
from clusters.prices._rest import objects, parse_object
from clusters.prices._settings import NearbyPath, PriceSettings
from clusters.providers._blocking import BlockingCalls
from clusters.providers._eks_errors import NO_CREDENTIALS, translated
from scheduler.model.cluster import ON_DEMAND, SPOT
from scheduler.model.errors import AuthError, InvalidObjectError, TransientError
from scheduler.model.ids import Instant
from scheduler.model.money import Usd
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery, PriceQuote

T = TypeVar("T")

_MOST_PAGES: Final = 20
_TYPES_A_CALL: Final = 50
_LINUX: Final = ("Linux/UNIX", "Linux/UNIX (Amazon VPC)")
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}")

_NONSENSE: Final = (ResponseParserError, AttributeError, KeyError, TypeError, ValueError)
"""What the SDK's parser raises for an answer that is not of the API; none of them is a BotoCoreError."""

# Attributes of the AmazonEC2 offer that single out the plain machine: no licence, no dedicated host, and no capacity
# reservation, whose unused hours are products of their own.
_PLAIN: Final = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}


class Endpoints(BaseModel):
    """Where the APIs are when not at AWS's own addresses (a VPC endpoint, a proxy, an emulation)."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    pricing: str | None = None
    ec2: str | None = None
    """For every region alike."""


class Settings(PriceSettings):
    """Credentials come from boto3's default chain; `profile` and `credentialsFile` narrow it."""

    type: Literal["aws"]
    pricing_region: str = Field(default="us-east-1", min_length=1)
    """Where the Price List API is asked: it is served in few regions and answers for all."""
    endpoints: Endpoints = Endpoints()
    ca_file: NearbyPath | None = None
    profile: str | None = None
    credentials_file: NearbyPath | None = None


class AwsPrices:
    """Answers for the machines of `eks` pools."""

    name: str = "aws"

    def __init__(self, settings: Settings, *, clock: Clock) -> None:
        """Raises: AuthError when the profile or the credentials file cannot be used, InvalidObjectError for settings
        that name no place."""
        self._settings = settings
        self._clock = clock
        self._clients = _Clients(settings)
        self._calls = BlockingCalls("prices/aws", limit_seconds=settings.call_limit_seconds)
        self._problems = Problems()

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        """What fails for one machine or region is left out; raises only when everything failed."""
        ours = [one for one in in_order(wanted) if one.provider == "eks" and _askable(one)]
        self._problems = Problems()
        return await read_each((*self._on_demand_reads(ours), *self._spot_reads(ours)), self._problems)

    def problems(self) -> tuple[str, ...]:
        return self._problems.lines()

    def incomplete(self) -> bool:
        return self._problems.incomplete

    async def close(self) -> None:
        await self._calls.close()
        self._clients.close()

    def _on_demand_reads(self, wanted: Iterable[PriceQuery]) -> Iterator[Read]:
        """One read for each region and instance type."""
        by_machine: dict[tuple[str, str], list[PriceQuery]] = defaultdict(list)
        for one in wanted:
            if one.capacity_type == ON_DEMAND:
                by_machine[(one.region, one.instance_type)].append(one)
        for (region, instance_type), queries in sorted(by_machine.items()):
            yield lambda r=region, i=instance_type, q=queries: self._read_on_demand(r, i, q)  # type: ignore[misc]

    def _spot_reads(self, wanted: Iterable[PriceQuery]) -> Iterator[Read]:
        """One read for each region and its next `_TYPES_A_CALL` instance types."""
        by_region: dict[str, list[PriceQuery]] = defaultdict(list)
        for one in wanted:
            if one.capacity_type == SPOT:
                by_region[one.region].append(one)
        for region, queries in sorted(by_region.items()):
            types = sorted({one.instance_type for one in queries})
            for start in range(0, len(types), _TYPES_A_CALL):
                some = types[start : start + _TYPES_A_CALL]
                yield lambda r=region, s=some, q=queries: self._read_spot(r, s, q)  # type: ignore[misc]

    async def _read_on_demand(self, region: str, machine: str, queries: Iterable[PriceQuery]) -> list[PriceQuote]:
        filters = [
            {"Type": "TERM_MATCH", "Field": field, "Value": value}
            for field, value in sorted({**_PLAIN, "instanceType": machine, "regionCode": region}.items())
        ]
        documents = await self._pages(
            "GetProducts",
            lambda page: self._clients.get("pricing", self._settings.pricing_region).get_products(
                ServiceCode="AmazonEC2", FormatVersion="aws_v1", Filters=filters, MaxResults=100, **page
            ),
            "PriceList",
        )
        products = [parse_object(one, "aws: GetProducts") for one in documents if isinstance(one, str)]
        prices = _on_demand_prices(products, region, machine)
        if len(prices) > 1:
            some = ", ".join(str(one) for one in sorted(prices)[:3])
            self._problems.add(f"aws: {machine} in {region}: several on-demand prices ({some}); none is taken")
        elif products and not prices:
            self._problems.add(f"aws: {machine} in {region}: it is listed, but its on-demand price is none")
        if len(prices) != 1:
            return []
        ((price, published),) = prices.items()
        source = f"aws-on-demand {region}" + (f", list of {published:.10}" if published else "")
        return [PriceQuote(one, price, source, self._clock.now()) for one in queries]

    async def _read_spot(self, region: str, types: Sequence[str], queries: Iterable[PriceQuery]) -> list[PriceQuote]:
        # The price of each zone that is in force at this moment, rather than its changes.
        now = datetime.datetime.fromtimestamp(self._clock.now(), datetime.UTC)
        rows = await self._pages(
            "DescribeSpotPriceHistory",
            lambda page: self._clients.get("ec2", region).describe_spot_price_history(
                InstanceTypes=list(types),
                ProductDescriptions=list(_LINUX),
                StartTime=now,
                EndTime=now,
                MaxResults=1000,
                **page,
            ),
            "SpotPriceHistory",
        )
        newest = _newest_by_zone(objects(rows, "aws: DescribeSpotPriceHistory"))
        found = []
        for one in queries:
            zones = newest.get(one.instance_type, {})
            told = {zone: price for zone, price in zones.items() if not one.zones or zone in one.zones}
            for zone in sorted(zone for zone, price in told.items() if price is None):
                self._problems.add(f"aws: {one.instance_type} in {zone}: its spot price is none; the zone is left out")
            known = [(price, zone) for zone, price in told.items() if price is not None]
            if one.instance_type in types and known:
                price, zone = max(known)
                found.append(PriceQuote(one, price, f"aws-spot {zone}", now.timestamp()))
        return found

    async def _pages(self, action: str, read: Callable[[dict[str, str]], Any], field: str) -> list[Any]:
        """The items of all pages under `field`. Raises: ExternalError; TransientError when there is no end of pages."""
        items: list[Any] = []
        page: dict[str, str] = {}
        for _ in range(_MOST_PAGES):
            answer = await self._ask(action, lambda now=page: read(now))  # type: ignore[misc]
            part, token = answer.get(field), answer.get("NextToken")
            if not isinstance(part, list):
                raise TransientError(f"aws: {action}: the answer has no {field}", code="Malformed")
            items += part
            if not token:
                return items
            page = {"NextToken": str(token)}
        raise TransientError(f"aws: {action}: no end after {_MOST_PAGES} pages", code="TooManyPages")

    async def _ask(self, action: str, function: Callable[[], T]) -> T:
        try:
            return await self._calls.run(action, lambda: translated(f"AWS prices: {action}", function, writes=False))
        except AuthError:
            self._clients.forget()
            raise
        except _NONSENSE as error:
            what = f"{type(error).__name__}: {str(error)[:120]!r}"
            raise TransientError(
                f"aws: {action}: the answer cannot be understood ({what})", code="Malformed"
            ) from error


class _Clients:
    """boto3's clients by service and region, each made when it is first wanted; safe in several threads."""

    def __init__(self, settings: Settings) -> None:
        """Raises: as `AwsPrices`."""
        self._settings = settings
        self._lock = threading.Lock()
        self._session: boto3.Session | None = None
        self._made: dict[tuple[str, str], Any] = {}
        if settings.ca_file is not None and not settings.ca_file.is_file():
            raise InvalidObjectError(f"aws: caFile {settings.ca_file}: no such file")
        self._check_credentials_file()
        try:
            self.get("pricing", settings.pricing_region)
        except NO_CREDENTIALS as error:
            raise AuthError(f"aws: {error}", code=type(error).__name__) from error
        except (BotoCoreError, ValueError) as error:  # a region or an endpoint that is none
            raise InvalidObjectError(f"aws: {error}") from error

    def get(self, service: str, region: str) -> Any:
        """Raises: BotoCoreError, ValueError."""
        with self._lock:  # making clients is not safe in several threads, using them is
            if self._session is None:
                self._session = self._new_session()
            if (service, region) not in self._made:
                settings = self._settings
                self._made[(service, region)] = self._session.client(
                    service,
                    region_name=region,
                    config=Config(
                        connect_timeout=settings.connect_timeout_seconds,
                        read_timeout=settings.read_timeout_seconds,
                        retries={"total_max_attempts": 1, "mode": "standard"},
                        user_agent_extra="overspill",
                    ),
                    endpoint_url=getattr(settings.endpoints, service),
                    verify=str(settings.ca_file) if settings.ca_file else None,
                )
            return self._made[(service, region)]

    def forget(self) -> None:
        """Begin anew, credentials included: botocore reads a credentials file only once, and somebody may rotate it."""
        with self._lock:
            left, self._made, self._session = list(self._made.values()), {}, None
        for client in left:
            client.close()

    close = forget

    def _new_session(self) -> boto3.Session:
        core = botocore.session.Session(profile=self._settings.profile)
        if self._settings.credentials_file is not None:
            core.set_config_variable("credentials_file", str(self._settings.credentials_file))
        return boto3.Session(botocore_session=core)

    def _check_credentials_file(self) -> None:
        file = self._settings.credentials_file
        if file is not None and not file.is_file():
            raise AuthError(f"aws: {file}: no such credentials file", code="NoCredentials")


def create(settings: Settings, *, clock: Clock) -> AwsPrices:
    """The source. Raises: AuthError when the profile or the credentials file cannot be used, InvalidObjectError for
    settings that name no place."""
    return AwsPrices(settings, clock=clock)


def _askable(query: PriceQuery) -> bool:
    """Whether region and instance type are words that AWS could know (they become host names and filters)."""
    return bool(_NAME.fullmatch(query.region) and _NAME.fullmatch(query.instance_type))


def _on_demand_prices(products: Iterable[Mapping[str, Any]], region: str, machine: str) -> dict[Usd, str]:
    """The prices per hour that these products tell, each with the day its list was published ("": not told).

    Raises: TransientError when one of them is no price list.
    """
    found: dict[Usd, str] = {}
    for document in products:
        product, terms = document.get("product"), document.get("terms")
        attributes = product.get("attributes") if isinstance(product, dict) else None
        if not isinstance(attributes, dict) or not isinstance(terms, dict):
            raise TransientError("aws: GetProducts: the answer is no price list", code="Malformed")
        told = {**_PLAIN, "instanceType": machine, "regionCode": region}
        if any(attributes.get(field) != value for field, value in told.items()):
            continue
        if attributes.get("marketoption", "OnDemand") != "OnDemand":  # blocks of capacity are sold under that name too
            continue
        published = str(document.get("publicationDate", ""))
        for price in _hourly_prices(terms):
            found[price] = published if instant(published) is not None else ""
    return found


def _hourly_prices(terms: Mapping[str, Any]) -> Iterator[Usd]:
    """The plausible USD prices per hour among a product's on-demand terms."""
    for term in _values(terms.get("OnDemand")):
        for dimension in _values(term.get("priceDimensions")):
            per_unit = dimension.get("pricePerUnit")
            if dimension.get("unit") != "Hrs" or not isinstance(per_unit, dict):
                continue
            price = plausible(per_unit.get("USD"))
            if price is not None:
                yield price


def _values(of: object) -> list[dict[str, Any]]:
    return [one for one in of.values() if isinstance(one, dict)] if isinstance(of, dict) else []


def _newest_by_zone(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Usd | None]]:
    """Per instance type and zone the newest price; None where that one is implausible."""
    newest: dict[str, dict[str, Usd | None]] = defaultdict(dict)
    for row in sorted(rows, key=_set_at):
        zone = str(row.get("AvailabilityZone", ""))
        if row.get("ProductDescription") in _LINUX and zone:
            newest[str(row.get("InstanceType", ""))][zone] = plausible(row.get("SpotPrice"))
    return newest


def _set_at(row: Mapping[str, Any]) -> Instant:
    at = row.get("Timestamp")
    return at.timestamp() if isinstance(at, datetime.datetime) else 0.0
