"""A Prometheus API that has OpenCost's metrics."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

from scheduler.model.ports import Clock
from tests.builders.prometheus_api import PrometheusApi, prometheus_api
from tests.contract.emulated_prices import EmulatedPrices, machine

_KNOWN = (
    machine("eks", "us-east-1", "p4d.24xlarge"),
    machine("eks", "us-east-1", "p4d.24xlarge", "spot"),
)


def _fill(api: PrometheusApi, on_demand: str = "21.957642", spot: str = "6.289") -> None:
    api.series.clear()
    for name, usd, is_spot in (("a", on_demand, "0"), ("b", spot, "1")):
        labels = {"node": name, "instance_type": "p4d.24xlarge", "region": "us-east-1"}
        api.add("node_total_hourly_cost", usd, at=api.now - 30, **labels)
        api.add("kubecost_node_is_spot", is_spot, at=api.now - 30, **labels)


async def start(folder: Path, clock: Clock) -> EmulatedPrices:
    stack = AsyncExitStack()
    api = await stack.enter_async_context(prometheus_api(clock.now()))
    _fill(api)

    def costs(usd: str) -> Callable[[], None]:
        return lambda: _fill(api, usd, usd)

    return EmulatedPrices(
        settings={"type": "opencost", "url": api.url},
        known=_KNOWN,
        nonsense=(
            *(costs(usd) for usd in ("0", "-1", "NaN", "+Inf", "1e30", "")),
            lambda: api.series.clear(),
            lambda: api.script.always(b""),
            lambda: api.script.always(b"\x00\xff"),
            lambda: api.script.always(b'{"status":"success","data":{"resultType":"matrix","result":[{"met'),
            lambda: api.script.always(b'{"status":"success","data":{"resultType":"vector","result":[]}}'),
            lambda: api.script.always(
                b'{"status":"success","data":{"resultType":"matrix","result":[{"values":[[7]]}]}}'
            ),
        ),
        stop=stack.aclose,
    )
