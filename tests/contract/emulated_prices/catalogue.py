"""The embedded catalogue needs nothing."""

from __future__ import annotations

from pathlib import Path

from scheduler.model.ports import Clock
from tests.contract.emulated_prices import EmulatedPrices, machine


async def start(folder: Path, clock: Clock) -> EmulatedPrices:
    return EmulatedPrices(
        settings={"type": "catalogue", "spot": True},
        known=(
            machine("eks", "us-east-1", "p4d.24xlarge"),
            machine("eks", "us-east-1", "p4d.24xlarge", "spot"),
            machine("gke", "us-central1", "g2-standard-8"),
            machine("aks", "eastus", "Standard_NC24ads_A100_v4"),
        ),
    )
