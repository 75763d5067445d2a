"""Division of a service: tables of what is asked for, where traffic goes, and what is said when nothing can be."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from scheduler.engine.serving import Memory, horizons, serve
from scheduler.engine.serving.capacity import client_latency
from scheduler.engine.serving.memory import Need, from_json, to_json
from scheduler.engine.serving.memory import Rollout as RolloutMemory
from scheduler.engine.serving.waiting import carried_load, late_share
from scheduler.model import division as reasons
from scheduler.model.ids import ClusterId
from scheduler.model.serving import (
    ClientDemand,
    ClientLatency,
    ExpectedRate,
    ReplicaGroup,
    ReplicaOwner,
    RevisionMetrics,
    ServiceView,
)
from scheduler.model.serving_policy import DomainRule, ScalingRule
from tests.builders.serving import BATCHED, NOW, a_group, a_service, a_view, an_offer, an_slo

NEW = Memory()


def targets(view: ServiceView, memory: Memory = NEW, *, use_milp: bool = True) -> dict[str, int]:
    division, _ = serve(view, memory, use_milp=use_milp)
    return {str(one.pool): one.replicas for one in division.targets}


def reason_of(view: ServiceView, memory: Memory = NEW) -> str:
    return serve(view, memory)[0].conditions[0].reason


@pytest.mark.parametrize(
    ("servers", "load", "budget", "want"),
    [
        (1, 0.5, 0.0, 0.5),  # M/M/1 waits with the chance of being busy
        (2, 1.0, 0.0, 1 / 3),  # Erlang C of two servers, one erlang
        (1, 0.5, 2.0, 0.5 * 0.36787944),  # and beyond a time: exp(-(1 - 0.5) * 2)
        (3, 3.0, 10.0, 1.0),  # saturated
    ],
)
def test_waiting_is_what_queueing_theory_says(servers: int, load: float, budget: float, want: float) -> None:
    assert late_share(servers, load, budget) == pytest.approx(want)


def test_more_servers_share_a_queue_better() -> None:
    each = [carried_load(count, 1.0) / count for count in (1, 2, 5, 20, 100)]
    assert each == sorted(each)
    assert each[0] < 0.2
    assert each[-1] > 0.9


@pytest.mark.parametrize("use_milp", [True, False])
@pytest.mark.parametrize(
    ("demand", "want"),
    [
        (0.0, {"onprem/a10": 1}),
        (5.0, {"onprem/a10": 7}),
        # On-prem is full: the cheapest cloud, spot up to its share.
        (12.0, {"onprem/a10": 10, "aws/g5-spot": 6}),
    ],
)
def test_replicas_go_where_they_cost_least(demand: float, want: dict[str, int], use_milp: bool) -> None:
    view = a_view(a_service(a_group("onprem/a10", 2), demand=demand), slo=an_slo(max_reclaimable_share=0.5))
    assert targets(view, use_milp=use_milp) == want


@pytest.mark.parametrize("use_milp", [True, False])
def test_the_last_replica_stays_where_no_request_can_wake_it(use_milp: bool) -> None:
    slo = an_slo(scaling=ScalingRule(min_replicas=0))
    view = a_view(a_service(a_group("onprem/a10", 1), demand=0.0), an_offer(), slo=slo)
    assert targets(view, use_milp=use_milp) == {"onprem/a10": 1}


@pytest.mark.parametrize("use_milp", [True, False])
def test_shares_are_kept(use_milp: bool) -> None:
    slo = an_slo(max_reclaimable_share=0.3, max_provider_share=0.6)
    found = targets(a_view(a_service(a_group("onprem/a10", 2), demand=30.0), slo=slo), use_milp=use_milp)
    whole = sum(found.values())
    spot = sum(count for name, count in found.items() if name.endswith("spot"))
    aws = sum(count for name, count in found.items() if name.startswith("aws"))
    assert whole > 30
    assert spot <= 0.3 * whole
    assert aws <= 0.6 * whole


@pytest.mark.parametrize("use_milp", [True, False])
def test_failure_domains_are_filled(use_milp: bool) -> None:
    slo = an_slo(domains=DomainRule("provider", 2, 2))
    found = targets(a_view(a_service(a_group("onprem/a10", 1), demand=0.2), slo=slo), use_milp=use_milp)
    assert found == {"onprem/a10": 2, "aws/g5-spot": 2}


def test_a_cluster_that_is_too_far_from_the_clients_is_refused() -> None:
    service = a_service(
        a_group("onprem/a10", 1),
        demand=3.0,
        latency=(ClientLatency("eu", ClusterId("onprem"), 1.5, NOW), ClientLatency("eu", ClusterId("aws"), 0.1, NOW)),
    )
    division, _ = serve(a_view(service, an_offer(), an_offer("aws/g5")), Memory())
    choices = {str(one.pool): one for one in division.choices}
    assert choices["onprem/a10"].refused == "too far from the clients, or too slow even without load"
    assert choices["aws/g5"].replicas > 3
    # Make before break: it stays until others are ready.
    assert ("onprem/a10", 1) in {(str(one.pool), one.replicas) for one in division.targets}


def test_latency_is_weighted_by_where_requests_come_from() -> None:
    demand = (ClientDemand("eu", 3.0, NOW), ClientDemand("us", 1.0, NOW))
    aws = ClusterId("aws")
    ways = (ClientLatency("eu", aws, 0.1, NOW), ClientLatency("us", aws, 0.02, NOW))
    assert client_latency(aws, demand, ways) == pytest.approx(0.08)
    assert client_latency(ClusterId("gcp"), demand, ways) is None


def test_replicas_that_slow_down_with_load_are_counted_by_their_curve() -> None:
    # 10/s when saturated, 0.2 s to the first token idle, 1 s allowed: 8/s each.
    view = a_view(a_service(a_group("onprem/a10", 1), demand=20.0), an_offer(speed=BATCHED))
    assert targets(view) == {"onprem/a10": 3}


def test_quick_offers_are_asked_for_when_they_are_needed_and_slow_ones_ahead() -> None:
    service = a_service(a_group("onprem/a10", 4), demand=2.0)
    later = (ExpectedRate(100.0, 2.0), ExpectedRate(300.0, 7.0))
    assert targets(a_view(service, forecast=later)) == {"onprem/a10": 4}
    much_later = (ExpectedRate(100.0, 2.0), ExpectedRate(300.0, 20.0))
    found = targets(a_view(service, forecast=much_later))
    assert found["onprem/a10"] == 4
    assert sum(count for name, count in found.items() if name != "onprem/a10") >= 10


@pytest.mark.parametrize("use_milp", [True, False])
def test_what_is_on_order_elsewhere_is_not_counted_before_it_is_ready(use_milp: bool) -> None:
    soon = (ExpectedRate(100.0, 5.0), ExpectedRate(300.0, 12.0))
    for ready, least in ((0, 7), (8, 2)):
        service = a_service(a_group("onprem/a10", 2), a_group("aws/g5", 8, ready), demand=4.0)
        found = targets(a_view(service, an_offer(), an_offer("aws/g5"), forecast=soon), use_milp=use_milp)
        assert found["onprem/a10"] >= least, f"{ready} of 8 are ready"


@pytest.mark.parametrize("use_milp", [True, False])
def test_what_costs_nothing_and_is_soon_needed_is_not_given_back_in_between(use_milp: bool) -> None:
    service = a_service(a_group("onprem/a10", 10), a_group("aws/g5", 8), demand=10.0)
    rising = (ExpectedRate(100.0, 10.0), ExpectedRate(300.0, 14.0))
    for usd, kept in (("0.001", 10), ("0.5", 9)):
        view = a_view(service, an_offer(usd_per_replica_hour=Decimal(usd)), an_offer("aws/g5"), forecast=rising)
        assert targets(view, use_milp=use_milp)["onprem/a10"] == kept, f"at {usd} USD an hour"


def test_horizons_are_the_leads_of_what_may_be_used() -> None:
    offers = (an_offer(), an_offer("aws/g5"), an_offer("gcp/l4", provisioning_seconds=900.0, open=False))
    assert horizons(offers, an_slo(warm_up_seconds=10.0)) == (110.0, 290.0)


def test_down_goes_in_small_steps_and_only_after_the_window() -> None:
    memory = Memory(needs=(Need(NOW - 200.0, 7.5, 7.5),))
    service = a_service(a_group("onprem/a10", 10), demand=1.0)
    slo = an_slo(scaling=ScalingRule(down_after_seconds=300.0, down_step=0.2))
    assert targets(a_view(service, slo=slo), memory) == {"onprem/a10": 10}
    late = a_view(a_service(a_group("onprem/a10", 10), demand=1.0), slo=slo)
    late = replace(late, now=NOW + 150.0)
    assert targets(late, memory) == {"onprem/a10": 8}


def test_returning_from_a_burst_waits_until_owned_replicas_are_ready() -> None:
    offers = (an_offer(), an_offer("aws/g5"))
    busy = a_service(a_group("onprem/a10", 2), a_group("aws/g5", 6), demand=4.0)
    division, _ = serve(a_view(busy, *offers), Memory())
    asked = {str(one.pool): one.replicas for one in division.targets}
    assert asked == {"aws/g5": 6, "onprem/a10": 6}
    assert division.leaving == (ClusterId("aws"),)
    moved = a_service(a_group("onprem/a10", 6), a_group("aws/g5", 6), demand=4.0)
    assert targets(a_view(moved, *offers))["aws/g5"] == 5


def test_weights_follow_what_is_ready() -> None:
    service = a_service(a_group("onprem/a10", 8, 8), a_group("aws/g5", 8, 0), a_group("gcp/l4", 4, 4), demand=5.0)
    division, _ = serve(a_view(service), Memory())
    weights = {str(one.cluster): one.weight for one in division.weights}
    assert set(weights) == {"onprem", "gcp"}
    assert sum(weights.values()) == 1000
    assert weights["onprem"] > 2 * weights["gcp"]  # eight share a queue better than four


def test_a_lost_cluster_is_replaced_and_gets_nothing() -> None:
    service = a_service(a_group("onprem/a10", 2), a_group("aws/g5", 8), demand=7.0)
    lost = an_offer("aws/g5", open=False, reachable=False, why_closed="does not answer")
    division, _ = serve(a_view(service, an_offer(), lost, an_offer("gcp/l4")), Memory())
    asked = {str(one.pool): one.replicas for one in division.targets}
    assert "aws/g5" not in asked
    assert asked["onprem/a10"] >= 9
    assert {one.cluster for one in division.weights} == {"onprem"}
    assert division.conditions[0].reason == reasons.CLUSTER_LOST
    assert "aws (does not answer): 8 replicas" in division.conditions[0].message


def test_a_quarantined_cluster_serves_until_others_can() -> None:
    service = a_service(a_group("onprem/a10", 2), a_group("aws/g5", 8), demand=7.0)
    closed = an_offer("aws/g5", open=False, why_closed="quarantined")
    division, _ = serve(a_view(service, an_offer(), closed), Memory())
    asked = {str(one.pool): one.replicas for one in division.targets}
    assert asked["aws/g5"] == 8
    assert {one.cluster for one in division.weights} == {"onprem", "aws"}
    ready = a_service(a_group("onprem/a10", 10), a_group("aws/g5", 8), demand=7.0)
    division, _ = serve(a_view(ready, an_offer(), closed), Memory())
    assert {str(one.pool) for one in division.targets} == {"onprem/a10"}
    assert {one.cluster for one in division.weights} == {"onprem"}


def test_another_autoscaler_keeps_the_number() -> None:
    service = a_service(a_group("onprem/a10", 3), demand=5.0, owner=ReplicaOwner.HPA, owner_bounds=(2, 9))
    division, _ = serve(a_view(service), Memory())
    (target,) = division.targets
    assert target.bounds == (7, 9)
    assert division.conditions[0].reason == reasons.NOT_OWNER


def sleeper(*groups: ReplicaGroup, last: float, **changes: object) -> ServiceView:
    slo = an_slo(scaling=ScalingRule(zero_after_seconds=600.0, down_after_seconds=0.0, down_step=1.0))
    service = a_service(*groups, demand=0.0, scales_to_zero=True, owner=ReplicaOwner.KNATIVE, last_request_at=last)
    service = replace(service, owner_bounds=(0, 9), **changes)  # type: ignore[arg-type]
    return a_view(service, an_offer(), an_offer("aws/g5"), slo=slo)


def test_what_a_request_can_wake_goes_down_to_nothing_and_stays_where_it_is() -> None:
    awake = sleeper(a_group("onprem/a10", 1), last=NOW - 599.0)
    assert targets(awake) == {"onprem/a10": 1}
    asleep = sleeper(a_group("onprem/a10", 1), last=NOW - 601.0)
    assert targets(asleep) == {"onprem/a10": 0}
    assert serve(asleep, NEW)[0].targets[0].bounds == (0, 9)
    assert reason_of(asleep) == reasons.SCALED_TO_ZERO
    assert targets(replace(asleep, service=replace(asleep.service, scales_to_zero=False))) == {"onprem/a10": 1}


def test_what_sleeps_stays_in_all_its_places_until_something_is_ready() -> None:
    places = a_group("onprem/a10", 0), a_group("aws/g5", 0)
    assert targets(sleeper(*places, last=NOW - 601.0)) == {"onprem/a10": 0, "aws/g5": 0}
    asked = replace(sleeper(*places, last=NOW).service, demand=(ClientDemand("eu", 0.5, NOW),))
    view = sleeper(*places, last=NOW)
    waking = targets(replace(view, service=asked))
    assert waking["onprem/a10"] >= 1
    assert waking["aws/g5"] == 0
    ready = (replace(places[0], wanted=waking["onprem/a10"], ready=1), places[1])
    assert "aws/g5" not in targets(replace(view, service=replace(asked, groups=ready)))


def test_what_nobody_has_asked_for_yet_is_somewhere_to_be_woken() -> None:
    assert targets(sleeper(last=NOW - 601.0)) == {"onprem/a10": 0}


def test_what_sleeps_is_kept_when_nobody_tells_of_it_any_more() -> None:
    view = sleeper(a_group("onprem/a10", 0), last=NOW - 601.0, demand=(), asked_before=0)
    assert targets(view) == {"onprem/a10": 0}


def test_a_cluster_that_was_slower_than_the_slo_gets_help() -> None:
    service = a_service(a_group("onprem/a10", 7), demand=5.0)
    slow = RevisionMetrics(ClusterId("onprem"), "r1", NOW, 30.0, p95_first_token_seconds=1.4)
    assert targets(a_view(replace(service, metrics=(slow,))))["onprem/a10"] > targets(a_view(service))["onprem/a10"]


def test_where_too_much_is_asked_none_that_holds_the_slo_gets_more_than_it_carries() -> None:
    # 8/s each within the SLO of what saturates at 10/s.
    offers = an_offer(speed=BATCHED, most_replicas=4), an_offer("aws/g5", speed=BATCHED, most_replicas=1)
    slow = RevisionMetrics(ClusterId("onprem"), "r1", NOW, 30.0, p95_first_token_seconds=1.9)

    def shares(demand: float, *metrics: RevisionMetrics) -> dict[str, int]:
        service = a_service(a_group("onprem/a10", 4), a_group("aws/g5", 1), demand=demand, metrics=metrics)
        division, _ = serve(a_view(service, *offers), Memory())
        return {str(one.cluster): one.weight for one in division.weights}

    assert shares(48.0) == {"onprem": 800, "aws": 200}
    assert shares(48.0, slow) == {"onprem": 833, "aws": 167}, "8 of 48 requests/s"
    # Less than is carried (4 x 8 x 0.5 + 8): each by what it carries.
    assert shares(22.0, slow) == {"onprem": 667, "aws": 333}


@pytest.mark.parametrize(
    ("demand", "want"),
    [
        (None, reasons.NO_METRICS),
        (-3.0, reasons.IMPLAUSIBLE_METRICS),
        (float("nan"), reasons.IMPLAUSIBLE_METRICS),
        (float("inf"), reasons.IMPLAUSIBLE_METRICS),
        (1e9, reasons.IMPLAUSIBLE_METRICS),
    ],
)
def test_demand_that_cannot_be_believed_keeps_what_runs(demand: float | None, want: str) -> None:
    view = a_view(a_service(a_group("onprem/a10", 3), a_group("aws/g5", 2), demand=demand), forecast=())
    division, _ = serve(view, Memory())
    assert {str(one.pool): one.replicas for one in division.targets} == {"onprem/a10": 3, "aws/g5": 2}
    assert division.solver == "kept"
    assert division.conditions[0].reason == want
    assert sum(one.weight for one in division.weights) == 1000


def test_stale_demand_is_no_demand() -> None:
    service = a_service(a_group("onprem/a10", 3))
    stale = replace(service, demand=(ClientDemand("eu", 5.0, NOW - 400.0),))
    assert reason_of(a_view(stale)) == reasons.NO_METRICS


def test_frozen_demand_is_not_believed_but_zero_is() -> None:
    for value, want in ((5.000123, reasons.IMPLAUSIBLE_METRICS), (0.0, reasons.SERVING)):
        memory, told = Memory(), ""
        for minute in range(20):
            now = NOW + 60.0 * minute
            service = replace(a_service(a_group("onprem/a10", 7)), demand=(ClientDemand("eu", value, now),))
            division, memory = serve(a_view(service, now=now, forecast=()), memory)
            told = division.conditions[0].reason
        assert told == want


def test_a_lost_cluster_is_replaced_even_without_metrics() -> None:
    memory = Memory(needs=(Need(NOW - 60.0, 6.0, 6.0),))
    lost = an_offer("aws/g5", open=False, reachable=False, why_closed="lost")
    view = a_view(a_service(a_group("onprem/a10", 2), a_group("aws/g5", 8), demand=None), an_offer(), lost)
    assert targets(view, memory)["onprem/a10"] == 8


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"max_provider_share": 0.4}, reasons.CONTRADICTORY),  # two providers cannot hold 40 % each
        ({"p95_first_token_seconds": 1e-9, "p95_latency_seconds": 1.0}, reasons.NO_OFFERS),  # idle p95 is 2 s
    ],
)
def test_an_slo_that_cannot_be_kept_keeps_what_runs(changes: dict[str, float], want: str) -> None:
    view = a_view(a_service(a_group("onprem/a10", 3)), an_offer(), an_offer("aws/g5"), slo=an_slo(**changes))
    division, _ = serve(view, Memory())
    assert [one.reason for one in division.conditions] == [want]
    assert {str(one.pool): one.replicas for one in division.targets} == {"onprem/a10": 3}


def test_unknown_prices_and_speeds_are_kept_but_never_added_to() -> None:
    offers = (
        an_offer(most_replicas=2),
        an_offer("aws/g5", usd_per_replica_hour=None),
        an_offer("gcp/l4", speed=None),
    )
    service = a_service(a_group("onprem/a10", 2), a_group("aws/g5", 3), a_group("gcp/l4", 1), demand=20.0)
    division, _ = serve(a_view(service, *offers), Memory())
    assert {str(one.pool): one.replicas for one in division.targets} == {"onprem/a10": 2, "aws/g5": 3, "gcp/l4": 1}
    assert division.usd_per_hour is None
    assert division.conditions[0].reason == reasons.SHORT_OF_CAPACITY


def test_what_binds_is_told_with_what_it_costs() -> None:
    slo = an_slo(max_reclaimable_share=0.2, domains=DomainRule("provider", 1, 2))
    division, _ = serve(a_view(a_service(a_group("onprem/a10", 10), demand=12.0), slo=slo), Memory(), explain=True)
    found = {one.name: one for one in division.binding}
    assert set(found) == {"maxReclaimableShare", "room/onprem/a10"}
    spot = found["maxReclaimableShare"]
    assert spot.saves_usd_per_hour is not None
    assert spot.saves_usd_per_hour > 0.5
    assert spot.meaning == "at most 20 % of the capacity on spot nodes"
    short = a_view(a_service(a_group("onprem/a10", 10), demand=12.0), an_offer())
    division, _ = serve(short, Memory(), explain=True)
    assert division.binding[0].saves_usd_per_hour is None
    assert "requests/s more would be served" in division.binding[0].meaning


def test_the_bill_adds_up() -> None:
    division, _ = serve(a_view(a_service(a_group("onprem/a10", 7), demand=5.0)), Memory())
    assert division.usd_per_hour == Decimal("3.5")
    assert {part.name: part.usd for part in division.cost_parts} == {"capacity": 3.5, "change": 0.0, "reclaims": 0.0}
    assert not division.changed or division.weights


def test_memory_survives_as_json() -> None:
    memory = Memory(
        needs=(Need(1.0, 2.0, 3.0),), told=(2.0, 1.0, 4), told_at=5.0, highest=9.0, stable="r1",
        rollout=RolloutMemory("r1", "r2", "judging", (ClusterId("onprem"),), 0, 1, 7.0, "x"), rejected=("r0",),
    )  # fmt: skip
    assert from_json(to_json(memory)) == memory
    assert from_json(to_json(Memory())) == Memory()
    with pytest.raises((ValueError, KeyError, TypeError)):
        from_json({"needs": [[1.0, float("nan"), 2.0]], "told": None, "toldAt": None, "highest": 0, "stable": "",
                   "rejected": [], "rollout": None})  # fmt: skip


def test_leftovers_of_another_revision_get_no_traffic_and_go() -> None:
    service = a_service(a_group("onprem/a10", 7), a_group("aws/g5", 2, revision="r0"), demand=4.0)
    division, _ = serve(a_view(service), Memory(stable="r1"))
    assert {one.revision for one in division.weights} == {"r1"}
    assert {(str(one.pool), one.revision) for one in division.targets} == {("onprem/a10", "r1")}


def leaving(group: ReplicaGroup, count: int) -> ReplicaGroup:
    return replace(group, leaving=count)


@pytest.mark.parametrize("use_milp", [True, False])
def test_whose_node_is_taken_back_gets_another_beside_it(use_milp: bool) -> None:
    only = an_offer("aws/g5-spot", most_replicas=20)
    slo = an_slo(max_reclaimable_share=1.0)
    want = targets(a_view(a_service(a_group("aws/g5-spot", 7)), only, slo=slo), use_milp=use_milp)["aws/g5-spot"]
    for asked, ready in ((want, want), (want + 2, want), (want + 2, want + 2)):
        group = leaving(a_group("aws/g5-spot", asked, ready), 2)
        view = a_view(a_service(group), only, slo=slo)
        assert targets(view, use_milp=use_milp) == {"aws/g5-spot": want + 2}, "and not two more with each look"
    assert reason_of(view) == reasons.RECLAIMED
    # Not where it is to go anyway, where there is no room, nor beyond maxReplicas.
    full = replace(only, most_replicas=want + 1)
    assert targets(a_view(a_service(leaving(a_group("aws/g5-spot", want), 2)), full, slo=slo)) == {
        "aws/g5-spot": want + 1
    }
    bounded = replace(slo, scaling=ScalingRule(max_replicas=want))
    assert targets(a_view(a_service(leaving(a_group("aws/g5-spot", want), 2)), only, slo=bounded)) == {
        "aws/g5-spot": want
    }
    home = a_service(a_group("onprem/a10", 7), leaving(a_group("aws/g5-spot", 2), 2))
    assert targets(a_view(home, an_offer(), only, slo=slo)) == {"onprem/a10": 7, "aws/g5-spot": 1}, "it goes as before"
