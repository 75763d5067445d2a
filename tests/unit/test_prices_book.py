"""The book of all price sources: each read at its own pace, none at the cost of another, the last good quotes kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import pytest

from clusters.prices.book import BookedSource, PriceBook
from clusters.prices.merge import ABSENT, FAILED, FEDERATION_FILE, FRESH, STALE, PriceOutcome
from scheduler.model.errors import AuthError, ThrottledError, TransientError
from scheduler.model.ids import PoolId, PoolRef
from scheduler.model.money import Price
from scheduler.model.prices import PriceQuery, PriceQuote
from tests.contract.emulated_pools import SteppedClock
from tests.contract.emulated_prices import machine

P4D, P5 = machine("eks", "us-east-1", "p4d.24xlarge"), machine("eks", "us-east-1", "p5.48xlarge", pool="other")
HOUR = 3600.0


@dataclass
class Fake:
    """A source that says what it is told to."""

    name: str
    clock: SteppedClock
    prices: dict[PriceQuery, str] = field(default_factory=dict)
    failure: Exception | None = None
    hangs: bool = False
    lines: tuple[str, ...] = ()
    partly: bool = False
    asked: list[tuple[PriceQuery, ...]] = field(default_factory=list)
    closed: int = 0
    on_asked: Callable[[], None] = lambda: None

    async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
        self.asked.append(tuple(wanted))
        self.on_asked()
        if self.hangs:
            await asyncio.Event().wait()
        if self.failure is not None:
            raise self.failure
        return tuple(
            PriceQuote(query, Decimal(self.prices[query]), f"{self.name} list", self.clock.now())
            for query in wanted
            if query in self.prices
        )

    def problems(self) -> tuple[str, ...]:
        return self.lines

    def incomplete(self) -> bool:
        return self.partly

    async def close(self) -> None:
        self.closed += 1


def book_of(*fakes: Fake, max_age: float = 26 * HOUR, refresh: float = HOUR, limit: float = 60.0) -> PriceBook:
    return PriceBook([BookedSource(fake, max_age, refresh, limit) for fake in fakes], clock=fakes[0].clock)


def told(outcome: PriceOutcome) -> tuple[str | None, str | None]:
    return outcome.winner, None if outcome.price is None else str(outcome.price.usd_per_hour)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


async def test_the_first_of_the_sources_wins_and_all_are_told(clock: SteppedClock) -> None:
    book = book_of(Fake("a", clock, {P4D: "20"}), Fake("b", clock, {P4D: "10", P5: "50"}))
    await book.refresh([P5, P4D, P4D])
    first, second = book.outcomes([P4D, P5], {})
    assert [told(first), told(second)] == [("b", "50"), ("a", "20")]
    assert [answer.state for answer in first.answers] == [ABSENT, FRESH]
    assert [answer.source for answer in second.answers] == ["a", "b"]
    assert second.price == Price(Decimal(20), "a list", clock.now())


async def test_the_federation_files_price_always_holds(clock: SteppedClock) -> None:
    book = book_of(Fake("a", clock, {P4D: "20"}))
    await book.refresh([P4D])
    pinned = Price(Decimal("9.80"), "federation.yaml", 0.0)
    (outcome,) = book.outcomes([P4D], {PoolRef(P4D.cluster, PoolId(P4D.pool)): pinned})
    assert outcome.price is pinned
    assert outcome.winner == FEDERATION_FILE
    assert [answer.state for answer in outcome.answers] == [FRESH]


async def test_a_failing_source_keeps_its_last_good_quotes_until_they_are_stale(clock: SteppedClock) -> None:
    fake = Fake("a", clock, {P4D: "20"})
    book = book_of(fake)
    await book.refresh([P4D])
    fake.failure = TransientError("a: 503\nService Unavailable")
    clock.advance(20 * HOUR)
    await book.refresh([P4D])
    assert told(*book.outcomes([P4D], {})) == ("a", "20")
    clock.advance(7 * HOUR)
    (outcome,) = book.outcomes([P4D], {})
    assert told(outcome) == (None, None)
    assert outcome.stale is outcome.answers[0]
    assert outcome.answers[0].state == STALE
    assert outcome.answers[0].age_seconds == 27 * HOUR
    assert outcome.why_unknown == "a: 27 h old, allowed are 26 h; the last reading failed: a: 503 Service Unavailable"
    (health,) = book.health()
    assert (health.readings, health.failures, health.quotes) == (2, 1, 1)
    assert health.failing_since == health.read_at + 20 * HOUR if health.read_at else False


async def test_a_source_that_hangs_is_given_up_and_loses_none_of_the_others(clock: SteppedClock) -> None:
    hanging, quick = Fake("slow", clock, hangs=True), Fake("quick", clock, {P4D: "20"})
    book = PriceBook(
        [BookedSource(hanging, 26 * HOUR, HOUR, 0.01), BookedSource(quick, 26 * HOUR, HOUR, 60.0)], clock=clock
    )
    await book.refresh([P4D])
    (outcome,) = book.outcomes([P4D], {})
    assert told(outcome) == ("quick", "20")
    assert [(answer.state, answer.text) for answer in outcome.answers] == [
        (FAILED, "no answer within 0.01 s"),
        (FRESH, ""),
    ]


@pytest.mark.parametrize(
    ("failure", "want_error"),
    [
        (AuthError("a: not permitted; grant pricing:GetProducts"), "a: not permitted; grant pricing:GetProducts"),
        (KeyError("secret"), "unexpected KeyError; please report it"),
        (TransientError("x" * 900), "x" * 500 + "..."),
    ],
)
async def test_whatever_fails_is_counted_and_told_in_a_line(
    clock: SteppedClock, failure: Exception, want_error: str
) -> None:
    book = book_of(Fake("a", clock, failure=failure), Fake("b", clock, {P4D: "10"}))
    await book.refresh([P4D])
    assert [health.error for health in book.health()] == [want_error, ""]
    assert told(*book.outcomes([P4D], {})) == ("b", "10")


async def test_a_source_is_read_again_at_its_own_interval(clock: SteppedClock) -> None:
    often, rarely = Fake("often", clock), Fake("rarely", clock)
    book = PriceBook(
        [BookedSource(often, HOUR, 60.0, 5.0), BookedSource(rarely, HOUR, 600.0, 5.0)],
        clock=clock,
    )
    for _ in range(11):
        await book.refresh([P4D])
        clock.advance(60.0)
    assert (len(often.asked), len(rarely.asked)) == (11, 2)


async def test_a_new_machine_is_asked_for_at_once_and_nothing_is_asked_for_none(clock: SteppedClock) -> None:
    fake = Fake("a", clock, {P4D: "20", P5: "50"})
    book = book_of(fake)
    await book.refresh([])
    assert fake.asked == []
    await book.refresh([P4D])
    await book.refresh([P4D])
    assert len(fake.asked) == 1
    await book.refresh([P5, P4D])
    assert fake.asked[1:] == [(P4D, P5)] or fake.asked[1:] == [(P5, P4D)]
    assert len(book.outcomes([P4D, P5], {})) == 2


async def test_a_failing_source_is_asked_again_ever_more_rarely(clock: SteppedClock) -> None:
    fake = Fake("a", clock, failure=TransientError("a: 503"))
    book = book_of(fake, refresh=200.0)
    at: list[float] = []
    began = clock.now()
    fake.on_asked = lambda: at.append(clock.now() - began)
    for _ in range(80):
        await book.refresh([P4D, P5])
        clock.advance(10.0)
    assert at == [0, 60, 180, 380, 580, 780]


async def test_a_throttled_source_is_left_alone_as_long_as_it_says(clock: SteppedClock) -> None:
    fake = Fake("a", clock, failure=ThrottledError("a: slow down", retry_after_seconds=500.0))
    book = book_of(fake, refresh=100.0)
    for _ in range(50):
        await book.refresh([P4D])
        clock.advance(10.0)
    assert len(fake.asked) == 1


async def test_what_a_complete_reading_leaves_out_is_forgotten_and_what_a_broken_one_leaves_out_is_kept(
    clock: SteppedClock,
) -> None:
    fake = Fake("a", clock, {P4D: "20", P5: "50"})
    book = book_of(fake)
    await book.refresh([P4D, P5])
    fake.prices, fake.partly = {P4D: "21"}, True
    clock.advance(HOUR)
    await book.refresh([P4D, P5])
    assert {told(outcome) for outcome in book.outcomes([P4D, P5], {})} == {("a", "21"), ("a", "50")}
    fake.partly = False
    clock.advance(HOUR)
    await book.refresh([P4D, P5])
    assert {told(outcome) for outcome in book.outcomes([P4D, P5], {})} == {("a", "21"), (None, None)}


async def test_what_was_not_asked_and_what_is_no_price_is_not_believed(clock: SteppedClock) -> None:
    class Odd(Fake):
        async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
            now = self.clock.now()
            return (PriceQuote(P5, Decimal(1), "odd", now), PriceQuote(P4D, Decimal(0), "odd", now))

    book = book_of(Odd("odd", clock))
    await book.refresh([P4D])
    (outcome,) = book.outcomes([P4D], {})
    assert told(outcome) == (None, None)
    assert outcome.why_unknown == "odd: 0 USD per hour is not a price"
    assert book.health()[0].quotes == 1


async def test_an_answer_that_is_no_answer_is_a_failure_of_that_source_alone(clock: SteppedClock) -> None:
    class Broken(Fake):
        async def quotes(self, wanted: Sequence[PriceQuery]) -> tuple[PriceQuote, ...]:
            return None  # type: ignore[return-value]

    book = book_of(Broken("broken", clock), Fake("b", clock, {P4D: "10"}))
    await book.refresh([P4D])
    assert book.health()[0].error == "unexpected TypeError; please report it"
    assert told(*book.outcomes([P4D], {})) == ("b", "10")


async def test_problems_of_a_source_are_told(clock: SteppedClock) -> None:
    book = book_of(Fake("a", clock, lines=("prices.csv:2:\nbad", "x")))
    await book.refresh([P4D])
    assert book.health()[0].problems == ("prices.csv:2: bad", "x")


async def test_sources_of_one_type_are_told_apart(clock: SteppedClock) -> None:
    book = book_of(Fake("static", clock), Fake("aws", clock), Fake("static", clock))
    assert [health.name for health in book.health()] == ["static", "aws", "static (2)"]


async def test_run_reads_until_it_is_cancelled(clock: SteppedClock) -> None:
    enough = asyncio.Event()
    fast, slow = Fake("fast", clock, {P4D: "20"}), Fake("slow", clock, {P4D: "30"})
    fast.on_asked = lambda: enough.set() if len(fast.asked) >= 5 else None
    book = PriceBook([BookedSource(fast, HOUR, 60.0, 5.0), BookedSource(slow, HOUR, HOUR, 5.0)], clock=clock)
    task = asyncio.create_task(book.run(lambda: [P4D]))
    await asyncio.wait_for(enough.wait(), timeout=30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(slow.asked) == 1
    assert told(*book.outcomes([P4D], {})) == ("fast", "20")


async def test_all_are_closed_also_when_one_cannot_be(clock: SteppedClock) -> None:
    class Stuck(Fake):
        async def close(self) -> None:
            raise TransientError("stuck")

    last = Fake("b", clock)
    with pytest.raises(TransientError, match="stuck"):
        await book_of(Stuck("a", clock), last).close()
    assert last.closed == 1


async def test_without_sources_the_price_is_unknown_and_the_remedy_told(clock: SteppedClock) -> None:
    book = PriceBook([], clock=clock)
    await book.refresh([P4D])
    (outcome,) = book.outcomes([P4D], {})
    assert outcome.why_unknown.startswith("no price source is configured; add one under `prices:`")
