"""What must hold for every division: limits, capacity, make before break, weights, order, determinism."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from random import Random

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings

from scheduler.engine.serving import Memory, serve
from scheduler.engine.serving.capacity import carried, rate
from scheduler.engine.serving.programme import solve
from scheduler.engine.serving.question import Question
from scheduler.model.division import CONTRADICTORY, NO_OFFERS
from scheduler.model.ids import PoolRef
from scheduler.model.serving import (
    WEIGHT_TOTAL,
    ExpectedRate,
    ReplicaGroup,
    ReplicaSpeed,
    ServiceView,
    ServingOffer,
    TrafficWeight,
    apportion,
)
from scheduler.model.serving_policy import DomainRule, ScalingRule, ServingSLO
from tests.builders.serving import BATCHED, POOLED, a_service, a_view, an_offer, an_slo

NAMES = ("onprem/a10", "aws/g5", "aws/g5-spot", "gcp/l4", "gcp/l4-spot")
FEW = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def offers(draw: st.DrawFn) -> tuple[ServingOffer, ...]:
    chosen = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    speeds = st.sampled_from([POOLED, BATCHED, ReplicaSpeed(2.0, 1.0, 0.0, True, 0.5)])
    return tuple(
        an_offer(
            name,
            most_replicas=draw(st.integers(0, 12)),
            usd_per_replica_hour=draw(
                st.integers(1, 40).map(lambda tenths: Decimal(tenths) / 10) | st.just(Decimal("0.001"))
            ),
            speed=draw(speeds),
            open=draw(st.sampled_from([True, True, True, False])),
        )
        for name in chosen
    )


@st.composite
def views(draw: st.DrawFn) -> ServiceView:
    those = draw(offers())
    groups = []
    for one in those:
        wanted = draw(st.integers(0, one.most_replicas))
        if wanted:
            groups.append(ReplicaGroup(one.pool, "r1", wanted, draw(st.integers(0, wanted))))
    slo = an_slo(
        max_reclaimable_share=draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
        max_provider_share=draw(st.sampled_from([0.5, 0.7, 1.0, 1.0])),
        domains=DomainRule("provider", draw(st.integers(0, 2)), draw(st.integers(1, 2))),
        scaling=ScalingRule(
            min_replicas=draw(st.integers(0, 3)), max_replicas=draw(st.sampled_from([None, None, 15])),
            down_step=draw(st.sampled_from([0.1, 1.0])),
        ),
    )  # fmt: skip
    demand = draw(st.sampled_from([0.0, 0.4, 3.0, 11.0, 60.0]))
    far = demand * draw(st.sampled_from([1.0, 1.5]))
    view = a_view(a_service(*groups, demand=demand), *those, slo=slo)
    return replace(view, forecast=(ExpectedRate(100.0, demand), ExpectedRate(300.0, far)))


def question_of(view: ServiceView) -> Question:
    rated = tuple(rate(one, view.slo, view.service) for one in sorted(view.offers, key=lambda one: one.pool))
    asked = tuple(sorted((group.pool, group.wanted) for group in view.service.groups))
    there = tuple(sorted((group.pool, group.ready) for group in view.service.groups))
    near, far = (one.per_second for one in view.forecast)
    return Question(rated, view.slo, asked, there, near, far, 100.0, max(view.slo.scaling.min_replicas, int(near > 0)))


def shares_hold(slo: ServingSLO, those: tuple[ServingOffer, ...], counts: dict[PoolRef, int]) -> bool:
    speeds = {one.pool: one.speed.most_per_second if one.speed else 1.0 for one in those}
    weights = {one: counts.get(one.pool, 0) * speeds[one.pool] for one in those}
    whole = sum(weights.values())
    spot = sum(weight for one, weight in weights.items() if one.reclaimable)
    providers = {one.provider for one in those}
    parts = [sum(weight for one, weight in weights.items() if one.provider == each) for each in providers]
    return spot <= slo.max_reclaimable_share * whole + 1e-6 and all(
        part <= slo.max_provider_share * whole + 1e-6 for part in parts
    )


@FEW
@given(views(), st.booleans())
def test_hard_limits_are_never_broken(view: ServiceView, use_milp: bool) -> None:
    counts = solve(question_of(view), use_milp=use_milp).counts
    assert shares_hold(view.slo, view.offers, counts)
    assert all(0 <= counts.get(one.pool, 0) <= one.most_replicas for one in view.offers)
    assert all(counts.get(one.pool, 0) == 0 for one in view.offers if not one.open)
    most = view.slo.scaling.max_replicas
    assert most is None or sum(counts.values()) <= most


@FEW
@given(offers(), st.sampled_from([0.4, 3.0, 11.0, 60.0]), st.booleans())
def test_demand_is_served_wherever_there_is_capacity_for_it(
    those: tuple[ServingOffer, ...], demand: float, use_milp: bool
) -> None:
    view = a_view(a_service(demand=demand), *those)
    question = replace(question_of(view), near_per_second=0.0, near_seconds=0.0)
    everything = {one.offer.pool: question.most(one) for one in question.rated}
    counts = solve(question, use_milp=use_milp).counts
    could = carried(question.rated, everything)
    assert carried(question.rated, counts) >= min(demand, could) - 1e-9
    # And no replica of it could be left out (nothing is quick here, so that nothing may be asked for later).
    for pool, count in counts.items():
        fewer = {**counts, pool: count - 1}
        assert carried(question.rated, fewer) < demand or sum(fewer.values()) < question.least_replicas


@FEW
@given(views(), st.booleans())
def test_nothing_quick_and_free_is_given_back_that_will_soon_be_needed(view: ServiceView, use_milp: bool) -> None:
    question = question_of(view)
    counts = solve(question, use_milp=use_milp).counts
    for one in question.rated:
        pool = one.offer.pool
        more = {**counts, pool: counts.get(pool, 0) + 1}
        there = min(question.have.get(pool, 0), question.most(one))
        free = question.usd_per_hour(one) <= 0.01 * max(map(question.usd_per_hour, question.rated))
        if free and question.quick(one) and counts.get(pool, 0) < there and question.keeps_limits(more):
            assert carried(question.rated, counts) >= question.far_per_second - 1e-6


@FEW
@given(views())
def test_what_is_ready_is_never_taken_below_the_need(view: ServiceView) -> None:
    division, _ = serve(view, Memory(), use_milp=False)
    rated = question_of(view).rated
    closed = {one.pool for one in view.offers if not one.open}
    asked = {one.pool: one.replicas for one in division.targets}
    before = {group.pool: group.ready for group in view.service.groups if group.pool not in closed}
    after = {pool: min(ready, asked.get(pool, 0)) for pool, ready in before.items()}
    need = view.forecast[0].per_second
    assert carried(rated, after) >= min(need, carried(rated, before)) - 1e-9
    if not any(one.reason in (CONTRADICTORY, NO_OFFERS) for one in division.conditions):
        # What runs where nothing may be added stays as long as the others do not carry the need.
        for group in view.service.groups:
            if group.pool in closed and group.ready and carried(rated, before) < need:
                assert asked.get(group.pool, 0) >= group.ready


@FEW
@given(views())
def test_weights_add_up_and_lie_where_replicas_are_ready(view: ServiceView) -> None:
    division, _ = serve(view, Memory(), use_milp=False)
    ready = {group.pool.cluster for group in view.service.groups if group.ready > 0}
    assert {one.cluster for one in division.weights} <= ready
    assert sum(one.weight for one in division.weights) == (WEIGHT_TOTAL if ready else 0)
    assert all(one.weight > 0 for one in division.weights)


@settings(FEW, max_examples=8)
@given(views(), st.randoms(use_true_random=False))
def test_order_does_not_matter_and_the_same_is_the_same(view: ServiceView, random: Random) -> None:
    service = view.service
    those, groups, forecast = list(view.offers), list(service.groups), list(view.forecast)
    for each in (those, groups, forecast):
        random.shuffle(each)
    other = replace(view, offers=tuple(those), service=replace(service, groups=tuple(groups)), forecast=tuple(forecast))
    assert repr(serve(view, Memory())) == repr(serve(other, Memory()))
    solve.cache_clear()
    assert repr(serve(view, Memory())) == repr(serve(other, Memory()))


@given(st.lists(st.integers(0, 10**6), max_size=8), st.sampled_from([100, 1000]))
def test_weights_are_apportioned_exactly(values: list[int], total: int) -> None:
    weights = [TrafficWeight(PoolRef(*f"c{n}/p".split("/")).cluster, "r", value) for n, value in enumerate(values)]  # type: ignore[arg-type]
    found = apportion(weights, total)
    assert sum(one.weight for one in found) == (total if sum(values) else 0)
    for one, value in zip(found, values, strict=False):
        assert abs(one.weight - value * total / sum(values)) < 1
