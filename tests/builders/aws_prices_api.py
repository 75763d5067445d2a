"""AWS's Price List API (GetProducts) and EC2's DescribeSpotPriceHistory, as far as moto has no prices that differ.

Signatures are checked. Source: API references of AWS Price List (JSON 1.1) and Amazon EC2 (query protocol), and the
shape of the price list files in the AWS Billing user guide.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from aiohttp import web

from clusters.sandbox.clouds.sigv4 import AccessKey, check_signature
from tests.builders.price_faults import Script, serving

_FIELDS: Final = frozenset(
    {"regionCode", "instanceType", "operatingSystem", "tenancy", "preInstalledSw", "capacitystatus", "marketoption"}
)


def product(usd: str, *, effective: str = "2026-11-01T00:00:00Z", currency: str = "USD", **changed: str) -> str:
    """An entry of a PriceList: p4d.24xlarge in us-east-1, Linux, shared, changed by `changed` attributes."""
    sku = secrets.token_hex(8).upper()
    attributes = {
        "regionCode": "us-east-1",
        "instanceType": "p4d.24xlarge",
        "operatingSystem": "Linux",
        "tenancy": "Shared",
        "preInstalledSw": "NA",
        "capacitystatus": "Used",
        "licenseModel": "No License required",
        "marketoption": "OnDemand",
        **changed,
    }
    dimension = {
        "unit": "Hrs",
        "beginRange": "0",
        "endRange": "Inf",
        "rateCode": f"{sku}.JRTCKXETXF.6YS6EN2CT7",
        "appliesTo": [],
        "pricePerUnit": {currency: usd},
    }
    term = {
        "sku": sku,
        "offerTermCode": "JRTCKXETXF",
        "effectiveDate": effective,
        "termAttributes": {},
        "priceDimensions": {dimension["rateCode"]: dimension},
    }
    return json.dumps(
        {
            "product": {"productFamily": "Compute Instance", "attributes": attributes, "sku": sku},
            "serviceCode": "AmazonEC2",
            "terms": {"OnDemand": {f"{sku}.JRTCKXETXF": term}},
            "version": "20261110204134",
            "publicationDate": "2026-11-10T20:41:34Z",
        }
    )


@dataclass(frozen=True, slots=True)
class SpotPrice:
    zone: str
    usd: str
    at: str = "2026-11-20T08:00:00.000Z"
    machine: str = "p4d.24xlarge"
    description: str = "Linux/UNIX"


@dataclass
class AwsPricesApi:
    products: list[str] = field(default_factory=list)
    spots: list[SpotPrice] = field(default_factory=list)
    page: int = 100
    endless: bool = False
    key: AccessKey = field(
        default_factory=lambda: AccessKey("AKIA" + secrets.token_hex(8).upper(), secrets.token_hex(20))
    )
    script: Script = field(default_factory=Script)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def write_credentials(self, path: Path) -> Path:
        path.write_text(
            f"[default]\naws_access_key_id = {self.key.access_key_id}\n"
            f"aws_secret_access_key = {self.key.secret_access_key}\n"
        )
        return path

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        rejected = check_signature(self.key, request.method, request.raw_path, request.headers, body)
        target = request.headers.get("X-Amz-Target")
        if rejected is not None:
            if target:
                return _json_error("UnrecognizedClientException", rejected.text)
            return _xml_error("AuthFailure", rejected.text, 401)
        if target == "AWSPriceListService.GetProducts":
            return self._get_products(json.loads(body))
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        if form.get("Action") == "DescribeSpotPriceHistory" and form.get("Version") == "2016-11-15":
            return self._spot_history(form)
        return web.Response(status=404)

    def _get_products(self, asked: dict[str, Any]) -> web.Response:
        self.asked.append("GetProducts")
        filters = asked.get("Filters", [])
        if asked.get("ServiceCode") != "AmazonEC2" or not 1 <= asked.get("MaxResults", 100) <= 100:
            return _json_error("InvalidParameterException", "Invalid parameter")
        if any(one["Type"] != "TERM_MATCH" or one["Field"] not in _FIELDS for one in filters):
            return _json_error("InvalidParameterException", "Unknown filter")
        wanted = {one["Field"]: one["Value"] for one in filters}
        found = [one for one in self.products if _fits(one, wanted)]
        start = int(asked.get("NextToken", "0"))
        answer: dict[str, Any] = {"FormatVersion": "aws_v1", "PriceList": found[start : start + self.page]}
        if self.endless or start + self.page < len(found):
            answer["NextToken"] = str(start + self.page)
        return web.json_response(answer, content_type="application/x-amz-json-1.1")

    def _spot_history(self, form: dict[str, str]) -> web.Response:
        self.asked.append("DescribeSpotPriceHistory")
        machines = {value for name, value in form.items() if name.startswith("InstanceType.")}
        descriptions = {value for name, value in form.items() if name.startswith("ProductDescription.")}
        found = [
            one
            for one in self.spots
            if (not machines or one.machine in machines) and (not descriptions or one.description in descriptions)
        ]
        start = int(form.get("NextToken", "0"))
        token = str(start + self.page) if self.endless or start + self.page < len(found) else ""
        items = "".join(
            f"<item><instanceType>{one.machine}</instanceType><productDescription>{one.description}"
            f"</productDescription><spotPrice>{one.usd}</spotPrice><timestamp>{one.at}</timestamp>"
            f"<availabilityZone>{one.zone}</availabilityZone></item>"
            for one in found[start : start + self.page]
        )
        return web.Response(
            content_type="text/xml",
            text='<DescribeSpotPriceHistoryResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/">'
            f"<requestId>{secrets.token_hex(8)}</requestId><spotPriceHistorySet>{items}</spotPriceHistorySet>"
            f"<nextToken>{token}</nextToken></DescribeSpotPriceHistoryResponse>",
        )


@asynccontextmanager
async def aws_prices(*products: str, spots: tuple[SpotPrice, ...] = (), page: int = 100) -> AsyncIterator[AwsPricesApi]:
    api = AwsPricesApi(list(products), list(spots), page)
    async with serving(api.handle, api.script) as url:
        api.url = url
        yield api


def _fits(entry: str, wanted: dict[str, str]) -> bool:
    """An entry that is no price list is given out whatever is asked."""
    try:
        attributes = json.loads(entry)["product"]["attributes"]
    except (ValueError, KeyError, TypeError):
        return True
    return all(attributes.get(name) == value for name, value in wanted.items())


def _json_error(code: str, text: str, status: int = 400) -> web.Response:
    return web.json_response(
        {"__type": code, "message": text}, status=status, content_type="application/x-amz-json-1.1"
    )


def _xml_error(code: str, text: str, status: int = 400) -> web.Response:
    body = f"<Response><Errors><Error><Code>{code}</Code><Message>{escape(text)}</Message></Error></Errors></Response>"
    return web.Response(status=status, text=body, content_type="text/xml")
