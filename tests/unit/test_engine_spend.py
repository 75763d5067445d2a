"""Who pays for a bought node, hour by hour."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from scheduler.engine.spend import (
    DAY,
    HOUR,
    NodeLifetime,
    NodeUse,
    PriceChange,
    SpendLedger,
    advance,
    by_day,
    priced,
    repriced,
)
from scheduler.model.ids import ClusterId, NodeName, PoolId, QueueId
from tests.unit.engine_world import NOW

START = NOW - NOW % DAY
BLUE, RED = QueueId("blue"), QueueId("red")
NODE = NodeLifetime(ClusterId("eks"), PoolId("b"), "u1", NodeName("n1"), "spot", Decimal("7.20"), START)


def charged(node: NodeLifetime, now: float) -> dict[tuple[float, str | None], Decimal]:
    """USD by (hours since the start, queue)."""
    ledger = advance(SpendLedger(), (node,), now)
    return {((bucket.hour_start - START) / HOUR, bucket.queue): bucket.usd for bucket in ledger.buckets}


@pytest.mark.parametrize(
    ("uses", "bought_for", "want"),
    [
        pytest.param((), None, {(0, None): "7.2"}, id="never used, bought for nobody"),
        pytest.param((), BLUE, {(0, BLUE): "7.2"}, id="never used, bought for blue"),
        pytest.param((NodeUse(START, None, BLUE, 8),), None, {(0, BLUE): "7.2"}, id="one user"),
        pytest.param(
            (NodeUse(START, None, BLUE, 2), NodeUse(START, None, RED, 6)),
            None,
            {(0, BLUE): "1.8", (0, RED): "5.4"},
            id="by GPUs",
        ),
        pytest.param(
            (NodeUse(START + 1800, START + 2700, RED, 1),),
            BLUE,
            {(0, BLUE): "3.6", (0, RED): "3.6"},
            id="before the first use its buyer, while idle the last user",
        ),
        pytest.param(
            (NodeUse(START, None, BLUE, 0), NodeUse(START, None, RED, 0)),
            None,
            {(0, BLUE): "3.6", (0, RED): "3.6"},
            id="without GPUs in equal parts",
        ),
    ],
)
def test_time_is_charged_to_whoever_uses_it(
    uses: tuple[NodeUse, ...], bought_for: QueueId | None, want: dict[tuple[float, str | None], str]
) -> None:
    node = replace(NODE, uses=uses, bought_for=bought_for)
    assert charged(node, START + HOUR) == {key: Decimal(usd) for key, usd in want.items()}


def test_hours_are_separate_buckets() -> None:
    node = replace(NODE, ended_at=START + 9000)
    want = {(0, None): Decimal("7.2"), (1, None): Decimal("7.2"), (2, None): Decimal("3.6")}
    assert charged(node, START + 5 * HOUR) == want


def test_a_nano_dollar_that_does_not_divide_goes_to_the_first() -> None:
    uses = tuple(NodeUse(START, None, QueueId(name), 1) for name in ("a", "b", "c"))
    node = replace(NODE, usd_per_hour=Decimal("0.00000001"), uses=uses)
    got = charged(node, START + HOUR)
    assert [int(got[0, name] * 10**9) for name in ("a", "b", "c")] == [4, 3, 3]


def test_an_unknown_price_is_counted_in_seconds_and_never_as_money() -> None:
    node = replace(NODE, usd_per_hour=None)
    ledger = advance(SpendLedger(), (node,), START + 90)
    ledger = advance(ledger, (node,), START + HOUR + 30)
    assert ledger.buckets == ()
    assert ledger.unpriced_seconds == HOUR + 30


def test_closed_hours_are_not_reckoned_again() -> None:
    ledger = advance(SpendLedger(), (NODE,), START + 1.5 * HOUR)
    later = advance(ledger, (NODE,), START + 1.75 * HOUR)
    assert later.settled is ledger.settled
    assert later.total_usd == Decimal("12.6")


def test_days_that_are_over_are_added_up() -> None:
    ledger = advance(SpendLedger(), (NODE,), START + DAY + HOUR)
    small = by_day(ledger, START + DAY + HOUR)
    assert [(bucket.hour_start, bucket.usd) for bucket in small.buckets] == [
        (START, Decimal("172.8")),
        (START + DAY, Decimal("7.2")),
    ]


UNPRICED = replace(NODE, usd_per_hour=None)
CHANGED = replace(NODE, price_changes=(PriceChange(START + 600, Decimal("3.60")),))
DEAR = Decimal("14.40")


@pytest.mark.parametrize(
    ("node", "usd", "set_at", "now", "want"),
    [
        pytest.param(UNPRICED, "7.20", 0, 900, NODE, id="the first known counts from the creation"),
        pytest.param(NODE, "7.20", 300, 900, NODE, id="the same again"),
        pytest.param(CHANGED, "3.60", 800, 900, CHANGED, id="the same as the last change"),
        pytest.param(NODE, "3.60", 600, 900, CHANGED, id="from when it was set, if that is after the one before began"),
        pytest.param(NODE, "3.60", -900, 600, CHANGED, id="an old one (the catalogue, say) from when it was learned"),
        pytest.param(NODE, "3.60", 900, 600, CHANGED, id="never from what is still to come"),
        pytest.param(
            CHANGED,
            "14.40",
            500,
            900,
            replace(NODE, price_changes=(*CHANGED.price_changes, PriceChange(START + 900, DEAR))),
            id="set before the last change",
        ),
        pytest.param(
            CHANGED,
            "14.40",
            700,
            900,
            replace(NODE, price_changes=(*CHANGED.price_changes, PriceChange(START + 700, DEAR))),
            id="set after the last change",
        ),
        pytest.param(
            CHANGED,
            "14.40",
            500,
            300,
            replace(NODE, price_changes=(*CHANGED.price_changes, PriceChange(START + 600, DEAR))),
            id="a clock that went back keeps the order",
        ),
    ],
)
def test_a_price_that_is_learned_counts_from_when_it_was_in_force(
    node: NodeLifetime, usd: str, set_at: float, now: float, want: NodeLifetime
) -> None:
    assert priced(node, Decimal(usd), START + set_at, START + now) == want


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        pytest.param([(1800, "14.40")], {0: "10.8", 1: "14.4"}, id="in the middle of an hour"),
        pytest.param([(3600, "14.40")], {0: "7.2", 1: "14.4"}, id="at the full hour"),
        pytest.param([(1800, "3.60"), (2700, "14.40")], {0: "8.1", 1: "14.4"}, id="twice in an hour"),
        pytest.param([(1800, "0")], {0: "3.6"}, id="down to nothing"),
        pytest.param([(9000, "14.40")], {0: "7.2", 1: "7.2"}, id="still to come"),
        pytest.param([(0, "14.40")], {0: "14.4", 1: "14.4"}, id="from the first instant"),
    ],
)
def test_each_part_costs_what_was_in_force_then(changes: list[tuple[float, str]], want: dict[int, str]) -> None:
    node = replace(NODE, price_changes=tuple(PriceChange(START + at, Decimal(usd)) for at, usd in changes))
    assert charged(node, START + 2 * HOUR) == {(hour, None): Decimal(usd) for hour, usd in want.items()}


def test_a_price_that_is_learned_late_is_charged_for_all_of_the_past() -> None:
    ledger = advance(SpendLedger(), (UNPRICED,), START + 2.5 * HOUR)
    assert (ledger.total_usd, ledger.unpriced_seconds) == (Decimal(0), 2.5 * HOUR)
    known = priced(UNPRICED, Decimal("7.20"), START, START + 2.5 * HOUR)
    ledger = advance(repriced(ledger, UNPRICED, known), (known,), START + 3 * HOUR)
    assert (ledger.total_usd, ledger.unpriced_seconds) == (Decimal("21.6"), 0)
    assert [bucket.usd for bucket in ledger.buckets] == [Decimal("7.2")] * 3


def test_a_change_that_is_learned_after_its_hour_was_settled_is_charged_exactly() -> None:
    ledger = advance(SpendLedger(), (NODE,), START + 2.5 * HOUR)
    known = priced(NODE, DEAR, START + HOUR, START + 2.5 * HOUR)
    ledger = advance(repriced(ledger, NODE, known), (known,), START + 3 * HOUR)
    assert [bucket.usd for bucket in ledger.buckets] == [Decimal("7.2"), DEAR, DEAR]
