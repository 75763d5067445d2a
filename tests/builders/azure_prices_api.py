"""The Azure Retail Prices API, stricter than the real one: what it does not document it answers with 400.

Source: learn.microsoft.com, "Azure Retail Prices overview" (filters, currencyCode, NextPageLink, answer fields).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web
from yarl import URL

from tests.builders.price_faults import Script, serving

_FILTERS: Final = {
    "armRegionName": "armRegionName",
    "armSkuName": "armSkuName",
    "priceType": "type",
    "serviceName": "serviceName",
    "skuName": "skuName",
    "meterName": "meterName",
    "productName": "productName",
}
"""Fields that may be filtered by, and what they are called in the items."""
_PARAMETERS: Final = frozenset({"$filter", "$skip", "currencyCode", "api-version", "meterRegion"})
_TERM: Final = re.compile(r"(\w+) eq '([^']*)'")


def item(**fields: Any) -> dict[str, Any]:
    """An item as the API lists it: the plain Linux machine of one A100 in eastus, changed by `fields`."""
    return {
        "currencyCode": "USD",
        "tierMinimumUnits": 0.0,
        "retailPrice": 3.673,
        "unitPrice": 3.673,
        "armRegionName": "eastus",
        "location": "US East",
        "effectiveStartDate": "2022-06-01T00:00:00Z",
        "meterId": "00000000-0000-0000-0000-000000000001",
        "meterName": "NC24ads A100 v4",
        "productId": "DZH318Z0FD37",
        "skuId": "DZH318Z0FD37/0001",
        "productName": "NCads A100 v4 Series",
        "skuName": "NC24ads A100 v4",
        "serviceName": "Virtual Machines",
        "serviceId": "DZH313Z7MMC8",
        "serviceFamily": "Compute",
        "unitOfMeasure": "1 Hour",
        "type": "Consumption",
        "isPrimaryMeterRegion": True,
        "armSkuName": "Standard_NC24ads_A100_v4",
        **fields,
    }


@dataclass
class AzurePricesApi:
    items: list[dict[str, Any]] = field(default_factory=list)
    page: int = 1000
    script: Script = field(default_factory=Script)
    asked: list[URL] = field(default_factory=list)
    next_link: str | None = None
    """In place of the right one."""
    headers: dict[str, str] = field(default_factory=dict)
    """Of the last request."""
    url: str = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.url)
        self.headers = dict(request.headers)
        query = request.query
        if request.method != "GET" or request.path != "/api/retail/prices" or set(query) - _PARAMETERS:
            return _refusal("the request is none of this API")
        if query.get("currencyCode", "'USD'") != "'USD'":
            return _refusal("currencyCode is a quoted ISO 4217 code")
        terms = [_TERM.fullmatch(term) for term in query.get("$filter", "").split(" and ")]
        if any(term is None or term[1] not in _FILTERS for term in terms):
            return _refusal("$filter cannot be understood")
        wanted = {_FILTERS[term[1]]: term[2] for term in terms if term is not None}
        found = [one for one in self.items if all(_same(one.get(name), value) for name, value in wanted.items())]
        skip = int(query.get("$skip", "0"))
        more = skip + self.page < len(found)
        link = self.next_link or str(request.url.update_query({"$skip": str(skip + self.page)}))
        return web.json_response(
            {
                "BillingCurrency": "USD",
                "CustomerEntityId": "Default",
                "CustomerEntityType": "Retail",
                "Items": found[skip : skip + self.page],
                "NextPageLink": link if more or self.next_link else None,
                "Count": len(found[skip : skip + self.page]),
            }
        )


@asynccontextmanager
async def azure_prices(*items: dict[str, Any], page: int = 1000) -> AsyncIterator[AzurePricesApi]:
    api = AzurePricesApi(list(items), page)
    async with serving(api.handle, api.script) as url:
        api.url = url
        yield api


def _same(told: object, wanted: str) -> bool:
    return str(told).lower() == wanted.lower()


def _refusal(text: str) -> web.Response:
    return web.json_response({"Error": {"Code": "BadRequest", "Message": text}}, status=400)
