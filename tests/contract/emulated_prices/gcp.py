"""Google's Cloud Billing catalogue."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from scheduler.model.ports import Clock
from tests.builders.google_billing_api import google_billing, sku
from tests.contract.emulated_prices import EmulatedPrices, machine

_KNOWN = (
    machine("gke", "us-central1", "a2-highgpu-1g", gpu_model="A100-40GB", gpus=1),
    machine("gke", "us-central1", "a2-highgpu-1g", "spot"),
)


def _skus(nanos: Any = 31611000, **changed: Any) -> list[dict[str, Any]]:
    """The parts of an a2-highgpu-1g, on-demand and spot; `nanos` and `changed` are of the vCPUs."""
    spot = {"usage": "Preemptible"}
    return [
        sku("A2 Instance Core running in Americas", 0, nanos, **changed),
        sku("A2 Instance Ram running in Americas", 0, 4237000, unit="GiBy.h"),
        sku("Nvidia Tesla A100 GPU running in Americas", 2, 933908000),
        sku("Spot Preemptible A2 Instance Core running in Americas", 0, nanos, **(spot | changed)),
        sku("Spot Preemptible A2 Instance Ram running in Americas", 0, 2220000, unit="GiBy.h", usage="Preemptible"),
        sku(
            "Nvidia Tesla A100 GPU attached to Spot Preemptible VMs running in Americas",
            1,
            539900000,
            usage="Preemptible",
        ),
    ]


async def start(folder: Path, clock: Clock) -> EmulatedPrices:
    stack = AsyncExitStack()
    api = await stack.enter_async_context(google_billing(*_skus(), page=4))
    (folder / "key").write_text(api.api_key)

    def listed(nanos: Any = 31611000, **changed: Any) -> Callable[[], None]:
        def spoil() -> None:
            api.skus = _skus(nanos, **changed)

        return spoil

    whole = json.dumps({"skus": _skus()})
    return EmulatedPrices(
        settings={"type": "gcp", "endpoint": api.url, "apiKeyFile": "key"},
        known=_KNOWN,
        nonsense=(
            *(listed(nanos) for nanos in (0, -5, 10**9, 10**30, None, "31611000", 1.5)),
            listed(currency="EUR"),
            listed(unit="fortnight"),
            listed(regions=()),
            listed(usage="Commit1Yr"),
            listed(effective="2099-01-01T00:00:00Z"),
            lambda: api.script.always(b""),
            lambda: api.script.always(b"\x00\xff"),
            lambda: api.script.always(whole.encode()[:-20]),
            lambda: api.script.always(whole.replace("31611000", "NaN").encode()),
            lambda: api.script.always(b'{"skus": {"0": 7}}'),
            lambda: api.script.always(b'{"skus": [], "nextPageToken": "again"}'),
        ),
        stop=stack.aclose,
    )
