"""Azure's retail prices, against an HTTP server that follows the published definition and is stricter."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from clusters.prices import azure
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    InvalidObjectError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from tests.builders.azure_prices_api import AzurePricesApi, azure_prices, item
from tests.builders.price_queries import query
from tests.contract.emulated_pools import SteppedClock

CLOCK = SteppedClock()
MACHINE = "Standard_NC24ads_A100_v4"
ON_DEMAND = query("aks", "eastus", MACHINE)
SPOT = query("aks", "eastus", MACHINE, "spot")


def spot(**changed: Any) -> dict[str, Any]:
    return item(
        **{"meterName": "NC24ads A100 v4 Spot", "skuName": "NC24ads A100 v4 Spot", "retailPrice": 0.444433, **changed}
    )


@asynccontextmanager
async def asking(api: AzurePricesApi, **settings: Any) -> AsyncIterator[azure.AzurePrices]:
    made = azure.create(azure.Settings.model_validate({"type": "azure", "endpoint": api.url, **settings}), clock=CLOCK)
    try:
        yield made
    finally:
        await made.close()


async def test_on_demand_and_spot_exactly(  # one question for both
) -> None:
    others = [
        item(productName="NCads A100 v4 Series Windows", retailPrice=7.0),
        item(skuName="NC24ads A100 v4 Low Priority", meterName="NC24ads A100 v4 Low Priority", retailPrice=0.7),
        item(type="Reservation", reservationTerm="1 Year", retailPrice=20000.0),
        item(type="DevTestConsumption", retailPrice=3.0),
        item(productName="NCads A100 v4 Series Cloud Services", retailPrice=4.0),
        item(productName="NCads A100 v4 Series Dedicated Host", retailPrice=5.0),
        item(armRegionName="westus", retailPrice=6.0),
        item(armSkuName="Standard_NC48ads_A100_v4", retailPrice=7.346),
    ]
    async with azure_prices(*others, item(), spot(), page=2) as api, asking(api) as prices:
        quotes = await prices.quotes([SPOT, ON_DEMAND])
        assert {one.query.capacity_type: (str(one.usd_per_hour), one.source) for one in quotes} == {
            "on-demand": ("3.673", "azure-on-demand eastus"),
            "spot": ("0.444433", "azure-spot eastus"),
        }
        assert all(one.as_of == CLOCK.now() for one in quotes)
        assert prices.problems() == ()
        assert 1 < len(api.asked) < 6, "pages were followed, of this machine only"


@pytest.mark.parametrize(
    ("items", "want"),
    [
        pytest.param([], None, id="no-such-machine"),
        pytest.param([item(retailPrice=0)], None, id="zero"),
        pytest.param([item(retailPrice=-3.673)], None, id="negative"),
        pytest.param([item(retailPrice=1e12)], None, id="huge"),
        pytest.param([item(retailPrice="3.673")], "3.673", id="a-number-in-a-text"),
        pytest.param([item(retailPrice=None)], None, id="null"),
        pytest.param([item(retailPrice=True)], None, id="true"),
        pytest.param([item(currencyCode="EUR")], None, id="wrong-currency"),
        pytest.param([item(unitOfMeasure="100 Hours")], None, id="wrong-unit"),
        pytest.param([item(tierMinimumUnits=100.0)], None, id="a-later-tier"),
        pytest.param([item(effectiveStartDate="2099-01-01T00:00:00Z")], None, id="not-yet"),
        pytest.param([item(effectiveEndDate="2020-01-01T00:00:00Z")], None, id="no-more"),
        pytest.param([item(effectiveStartDate="someday")], None, id="no-date"),
        pytest.param([item(retailPrice=4.0), item(effectiveStartDate="2026-01-01T00:00:00Z")], "3.673", id="newest"),
        pytest.param([item(), item(effectiveStartDate="2026-01-01T00:00:00Z", retailPrice=0)], None, id="newest-bad"),
        pytest.param([item(), item(retailPrice=4.0)], None, id="two-prices"),
        pytest.param([item(), item(retailPrice=4.0, isPrimaryMeterRegion=False)], "3.673", id="primary-meter"),
        pytest.param([item(armSkuName=MACHINE.lower())], "3.673", id="letters-small"),
    ],
)
async def test_what_counts_as_its_price(items: list[dict[str, Any]], want: str | None) -> None:
    async with azure_prices(*items) as api, asking(api) as prices:
        quotes = await prices.quotes([ON_DEMAND])
    assert [one.usd_per_hour for one in quotes] == ([Decimal(want)] if want else [])


async def test_doubtful_prices_are_told() -> None:
    async with azure_prices(item(retailPrice=0), spot()) as api, asking(api) as prices:
        assert [one.query for one in await prices.quotes([ON_DEMAND, SPOT])] == [SPOT]
        (line,) = prices.problems()
    assert MACHINE in line
    assert "on-demand" in line


async def test_numbers_that_are_none_are_refused() -> None:
    for number in ("NaN", "Infinity", "-Infinity", "1e99999999999999999999"):
        async with azure_prices() as api, asking(api) as prices:
            api.script.body(json.dumps({"Items": [item()], "NextPageLink": None}).replace("3.673", number).encode())
            with pytest.raises(TransientError, match="not JSON"):
                await prices.quotes([ON_DEMAND])


@pytest.mark.parametrize(
    "link",
    [
        "http://evil.example/api/retail/prices?$skip=1000",
        "https://127.0.0.1/api/retail/prices",
        "file:///etc/passwd",
        "//evil.example/api/retail/prices",
        "{url}/other/path",
        "{url}@evil.example/api/retail/prices",
        "http://user:secret@{host}/api/retail/prices",
        "http://[broken",
        "7",
    ],
)
async def test_a_hostile_next_link_is_not_followed(link: str) -> None:
    async with azure_prices(item()) as api, asking(api) as prices:
        api.next_link = link.format(url=api.url, host=api.url.removeprefix("http://"))
        with pytest.raises(TransientError) as caught:
            await prices.quotes([ON_DEMAND])
        assert caught.value.code == "ForeignLink"
        assert "secret" not in str(caught.value)
        assert len(api.asked) == 1


async def test_a_link_that_names_the_usual_port_is_the_same_place() -> None:
    """The real API's links name port 443, its address does not."""
    made = azure.create(azure.Settings.model_validate({"type": "azure"}), clock=CLOCK)
    try:
        assert made._next("https://prices.azure.com:443/api/retail/prices?$skip=1000", "here").port == 443
    finally:
        await made.close()


async def test_links_without_end_are_given_up() -> None:
    async with azure_prices(item()) as api, asking(api) as prices:
        api.next_link = f"{api.url}/api/retail/prices?$filter=armRegionName eq 'eastus'"
        with pytest.raises(TransientError, match="no end"):
            await prices.quotes([ON_DEMAND])
        assert len(api.asked) == 20


@pytest.mark.parametrize(
    ("status", "retry_after", "want", "want_wait"),
    [
        (429, "12", ThrottledError, 12.0),
        (429, None, ThrottledError, None),
        (429, "Fri, 15 Jan 2027 08:00:30 GMT", ThrottledError, 30.0),
        (429, "soon", ThrottledError, None),
        (429, "9" * 400, ThrottledError, 86400.0),
        (400, None, RefusedError, None),
        (403, None, AuthError, None),
        (404, None, NotFoundError, None),
        (302, None, RefusedError, None),
        (418, None, TransientError, None),
        (500, None, TransientError, None),
        (503, "12", TransientError, None),
    ],
)
async def test_errors_are_typed(
    status: int, retry_after: str | None, want: type[ExternalError], want_wait: float | None
) -> None:
    async with azure_prices(item()) as api, asking(api) as prices:
        api.script.status(
            status,
            json.dumps({"Error": {"Code": "X", "Message": "first\nsecond"}}),
            Location=f"{api.url}/api/retail/prices",
            **({"Retry_After": retry_after} if retry_after else {}),
        )
        with pytest.raises(ExternalError) as caught:
            await prices.quotes([ON_DEMAND])
        assert type(caught.value) is want
        assert getattr(caught.value, "retry_after_seconds", None) == want_wait
        assert "\n" not in str(caught.value)
        assert api.asked == [], "one attempt, and redirects are not followed"
        assert len(await prices.quotes([ON_DEMAND])) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"7", b'{"Items": 7}', b'{"Items": [7]}', b"\xff\xfe", b"[" * 100_000, b'{"Items": null}'],
    ids=range(9),
)
async def test_nonsense_is_a_transient_error(body: bytes) -> None:
    async with azure_prices() as api, asking(api) as prices:
        api.script.body(body)
        with pytest.raises(TransientError):
            await prices.quotes([ON_DEMAND])


async def test_a_truncated_or_endless_answer_is_a_transient_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async with azure_prices() as api, asking(api) as prices:
        api.script.cut_off(b'{"Items": [')
        with pytest.raises(TransientError):
            await prices.quotes([ON_DEMAND])
        api.script.body(b" " * (9 << 20))
        with pytest.raises(TransientError, match="longer than"):
            await prices.quotes([ON_DEMAND])


async def test_an_unreachable_endpoint_is_a_transient_error() -> None:
    async with azure_prices() as api:
        pass
    async with asking(api) as prices:
        with pytest.raises(TransientError):
            await prices.quotes([ON_DEMAND])


async def test_throttling_ends_the_reading_and_keeps_what_is_known() -> None:
    machines = [f"Standard_NC{number}ads_A100_v4" for number in (24, 48, 96)]
    items = [item(armSkuName=one) for one in machines]
    async with azure_prices(*items) as api, asking(api) as prices:
        first = await prices.quotes([query("aks", "eastus", one) for one in machines])
        assert len(first) == 3
        assert len(api.asked) == 3
        api.script.status(500)
        assert len(await prices.quotes([query("aks", "eastus", one) for one in machines])) == 2
        assert len(prices.problems()) == 1


async def test_only_names_that_azure_could_know_are_asked_about() -> None:
    wanted = [
        query("aks", "eastus' or '1' eq '1", MACHINE),
        query("aks", "eastus", "Standard' or '"),
        query("aks", "eastus", MACHINE, "reserved"),
        query("eks", "us-east-1", "p4d.24xlarge"),
    ]
    async with azure_prices(item()) as api, asking(api) as prices:
        assert await prices.quotes(wanted) == ()
        assert api.asked == []


@pytest.mark.parametrize("endpoint", ["", "prices.azure.com", "ftp://x", "https://u:p@x", "https://x?y=z", "http://[x"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(InvalidObjectError, match="azure"):
        azure.create(azure.Settings.model_validate({"type": "azure", "endpoint": endpoint}), clock=CLOCK)


async def test_the_environments_proxy_is_used_and_its_netrc_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text("machine prices.example login me password s3cret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with azure_prices(item()) as api:
        monkeypatch.setenv("http_proxy", api.url)
        async with asking(api, endpoint="http://prices.example") as prices:
            assert len(await prices.quotes([ON_DEMAND])) == 1
        assert "Authorization" not in api.headers
        monkeypatch.setenv("no_proxy", "prices.example")
        async with asking(api, endpoint="http://prices.example") as prices:
            with pytest.raises(TransientError):
                await prices.quotes([ON_DEMAND])
