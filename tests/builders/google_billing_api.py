"""Google's Cloud Billing catalogue (services.skus.list), stricter than the real one, for Compute Engine only.

Source: REST reference of cloudbilling.googleapis.com v1 (`Sku`, `PricingInfo`, `google.type.Money`).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.builders.price_faults import Script, serving

_PATH: Final = "/v1/services/6F81-5844-456A/skus"
_PARAMETERS: Final = frozenset({"currencyCode", "pageSize", "pageToken", "startTime", "endTime"})
_GROUPS: Final = {"Core": "CPU", "Ram": "RAM", "GPU": "GPU", "SSD": "LocalSSD"}


def sku(
    description: str,
    units: int | str,
    nanos: int,
    *,
    unit: str = "h",
    usage: str = "OnDemand",
    regions: tuple[str, ...] = ("us-central1",),
    currency: str = "USD",
    effective: str = "2026-10-01T00:00:00Z",
) -> dict[str, Any]:
    """A SKU as the catalogue lists it, with one price of `units` + `nanos`/10^9."""
    price = {"currencyCode": currency, "units": str(units), "nanos": nanos}
    sku_id = "-".join(secrets.token_hex(2).upper() for _ in range(3))
    return {
        "name": f"services/6F81-5844-456A/skus/{sku_id}",
        "skuId": sku_id,
        "description": description,
        "category": {
            "serviceDisplayName": "Compute Engine",
            "resourceFamily": "Compute",
            "resourceGroup": next((group for word, group in _GROUPS.items() if word in description), "GPU"),
            "usageType": usage,
        },
        "serviceRegions": list(regions),
        "pricingInfo": [
            {
                "summary": "",
                "pricingExpression": {
                    "usageUnit": unit,
                    "displayQuantity": 1,
                    "tieredRates": [{"startUsageAmount": 0, "unitPrice": price}],
                },
                "currencyConversionRate": 1,
                "effectiveTime": effective,
            }
        ],
        "serviceProviderName": "Google",
    }


@dataclass
class GoogleBillingApi:
    skus: list[dict[str, Any]] = field(default_factory=list)
    page: int = 5000
    api_key: str = field(default_factory=lambda: "AIza" + secrets.token_urlsafe(26))
    accepts: Callable[[str], bool] = lambda authorization: False
    """Whether an Authorization header's value is let in."""
    script: Script = field(default_factory=Script)
    asked: int = 0
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        query = request.query
        if request.method != "GET" or request.path != _PATH or set(query) - _PARAMETERS:
            return _refusal(404, "NOT_FOUND", "Requested entity was not found.")
        if (denied := self._denied(request)) is not None:
            return denied
        size = int(query.get("pageSize", "5000"))
        if not 1 <= size <= 5000 or query.get("currencyCode", "USD") != "USD":
            return _refusal(400, "INVALID_ARGUMENT", "Request contains an invalid argument.")
        start = 0
        if "pageToken" in query:
            word, _, number = query["pageToken"].partition(":")
            if word != "page" or not number.isdigit():
                return _refusal(400, "INVALID_ARGUMENT", "The page token is invalid.")
            start = int(number)
        end = start + min(size, self.page)
        token = f"page:{end}" if end < len(self.skus) else ""
        return web.json_response({"skus": self.skus[start:end], "nextPageToken": token})

    def _denied(self, request: web.Request) -> web.Response | None:
        key, bearer = request.headers.get("X-Goog-Api-Key"), request.headers.get("Authorization")
        if key is not None and bearer is None:
            if key == self.api_key:
                return None
            return _refusal(400, "INVALID_ARGUMENT", "API key not valid. Please pass a valid API key.")
        if bearer is not None and self.accepts(bearer):
            return None
        return _refusal(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")


@asynccontextmanager
async def google_billing(*skus: dict[str, Any], page: int = 5000) -> AsyncIterator[GoogleBillingApi]:
    api = GoogleBillingApi(list(skus), page)
    async with serving(api.handle, api.script) as url:
        api.url = url
        yield api


def _refusal(status: int, word: str, text: str) -> web.Response:
    return web.json_response({"error": {"code": status, "message": text, "status": word}}, status=status)
