"""How far a service is from its SLO, as metrics tell it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from scheduler.daemon.services.gauges import slo_ratio
from scheduler.model.ids import ClusterId
from scheduler.model.serving import ClientDemand, ClientLatency, RevisionMetrics
from tests.builders.serving import NOW, a_service, a_view, an_slo

EKS, ONPREM = ClusterId("eks"), ClusterId("onprem")
SLO = an_slo(p95_first_token_seconds=None, p95_latency_seconds=2.0)
BOTH = an_slo(p95_first_token_seconds=0.5, p95_latency_seconds=2.0)
NAN = float("nan")


def one(cluster: ClusterId, requests: int | None, p95: float | None, ago: float = 10.0, **rest: Any) -> RevisionMetrics:
    told = {"at": NOW - ago, "interval_seconds": 30.0, "p95_latency_seconds": p95, **rest}
    return RevisionMetrics(cluster, "r1", requests=requests, **told)


@pytest.mark.parametrize(
    ("rows", "slo", "want"),
    [
        ([], SLO, None),
        ([one(EKS, 100, 1.5)], SLO, 0.75),
        ([one(EKS, 100, 1.5), one(ONPREM, 100, 3.0)], SLO, 1.5),
        ([one(EKS, 100, 1.5), one(ONPREM, 5, 9.0)], SLO, 0.75),
        ([one(EKS, 100, 1.5), one(ONPREM, 100, 9.0, ago=400.0)], SLO, 0.75),
        ([one(EKS, 0, 9.0), one(EKS, None, 9.0), one(EKS, 10, None), one(EKS, 10, NAN), one(EKS, 10, -1.0)], SLO, None),
        ([one(EKS, 100, 1.5, p95_first_token_seconds=0.6)], BOTH, 1.2),
        ([one(EKS, 100, 1.5)], an_slo(), None),
    ],
    ids=["nothing", "within", "the slowest", "few ask there", "stale", "garbage", "first token", "another objective"],
)
def test_the_longest_p95_where_people_ask(rows: list[RevisionMetrics], slo: Any, want: float | None) -> None:
    found = slo_ratio(a_view(a_service(metrics=tuple(rows)), slo=slo))
    assert found == (None if want is None else pytest.approx(want))


def test_the_way_from_the_clients_counts_as_they_ask() -> None:
    ways = (ClientLatency("eu", EKS, 0.1, NOW), ClientLatency("us", EKS, 0.5, NOW))
    asked = (ClientDemand("eu", 3.0, NOW), ClientDemand("us", 1.0, NOW))
    service = replace(a_service(metrics=(one(EKS, 100, 1.5),), latency=ways), demand=asked)
    assert slo_ratio(a_view(service, slo=SLO)) == pytest.approx((1.5 + 0.2) / 2.0)
