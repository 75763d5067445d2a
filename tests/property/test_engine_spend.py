"""The spend ledger is exact: however often it is advanced, its buckets add up to price times lifetime."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.engine.spend import HOUR, NodeLifetime, NodeUse, SpendLedger, advance, by_day, priced, repriced
from scheduler.model.ids import ClusterId, NodeName, PoolId, QueueId
from scheduler.model.money import cost_usd
from tests.unit.engine_world import NOW

START = NOW - NOW % HOUR
MOMENTS = st.floats(0, 6 * HOUR, allow_nan=False).map(lambda seconds: START + seconds)
PRICES = st.decimals(Decimal("0.000001"), Decimal("98.32"), places=6)


@st.composite
def lifetimes(draw: st.DrawFn) -> NodeLifetime:
    edges = sorted(draw(st.lists(MOMENTS, min_size=2, max_size=2)))
    uses = []
    for _ in range(draw(st.integers(0, 4))):
        begin, end = sorted(draw(st.lists(MOMENTS, min_size=2, max_size=2)))
        queue = QueueId(draw(st.sampled_from(("blue", "red", "grey"))))
        uses.append(NodeUse(begin, draw(st.sampled_from((end, None))), queue, draw(st.integers(0, 8))))
    return NodeLifetime(
        ClusterId("eks"),
        PoolId("b"),
        f"uid-{draw(st.integers(0, 10**9))}",
        NodeName("n"),
        "spot",
        draw(PRICES),
        edges[0],
        edges[1],
        tuple(uses),
        draw(st.sampled_from((None, QueueId("blue")))),
    )


def seen_at(node: NodeLifetime, now: float) -> NodeLifetime:
    """What is known of the node at `now`: nothing that is still to come."""
    uses = [use for use in node.uses if use.started_at <= now]
    known = tuple(use if use.ended_at is None or use.ended_at <= now else use._replace(ended_at=None) for use in uses)
    assert node.ended_at is not None
    return replace(node, uses=known, ended_at=node.ended_at if node.ended_at <= now else None)


@given(node=lifetimes(), moments=st.lists(MOMENTS, max_size=8))
@settings(deadline=None)
def test_a_node_costs_its_price_times_its_life_however_often_it_is_metered(
    node: NodeLifetime, moments: list[float]
) -> None:
    assert node.usd_per_hour is not None
    assert node.ended_at is not None
    ledger = SpendLedger()
    for now in [*sorted(moments), START + 7 * HOUR]:
        if node.created_at <= now:
            ledger = advance(ledger, (seen_at(node, now),), now)
            until = min(now, node.ended_at)
            assert ledger.total_usd == cost_usd(node.usd_per_hour, until - node.created_at)
    assert sum((bucket.usd for bucket in ledger.buckets), Decimal(0)) == ledger.total_usd
    assert ledger.is_settled(node)
    # It need not be given any more, and nothing is lost or charged again.
    assert advance(ledger, (), START + 8 * HOUR).total_usd == ledger.total_usd


@given(node=lifetimes(), late=st.floats(0, 5 * HOUR))
@settings(deadline=None)
def test_an_end_that_is_learned_late_is_taken_back_exactly(node: NodeLifetime, late: float) -> None:
    assert node.usd_per_hour is not None
    assert node.ended_at is not None
    unaware = replace(node, ended_at=None)
    ledger = advance(SpendLedger(), (unaware,), node.ended_at + late)
    ledger = advance(ledger, (node,), node.ended_at + late + 1)
    assert ledger.total_usd == cost_usd(node.usd_per_hour, node.ended_at - node.created_at)


@given(nodes=st.lists(lifetimes(), max_size=4, unique_by=lambda node: node.uid), data=st.data())
@settings(deadline=None)
def test_order_and_pace_do_not_matter_to_the_buckets(nodes: list[NodeLifetime], data: st.DataObject) -> None:
    end = START + 7 * HOUR
    at_once = advance(SpendLedger(), data.draw(st.permutations(nodes)), end)
    stepwise = SpendLedger()
    for hour in range(1, 8):
        stepwise = advance(stepwise, [seen_at(node, START + hour * HOUR) for node in nodes], START + hour * HOUR)
    assert at_once.total_usd == stepwise.total_usd
    assert by_day(stepwise, end).total_usd == stepwise.total_usd
    for bucket in at_once.buckets:
        assert bucket.hour_start % HOUR == 0


@given(
    node=lifetimes(),
    told=st.lists(st.tuples(MOMENTS, MOMENTS, PRICES), max_size=6),
    moments=st.lists(MOMENTS, max_size=6),
    known_first=st.booleans(),
)
@settings(deadline=None)
def test_prices_that_change_are_charged_as_if_they_had_been_known_all_along(
    node: NodeLifetime, told: list[tuple[float, float, Decimal]], moments: list[float], known_first: bool
) -> None:
    """`told`: (learned at, set at, USD an hour). However often it is metered, and whenever a price is learned, the
    ledger is what it would be had it been metered once, at the end, with all that is known then."""
    node = replace(node, ended_at=None, usd_per_hour=node.usd_per_hour if known_first else None)
    ledger = SpendLedger()
    events = sorted([(at, set_at, usd) for at, set_at, usd in told] + [(at, at, None) for at in moments], key=_first)
    for at, set_at, usd in events:
        if at < node.created_at:
            continue
        if usd is not None:
            changed = priced(node, usd, set_at, at)
            ledger, node = repriced(ledger, node, changed), changed
        ledger = advance(ledger, (node,), at)
    end = START + 7 * HOUR
    ledger, at_once = advance(ledger, (node,), end), advance(SpendLedger(), (node,), end)
    assert ledger.buckets == at_once.buckets
    assert abs(ledger.unpriced_seconds - at_once.unpriced_seconds) < 1e-6
    assert ledger.total_usd == sum(_parts(node, end), Decimal(0))


def _first(event: tuple[float, float, Decimal | None]) -> float:
    return event[0]


def _parts(node: NodeLifetime, end: float) -> list[Decimal]:
    """Each price times the time for which it was in force, reckoned apart from the code under test."""
    if node.usd_per_hour is None:
        return []
    rates = [(node.created_at, node.usd_per_hour), *node.price_changes]
    ends = [at for at, _ in rates[1:]] + [end]
    return [cost_usd(usd, stop - at) for (at, usd), stop in zip(rates, ends, strict=True) if stop > at]


@given(node=lifetimes(), told=st.lists(MOMENTS, max_size=6), moments=st.lists(MOMENTS, max_size=6))
@settings(deadline=None)
def test_a_constant_price_costs_its_bill_however_it_is_told(
    node: NodeLifetime, told: list[float], moments: list[float]
) -> None:
    """Not known at first, told again and again: the ledger is the bill."""
    bill = node.usd_per_hour
    assert bill is not None
    node = replace(node, usd_per_hour=None, ended_at=None)
    ledger = SpendLedger()
    for at in sorted([*told, *moments, START + 7 * HOUR]):
        if at >= node.created_at:
            changed = priced(node, bill, at, at) if at in told or at == START + 7 * HOUR else node
            ledger = advance(repriced(ledger, node, changed) if changed != node else ledger, (changed,), at)
            node = changed
    assert ledger.total_usd == cost_usd(bill, START + 7 * HOUR - node.created_at)
    assert ledger.unpriced_seconds == 0
