"""What must hold of every merge of price sources, whatever they say."""

from __future__ import annotations

from decimal import Decimal
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from clusters.prices.merge import FEDERATION_FILE, FRESH, SourceReading, merge
from scheduler.model.ids import PoolId, PoolRef
from scheduler.model.money import Price
from scheduler.model.prices import PriceQuery, PriceQuote
from tests.contract.emulated_prices import machine

NOW = 1_800_000_000.0
QUERIES = (
    machine("eks", "us-east-1", "p4d.24xlarge"),
    machine("eks", "us-east-1", "p4d.24xlarge", gpu_model="A100-40GB"),
    machine("gke", "us-central1", "g2-standard-8", pool="l4"),
    machine("onprem", "eu-dc1", "hgx-a100", "owned", cluster="dc1"),
)
odd_prices = st.sampled_from([Decimal(text) for text in ("0", "-1", "NaN", "sNaN", "Infinity", "-0", "1E+50", "1E-40")])
prices = st.one_of(st.decimals(min_value="0.01", max_value=200, places=4), odd_prices)
times = st.one_of(
    st.floats(NOW - 10 * 86400, NOW + 3 * 86400), st.sampled_from([float("nan"), float("inf"), float("-inf"), 0.0])
)
quotes = st.builds(PriceQuote, st.sampled_from(QUERIES), prices, st.sampled_from(["x", "y"]), times)
readings = st.builds(
    SourceReading,
    name=st.sampled_from(["aws", "static"]),
    max_age_seconds=st.floats(1, 5 * 86400),
    quotes=st.lists(quotes, max_size=8).map(tuple),
    read_at=st.none() | st.just(NOW),
    error=st.sampled_from(["", "503"]),
)
queries = st.lists(st.sampled_from(QUERIES), max_size=6)
pins = st.dictionaries(
    st.sampled_from([PoolRef(query.cluster, PoolId(query.pool)) for query in QUERIES]),
    st.just(Price(Decimal("9.80"), "federation.yaml", NOW)),
)


@given(queries, st.lists(readings, max_size=4), pins)
def test_every_machine_has_one_outcome_that_is_a_price_or_says_why_not(
    wanted: list[PriceQuery], said: list[SourceReading], pinned: dict[PoolRef, Price]
) -> None:
    outcomes = merge(wanted, said, pinned, NOW)
    assert {outcome.query for outcome in outcomes} == set(wanted)
    assert len(outcomes) == len(set(wanted))
    for outcome in outcomes:
        assert [answer.source for answer in outcome.answers] == [reading.name for reading in said]
        assert (outcome.price is None) == (outcome.winner is None) == bool(outcome.why_unknown)
        if outcome.price is not None:
            assert outcome.price.usd_per_hour.is_finite()
            assert outcome.price.usd_per_hour > 0


@given(queries, st.lists(readings, max_size=4), pins)
def test_the_file_comes_first_and_then_the_first_fresh_answer(
    wanted: list[PriceQuery], said: list[SourceReading], pinned: dict[PoolRef, Price]
) -> None:
    for outcome in merge(wanted, said, pinned, NOW):
        own = pinned.get(PoolRef(outcome.query.cluster, PoolId(outcome.query.pool)))
        fresh = next((answer for answer in outcome.answers if answer.state == FRESH), None)
        if own is not None:
            assert (outcome.price, outcome.winner) == (own, FEDERATION_FILE)
        elif fresh is None:
            assert outcome.price is None
        else:
            assert fresh.quote is not None
            assert outcome.winner == fresh.source
            assert outcome.price is not None
            assert outcome.price.usd_per_hour == fresh.quote.usd_per_hour
            assert outcome.price.as_of == fresh.quote.as_of


@given(queries, st.lists(readings, max_size=3), pins, st.randoms(use_true_random=False))
def test_the_order_of_questions_and_of_a_sources_quotes_changes_nothing(
    wanted: list[PriceQuery], said: list[SourceReading], pinned: dict[PoolRef, Price], mixer: Random
) -> None:
    def shuffled(items: tuple[PriceQuote, ...]) -> tuple[PriceQuote, ...]:
        mixed = list(items)
        mixer.shuffle(mixed)
        return tuple(mixed)

    again = [SourceReading(one.name, one.max_age_seconds, shuffled(one.quotes), one.read_at, one.error) for one in said]
    assert repr(merge(wanted[::-1], again, pinned, NOW)) == repr(merge(wanted, said, pinned, NOW))


@given(queries, st.lists(readings, max_size=3), readings)
def test_a_further_source_never_takes_a_price_away(
    wanted: list[PriceQuery], said: list[SourceReading], last: SourceReading
) -> None:
    for before, after in zip(merge(wanted, said, {}, NOW), merge(wanted, [*said, last], {}, NOW), strict=True):
        if before.price is not None:
            assert after.price == before.price


@given(queries, st.lists(readings, max_size=3), st.floats(0, 20 * 86400))
def test_what_is_too_old_now_stays_unknown_later(
    wanted: list[PriceQuery], said: list[SourceReading], later: float
) -> None:
    dated = [
        SourceReading(
            one.name,
            one.max_age_seconds,
            tuple(quote for quote in one.quotes if quote.as_of <= NOW),
            one.read_at,
            one.error,
        )
        for one in said
    ]
    for now, then in zip(merge(wanted, dated, {}, NOW), merge(wanted, dated, {}, NOW + later), strict=True):
        if now.price is None:
            assert then.price is None
