"""AWS prices: spot against a moto server process, the rest against a strict fake, for moto has no Price List."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from clusters.prices import aws
from clusters.sandbox.clouds.sigv4 import AccessKey
from scheduler.model.errors import (
    AuthError,
    ExternalError,
    InvalidObjectError,
    RefusedError,
    ThrottledError,
    TransientError,
)
from scheduler.model.prices import PriceQuery
from tests.builders.aws_prices_api import AwsPricesApi, SpotPrice, aws_prices, product
from tests.builders.moto_process import moto_process
from tests.builders.price_queries import query
from tests.contract.emulated_pools import SteppedClock

CLOCK = SteppedClock()
P4D = query("eks", "us-east-1", "p4d.24xlarge")
P4D_SPOT = query("eks", "us-east-1", "p4d.24xlarge", "spot")


@asynccontextmanager
async def source(credentials: Path, **settings: Any) -> AsyncIterator[aws.AwsPrices]:
    made = aws.create(
        aws.Settings.model_validate({"type": "aws", "credentialsFile": str(credentials), **settings}), clock=CLOCK
    )
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def asking(api: AwsPricesApi, folder: Path, **settings: Any) -> AsyncIterator[aws.AwsPrices]:
    credentials = api.write_credentials(folder / "credentials")
    async with source(credentials, endpoints={"pricing": api.url, "ec2": api.url}, **settings) as made:
        yield made


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    with moto_process() as url:
        yield url


@pytest.fixture
def any_credentials(tmp_path: Path) -> Path:
    path = tmp_path / "credentials"
    path.write_text("[default]\naws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = example\n")
    return path


async def test_spot_from_moto(moto_url: str, any_credentials: Path) -> None:
    wanted = query("eks", "us-east-1", "g5.xlarge", "spot")
    async with source(any_credentials, endpoints={"ec2": moto_url}) as prices:
        (quote,) = await prices.quotes([wanted])
    assert quote.query == wanted
    assert quote.usd_per_hour == Decimal("0.00001")
    assert quote.source.startswith("aws-spot us-east-1")
    assert quote.as_of == CLOCK.now()


async def test_moto_knows_no_such_machine_or_zone(moto_url: str, any_credentials: Path) -> None:
    elsewhere = query("eks", "us-east-1", "g5.xlarge", "spot", zones=("us-east-1z",))
    unheard_of = query("eks", "us-east-1", "p99.huge", "spot")
    async with source(any_credentials, endpoints={"ec2": moto_url}) as prices:
        assert await prices.quotes([elsewhere, unheard_of]) == ()


async def test_regions_of_moto_are_asked_apart(moto_url: str, any_credentials: Path) -> None:
    wanted = [query("eks", region, "g5.xlarge", "spot") for region in ("us-east-1", "us-west-2")]
    async with source(any_credentials, endpoints={"ec2": moto_url}) as prices:
        quotes = await prices.quotes(wanted)
    assert [one.source[:18] for one in quotes] == ["aws-spot us-east-1", "aws-spot us-west-2"]


async def test_on_demand_is_exact_and_names_its_list(tmp_path: Path) -> None:
    async with aws_prices(product("21.9576420000")) as api, asking(api, tmp_path) as prices:
        (quote,) = await prices.quotes([P4D])
    assert quote.usd_per_hour == Decimal("21.957642")
    assert str(quote.usd_per_hour) == "21.957642"
    assert quote.source == "aws-on-demand us-east-1, list of 2026-11-10"
    assert quote.as_of == CLOCK.now()
    assert prices.problems() == ()


async def test_several_machines_in_one_reading(tmp_path: Path) -> None:
    listed = {"p4d.24xlarge": "21.957642", "p5.48xlarge": "55.04", "g5.xlarge": "1.006"}
    products = [product(f"{usd}0000", instanceType=machine) for machine, usd in listed.items()]
    wanted = [query("eks", "us-east-1", machine, pool=machine) for machine in (*listed, "p5e.48xlarge")]
    async with aws_prices(*products) as api, asking(api, tmp_path) as prices:
        quotes = await prices.quotes([*wanted, query("eks", "us-east-1", "g5.xlarge", pool="second")])
    assert {one.query.pool: str(one.usd_per_hour) for one in quotes} == {**listed, "second": "1.006"}
    assert len(api.asked) == 4, "a machine is asked about once"


@pytest.mark.parametrize(
    ("others", "want"),
    [
        pytest.param([product("30", operatingSystem="Windows")], "21.957642", id="windows"),
        pytest.param([product("30", tenancy="Dedicated")], "21.957642", id="dedicated"),
        pytest.param([product("30", preInstalledSw="SQL Std")], "21.957642", id="with-software"),
        pytest.param([product("30", capacitystatus="UnusedCapacityReservation")], "21.957642", id="unused-reservation"),
        pytest.param([product("30", marketoption="CapacityBlock")], "21.957642", id="capacity-block"),
        pytest.param([product("21.957642")], "21.957642", id="the-same-price-twice"),
        pytest.param([product("30")], None, id="two-prices"),
        pytest.param([product("0.0000000000")], "21.957642", id="a-zero-is-no-price"),
        pytest.param([product("9.9", currency="CNY")], "21.957642", id="other-currency"),
    ],
)
async def test_only_the_plain_machine_counts(tmp_path: Path, others: list[str], want: str | None) -> None:
    async with aws_prices(*others, product("21.957642")) as api, asking(api, tmp_path) as prices:
        quotes = await prices.quotes([P4D])
        assert [one.usd_per_hour for one in quotes] == ([Decimal(want)] if want else [])
        assert bool(prices.problems()) == (want is None)


@pytest.mark.parametrize("usd", ["0", "-1", "NaN", "Infinity", "1e9", "", "1_0", "\u0663", "99999999999", "free"])
async def test_an_absurd_price_is_unknown(tmp_path: Path, usd: str) -> None:
    async with aws_prices(product(usd), spots=(SpotPrice("us-east-1a", usd),)) as api, asking(api, tmp_path) as prices:
        assert await prices.quotes([P4D, P4D_SPOT]) == ()
        assert len(prices.problems()) == 2


async def test_spot_is_the_dearest_of_the_pools_zones(tmp_path: Path) -> None:
    spots = (
        SpotPrice("us-east-1a", "6.289000"),
        SpotPrice("us-east-1b", "14.105100"),
        SpotPrice("us-east-1c", "9.000000"),
        SpotPrice("us-east-1c", "20.00", at="2026-11-01T00:00:00.000Z"),
        SpotPrice("us-east-1a", "99.00", description="Windows"),
        SpotPrice("us-east-1a", "50.00", machine="p5.48xlarge"),
    )
    two = query("eks", "us-east-1", "p4d.24xlarge", "spot", pool="two", zones=("us-east-1a", "us-east-1c"))
    async with aws_prices(spots=spots, page=2) as api, asking(api, tmp_path) as prices:
        quotes = await prices.quotes([P4D_SPOT, two])
    assert {one.query.pool: (one.usd_per_hour, one.source) for one in quotes} == {
        "pool": (Decimal("14.1051"), "aws-spot us-east-1b"),
        "two": (Decimal(9), "aws-spot us-east-1c"),
    }


async def test_a_zone_whose_newest_price_is_absurd_is_left_out(tmp_path: Path) -> None:
    spots = (
        SpotPrice("us-east-1a", "6.289"),
        SpotPrice("us-east-1b", "14", at="2026-11-01T00:00:00.000Z"),
        SpotPrice("us-east-1b", "0.0"),
    )
    async with aws_prices(spots=spots) as api, asking(api, tmp_path) as prices:
        (quote,) = await prices.quotes([P4D_SPOT])
        assert quote.source == "aws-spot us-east-1a"
        assert "us-east-1b" in prices.problems()[0]


async def test_what_is_not_asked_for(tmp_path: Path) -> None:
    wanted = [
        query("eks", "us-east-1", "p4d.24xlarge", "reserved"),
        query("onprem", "us-east-1", "p4d.24xlarge", "owned"),
        query("gke", "us-central1", "a2-highgpu-1g"),
        query("eks", "evil.example/x", "p4d.24xlarge"),
        query("eks", "us-east-1", ""),
    ]
    async with aws_prices() as api, asking(api, tmp_path) as prices:
        assert await prices.quotes(wanted) == ()
        assert await prices.quotes([]) == ()
        assert api.asked == []


@pytest.mark.parametrize("wanted", [P4D, P4D_SPOT], ids=["on-demand", "spot"])
async def test_pages_are_followed_and_bounded(tmp_path: Path, wanted: PriceQuery) -> None:
    spots = tuple(SpotPrice(f"us-east-1{zone}", "1") for zone in "abcdef")
    async with aws_prices(*[product("2")] * 5, spots=spots, page=2) as api, asking(api, tmp_path) as prices:
        assert len(await prices.quotes([wanted])) == 1
        assert len(api.asked) == 3
        api.endless = True
        with pytest.raises(TransientError, match="no end"):
            await prices.quotes([wanted])


@pytest.mark.parametrize(
    ("status", "code", "want"),
    [
        (400, "ThrottlingException", ThrottledError),
        (400, "AccessDeniedException", AuthError),
        (400, "InvalidParameterException", RefusedError),
        (500, "InternalErrorException", TransientError),
        (400, "SomethingNobodyKnows", TransientError),
    ],
)
async def test_errors_are_typed(tmp_path: Path, status: int, code: str, want: type[ExternalError]) -> None:
    async with aws_prices(product("2")) as api, asking(api, tmp_path) as prices:
        api.script.status(status, json.dumps({"__type": code, "message": "no"}))
        with pytest.raises(ExternalError) as caught:
            await prices.quotes([P4D])
        assert type(caught.value) is want
        assert len(await prices.quotes([P4D])) == 1, "and the next time all is well"


async def test_one_attempt_only_and_its_wait_is_told(tmp_path: Path) -> None:
    async with aws_prices(product("2")) as api, asking(api, tmp_path) as prices:
        api.script.status(429, json.dumps({"__type": "ThrottlingException", "message": "no"}), Retry_After="7")
        with pytest.raises(ThrottledError) as caught:
            await prices.quotes([P4D])
        assert caught.value.retry_after_seconds == 7
        assert api.asked == []


async def test_wrong_credentials_and_none(tmp_path: Path, any_credentials: Path) -> None:
    async with aws_prices(product("2")) as api:
        async with source(any_credentials, endpoints={"pricing": api.url, "ec2": api.url}) as prices:
            for wanted in (P4D, P4D_SPOT):
                with pytest.raises(AuthError):
                    await prices.quotes([wanted])
        with pytest.raises(AuthError, match="no such credentials file"):
            async with source(tmp_path / "absent"):
                pass
        with pytest.raises(InvalidObjectError, match="caFile"):
            async with source(any_credentials, caFile=str(tmp_path / "absent.pem")):
                pass
        with pytest.raises(InvalidObjectError):
            async with source(any_credentials, endpoints={"pricing": "nonsense"}):
                pass


async def test_credentials_that_were_rotated_are_read_anew(tmp_path: Path) -> None:
    async with aws_prices(product("2")) as api, asking(api, tmp_path) as prices:
        assert len(await prices.quotes([P4D])) == 1
        api.key = AccessKey("AKIANEWER", "newer")
        with pytest.raises(AuthError):
            await prices.quotes([P4D])
        api.write_credentials(tmp_path / "credentials")
        assert len(await prices.quotes([P4D])) == 1


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'{"PriceList": 7}', b'{"PriceList": ["{"]}', b'{"PriceList": ["7"]}', b'{"PriceList": ["{}"]}'],
)
async def test_nonsense_is_a_transient_error(tmp_path: Path, body: bytes) -> None:
    async with aws_prices() as api, asking(api, tmp_path) as prices:
        api.script.body(body)
        with pytest.raises(TransientError):
            await prices.quotes([P4D])


async def test_a_truncated_answer_is_a_transient_error(tmp_path: Path) -> None:
    async with aws_prices() as api, asking(api, tmp_path) as prices:
        for wanted in (P4D, P4D_SPOT):
            api.script.cut_off(b'{"PriceList": [')
            with pytest.raises(TransientError):
                await prices.quotes([wanted])


async def test_what_fails_in_part_does_not_lose_the_rest(tmp_path: Path) -> None:
    async with aws_prices(spots=(SpotPrice("us-east-1a", "6"),)) as api, asking(api, tmp_path) as prices:
        api.script.status(500, "{}")
        quotes = await prices.quotes([P4D, P4D_SPOT])
        assert [one.query for one in quotes] == [P4D_SPOT]
        assert "GetProducts" in prices.problems()[0]
        await prices.quotes([P4D, P4D_SPOT])
        assert prices.problems() == ()


async def test_no_secret_in_any_error(tmp_path: Path) -> None:
    async with aws_prices() as api, asking(api, tmp_path) as prices:
        secret = api.key.secret_access_key
        api.script.status(500, "{}")
        with pytest.raises(TransientError) as caught:
            await prices.quotes([P4D])
        assert secret not in f"{caught.value!r} {caught.value.__cause__!r} {vars(prices)!r}"
