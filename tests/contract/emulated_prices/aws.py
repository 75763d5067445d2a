"""The Price List and EC2's spot history, by the strict fake (moto has no Price List)."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path

from scheduler.model.ports import Clock
from tests.builders.aws_prices_api import AwsPricesApi, SpotPrice, aws_prices, product
from tests.contract.emulated_prices import EmulatedPrices, machine

_KNOWN = (
    machine("eks", "us-east-1", "p4d.24xlarge"),
    machine("eks", "us-east-1", "p4d.24xlarge", "spot", zones=("us-east-1a", "us-east-1b")),
)


async def start(folder: Path, clock: Clock) -> EmulatedPrices:
    stack = AsyncExitStack()
    spots = (SpotPrice("us-east-1a", "6.289"), SpotPrice("us-east-1b", "14.1051"))
    api = await stack.enter_async_context(aws_prices(product("21.9576420000"), spots=spots))
    api.write_credentials(folder / "credentials")

    def everything_costs(usd: str) -> None:
        api.products = [product(usd)]
        api.spots = [SpotPrice("us-east-1a", usd)]

    return EmulatedPrices(
        settings={
            "type": "aws",
            "endpoints": {"pricing": api.url, "ec2": api.url},
            "credentialsFile": "credentials",
        },
        known=_KNOWN,
        nonsense=(
            *(lambda usd=usd: everything_costs(usd) for usd in ("0", "-3", "NaN", "1e30", "", "ten")),
            lambda: _only_other_currencies(api),
            lambda: api.script.always(b""),
            lambda: api.script.always(b"\x00\xff"),
            lambda: api.script.always(b"<html>"),
            lambda: api.script.always(json.dumps({"PriceList": [product("21.9")[:50]]}).encode()),
            lambda: api.script.always(b'{"PriceList": [{"product": 7}, null], "NextToken": 7}'),
        ),
        stop=stack.aclose,
    )


def _only_other_currencies(api: AwsPricesApi) -> None:
    api.products = [product("21.9", currency="CNY")]
    api.spots = []
