"""Who pays for a bought node, hour by hour."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from scheduler.engine.spend import DAY, HOUR, NodeLifetime, NodeUse, SpendLedger, advance, by_day
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
