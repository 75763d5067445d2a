"""The on-prem formula needs only its settings."""

from __future__ import annotations

from pathlib import Path

from scheduler.model.ports import Clock
from tests.contract.emulated_prices import EmulatedPrices, machine


async def start(folder: Path, clock: Clock) -> EmulatedPrices:
    return EmulatedPrices(
        settings={
            "type": "onprem",
            "lifetimeYears": 5,
            "electricityPricePerKwh": "0.2",
            "pue": "1.4",
            "utilization": "0.7",
            "machines": [{"instanceType": "hgx-a100", "purchasePrice": 250000, "powerWatts": 6500}],
        },
        known=(machine("onprem", "eu-dc1", "hgx-a100", "owned"),),
    )
