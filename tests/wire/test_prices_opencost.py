"""OpenCost's node prices, read from a fake of the Prometheus API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from clusters.prices import opencost
from scheduler.model.errors import AuthError, ExternalError, InvalidObjectError, ThrottledError, TransientError
from tests.builders.price_queries import query
from tests.builders.prometheus_api import PrometheusApi, prometheus_api
from tests.contract.emulated_pools import SteppedClock

CLOCK = SteppedClock()
NOW = CLOCK.now()
ON_DEMAND = query("eks", "us-east-1", "p4d.24xlarge")
SPOT = query("eks", "us-east-1", "p4d.24xlarge", "spot")


def node(
    api: PrometheusApi, name: str, usd: str, *, spot: str | None = "0", at: float = NOW - 30, **labels: str
) -> None:
    told = {"node": name, "instance": name, "instance_type": "p4d.24xlarge", "region": "us-east-1", **labels}
    api.add("node_total_hourly_cost", usd, at=at, **told)
    if spot is not None:
        api.add("kubecost_node_is_spot", spot, at=at, **told)


@asynccontextmanager
async def asking(api: PrometheusApi, **settings: Any) -> AsyncIterator[opencost.OpenCostPrices]:
    given = {"type": "opencost", "url": api.url, **settings}
    made = opencost.create(opencost.Settings.model_validate(given), clock=CLOCK)
    try:
        yield made
    finally:
        await made.close()


async def test_nodes_are_told_apart_by_kind_and_the_dearest_counts() -> None:
    async with prometheus_api(NOW) as api, asking(api) as prices:
        node(api, "a", "21.957642", at=NOW - 60)
        node(api, "b", "20")
        node(api, "c", "6.5", spot="1")
        node(api, "d", "99", instance_type="p5.48xlarge")
        node(api, "e", "99", region="us-west-2")
        node(api, "f", "99", spot=None)
        quotes = await prices.quotes([ON_DEMAND, SPOT, query("eks", "us-east-1", "p4d.24xlarge", "reserved")])
    assert {one.query.capacity_type: (one.usd_per_hour, one.source, one.as_of) for one in quotes} == {
        "on-demand": (Decimal("21.957642"), "opencost a", NOW - 60),
        "spot": (Decimal("6.5"), "opencost c", NOW - 30),
    }


async def test_by_the_pools_label() -> None:
    mine = query("onprem", "dc-1", "", "owned", pool="a100")
    other = query("onprem", "dc-1", "", "owned", pool="h100")
    async with prometheus_api(NOW) as api, asking(api, poolLabel="overspill.dev/pool") as prices:
        node(api, "a", "3.25", spot=None, instance_type="", region="")
        node(api, "b", "9", spot=None, instance_type="", region="")
        api.add("kube_node_labels", "1", node="a", label_overspill_dev_pool="a100")
        api.add("kube_node_labels", "1", node="b", label_team="ml")
        (quote,) = await prices.quotes([mine, other])
    assert (quote.query, quote.usd_per_hour) == (mine, Decimal("3.25"))


async def test_only_its_own_cluster_and_series() -> None:
    hostile = 'x"} or vector(1) #\\'
    elsewhere = query("eks", "us-east-1", "p4d.24xlarge", cluster="other")
    async with prometheus_api(NOW) as api, asking(api, cluster="burst", matchers={"cluster": hostile}) as prices:
        assert await prices.quotes([elsewhere]) == ()
        assert api.asked == []
        node(api, "a", "21", cluster=hostile)
        node(api, "b", "99", cluster="other")
        (quote,) = await prices.quotes([ON_DEMAND, elsewhere])
    assert (quote.query, quote.usd_per_hour) == (ON_DEMAND, Decimal(21))


async def test_the_newest_sample_counts_and_old_ones_are_gone() -> None:
    async with prometheus_api(NOW) as api, asking(api, windowSeconds=600) as prices:
        node(api, "a", "99", at=NOW - 601)
        assert await prices.quotes([ON_DEMAND]) == ()
        api.series[0][1].append((NOW - 500, "20"))
        api.series[0][1].append((NOW - 10, "21"))
        api.series[1][1].append((NOW - 10, "0"))
        (quote,) = await prices.quotes([ON_DEMAND])
    assert (quote.usd_per_hour, quote.as_of) == (Decimal(21), NOW - 10)


@pytest.mark.parametrize("value", ["0", "-1", "NaN", "+Inf", "-Inf", "1e300", "", "many"])
async def test_an_absurd_value_leaves_its_node_out(value: str) -> None:
    async with prometheus_api(NOW) as api, asking(api) as prices:
        node(api, "bad", value)
        node(api, "good", "1.5e1")
        (quote,) = await prices.quotes([ON_DEMAND])
        assert quote.source == "opencost good"
        assert "'bad'" in prices.problems()[0]


@pytest.mark.parametrize(
    ("status", "body", "want"),
    [
        (429, "", ThrottledError),
        (401, "", AuthError),
        (422, '{"status":"error","errorType":"execution","error":"too many samples"}', ExternalError),
        (503, "", TransientError),
        (200, "", TransientError),
        (200, "{", TransientError),
        (200, '{"status":"error"}', TransientError),
        (200, '{"status":"success","data":{"resultType":"vector","result":[]}}', TransientError),
        (200, '{"status":"success","data":{"resultType":"matrix","result":7}}', TransientError),
        (200, '{"status":"success","data":{"resultType":"matrix","result":[{"values":[7]}]}}', TransientError),
        (
            200,
            '{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":{"a":1}}]}}',
            TransientError,
        ),
        (
            200,
            '{"status":"success","data":{"resultType":"matrix","result":[{"metric":{},"values":[[1,2]]}]}}',
            TransientError,
        ),
        (
            200,
            '{"status":"success","data":{"resultType":"matrix","result":[{"metric":7,"values":[[1,"2"]]}]}}',
            TransientError,
        ),
    ],
)
async def test_errors_are_typed(status: int, body: str, want: type[ExternalError]) -> None:
    async with prometheus_api(NOW) as api, asking(api) as prices:
        api.script.status(status, body)
        with pytest.raises(want):
            await prices.quotes([ON_DEMAND])


async def test_a_token_is_sent_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    async with prometheus_api(NOW) as api, asking(api, bearerTokenFile=str(tmp_path / "token")) as prices:
        api.token = "s3cret"
        node(api, "a", "21")
        assert len(await prices.quotes([ON_DEMAND])) == 1
        api.token = "other"
        with pytest.raises(AuthError) as caught:
            await prices.quotes([ON_DEMAND])
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "want"),
    [
        ({"url": "prometheus:9090"}, InvalidObjectError),
        ({"url": "http://u:p@prometheus"}, InvalidObjectError),
        ({"url": "http://p", "matchers": {"a-b": "c"}}, InvalidObjectError),
        ({"url": "http://p", "bearerTokenFile": "absent"}, AuthError),
        ({"url": "http://p", "caFile": "absent"}, InvalidObjectError),
    ],
)
def test_settings_that_cannot_work(tmp_path: Path, settings: dict[str, Any], want: type[Exception]) -> None:
    parsed = opencost.Settings.model_validate({"type": "opencost", **settings}, context={"base_dir": tmp_path})
    with pytest.raises(want) as caught:
        opencost.create(parsed, clock=CLOCK)
    assert "u:p" not in str(caught.value)
