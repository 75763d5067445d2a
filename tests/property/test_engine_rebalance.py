"""Return by moving: what pays, the limits on disruption, and that the order of the input never matters."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.engine.rebalance import MoveLimit, PastMove, Proposal, Run, Sums, allowed, sums
from scheduler.model.ids import ClusterId, PoolId, PoolRef, Uid

HOUR = 3600.0
LONG = Run(2 * HOUR, 12 * HOUR, 12 * HOUR, 600.0, 60.0, 10.0, 0.0)
POOLS = [PoolRef(ClusterId("eks"), PoolId(name)) for name in ("a", "b")]


@pytest.mark.parametrize(
    ("run", "want_pays"),
    [
        pytest.param(LONG, True, id="long and checkpointed"),
        pytest.param(replace(LONG, checkpoint_every_seconds=None), None, id="no checkpoint"),
        pytest.param(replace(LONG, run_seconds_here=None), None, id="unknown end"),
        pytest.param(replace(LONG, usd_per_hour_here=None), None, id="unknown price"),
        pytest.param(replace(LONG, ran_seconds=13 * HOUR), None, id="past its predicted end"),
        pytest.param(replace(LONG, transfer_usd=95.0), False, id="saves less than the margin"),
        pytest.param(replace(LONG, run_seconds_there=48 * HOUR, usd_per_second_of_time=0.01), False, id="too slow"),
    ],
)
def test_what_pays(run: Run, want_pays: bool | None) -> None:
    found = sums(run)
    assert (None if found is None else found.pays) == want_pays


def test_the_sums() -> None:
    run = replace(LONG, usd_per_second_of_time=1 / HOUR, transfer_usd=3.0)
    found = sums(run)
    assert found is not None
    assert found.stay_usd == pytest.approx(110.0)
    assert found.move_usd == pytest.approx((60 + 10 * HOUR + 600) / HOUR + 3.0)
    assert found.lost_seconds == 600.0


uids = st.sampled_from([Uid(f"u{n}") for n in range(6)])
pools = st.sampled_from(POOLS)
amounts = st.floats(0, 100)
proposals = st.lists(st.builds(Proposal, uids, pools, st.builds(Sums, amounts, amounts, amounts)), max_size=12)
limits = st.dictionaries(
    pools, st.builds(MoveLimit, st.integers(0, 3), st.floats(60, 2 * HOUR), st.floats(60, 2 * HOUR))
)


@given(st.data(), proposals, limits, st.lists(st.tuples(uids, pools, st.floats(0, 1e4)), max_size=6))
def test_order_does_not_matter(
    data: st.DataObject,
    asked: list[Proposal],
    by_pool: dict[PoolRef, MoveLimit],
    made: list[tuple[Uid, PoolRef, float]],
) -> None:
    past = [PastMove(*each) for each in made]
    want = allowed(asked, past, by_pool, 1e4)
    assert allowed(data.draw(st.permutations(asked)), data.draw(st.permutations(past)), by_pool, 1e4) == want


@given(st.lists(st.tuples(st.floats(0, 1800), proposals), max_size=8), limits)
def test_limits_hold_over_any_history(
    rounds: list[tuple[float, list[Proposal]]], by_pool: dict[PoolRef, MoveLimit]
) -> None:
    now, past = 0.0, list[PastMove]()
    for step, asked in rounds:
        now += step
        for each in allowed(asked, past, by_pool, now):
            limit = by_pool.get(each.source, MoveLimit())
            assert each.sums.pays
            assert not any(m.workload == each.workload and now < m.at + limit.cool_down_seconds for m in past)
            past.append(PastMove(each.workload, each.source, now))
        within = Counter(m.source for m in past if now < m.at + by_pool.get(m.source, MoveLimit()).per_seconds)
        assert all(count <= by_pool.get(pool, MoveLimit()).moves for pool, count in within.items())


def test_limits_of_a_pool_by_hand() -> None:
    a, b, c = (Proposal(Uid(name), POOLS[0], Sums(usd, 1.0, 0.0)) for name, usd in (("a", 5.0), ("b", 9.0), ("c", 7.0)))
    assert allowed([a, b, c], [], {}, 0.0) == (b, c)
    assert allowed([a, b, c], [PastMove(Uid("b"), POOLS[1], 0.0)], {}, 3599.0) == (c, a)
    assert allowed([a, b, c], [PastMove(Uid("b"), POOLS[1], 0.0)], {}, 3600.0) == (b, c)
