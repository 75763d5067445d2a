"""Prices of Compute Engine machines, composed of the public prices of their parts in the Cloud Billing catalogue.

The catalogue has no price of a machine: it prices vCPUs, memory, accelerators and local SSDs by region, in SKUs that
are told apart by their descriptions. "Reserved", "DWS", "Sole Tenancy" and "Commitment" SKUs are other products, though
most are marked OnDemand too: descriptions must match as a whole. A machine of which any part has no price, or two, is
unknown.
Source: cloud.google.com/billing/v1/how-tos/catalog-api and the REST reference of services.skus.list.
"""

from __future__ import annotations

import functools
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any, Final, Literal

import google.auth
import google.auth.exceptions
import google.auth.identity_pool
import google.oauth2.credentials
import google.oauth2.service_account
import requests
from google.auth.transport.requests import Request

from clusters.prices._gcp_machines import Part, parts_of, sku_kinds
from clusters.prices._order import in_order
from clusters.prices._plausible import instant, plausible
from clusters.prices._reading import Problems
from clusters.prices._rest import JsonApi, base_url, objects, parse_object, read_secret
from clusters.prices._settings import NearbyPath, PriceSettings
from clusters.providers._blocking import BlockingCalls
from scheduler.model.cluster import ON_DEMAND, SPOT
from scheduler.model.errors import AuthError, InvalidObjectError, TransientError
from scheduler.model.ids import Instant
from scheduler.model.money import NANO, Usd
from scheduler.model.ports import Clock
from scheduler.model.prices import PriceQuery, PriceQuote

_PATH: Final = "v1/services/6F81-5844-456A/skus"
"""The SKUs of the service "Compute Engine"."""
_PAGE: Final = 1000
"""A fifth of what the API allows: parsing a page holds the interpreter, and with it the loop, for some 40 ms."""
_MOST_PAGES: Final = 120
"""It has about 32,000 SKUs."""
_MOST_BYTES: Final = 8 << 20
_SCOPES: Final = ("https://www.googleapis.com/auth/cloud-billing.readonly",)
_HOURS_A_MONTH: Final = Decimal(730)
"""What Google itself reckons a month at."""
_UNITS: Final[Mapping[str, Mapping[str, Decimal]]] = {
    "core": {"h": Decimal(1)},
    "ram": {"GiBy.h": Decimal(1)},
    "gpu": {"h": Decimal(1)},
    "ssd": {"GiBy.h": Decimal(1), "GiBy.mo": _HOURS_A_MONTH},
}
"""Per kind of part the usage units that are understood, with their hours."""
_REGION: Final = re.compile(r"(?P<what>.+?)(?: (?:running )?in \S.*)?")
_SPOT_PREFIX: Final = "spot preemptible "
_SPOT_SUFFIX: Final = re.compile(r" attached to spot preemptible vms?$")
_USAGE_TYPES: Final = {ON_DEMAND: ("OnDemand",), SPOT: ("Preemptible", "OnDemand")}
"""Some spot SKUs are marked OnDemand; their descriptions are right."""


class Settings(PriceSettings):
    """With `apiKeyFile`, by that key; else by Google credentials: `credentialsFile` or the application default ones."""

    type: Literal["gcp"]
    endpoint: str = "https://cloudbilling.googleapis.com"
    api_key_file: NearbyPath | None = None
    credentials_file: NearbyPath | None = None
    ca_file: NearbyPath | None = None


_RateKey = tuple[str, str, str]
"""Description without its region and spot words (lower case), region, capacity type."""


_Rates = dict[_RateKey, set[Usd | None]]
"""Prices of parts per hour; None stands for one that could not be understood."""


class GcpPrices:
    """Answers for the machines of `gke` pools."""

    name: str = "gcp"

    def __init__(self, settings: Settings, credentials: Any | None, *, clock: Clock) -> None:
        """`credentials`: of google-auth; None: the key in `apiKeyFile` is used."""
        self._clock = clock
        self._settings = settings
        self._credentials = credentials
        self._url = base_url(self.name, settings.endpoint) / _PATH
        self._api = JsonApi(
            self.name,
            clock=clock,
            connect_seconds=settings.connect_timeout_seconds,
            read_seconds=settings.read_timeout_seconds,
            most_bytes=_MOST_BYTES,
            ca_file=settings.ca_file,
            auth_words=("API_KEY_INVALID", "API key not valid"),
        )
        self._token_session = requests.Session()
        # One thread: tokens are fetched and pages parsed off the loop, one after the other.
        self._calls = BlockingCalls("prices/gcp", limit_seconds=settings.call_limit_seconds, threads=1)
        self._problems = Problems()

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        self._problems = Problems()
        composed: list[tuple[PriceQuery, Sequence[Part]]] = []
        for one in in_order(wanted):
            if one.provider != "gke" or one.capacity_type not in _USAGE_TYPES:
                continue
            parts = parts_of(one.instance_type, one.gpu_model, one.gpus)
            if parts is not None:
                composed.append((one, parts))
            else:
                gpus = f" with {one.gpus} x {one.gpu_model}" if one.gpus else ""
                self._problems.add(f"gcp: {one.instance_type}{gpus}: what it consists of is not known here")
        if not composed:
            return ()
        rates = await self._read(frozenset(one.region for one, _ in composed))
        quotes = [self._quote(one, parts, rates) for one, parts in composed]
        return tuple(one for one in quotes if one is not None)

    def problems(self) -> tuple[str, ...]:
        return self._problems.lines()

    async def close(self) -> None:
        await self._api.close()
        await self._calls.close()
        self._token_session.close()

    def _quote(self, query: PriceQuery, parts: Iterable[Part], rates: _Rates) -> PriceQuote | None:
        total = Decimal(0)
        for part in parts:
            keys = [(sku.lower(), query.region, query.capacity_type) for sku in part.skus]
            prices = [one for key in keys for one in rates.get(key, ())]
            if len(set(prices)) != 1 or prices[0] is None:
                what = "no price that can be understood, or several" if prices else "no price"
                self._problems.add(f"gcp: {query.instance_type} in {query.region}: {what} for {part.skus[0]}")
                return None
            total += part.amount * prices[0]
        price = plausible(total.quantize(NANO, ROUND_HALF_EVEN))
        source = f"gcp-{query.capacity_type} {query.region}"
        return None if price is None else PriceQuote(query, price, source, self._clock.now())

    async def _read(self, regions: frozenset[str]) -> _Rates:
        """The prices of all known parts in `regions`, of all pages. Raises: ExternalError."""
        rates: _Rates = defaultdict(set)
        headers = await self._headers()
        query = {"currencyCode": "USD", "pageSize": str(_PAGE)}
        now = self._clock.now()
        for number in range(1, _MOST_PAGES + 1):
            place = f"SKUs, page {number}"
            body = await self._api.get(place, self._url.with_query(query), headers)
            token = await self._calls.run(place, functools.partial(_take_page, body, place, regions, now, rates))
            if not token:
                return rates
            query["pageToken"] = token
        raise TransientError(f"gcp: no end after {_MOST_PAGES} pages of SKUs", code="TooManyPages")

    async def _headers(self) -> dict[str, str]:
        """Raises: AuthError, TransientError."""
        if self._credentials is None:
            path = self._settings.api_key_file
            if path is None:
                raise AuthError("gcp: neither apiKeyFile nor credentials", code="NoCredentials")
            return {"X-Goog-Api-Key": read_secret(self.name, path)}
        token = await self._calls.run("token", functools.partial(self._token, self._credentials))
        return {"Authorization": f"Bearer {token}"}

    def _token(self, credentials: Any) -> str:
        try:
            if not credentials.valid:
                credentials.refresh(self._bounded_request)
        except google.auth.exceptions.TransportError as error:
            raise TransientError(f"gcp: token: {error}", code="TransportError") from error
        except google.auth.exceptions.GoogleAuthError as error:
            kind = TransientError if error.retryable else AuthError
            raise kind(f"gcp: token: {str(error)[:300]!r}", code=type(error).__name__) from error
        return str(credentials.token)

    def _bounded_request(self, url: str, *args: Any, **kwargs: Any) -> Any:
        """google-auth's HTTP transport with our time limit in place of its two minutes, and our CA."""
        ours = {
            "timeout": self._settings.read_timeout_seconds,
            "verify": str(self._settings.ca_file) if self._settings.ca_file else None,
        }
        request: Any = Request(session=self._token_session)
        return request(url, *args, **{**kwargs, **ours})


def create(settings: Settings, *, clock: Clock) -> GcpPrices:
    """The source. Raises: AuthError for unusable credentials, InvalidObjectError for an unusable endpoint or CA."""
    if settings.api_key_file is not None and settings.credentials_file is not None:
        raise InvalidObjectError("gcp: apiKeyFile and credentialsFile exclude each other; keep one")
    if settings.api_key_file is None:
        return GcpPrices(settings, _credentials(settings), clock=clock)
    read_secret("gcp", settings.api_key_file)
    return GcpPrices(settings, None, clock=clock)


def _credentials(settings: Settings) -> Any:
    """Raises: AuthError, naming the file."""
    place = settings.credentials_file or "application default credentials"
    try:
        if settings.credentials_file is None:
            return google.auth.default(scopes=_SCOPES)[0]
        info = json.loads(settings.credentials_file.read_text(encoding="utf-8"))
        kinds: dict[str, Callable[..., Any]] = {
            "service_account": google.oauth2.service_account.Credentials.from_service_account_info,
            "authorized_user": google.oauth2.credentials.Credentials.from_authorized_user_info,
            "external_account": google.auth.identity_pool.Credentials.from_info,
        }
        if info.get("type") in kinds:
            return kinds[info["type"]](info, scopes=_SCOPES)
    except (OSError, ValueError, AttributeError, google.auth.exceptions.GoogleAuthError) as error:
        raise AuthError(f"gcp: {place}: {type(error).__name__}; cannot be used", code="NoCredentials") from error
    kinds_text = "service_account, authorized_user or external_account"
    raise AuthError(f"gcp: {place}: type must be {kinds_text}", code="NoCredentials")


def _take_page(body: bytes, place: str, regions: frozenset[str], now: Instant, rates: _Rates) -> str:
    """Add a page's prices to `rates`. Returns the token of the next page, "" at the end. Raises: TransientError."""
    answer = parse_object(body, f"gcp: {place}")
    for sku in objects(answer.get("skus", []), f"gcp: {place}"):
        _take_sku(sku, regions, now, rates)
    token = answer.get("nextPageToken", "")
    if not isinstance(token, str) or len(token) > 4096:
        raise TransientError(f"gcp: {place}: the next page's token is none", code="Malformed")
    return token


def _take_sku(sku: Mapping[str, Any], regions: frozenset[str], now: Instant, rates: _Rates) -> None:
    description, category, served = sku.get("description"), sku.get("category"), sku.get("serviceRegions")
    if not isinstance(description, str) or not isinstance(category, dict) or not isinstance(served, list):
        return
    what, capacity_type = _meaning(description)
    kind = sku_kinds().get(what)
    if kind is None or category.get("usageType") not in _USAGE_TYPES[capacity_type]:
        return
    for region in regions.intersection(one for one in served if isinstance(one, str)):
        key = (what, region, capacity_type)
        rates[key].add(_rate(sku.get("pricingInfo"), kind, now))


def _meaning(description: str) -> tuple[str, str]:
    """What a SKU prices (lower case) and the capacity type, of "Spot Preemptible A2 Instance Core running in Paris"."""
    found = _REGION.fullmatch(description.strip()[:200])
    what = (found["what"] if found else "").lower()
    if what.startswith(_SPOT_PREFIX):
        return what.removeprefix(_SPOT_PREFIX), SPOT
    bare = _SPOT_SUFFIX.sub("", what)
    return bare, ON_DEMAND if bare == what else SPOT


def _rate(pricing: object, kind: str, now: Instant) -> Usd | None:
    """USD per hour of one unit by the newest pricing that is in force; None: not to be understood.

    Of tiers, the dearest: what is free or cheaper in small amounts is used up by the first machine.
    """
    dated = [(instant(one.get("effectiveTime")) or 0.0, one) for one in _dicts(pricing)]
    in_force = [(at, one) for at, one in dated if at <= now]
    if not in_force:
        return None
    _, newest = max(in_force, key=lambda one: one[0])
    expression = newest.get("pricingExpression")
    if not isinstance(expression, dict):
        return None
    hours = _UNITS[kind].get(str(expression.get("usageUnit")))
    amounts = [_amount(rate.get("unitPrice")) for rate in _dicts(expression.get("tieredRates"))]
    known = [one for one in amounts if one is not None]
    if hours is None or not known or len(known) < len(amounts):
        return None
    return plausible(max(known) if hours == 1 else max(known) / hours)


def _amount(money: object) -> Decimal | None:
    """google.type.Money, when it is USD and not below zero: `units`, an int64 in a string, and `nanos`, exactly."""
    if not isinstance(money, dict) or money.get("currencyCode") != "USD":
        return None
    units, nanos = str(money.get("units", "0")), money.get("nanos", 0)
    if (
        not re.fullmatch(r"[0-9]{1,12}", units)
        or not isinstance(nanos, int)
        or isinstance(nanos, bool)
        or not 0 <= nanos < 10**9
    ):
        return None
    return Decimal(units) + Decimal(nanos).scaleb(-9)


def _dicts(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []
