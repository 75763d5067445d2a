"""What is measured of services: demand by its best source and never by halves, revisions by what their pods count, ways
from clients. Lies come through, for the engine to refuse."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.daemon.services.growth import Counters, Growth, per_second
from scheduler.daemon.services.readings import GATEWAY, ROUND_TRIP
from scheduler.daemon.services.replicas import ERRORS, FIRST_SUM, LATENCY_SUM, P95, REQUESTS, WAITING
from scheduler.engine.serving.demand import believe
from scheduler.engine.serving.memory import Memory
from scheduler.model.division import IMPLAUSIBLE_METRICS, NO_METRICS
from scheduler.model.metrics import ABSENT, FAILED
from tests.builders.measured import REF, Measured


async def started(*pods: tuple[str, str], **annotations: str) -> Measured:
    """With ready pods that have been told of once, at 0 requests."""
    world = Measured({f"overspill.dev/{name.replace('_', '-')}": text for name, text in annotations.items()})
    for cluster, name in pods:
        world.pod(cluster, name)
    for cluster in dict(pods):
        world.tell_pods(cluster, REQUESTS, **{name.replace("-", "_"): 0.0 for where, name in pods if where == cluster})
    await world.round()
    return world


async def test_requests_that_are_answered_and_those_that_begin_to_wait_are_the_demand() -> None:
    world = await started(("onprem", "a-1"), ("onprem", "a-2"))
    world.tell_pods("onprem", WAITING, a_1=4.0, a_2=0.0)
    world.tell_pods("onprem", REQUESTS, a_1=60.0, a_2=30.0)
    await world.round()
    assert world.per_second == pytest.approx(3.0)
    world.tell_pods("onprem", REQUESTS, a_1=120.0, a_2=60.0)
    world.tell_pods("onprem", WAITING, a_1=34.0, a_2=0.0)
    await world.round()
    assert world.per_second == pytest.approx(3.0 + 1.0)


async def test_a_replica_that_is_new_counts_from_its_birth_and_one_that_restarts_from_zero() -> None:
    world = await started(("onprem", "a-1"))
    world.pod("onprem", "a-2")
    world.tell_pods("onprem", REQUESTS, a_1=60.0, a_2=15.0)
    await world.round()
    assert world.per_second == pytest.approx(2.0 + 0.5)
    world.tell_pods("onprem", REQUESTS, a_1=30.0, a_2=45.0)
    await world.round()
    assert world.per_second == pytest.approx(1.0 + 1.0)


async def test_what_was_told_before_is_no_new_measurement() -> None:
    world = await started(("onprem", "a-1"))
    world.tell_pods("onprem", REQUESTS, a_1=60.0)
    await world.round()
    before = world.measures.of(REF).demand
    world.clock.at += 30.0
    await world.measures.on_round()
    assert world.measures.of(REF).demand == before


async def test_half_a_demand_is_none() -> None:
    """A cluster that fell silent keeps its part for five minutes; then nothing is known, not the other half."""
    world = await started(("onprem", "a-1"), ("eks", "a-2"))
    for count in range(1, 12):
        world.tell_pods("onprem", REQUESTS, a_1=60.0 * count)
        if count == 1:
            world.tell_pods("eks", REQUESTS, a_2=30.0)
        else:
            world.told.tell("eks", REQUESTS, state=FAILED)
        await world.round()
        assert world.per_second == pytest.approx(3.0)
    world.tell_pods("onprem", REQUESTS, a_1=60.0 * 12)
    await world.round()
    assert world.per_second is None
    believed = believe(world.clock.at, world.measures.of(REF).demand, Memory(), 100.0)
    assert believed.reason == NO_METRICS
    # Its requests go elsewhere once it is known not to answer, and are counted there.
    world.members["eks"].available = False
    world.tell_pods("onprem", REQUESTS, a_1=60.0 * 13)
    await world.round()
    assert world.per_second == pytest.approx(2.0)


async def test_replicas_of_which_nobody_tells_make_the_demand_unknown() -> None:
    world = await started(("onprem", "a-1"))
    world.pod("eks", "a-2")
    rates = []
    for count in range(1, 8):
        world.tell_pods("onprem", REQUESTS, a_1=60.0 * count)
        await world.round()
        rates.append(world.per_second)
    assert rates[0] == pytest.approx(2.0)
    assert rates[-1] is None


async def test_gateways_go_before_replicas_and_tell_regions() -> None:
    world = await started(("onprem", "a-1"))
    world.raw["spec"]["traffic"] = {
        "routes": [{"name": "front", "backends": [{"name": "chat-onprem", "cluster": "onprem"}]}]
    }

    def counted(eu: float, us: float, other: float) -> None:
        labels = {"gateway": "gw-1", "backend_namespace": "default"}
        world.told.tell(
            "onprem",
            GATEWAY,
            ({**labels, "backend": "chat-onprem", "client_region": "eu"}, eu),
            ({**labels, "backend": "httproute/default/front/rule/0", "client_region": "us"}, us),
            ({**labels, "backend": "another", "client_region": "us"}, other),
            ({**labels, "backend_namespace": "else", "backend": "front", "client_region": "us"}, other),
        )

    counted(1e6, 2e6, 3e6)
    world.tell_pods("onprem", REQUESTS, a_1=60.0)
    await world.round()
    counted(1e6 + 90, 2e6 + 30, 9e6)
    await world.round()
    told = {one.region: one.requests_per_second for one in world.measures.of(REF).demand}
    assert told == {"eu": pytest.approx(3.0), "us": pytest.approx(1.0)}
    # A gateway that is gone for good is not waited for: replicas tell again.
    del world.told.latest["onprem", GATEWAY]
    world.told.tell("onprem", GATEWAY, state=ABSENT)
    for count in range(1, 13):
        world.tell_pods("onprem", REQUESTS, a_1=60.0 + 60.0 * count)
        await world.round()
    assert world.per_second == pytest.approx(2.0)


async def test_a_gateway_among_several_that_restarts_makes_no_spike() -> None:
    world = await started()
    for first, second in ((1e6, 2e6), (1e6 + 30, 2e6 + 30), (15.0, 2e6 + 60)):
        rows = [({"gateway": name, "backend": "chat"}, value) for name, value in (("g-1", first), ("g-2", second))]
        world.told.tell("eks", GATEWAY, *rows)
        await world.round()
    assert world.per_second == pytest.approx(1.5)


OWN = {"demand_query": 'sum by (client_region) (rate(asked{ns="$namespace"}[1m]))'}


async def test_its_users_own_query_goes_before_all_and_is_asked_of_one_member_where_that_is_said() -> None:
    world = await started(("onprem", "a-1"), **OWN, demand_from="eks")
    world.told.answers["eks"] = world.told.reading("eks", "own", ({"client_region": "eu"}, 7.0))
    world.tell_pods("onprem", REQUESTS, a_1=60.0)
    await world.round()
    assert [(one.region, one.requests_per_second) for one in world.measures.of(REF).demand] == [("eu", 7.0)]
    assert {cluster for cluster, _ in world.told.asked} == {"eks"}
    assert 'ns="default"' in world.told.asked[-1][1]


async def test_own_queries_may_be_forbidden() -> None:
    world = Measured({"overspill.dev/demand-query": OWN["demand_query"]}, own_queries=False)
    world.pod("onprem", "a-1")
    for count in (0.0, 60.0):
        world.tell_pods("onprem", REQUESTS, a_1=count)
        await world.round()
    assert world.told.asked == []
    assert world.per_second == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("told", "want_reason"),
    [(-3.0, IMPLAUSIBLE_METRICS), (1e15, IMPLAUSIBLE_METRICS), (math.nan, IMPLAUSIBLE_METRICS), (12.0, "")],
    ids=["negative", "huge", "not a number", "true"],
)
async def test_lies_of_a_query_come_through_and_the_engine_refuses_them(told: float, want_reason: str) -> None:
    world = await started(("onprem", "a-1"), **OWN)
    dropped = 0 if math.isfinite(told) else 1
    rows: list[tuple[dict[str, str], float]] = [] if dropped else [({}, told)]
    answer = world.told.reading("onprem", "own", *rows, state=ABSENT if dropped else "ok", dropped=dropped)
    world.told.answers["onprem"] = answer
    await world.round(1.0)
    believed = believe(world.clock.at, world.measures.of(REF).demand, Memory(), 100.0)
    assert believed.reason == want_reason


@pytest.mark.parametrize("count", [-90.0, 1e15], ids=["negative", "huge"])
async def test_lies_of_counters_come_through(count: float) -> None:
    world = await started(("onprem", "a-1"), ("onprem", "a-2"))
    world.tell_pods("onprem", REQUESTS, a_1=count, a_2=60.0)
    await world.round()
    believed = believe(world.clock.at, world.measures.of(REF).demand, Memory(), 100.0)
    assert believed.reason == IMPLAUSIBLE_METRICS


async def test_an_exporter_that_repeats_itself_is_found_out() -> None:
    world = await started(("onprem", "a-1"), **OWN)
    memory, reasons = Memory(), []
    for _ in range(40):
        world.told.answers["onprem"] = world.told.reading("onprem", "own", ({}, 12.5))
        await world.round()
        believed = believe(world.clock.at, world.measures.of(REF).demand, memory, 100.0)
        memory = believed.memory
        reasons.append(believed.reason)
    assert reasons[0] == ""
    assert reasons[-1] == IMPLAUSIBLE_METRICS


async def test_revisions_are_told_apart_with_their_latency_errors_and_cost() -> None:
    world = await started(("onprem", "old-1"), ("onprem", "old-2"), ("onprem", "new-1"))
    for metric in (LATENCY_SUM, FIRST_SUM, ERRORS):
        world.tell_pods("onprem", metric, old_1=0.0, old_2=0.0, new_1=0.0)
    await world.round()
    world.tell_pods("onprem", REQUESTS, old_1=60.0, old_2=30.0, new_1=15.0)
    world.tell_pods("onprem", LATENCY_SUM, old_1=60.0, old_2=30.0, new_1=45.0)
    world.tell_pods("onprem", FIRST_SUM, old_1=6.0, old_2=3.0, new_1=3.0)
    world.tell_pods("onprem", ERRORS, old_1=1.0, old_2=0.0, new_1=3.0)
    world.tell_pods("onprem", P95, old_1=2.0, old_2=5.0, new_1=6.0)
    await world.round()
    new, old = world.measures.of(REF).metrics
    assert (new.revision, new.requests, new.errors, new.replicas) == ("new", 15, 3, 1)
    assert (old.revision, old.requests, old.errors, old.replicas) == ("old", 90, 1, 2)
    assert old.mean_latency_seconds == pytest.approx(1.0)
    assert new.mean_latency_seconds == pytest.approx(3.0)
    assert new.mean_first_token_seconds == pytest.approx(0.2)
    assert old.p95_latency_seconds == pytest.approx((2.0 * 60 + 5.0 * 30) / 90)
    # Half a node of 2.00 USD an hour each, for half a minute.
    assert new.usd_per_request == pytest.approx(1.0 * 30 / 3600 / 15)
    assert (old.cluster, old.pool, old.interval_seconds) == ("onprem", "a10", 30.0)


async def test_no_request_is_counted_in_two_intervals() -> None:
    world = await started(("onprem", "old-1"))
    total = 0
    for count in (7.0, 7.0, 30.0, 31.0):
        world.tell_pods("onprem", REQUESTS, old_1=count)
        await world.round()
        total += world.measures.of(REF).metrics[0].requests or 0
    assert total == 31


async def test_its_own_latency_query_replaces_what_exporters_say() -> None:
    world = await started(("onprem", "old-1"), latency_query='p95{pod=~"$pods"}')
    world.tell_pods("onprem", P95, old_1=2.0)
    world.tell_pods("onprem", REQUESTS, old_1=60.0)
    world.told.answers["onprem"] = world.told.reading("onprem", "own", ({}, 0.7))
    await world.round()
    (old,) = world.measures.of(REF).metrics
    assert old.p95_latency_seconds == 0.7
    assert "(chat\\-u)-.*" in world.told.asked[-1][1]


async def test_ways_are_declared_or_measured_and_what_is_measured_counts() -> None:
    world = await started()
    world.members["onprem"].client_latency = (("eu", 0.02), ("us", 0.1))
    world.told.tell(
        "eks",
        ROUND_TRIP,
        ({"client_region": "eu"}, 0.09),
        ({"client_region": "us", "target_cluster": "onprem"}, 0.12),
        ({"client_region": "us", "target_cluster": "unheard-of"}, 0.5),
        ({}, 0.5),
    )
    await world.round()
    told = {(one.region, str(one.cluster)): one.seconds for one in world.measures.of(REF).latency}
    assert told == {("eu", "onprem"): 0.02, ("us", "onprem"): 0.12, ("eu", "eks"): 0.09}


async def test_the_last_request_is_remembered_and_before_now_nothing_is_known() -> None:
    world = await started(("onprem", "a-1"))
    first = world.measures.of(REF).last_request_at
    assert first == world.clock.at
    world.tell_pods("onprem", REQUESTS, a_1=3.0)
    await world.round()
    asked = world.clock.at
    for _ in range(3):
        await world.round()
    assert world.measures.of(REF).last_request_at == asked


async def test_of_a_service_that_nobody_measures_nothing_is_said() -> None:
    world = Measured()
    await world.round()
    told = world.measures.of(REF)
    assert (told.demand, told.latency, told.metrics, told.last_request_at) == ((), (), (), None)


@given(st.lists(st.floats(0, 1e9), min_size=2, max_size=30))
def test_growths_add_up_to_what_was_counted(counts: list[float]) -> None:
    """Whatever restarts there are: each ends what was counted before, and begins at 0."""
    counters = Counters()
    grown = [counters.grown("one", value, 30.0 * index) for index, value in enumerate(counts)]
    assert grown[0] is None
    want = sum(b - a if b >= a else b for a, b in pairwise(counts))
    assert sum(one.amount for one in grown if one is not None) == pytest.approx(want)


def test_a_gap_that_is_too_long_tells_nothing_and_one_that_cannot_be_is_all_there_is() -> None:
    counters = Counters()
    counters.grown("one", 5.0, 0.0)
    assert counters.grown("one", 9.0, 10_000.0) is None
    assert counters.grown("one", 10.0, 10_030.0) == Growth(1.0, 30.0, 10_030.0)
    assert per_second([Growth(-30.0, 30.0, 1.0), Growth(900.0, 30.0, 1.0)]) == -1.0
