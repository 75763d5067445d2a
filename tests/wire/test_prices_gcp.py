"""Google's billing catalogue, against an HTTP server that follows the REST reference and is stricter."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from clusters.prices import gcp
from clusters.sandbox.clouds.google_tokens import ServiceAccount
from clusters.sandbox.clouds.running import RunningCloud, application
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    InvalidObjectError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.prices import PriceQuery
from tests.builders.google_billing_api import GoogleBillingApi, google_billing, sku
from tests.builders.price_queries import query
from tests.contract.emulated_pools import SteppedClock

CLOCK = SteppedClock()
A100 = query("gke", "us-central1", "a2-highgpu-1g", gpu_model="A100-40GB", gpus=1)
A100_SPOT = query("gke", "us-central1", "a2-highgpu-1g", "spot")

# As the catalogue had them for us-central1: 12 x 0.031611 + 85 x 0.004237 + 2.933908 = 3.673385.
A2_CORE = sku("A2 Instance Core running in Americas", 0, 31611000)
A2_RAM = sku("A2 Instance Ram running in Americas", 0, 4237000, unit="GiBy.h")
A100_GPU = sku("Nvidia Tesla A100 GPU running in Americas", 2, 933908000)
A2 = (A2_CORE, A2_RAM, A100_GPU)
A2_SPOT = (
    sku("Spot Preemptible A2 Instance Core running in Americas", 0, 16590000, usage="Preemptible"),
    sku("Spot Preemptible A2 Instance Ram running in Americas", 0, 2220000, unit="GiBy.h", usage="Preemptible"),
    sku(
        "Nvidia Tesla A100 GPU attached to Spot Preemptible VMs running in Americas", 1, 539900000, usage="Preemptible"
    ),
)
LOOKALIKES = (
    sku("Reserved A2 Instance Core in Americas", 0, 1),
    sku("Commitment v1: A2 Cpu in Americas for 1 Year", 0, 19915000, usage="Commit1Yr"),
    sku("DWS Defined Duration A2 Core running in Americas", 0, 17390000),
    sku("Nvidia Tesla A100 GPU attached to DWS Defined Duration VMs running in Americas", 1, 613650000),
    sku("Nvidia Tesla A100 GPU attached to Sole Tenancy VMs running in Americas", 3, 0),
    sku("Reserved Nvidia Tesla A100 GPU in Americas", 0, 0),
    sku("Nvidia Tesla A100 80GB GPU running in Americas", 3, 928080000),
    sku("A2 Instance Core running in Paris", 0, 99000000, regions=("europe-west9",)),
    sku("A2 Instance Core running in Americas", 0, 1, usage="Commit3Yr"),
)


@asynccontextmanager
async def asking(api: GoogleBillingApi, folder: Path, **settings: Any) -> AsyncIterator[gcp.GcpPrices]:
    key = folder / "key"
    key.write_text(api.api_key + "\n")
    given = {"type": "gcp", "endpoint": api.url, "apiKeyFile": str(key), **settings}
    made = gcp.create(gcp.Settings.model_validate(given), clock=CLOCK)
    try:
        yield made
    finally:
        await made.close()


async def price(folder: Path, wanted: PriceQuery, *skus: dict[str, Any]) -> Decimal | None:
    async with google_billing(*skus) as api, asking(api, folder) as prices:
        quotes = await prices.quotes([wanted])
    return quotes[0].usd_per_hour if quotes else None


async def test_a_machine_is_composed_exactly_over_pages(tmp_path: Path) -> None:
    skus = (*LOOKALIKES, *A2, *A2_SPOT)
    async with google_billing(*skus, page=4) as api, asking(api, tmp_path) as prices:
        quotes = await prices.quotes([A100_SPOT, A100])
        assert api.asked == 4
        assert prices.problems() == ()
    assert {one.query.capacity_type: (str(one.usd_per_hour), one.source) for one in quotes} == {
        "on-demand": ("3.673385", "gcp-on-demand us-central1"),
        "spot": ("1.92768", "gcp-spot us-central1"),
    }
    assert all(one.as_of == CLOCK.now() for one in quotes)


async def test_bundled_local_ssd_is_part_of_the_price(tmp_path: Path) -> None:
    """375 GiB at 0.08 USD a GiB and month of 730 hours, beside 5.0277... for the rest."""
    wanted = query("gke", "us-central1", "a2-ultragpu-1g")
    gpu = sku("Nvidia Tesla A100 80GB GPU running in Americas", 3, 928080000)
    ssd = sku("SSD backed Local Storage", 0, 80000000, unit="GiBy.mo")
    assert await price(tmp_path, wanted, *A2, gpu, ssd) == Decimal("5.068797890")
    assert await price(tmp_path, wanted, *A2, gpu) is None
    paris = sku("SSD backed Local Storage in Paris", 0, 80000000, unit="GiBy.mo")
    assert await price(tmp_path, wanted, *A2, gpu, paris) == Decimal("5.068797890")
    spot_ssd = sku("SSD backed Local Storage attached to Spot Preemptible VMs", 0, 1, unit="GiBy.mo")
    assert await price(tmp_path, wanted, *A2, gpu, ssd, spot_ssd) == Decimal("5.068797890")


async def test_eight_h100_in_us_east4(tmp_path: Path) -> None:
    """87.83 USD for host and accelerators, as catalogues of list prices have it, and 0.66 for its 6000 GiB of SSD."""
    regions = ("us-east4",)
    skus = (
        sku("A3 Instance Core running in Virginia", 0, 22565160, regions=regions),
        sku("A3 Instance Ram running in Virginia", 0, 2546000, unit="GiBy.h", regions=regions),
        sku("Nvidia H100 80GB GPU running in Virginia", 9, 796550569, regions=regions),
        sku("SSD backed Local Storage in Virginia", 0, 80000000, unit="GiBy.mo", regions=regions),
    )
    found = await price(tmp_path, query("gke", "us-east4", "a3-highgpu-8g"), *skus)
    assert found is not None
    assert round(found, 2) == Decimal("88.49")
    assert round(found - Decimal(6000) * Decimal("0.08") / 730, 2) == Decimal("87.83")


async def test_n1_with_attached_accelerators(tmp_path: Path) -> None:
    skus = (
        sku("N1 Predefined Instance Core running in Americas", 0, 31611000),
        sku("N1 Predefined Instance Ram running in Americas", 0, 4237000, unit="GiBy.h"),
        sku("Nvidia Tesla T4 GPU running in Americas", 0, 350000000),
    )
    for model, gpus, want in (
        (None, 0, "0.379998"),
        ("T4", 2, "1.079998"),
        ("nvidia-tesla-t4", 1, "0.729998"),
        ("V100", 1, None),
        ("MI300X", 1, None),
        (None, 1, None),
    ):
        wanted = query("gke", "us-central1", "n1-standard-8", gpu_model=model, gpus=gpus)
        assert await price(tmp_path, wanted, *skus) == (Decimal(want) if want else None), model


def changed(base: dict[str, Any], **rate: Any) -> dict[str, Any]:
    """`base` with another unit price."""
    copy: dict[str, Any] = json.loads(json.dumps(base))
    copy["pricingInfo"][0]["pricingExpression"]["tieredRates"][0]["unitPrice"] |= rate
    return copy


@pytest.mark.parametrize(
    "gpu",
    [
        pytest.param(changed(A100_GPU, units="0", nanos=0), id="zero"),
        pytest.param(changed(A100_GPU, units="-2"), id="negative"),
        pytest.param(changed(A100_GPU, nanos=-1), id="negative-nanos"),
        pytest.param(changed(A100_GPU, nanos=10**9), id="too-many-nanos"),
        pytest.param(changed(A100_GPU, nanos=1.5), id="broken-nanos"),
        pytest.param(changed(A100_GPU, nanos=True), id="true"),
        pytest.param(changed(A100_GPU, units="NaN"), id="nan"),
        pytest.param(changed(A100_GPU, units="9" * 30), id="huge"),
        pytest.param(changed(A100_GPU, units="99999"), id="absurd"),
        pytest.param(changed(A100_GPU, currencyCode="EUR"), id="wrong-currency"),
        pytest.param({**A100_GPU, "pricingInfo": []}, id="no-pricing"),
        pytest.param({**A100_GPU, "pricingInfo": "x"}, id="pricing-is-a-text"),
        pytest.param({**A100_GPU, "serviceRegions": [7, "us-central1-x"]}, id="other-region"),
        pytest.param({**A100_GPU, "serviceRegions": None}, id="no-regions"),
        pytest.param({**A100_GPU, "category": []}, id="no-category"),
        pytest.param({**A100_GPU, "description": 7}, id="no-description"),
        pytest.param(sku("Nvidia Tesla A100 GPU running in Americas", 2, 0, unit="mo"), id="unknown-unit"),
        pytest.param(
            sku("Nvidia Tesla A100 GPU running in Americas", 2, 0, effective="2099-01-01T00:00:00Z"), id="later"
        ),
    ],
)
async def test_a_machine_whose_part_has_no_price_is_unknown(tmp_path: Path, gpu: dict[str, Any]) -> None:
    async with google_billing(A2_CORE, A2_RAM, gpu) as api, asking(api, tmp_path) as prices:
        assert await prices.quotes([A100]) == ()
        (line,) = prices.problems()
    assert "a2-highgpu-1g" in line
    assert "Nvidia Tesla A100 GPU" in line


async def test_units_may_be_left_out_when_they_are_zero(tmp_path: Path) -> None:
    core = changed(A2_CORE)
    del core["pricingInfo"][0]["pricingExpression"]["tieredRates"][0]["unitPrice"]["units"]
    assert await price(tmp_path, A100, core, A2_RAM, A100_GPU) == Decimal("3.673385")


async def test_two_prices_of_a_part_are_none_and_twice_the_same_is_one(tmp_path: Path) -> None:
    assert await price(tmp_path, A100, *A2, A100_GPU) == Decimal("3.673385")
    assert await price(tmp_path, A100, *A2, changed(A100_GPU, units="1")) is None


async def test_tiers_and_earlier_prices(tmp_path: Path) -> None:
    tiered = changed(A2_CORE)
    free = {"startUsageAmount": 0, "unitPrice": {"currencyCode": "USD", "units": "0", "nanos": 0}}
    tiered["pricingInfo"][0]["pricingExpression"]["tieredRates"].insert(0, free)
    assert await price(tmp_path, A100, tiered, A2_RAM, A100_GPU) == Decimal("3.673385")
    dated = changed(A2_CORE)
    before = changed(A2_CORE, units="9")["pricingInfo"][0] | {"effectiveTime": "2025-01-01T00:00:00Z"}
    after = changed(A2_CORE, units="8")["pricingInfo"][0] | {"effectiveTime": "2099-01-01T00:00:00Z"}
    dated["pricingInfo"] = [before, *dated["pricingInfo"], after]
    assert await price(tmp_path, A100, dated, A2_RAM, A100_GPU) == Decimal("3.673385")


async def test_spot_that_is_marked_on_demand_is_spot_all_the_same(tmp_path: Path) -> None:
    marked = [{**one, "category": {**one["category"], "usageType": "OnDemand"}} for one in A2_SPOT]
    assert await price(tmp_path, A100_SPOT, *marked) == Decimal("1.92768")
    assert await price(tmp_path, A100, *marked) is None


async def test_what_is_not_asked_for(tmp_path: Path) -> None:
    wanted = [
        query("gke", "us-central1", "a2-highgpu-1g", "reserved"),
        query("gke", "us-central1", "x9-unheard-of"),
        query("eks", "us-east-1", "p4d.24xlarge"),
    ]
    async with google_billing(*A2) as api, asking(api, tmp_path) as prices:
        assert await prices.quotes(wanted) == ()
        assert api.asked == 0
        assert prices.problems() == ("gcp: x9-unheard-of: what it consists of is not known here",)


async def test_pages_without_end_are_given_up(tmp_path: Path) -> None:
    async with google_billing(*A2) as api, asking(api, tmp_path) as prices:
        for _ in range(130):
            api.script.body(b'{"skus": [], "nextPageToken": "again"}')
        with pytest.raises(TransientError, match="no end"):
            await prices.quotes([A100])


@pytest.mark.parametrize(
    ("status", "body", "want"),
    [
        (429, {"error": {"code": 429, "message": "Quota exceeded", "status": "RESOURCE_EXHAUSTED"}}, ThrottledError),
        (400, {"error": {"code": 400, "message": "bad", "status": "INVALID_ARGUMENT"}}, RefusedError),
        (400, {"error": {"code": 400, "message": "no", "details": [{"reason": "API_KEY_INVALID"}]}}, AuthError),
        (403, {"error": {"code": 403, "message": "disabled", "status": "PERMISSION_DENIED"}}, AuthError),
        (404, {"error": {"code": 404, "message": "gone", "status": "NOT_FOUND"}}, NotFoundError),
        (503, {"error": {"code": 503, "message": "later", "status": "UNAVAILABLE"}}, TransientError),
        (500, "<html>", TransientError),
    ],
)
async def test_errors_are_typed(tmp_path: Path, status: int, body: object, want: type[ExternalError]) -> None:
    async with google_billing(*A2, page=2) as api, asking(api, tmp_path) as prices:
        api.script.status(status, json.dumps(body), Retry_After="9")
        with pytest.raises(ExternalError) as caught:
            await prices.quotes([A100])
        assert type(caught.value) is want
        assert api.api_key not in str(caught.value)
        assert getattr(caught.value, "retry_after_seconds", 9) == 9
        assert len(await prices.quotes([A100])) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b'{"skus": [', b"[]", b'{"skus": 7}', b'{"skus": [7]}', b'{"skus": [], "nextPageToken": 7}', b'{"x": NaN}'],
)
async def test_nonsense_is_a_transient_error(tmp_path: Path, body: bytes) -> None:
    async with google_billing(*A2) as api, asking(api, tmp_path) as prices:
        api.script.body(body)
        with pytest.raises(TransientError):
            await prices.quotes([A100])
        api.script.cut_off(body)
        with pytest.raises(TransientError):
            await prices.quotes([A100])


async def test_a_failure_on_a_later_page_gives_no_half_composed_prices(tmp_path: Path) -> None:
    async with google_billing(*A2, page=1) as api, asking(api, tmp_path) as prices:
        api.script.body(json.dumps({"skus": list(A2), "nextPageToken": "page:1"}).encode())
        api.script.status(500)
        with pytest.raises(TransientError):
            await prices.quotes([A100])


async def test_a_wrong_key_is_an_auth_error_and_never_shown(tmp_path: Path) -> None:
    async with google_billing(*A2) as api, asking(api, tmp_path) as prices:
        wrong = "AIzaWRONG"
        (tmp_path / "key").write_text(wrong)
        with pytest.raises(AuthError) as caught:
            await prices.quotes([A100])
        assert wrong not in str(caught.value)
        (tmp_path / "key").write_text(api.api_key)
        assert len(await prices.quotes([A100])) == 1, "a key that was renewed is read anew"


async def test_by_a_service_account(tmp_path: Path) -> None:
    account = ServiceAccount("overspill-sandbox")
    cloud = RunningCloud(settings={})
    app = application()
    app.router.add_post("/token", account.token)
    try:
        token_uri = f"{await cloud.serve_http(app)}/token"
        account.write_key(tmp_path / "sa.json", token_uri=token_uri)
        async with google_billing(*A2) as api:
            api.accepts = account.tokens.accepts
            settings = {"apiKeyFile": None, "credentialsFile": str(tmp_path / "sa.json")}
            async with asking(api, tmp_path, **settings) as prices:
                assert len(await prices.quotes([A100])) == 1
            account.revoke()
            async with asking(api, tmp_path, **settings) as prices:
                with pytest.raises(AuthError):
                    await prices.quotes([A100])
    finally:
        await cloud.stop()


@pytest.mark.parametrize(
    ("files", "settings", "want"),
    [
        ({}, {"apiKeyFile": "absent"}, AuthError),
        ({"k": ""}, {"apiKeyFile": "k"}, AuthError),
        ({"k": "two\nlines"}, {"apiKeyFile": "k"}, AuthError),
        ({}, {"credentialsFile": "absent"}, AuthError),
        ({"c": "{"}, {"credentialsFile": "c"}, AuthError),
        ({"c": '{"type": "magic"}'}, {"credentialsFile": "c"}, AuthError),
        ({"c": "[]"}, {"credentialsFile": "c"}, AuthError),
        ({"k": "x", "c": "{}"}, {"apiKeyFile": "k", "credentialsFile": "c"}, InvalidObjectError),
        ({"k": "x"}, {"apiKeyFile": "k", "caFile": "absent"}, InvalidObjectError),
        ({"k": "x"}, {"apiKeyFile": "k", "endpoint": "nonsense"}, InvalidObjectError),
    ],
)
def test_settings_that_cannot_work(
    tmp_path: Path, files: dict[str, str], settings: dict[str, str], want: type[Exception]
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    parsed = gcp.Settings.model_validate({"type": "gcp", **settings}, context={"base_dir": tmp_path})
    with pytest.raises(want):
        gcp.create(parsed, clock=CLOCK)
