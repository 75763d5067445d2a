"""The Azure Retail Prices API."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from scheduler.model.ports import Clock
from tests.builders.azure_prices_api import azure_prices, item
from tests.contract.emulated_prices import EmulatedPrices, machine

_KNOWN = (
    machine("aks", "eastus", "Standard_NC24ads_A100_v4"),
    machine("aks", "eastus", "Standard_NC24ads_A100_v4", "spot"),
)


def _both(**changed: Any) -> list[dict[str, Any]]:
    """The machine's meters, on-demand and spot."""
    spot = {"meterName": "NC24ads A100 v4 Spot", "skuName": "NC24ads A100 v4 Spot", "retailPrice": 0.444433}
    return [item(**changed), item(**(spot | changed))]


async def start(folder: Path, clock: Clock) -> EmulatedPrices:
    stack = AsyncExitStack()
    api = await stack.enter_async_context(azure_prices(*_both(), page=1))

    def listed(**changed: Any) -> Callable[[], None]:
        def spoil() -> None:
            api.items = _both(**changed)

        return spoil

    whole = json.dumps({"Items": _both(), "NextPageLink": None})
    return EmulatedPrices(
        settings={"type": "azure", "endpoint": api.url},
        known=_KNOWN,
        nonsense=(
            *(listed(retailPrice=price) for price in (0, -3.5, 1e30, None, "free", [1], {"USD": 1})),
            listed(currencyCode="EUR"),
            listed(unitOfMeasure="1 Month"),
            listed(effectiveStartDate="2099-01-01T00:00:00Z"),
            lambda: setattr(api, "next_link", "http://evil.example/api/retail/prices"),
            lambda: api.script.always(b""),
            lambda: api.script.always(b"\x00\xff"),
            lambda: api.script.always(whole.encode()[:-20]),
            lambda: api.script.always(whole.replace("3.673", "NaN").encode()),
            lambda: api.script.always(b'{"Items": {"0": 7}}'),
        ),
        stop=stack.aclose,
    )
